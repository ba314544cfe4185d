/* The row of SGD; the rules are in rule_sgd.h. Defaults are those of torch.optim.SGD, with the lr
 * that later versions of it have. */
#include "optim/rows.h"

enum { LR, MOMENTUM, DAMPENING, WEIGHT_DECAY, NESTEROV, N_SETTINGS };

static const zi_setting_row settings[N_SETTINGS] = {
    [LR] = ZI_ROW_LR(1e-3),
    [MOMENTUM] = ZI_ROW_RATE("momentum", 0, "decay of the momentum buffer; above 0: one state"),
    [DAMPENING] = {.name = "dampening",
                   .hi = 1,
                   .help = "share of the gradient that momentum leaves out, after the first step"},
    [WEIGHT_DECAY] = ZI_ROW_DECAY(0.0, ZI_HELP_L2),
    [NESTEROV] = ZI_ROW_FLAG("nesterov", "Nesterov momentum; needs momentum and no dampening"),
};

static const zi_variant plain = {ZI_RULE_SGD, ZI_UNIT_ELEMENT, 0, {{0, ZI_FORM_F32}}};
static const zi_variant with_momentum = {
    ZI_RULE_SGD_MOMENTUM, ZI_UNIT_ELEMENT, 1, {{0, ZI_FORM_F32}}};

static const zi_variant *variant(const double *value, const zi_shape *shape)
{
    (void)shape;
    return value[MOMENTUM] > 0 ? &with_momentum : &plain;
}

static const char *refuse(const double *value)
{
    if (value[NESTEROV] != 0 && (value[MOMENTUM] == 0 || value[DAMPENING] != 0))
        return "nesterov needs momentum above 0 and dampening = 0";
    return NULL;
}

static void scalars(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS])
{
    int nesterov = value[NESTEROV] != 0;
    scalar[ZI_SGD_WEIGHT_DECAY] = (float)value[WEIGHT_DECAY];
    scalar[ZI_SGD_MINUS_LR] = (float)-now->lr;
    scalar[ZI_SGD_MOMENTUM] = (float)value[MOMENTUM];
    scalar[ZI_SGD_ADD] = now->t == 1 ? 1.0f : (float)(1.0 - value[DAMPENING]);
    scalar[ZI_SGD_USE_GRADIENT] = nesterov ? 1.0f : 0.0f;
    scalar[ZI_SGD_USE_BUFFER] = nesterov ? (float)value[MOMENTUM] : 1.0f;
}

const zi_optim zi_optim_sgd = {
    .name = "SGD",
    .help = "stochastic gradient descent, with momentum and Nesterov's as options",
    .settings = settings,
    .n_settings = N_SETTINGS,
    .lr_setting = LR,
    .refuse = refuse,
    .state_name = {"momentum_buffer"},
    .variant = variant,
    .scalars = scalars,
};
