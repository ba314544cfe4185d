/* The row of AdamW: its settings, its state and the scalars of one step. The rule itself is in
 * rule_adamw.h. Defaults are those of torch.optim.AdamW. */
#include <math.h>

#include "optim/rows.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, N_SETTINGS };

static const zi_setting_row settings[N_SETTINGS] = {
    [LR] = {.name = "lr", .fallback = 1e-3, .lo = 0, .hi = 1e6, .help = "learning rate"},
    [BETA1] = {.name = "beta1",
               .run_key = "betas[0]",
               .fallback = 0.9,
               .lo = 0,
               .hi = 1,
               .hi_open = 1,
               .help = "decay of the gradient's running mean (exp_avg)"},
    [BETA2] = {.name = "beta2",
               .run_key = "betas[1]",
               .fallback = 0.999,
               .lo = 0,
               .hi = 1,
               .hi_open = 1,
               .help = "decay of the squared gradient's running mean (exp_avg_sq)"},
    [EPS] = {.name = "eps",
             .fallback = 1e-8,
             .lo = 0x1p-126, /* a normal float: padding divides by it */
             .hi = 1,
             .help = "added to the root of exp_avg_sq, after its bias correction"},
    [WEIGHT_DECAY] = {.name = "weight_decay",
                      .fallback = 0.01,
                      .lo = 0,
                      .hi = 1e3,
                      .help = "decoupled weight decay, times the learning rate"},
};

static void scalars(const double *value, double lr, const double *power,
                    float scalar[ZI_MAX_SCALARS])
{
    scalar[ZI_ADAMW_KEEP] = (float)(1.0 - lr * value[WEIGHT_DECAY]);
    scalar[ZI_ADAMW_BETA1] = (float)value[BETA1];
    scalar[ZI_ADAMW_ONE_MINUS_BETA1] = (float)(1.0 - value[BETA1]);
    scalar[ZI_ADAMW_BETA2] = (float)value[BETA2];
    scalar[ZI_ADAMW_ONE_MINUS_BETA2] = (float)(1.0 - value[BETA2]);
    scalar[ZI_ADAMW_ROOT_BC2] = (float)sqrt(1.0 - power[1]);
    scalar[ZI_ADAMW_MINUS_STEP] = (float)(-lr / (1.0 - power[0]));
    scalar[ZI_ADAMW_EPS] = (float)value[EPS];
}

const zi_optim zi_optim_adamw = {
    .name = "AdamW",
    .help = "Adam with decoupled weight decay",
    .rule = ZI_RULE_ADAMW,
    .settings = settings,
    .n_settings = N_SETTINGS,
    .lr_setting = LR,
    .n_states = 2,
    .state_name = {"exp_avg", "exp_avg_sq"},
    .n_powers = 2,
    .power_setting = {BETA1, BETA2},
    .scalars = scalars,
};
