/* Every element rule, once. A rule updates one parameter in FP32 from its gradient; its header
 * compiles as C11 and as CUDA C++ and is instantiated by each device's kernels. Contract: fma()
 * only where written, IEEE sqrt and division, no libm else, and a zero gradient on zero state
 * leaves a zero parameter zero, so that padding stays zero. */
#ifndef ZI_OPTIM_RULES_H
#define ZI_OPTIM_RULES_H

#include "optim/rule_adamw.h"

/* X(NAME, function, states) */
#define ZI_RULE_LIST(X) X(ADAMW, zi_rule_adamw, 2)

typedef enum zi_rule {
#define ZI_RULE_ENUM(name, function, states) ZI_RULE_##name,
    ZI_RULE_LIST(ZI_RULE_ENUM)
#undef ZI_RULE_ENUM
        ZI_N_RULES
} zi_rule;

#endif
