/* Schedules with names of their own: constant, linear, inverse_sqrt and warmup_stable_decay. Each
 * gives a factor on the group's lr. A warmup of w steps has factor t / w in step t, so that no step
 * is lost to a rate of zero. */
#include <math.h>

#include "optim/rows.h"

#define STEPS_MAX 1e15

#define ROW_STEPS(key, value, low, text)                                         \
    {                                                                            \
        .name = key, .fallback = value, .lo = low, .hi = STEPS_MAX, .help = text \
    }
#define ROW_RATIO(key, text)               \
    {                                      \
        .name = key, .hi = 1, .help = text \
    }

static double warmup(double steps, uint64_t t)
{
    return (double)t < steps ? (double)t / steps : 1.0;
}

/* 0 up to step `from`, 1 from step `to` on, in proportion between. */
static double progress(double from, double to, uint64_t t)
{
    if ((double)t >= to)
        return 1.0;
    return (double)t > from ? ((double)t - from) / (to - from) : 0.0;
}

static double constant(const double *value, uint64_t t)
{
    (void)value;
    (void)t;
    return 1.0;
}

enum { LINEAR_TOTAL, LINEAR_WARMUP, LINEAR_END, N_LINEAR };

static const zi_setting_row linear_settings[N_LINEAR] = {
    [LINEAR_TOTAL] = ROW_STEPS("total_num_steps", 1000, 1, "step that reaches end_ratio"),
    [LINEAR_WARMUP] = ROW_STEPS("warmup_num_steps", 0, 0, "steps of linear warmup"),
    [LINEAR_END] = ROW_RATIO("end_ratio", "factor at the end"),
};

static double linear(const double *value, uint64_t t)
{
    double done = progress(value[LINEAR_WARMUP], value[LINEAR_TOTAL], t);
    double falling = 1.0 - (1.0 - value[LINEAR_END]) * done;
    return fmin(warmup(value[LINEAR_WARMUP], t), falling);
}

enum { SQRT_WARMUP, N_SQRT };

static const zi_setting_row sqrt_settings[N_SQRT] = {
    [SQRT_WARMUP] = ROW_STEPS("warmup_num_steps", 1000, 1,
                              "steps w of linear warmup; then the factor is sqrt(w / t)"),
};

/* Source: Vaswani et al., Attention Is All You Need, equation 3, as a share of its maximum. */
static double inverse_sqrt(const double *value, uint64_t t)
{
    double steps = value[SQRT_WARMUP], now = (double)t;
    return now < steps ? now / steps : sqrt(steps / now);
}

enum { WSD_TOTAL, WSD_WARMUP, WSD_DECAY, WSD_END, WSD_TYPE, N_WSD };
enum { DECAY_LINEAR, DECAY_SQRT };

static const char *const decay_types[] = {
    [DECAY_LINEAR] = "linear", [DECAY_SQRT] = "sqrt", [DECAY_SQRT + 1] = NULL};

static const zi_setting_row wsd_settings[N_WSD] = {
    [WSD_TOTAL] = ROW_STEPS("total_num_steps", 1000, 1, "step that reaches end_ratio"),
    [WSD_WARMUP] = ROW_STEPS("warmup_num_steps", 0, 0, "steps of linear warmup"),
    [WSD_DECAY] = ROW_STEPS("decay_num_steps", 200, 0, "steps of decay, the last ones"),
    [WSD_END] = ROW_RATIO("end_ratio", "factor at the end"),
    [WSD_TYPE] = {.name = "decay_type",
                  .fallback = DECAY_LINEAR,
                  .choices = decay_types,
                  .help = "shape of the decay; sqrt falls as 1 - sqrt of the share done"},
};

/* Source: Hagele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations,
 * equations 1 and 2. */
static double warmup_stable_decay(const double *value, uint64_t t)
{
    double done = progress(value[WSD_TOTAL] - value[WSD_DECAY], value[WSD_TOTAL], t);
    if (value[WSD_TYPE] == DECAY_SQRT)
        done = sqrt(done);
    return fmin(warmup(value[WSD_WARMUP], t), 1.0 - (1.0 - value[WSD_END]) * done);
}

const zi_schedule zi_schedule_constant = {
    .name = "constant", .help = "the group's lr throughout", .factor = constant};

const zi_schedule zi_schedule_linear = {.name = "linear",
                                        .help = "warmup, then straight down to a ratio",
                                        .settings = linear_settings,
                                        .n_settings = N_LINEAR,
                                        .factor = linear};

const zi_schedule zi_schedule_inverse_sqrt = {.name = "inverse_sqrt",
                                              .help = "warmup, then down with the root of t",
                                              .settings = sqrt_settings,
                                              .n_settings = N_SQRT,
                                              .factor = inverse_sqrt};

const zi_schedule zi_schedule_wsd = {.name = "warmup_stable_decay",
                                     .help = "warmup, the full rate, then down to a ratio",
                                     .settings = wsd_settings,
                                     .n_settings = N_WSD,
                                     .factor = warmup_stable_decay};
