/* The optimizer and schedule rows, and what several of their tables have alike. */
#ifndef ZI_OPTIM_ROWS_H
#define ZI_OPTIM_ROWS_H

#include "optim/optim.h"

extern const zi_optim zi_optim_adam;
extern const zi_optim zi_optim_adamw;
extern const zi_optim zi_optim_adam8bit;
extern const zi_optim zi_optim_adamw8bit;
extern const zi_optim zi_optim_sgd;
extern const zi_optim zi_optim_rmsprop;
extern const zi_optim zi_optim_adagrad;
extern const zi_optim zi_optim_lion;
extern const zi_optim zi_optim_adafactor;

extern const zi_schedule zi_schedule_constant;
extern const zi_schedule zi_schedule_linear;
extern const zi_schedule zi_schedule_inverse_sqrt;
extern const zi_schedule zi_schedule_wsd;
extern const zi_schedule zi_schedule_warmup;
extern const zi_schedule zi_schedule_warmup_decay;
extern const zi_schedule zi_schedule_warmup_cosine;
extern const zi_schedule zi_schedule_one_cycle;

/* A learning rate; an eps that padding divides by, so at least a normal float; an option. */
#define ZI_ROW_LR(value)                                                    \
    {                                                                       \
        .name = "lr", .fallback = value, .hi = 1e6, .help = "learning rate" \
    }
#define ZI_ROW_EPS(value, text)                                                 \
    {                                                                           \
        .name = "eps", .fallback = value, .lo = 0x1p-126, .hi = 1, .help = text \
    }
#define ZI_ROW_FLAG(key, text)                           \
    {                                                    \
        .name = key, .hi = 1, .is_flag = 1, .help = text \
    }
/* In [0, 1). */
#define ZI_ROW_RATE(key, value, text)                                       \
    {                                                                       \
        .name = key, .fallback = value, .hi = 1, .hi_open = 1, .help = text \
    }
#define ZI_ROW_BETA(key, path, value, text)                                                  \
    {                                                                                        \
        .name = key, .run_key = path, .fallback = value, .hi = 1, .hi_open = 1, .help = text \
    }
#define ZI_ROW_DECAY(value, text)                                          \
    {                                                                      \
        .name = "weight_decay", .fallback = value, .hi = 1e3, .help = text \
    }
#define ZI_HELP_L2        "L2 penalty: added to the gradient, times the parameter"
#define ZI_HELP_DECOUPLED "decoupled weight decay, times the learning rate"

#endif
