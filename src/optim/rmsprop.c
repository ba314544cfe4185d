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

enum { SQUARE_AVG, GRAD_AVG, MOMENTUM_BUFFER };
#define STATE(name)       \
    {                     \
        name, ZI_FORM_F32 \
    }

/* By [centered][momentum]. */
static const zi_variant variants[2][2] = {
    {{ZI_RULE_RMSPROP, ZI_UNIT_ELEMENT, 1, {STATE(SQUARE_AVG)}},
     {ZI_RULE_RMSPROP_MOMENTUM, ZI_UNIT_ELEMENT, 2, {STATE(SQUARE_AVG), STATE(MOMENTUM_BUFFER)}}},
    {{ZI_RULE_RMSPROP_CENTERED, ZI_UNIT_ELEMENT, 2, {STATE(SQUARE_AVG), STATE(GRAD_AVG)}},
     {ZI_RULE_RMSPROP_CENTERED_MOMENTUM,
      ZI_UNIT_ELEMENT,
      3,
      {STATE(SQUARE_AVG), STATE(GRAD_AVG), STATE(MOMENTUM_BUFFER)}}},
};

static const zi_variant *variant(const double *value, const zi_shape *shape)
{
    (void)shape;
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
    .state_name = {"square_avg", "grad_avg", "momentum_buffer"},
    .variant = variant,
    .scalars = scalars,
};
