/* The row of Adafactor, and what follows from a tensor's statistics; the rule is in
 * rule_adafactor.h. Defaults are those of torch.optim.Adafactor; beta1, relative_step, warmup_init
 * and scale_parameter are Hugging Face's.
 *
 * lr is the largest relative step: rho = min(lr, 1 / sqrt(t)). The schedule's factor and lr_mult
 * multiply it, with relative_step too, whose cap of 1e-2 is then just the default. */
#include <math.h>

#include "base/grid_sum.h"
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

/* state[i] = the mean of its n_addends squares, mixed into what it was. */
static void move_means(double fresh, const int64_t *sum, size_t stride, uint64_t n_addends,
                       float *state, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        double mean = zi_grid_value(sum + i, stride) / (double)n_addends;
        state[i] = (float)((1.0 - fresh) * (double)state[i] + fresh * mean);
    }
}

static float mean_of_rows(const float *row, uint64_t n, double least)
{
    double sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += (double)row[i];
    return (float)fmax(sum / (double)n, least);
}

static double rms(const zi_tensor_statistics *t)
{
    return sqrt(t->sum_of_squares / (double)t->n_elems);
}

/* NaN stays NaN, so that parameters that are not finite do not go unnoticed. */
static double at_least(double x, double least)
{
    return x < least ? least : x;
}

/* After the sums of the gradient's squares and the parameters': the second moment, alpha, decay. */
static void on_moments(const double *value, const zi_instant *now, zi_tensor_statistics *t)
{
    double fresh = fresh_weight(value, now);
    uint64_t n_rows = t->n_matrices * t->n_rows, n_cols = t->n_matrices * t->n_cols;
    move_means(fresh, t->row_sum, t->stride, t->n_cols, t->row, n_rows);
    move_means(fresh, t->col_sum, t->stride, t->n_rows, t->col, n_cols);
    for (uint64_t m = 0; m < t->n_matrices; m++)
        t->row_mean[m] = mean_of_rows(t->row + m * t->n_rows, t->n_rows, value[EPS1]);
    double cap = value[WARMUP_INIT] > 0 ? 1e-4 * (double)now->t * now->lr : now->lr;
    double rho = fmin(cap, 1.0 / sqrt((double)now->t));
    t->alpha = value[SCALE_PARAMETER] > 0 ? rho * at_least(rms(t), value[EPS2]) : rho;
    scalars(value, now, t->scalar);
    if (value[RELATIVE_STEP] > 0)
        t->scalar[ZI_ADAFACTOR_DECAY] = (float)(t->alpha * value[WEIGHT_DECAY]);
}

/* After the sum of the update's squares: the step. */
static void on_update(const double *value, const zi_instant *now, zi_tensor_statistics *t)
{
    (void)now;
    double step = t->alpha / at_least(rms(t) / value[D], 1.0);
    t->scalar[ZI_ADAFACTOR_STEP] = (float)((1.0 - value[BETA1]) * step);
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
    .on_statistics = {on_moments, on_update},
};
