/* The row of Adagrad; the rule is in rule_adagrad.h. Defaults are those of torch.optim.Adagrad. */
#include "optim/rows.h"

enum { LR, LR_DECAY, WEIGHT_DECAY, INITIAL, EPS, N_SETTINGS };

static const zi_setting_row settings[N_SETTINGS] = {
    [LR] = ZI_ROW_LR(1e-2),
    [LR_DECAY] = {.name = "lr_decay",
                  .hi = 1e6,
                  .help = "the rate of step t is lr / (1 + (t - 1) * lr_decay)"},
    [WEIGHT_DECAY] = ZI_ROW_DECAY(0.0, ZI_HELP_L2),
    [INITIAL] = {.name = "initial_accumulator_value",
                 .hi = 1e30,
                 .help = "what the sum of squared gradients begins at"},
    [EPS] = ZI_ROW_EPS(1e-10, "added to the root of the sum"),
};

static const zi_variant only = {ZI_RULE_ADAGRAD, ZI_UNIT_ELEMENT, 1, {{0, ZI_FORM_F32}}};

static const zi_variant *variant(const double *value, const zi_shape *shape)
{
    (void)shape;
    (void)value;
    return &only;
}

static float start(const double *value, int state)
{
    (void)state;
    return (float)value[INITIAL];
}

static void scalars(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS])
{
    double decay = 1.0 + ((double)now->t - 1.0) * value[LR_DECAY];
    scalar[ZI_ADAGRAD_WEIGHT_DECAY] = (float)value[WEIGHT_DECAY];
    scalar[ZI_ADAGRAD_EPS] = (float)value[EPS];
    scalar[ZI_ADAGRAD_MINUS_LR] = (float)(-now->lr / decay);
}

const zi_optim zi_optim_adagrad = {
    .name = "Adagrad",
    .help = "gradient over the root of the sum of its squares",
    .settings = settings,
    .n_settings = N_SETTINGS,
    .lr_setting = LR,
    .state_name = {"sum"},
    .variant = variant,
    .start = start,
    .scalars = scalars,
};
