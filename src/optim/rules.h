/* Every element rule, once. A rule updates one parameter in FP32 from its gradient; its header
 * compiles as C11 and as CUDA C++ and is instantiated by each device's kernels. Contract: fma()
 * only where written, IEEE sqrt and division, no libm else, no branch that a vector unit could not
 * take as a selection, and a zero gradient on start values of state leaves a zero parameter zero,
 * so that padding stays zero. */
#ifndef ZI_OPTIM_RULES_H
#define ZI_OPTIM_RULES_H

#include "optim/rule_adagrad.h"
#include "optim/rule_adam.h"
#include "optim/rule_adamw.h"
#include "optim/rule_lion.h"
#include "optim/rule_rmsprop.h"
#include "optim/rule_sgd.h"

/* X(NAME, function, states); a function takes g, &p, a pointer to each state, the scalars. */
#define ZI_RULE_LIST(X)                                                \
    X(ADAMW, zi_rule_adamw, 2)                                         \
    X(ADAMW_AMSGRAD, zi_rule_adamw_amsgrad, 3)                         \
    X(ADAM, zi_rule_adam, 2)                                           \
    X(ADAM_AMSGRAD, zi_rule_adam_amsgrad, 3)                           \
    X(SGD, zi_rule_sgd, 0)                                             \
    X(SGD_MOMENTUM, zi_rule_sgd_momentum, 1)                           \
    X(RMSPROP, zi_rule_rmsprop, 1)                                     \
    X(RMSPROP_MOMENTUM, zi_rule_rmsprop_momentum, 2)                   \
    X(RMSPROP_CENTERED, zi_rule_rmsprop_centered, 2)                   \
    X(RMSPROP_CENTERED_MOMENTUM, zi_rule_rmsprop_centered_momentum, 3) \
    X(ADAGRAD, zi_rule_adagrad, 1)                                     \
    X(LION, zi_rule_lion, 1)

/* Those that also work on 8-bit states (ZI_UNIT_BLOCK). */
#define ZI_BLOCK_RULE_LIST(X)  \
    X(ADAMW, zi_rule_adamw, 2) \
    X(ADAM, zi_rule_adam, 2)

typedef enum zi_rule {
#define ZI_RULE_ENUM(name, function, states) ZI_RULE_##name,
    ZI_RULE_LIST(ZI_RULE_ENUM)
#undef ZI_RULE_ENUM
        ZI_N_RULES
} zi_rule;

#endif
