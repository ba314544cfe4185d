/* The row of RMSprop; the rules are in rule_rmsprop.h. Defaults are those of torch.optim.RMSprop.
 */
#include "optim/rows.h"

enum { LR, ALPHA, EPS, WEIGHT_DECAY, MOMENTUM, CENTERED, N_SETTINGS };

static const zi_setting_row settings[N_SETTINGS] = {
    [LR] = ZI_ROW_LR(1e-2),
    [ALPHA] = ZI_ROW_RATE("alpha", 0.99, "decay of the squared gradient's running mean"),
    [EPS] = ZI_ROW_EPS(1e-8, "added to the root of square_avg"),
    [WEIGHT_DECAY] = ZI_ROW_DECAY(0.0, ZI_HELP_L2),
    [MOMENTUM] =
        ZI_ROW_RATE("momentum", 0, "decay of the momentum buffer; above 0: one more state"),
    [CENTERED] = ZI_ROW_FLAG("centered", "divide by the deviation instead: one more state"),
};

/* By [centered][momentum]. */
static const zi_variant variants[2][2] = {
    {{ZI_RULE_RMSPROP, 1, {"square_avg"}},
     {ZI_RULE_RMSPROP_MOMENTUM, 2, {"square_avg", "momentum_buffer"}}},
    {{ZI_RULE_RMSPROP_CENTERED, 2, {"square_avg", "grad_avg"}},
     {ZI_RULE_RMSPROP_CENTERED_MOMENTUM, 3, {"square_avg", "grad_avg", "momentum_buffer"}}},
};

static const zi_variant *variant(const double *value)
{
    return &variants[value[CENTERED] != 0][value[MOMENTUM] > 0];
}

static void scalars(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS])
{
    scalar[ZI_RMSPROP_WEIGHT_DECAY] = (float)value[WEIGHT_DECAY];
    scalar[ZI_RMSPROP_ALPHA] = (float)value[ALPHA];
    scalar[ZI_RMSPROP_ONE_MINUS_ALPHA] = (float)(1.0 - value[ALPHA]);
    scalar[ZI_RMSPROP_EPS] = (float)value[EPS];
    scalar[ZI_RMSPROP_MOMENTUM] = (float)value[MOMENTUM];
    scalar[ZI_RMSPROP_MINUS_LR] = (float)-now->lr;
}

const zi_optim zi_optim_rmsprop = {
    .name = "RMSprop",
    .help = "gradient over its running root mean square",
    .settings = settings,
    .n_settings = N_SETTINGS,
    .lr_setting = LR,
    .variant = variant,
    .scalars = scalars,
};
