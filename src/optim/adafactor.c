/* The row of Adafactor; what follows from a tensor's statistics is in settle.h, the rule in
 * rule_adafactor.h. Defaults are those of torch.optim.Adafactor; beta1, relative_step, warmup_init
 * and scale_parameter are Hugging Face's.
 *
 * lr is the largest relative step: rho = min(lr, 1 / sqrt(t)). The schedule's factor and lr_mult
 * multiply it, with relative_step too, whose cap of 1e-2 is then just the default. */
#include <math.h>

#include "optim/rows.h"
#include "optim/rule_adafactor.h"

enum {
    LR,
    BETA2_DECAY,
    EPS1,
    EPS2,
    D,
    WEIGHT_DECAY,
    BETA1,
    SCALE_PARAMETER,
    RELATIVE_STEP,
    WARMUP_INIT,
    N_SETTINGS
};

/* eps1 squared must be a normal float. */
static const zi_setting_row settings[N_SETTINGS] = {
    [LR] = {.name = "lr",
            .fallback = 1e-2,
            .hi = 1e6,
            .help = "largest relative step: the step is min(lr, 1 / sqrt(t)) times the RMS of the "
                    "tensor's parameters"},
    [BETA2_DECAY] = {.name = "beta2_decay",
                     .fallback = -0.8,
                     .lo = -100,
                     .hi = 0,
                     .help = "step t's squared gradient has the weight t^beta2_decay in its mean"},
    [EPS1] = {.name = "eps1",
              .run_key = "eps[0]",
              .fallback = 0x1p-23,
              .lo = 0x1p-63,
              .hi = 1,
              .help = "least root of the squared gradient's mean, and least mean of rows"},
    [EPS2] = {.name = "eps2",
              .run_key = "eps[1]",
              .fallback = 1e-3,
              .hi = 1e3,
              .help = "least RMS of the parameters that the step is made from"},
    [D] = {.name = "d",
           .fallback = 1.0,
           .lo = 0x1p-63,
           .hi = 1e6,
           .help = "the update's RMS is limited to this"},
    [WEIGHT_DECAY] = ZI_ROW_DECAY(0.0, ZI_HELP_DECOUPLED),
    [BETA1] = ZI_ROW_RATE("beta1", 0.0, "decay of the update's running mean (exp_avg); 0: none"),
    [SCALE_PARAMETER] = {.name = "scale_parameter",
                         .fallback = 1,
                         .hi = 1,
                         .is_flag = 1,
                         .help = "the step follows the RMS of the parameters"},
    [RELATIVE_STEP] = ZI_ROW_FLAG("relative_step", "weight_decay is times the step instead of lr"),
    [WARMUP_INIT] = ZI_ROW_FLAG("warmup_init", "lr grows from 0 by 1e-4 of itself a step, until "
                                               "1 / sqrt(t) is less; needs relative_step"),
};

enum { ROW, COL, OWN, MOMENT };

/* By beta1 > 0, then by whether the tensor is factored. */
static const zi_variant variants[2][2] = {
    {{.unit = ZI_UNIT_TENSOR, .n_states = 1, .state = {{OWN, ZI_FORM_F32}}},
     {.unit = ZI_UNIT_TENSOR, .n_states = 2, .state = {{ROW, ZI_FORM_ROWS}, {COL, ZI_FORM_COLS}}}},
    {{.unit = ZI_UNIT_TENSOR, .n_states = 2, .state = {{OWN, ZI_FORM_F32}, {MOMENT, ZI_FORM_F32}}},
     {.unit = ZI_UNIT_TENSOR,
      .n_states = 3,
      .state = {{ROW, ZI_FORM_ROWS}, {COL, ZI_FORM_COLS}, {MOMENT, ZI_FORM_F32}}}},
};

static const zi_variant *variant(const double *value, const zi_shape *shape)
{
    return &variants[value[BETA1] > 0][shape->ndim > 1];
}

static const char *refuse(const double *value)
{
    return value[WARMUP_INIT] > value[RELATIVE_STEP] ? "warmup_init needs relative_step" : NULL;
}

/* The weight of this step's squared gradient. */
static double fresh_weight(const double *value, const zi_instant *now)
{
    return pow((double)now->t, value[BETA2_DECAY]);
}

static void scalars(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS])
{
    double fresh = fresh_weight(value, now);
    scalar[ZI_ADAFACTOR_BETA2] = (float)(1.0 - fresh);
    scalar[ZI_ADAFACTOR_ONE_MINUS_BETA2] = (float)fresh;
    scalar[ZI_ADAFACTOR_FLOOR] = (float)(value[EPS1] * value[EPS1]);
    scalar[ZI_ADAFACTOR_BETA1] = (float)value[BETA1];
    scalar[ZI_ADAFACTOR_DECAY] = (float)(now->lr * value[WEIGHT_DECAY]);
}

static void terms(const double *value, const zi_instant *now, zi_terms *to)
{
    int is_relative = value[RELATIVE_STEP] > 0;
    double cap = value[WARMUP_INIT] > 0 ? 1e-4 * (double)now->t * now->lr : now->lr;
    *to = (zi_terms){.fresh = fresh_weight(value, now),
                     .rho = fmin(cap, 1.0 / sqrt((double)now->t)),
                     .eps1 = value[EPS1],
                     .eps2 = value[EPS2],
                     .d = value[D],
                     .one_minus_beta1 = 1.0 - value[BETA1],
                     .decay = value[WEIGHT_DECAY],
                     .is_scaled = value[SCALE_PARAMETER] > 0,
                     .decays_by_alpha = is_relative};
}

const zi_optim zi_optim_adafactor = {
    .name = "Adafactor",
    .help = "second moments factored into rows and columns, steps relative to the parameters",
    .settings = settings,
    .n_settings = N_SETTINGS,
    .lr_setting = LR,
    .refuse = refuse,
    .state_name = {[ROW] = "exp_avg_sq_row",
                   [COL] = "exp_avg_sq_col",
                   [OWN] = "exp_avg_sq",
                   [MOMENT] = "exp_avg"},
    .variant = variant,
    .scalars = scalars,
    .terms = terms,
};
