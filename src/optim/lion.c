/* The row of Lion; the rule is in rule_lion.h. Defaults are the paper's. */
#include "optim/rows.h"

enum { LR, BETA1, BETA2, WEIGHT_DECAY, N_SETTINGS };

static const zi_setting_row settings[N_SETTINGS] = {
    [LR] = ZI_ROW_LR(1e-4),
    [BETA1] = ZI_ROW_BETA("beta1", "betas[0]", 0.9, "share of exp_avg in the step's direction"),
    [BETA2] = ZI_ROW_BETA("beta2", "betas[1]", 0.99, "decay of the gradient's running mean"),
    [WEIGHT_DECAY] = ZI_ROW_DECAY(0.0, ZI_HELP_DECOUPLED),
};

static const zi_variant only = {ZI_RULE_LION, ZI_UNIT_ELEMENT, 1, {{0, ZI_FORM_F32}}};

static const zi_variant *variant(const double *value, const zi_shape *shape)
{
    (void)shape;
    (void)value;
    return &only;
}

static void scalars(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS])
{
    scalar[ZI_LION_KEEP] = (float)(1.0 - now->lr * value[WEIGHT_DECAY]);
    scalar[ZI_LION_BETA1] = (float)value[BETA1];
    scalar[ZI_LION_ONE_MINUS_BETA1] = (float)(1.0 - value[BETA1]);
    scalar[ZI_LION_BETA2] = (float)value[BETA2];
    scalar[ZI_LION_ONE_MINUS_BETA2] = (float)(1.0 - value[BETA2]);
    scalar[ZI_LION_MINUS_LR] = (float)-now->lr;
}

const zi_optim zi_optim_lion = {
    .name = "Lion",
    .help = "the sign of a mix of momentum and gradient, with decoupled weight decay",
    .settings = settings,
    .n_settings = N_SETTINGS,
    .lr_setting = LR,
    .state_name = {"exp_avg"},
    .variant = variant,
    .scalars = scalars,
};
