/* DeepSpeed's schedules that begin with a warmup: WarmupLR and WarmupDecayLR, which are rates of
 * their own, and WarmupCosineLR, a factor on the group's lr. Formulas from its documentation and
 * runtime/lr_schedules.py, with last_batch_iteration = t - 1. */
#include <math.h>

#include "optim/rows.h"

enum { WARMUP_LOG, WARMUP_LINEAR };

static const char *const warmup_types[] = {
    [WARMUP_LOG] = "log", [WARMUP_LINEAR] = "linear", [WARMUP_LINEAR + 1] = NULL};

/* How far the warmup is; called before its end. Fewer than 2 steps are taken as they are, where the
 * original makes them 2, and those that are not whole too: then the logarithm ends above 1. */
static double warmed(double type, double steps, double iteration)
{
    if (type == WARMUP_LINEAR)
        return iteration / steps;
    return steps > 1 ? fmin(log(iteration + 1) / log(steps), 1.0) : 1.0;
}

/* clang-format off */
#define ROW_WARMUP_STEPS {.name = "warmup_num_steps", .fallback = 1000, .hi = 1e15, \
                          .help = "steps of warmup"}
#define ROW_WARMUP_TYPE  {.name = "warmup_type", .fallback = WARMUP_LOG, .choices = warmup_types, \
                          .help = "shape of the warmup"}
/* clang-format on */

/* ---- WarmupLR, WarmupDecayLR ---- */

enum { MIN_LR, MAX_LR, STEPS, TYPE, N_WARMUP, TOTAL = N_WARMUP, N_DECAY };

#define WARMUP_ROWS                                                                        \
    [MIN_LR] = {.name = "warmup_min_lr", .hi = 1e6, .help = "rate before the first step"}, \
    [MAX_LR] = {.name = "warmup_max_lr",                                                   \
                .fallback = 1e-3,                                                          \
                .hi = 1e6,                                                                 \
                .help = "rate after the warmup, in place of the groups' lr"},              \
    [STEPS] = ROW_WARMUP_STEPS, [TYPE] = ROW_WARMUP_TYPE

static const zi_setting_row warmup_settings[N_WARMUP] = {WARMUP_ROWS};
static const zi_setting_row decay_settings[N_DECAY] = {
    WARMUP_ROWS,
    [TOTAL] = {.name = "total_num_steps",
               .fallback = 1000,
               .lo = 1,
               .hi = 1e15,
               .help = "steps until warmup_min_lr is reached again"},
};

static double rate(const double *value, double share)
{
    return value[MIN_LR] + (value[MAX_LR] - value[MIN_LR]) * share;
}

static double warmup(const double *value, uint64_t t)
{
    double iteration = (double)(t - 1);
    int warming = iteration < value[STEPS];
    return rate(value, warming ? warmed(value[TYPE], value[STEPS], iteration) : 1.0);
}

static double warmup_decay(const double *value, uint64_t t)
{
    double iteration = (double)(t - 1);
    if (iteration < value[STEPS])
        return warmup(value, t);
    double length = fmax(1.0, value[TOTAL] - value[STEPS]);
    return rate(value, fmax(0.0, (value[TOTAL] - iteration) / length));
}

/* ---- WarmupCosineLR ---- */

enum {
    COSINE_TOTAL,
    COSINE_WARMUP_MIN,
    COSINE_STEPS,
    COSINE_MIN,
    COSINE_TYPE,
    N_COSINE,
};

static const zi_setting_row cosine_settings[N_COSINE] = {
    [COSINE_TOTAL] = {.name = "total_num_steps",
                      .fallback = 1000,
                      .lo = 1,
                      .hi = 1e15,
                      .help = "steps until the floor is reached"},
    [COSINE_WARMUP_MIN] = {.name = "warmup_min_ratio", .hi = 1, .help = "factor at the first step"},
    [COSINE_STEPS] = ROW_WARMUP_STEPS,
    [COSINE_MIN] = {.name = "cos_min_ratio",
                    .fallback = 1e-4,
                    .hi = 1,
                    .help = "factor at the floor"},
    [COSINE_TYPE] = ROW_WARMUP_TYPE,
};

/* Past total_num_steps it stays at the floor, where the original would follow the cosine up again.
 */
static double warmup_cosine(const double *value, uint64_t t)
{
    const double pi = 3.14159265358979323846;
    double iteration = (double)(t - 1), steps = value[COSINE_STEPS];
    if (iteration < steps) {
        double done = warmed(value[COSINE_TYPE], steps, iteration);
        return value[COSINE_WARMUP_MIN] + (1 - value[COSINE_WARMUP_MIN]) * done;
    }
    double length = value[COSINE_TOTAL] - steps;
    double done = length > 0 ? (iteration - steps + 1) / length : 1.0;
    double ratio = done < 1 ? (1 + cos(pi * done)) / 2 : 0.0;
    return value[COSINE_MIN] + (1 - value[COSINE_MIN]) * ratio;
}

const zi_schedule zi_schedule_warmup = {.name = "WarmupLR",
                                        .help = "warmup to a rate that replaces the groups' lr",
                                        .settings = warmup_settings,
                                        .n_settings = N_WARMUP,
                                        .lr = warmup,
                                        .peak_setting = MAX_LR};

const zi_schedule zi_schedule_warmup_decay = {.name = "WarmupDecayLR",
                                              .help =
                                                  "WarmupLR, then straight down to where it began",
                                              .settings = decay_settings,
                                              .n_settings = N_DECAY,
                                              .lr = warmup_decay,
                                              .peak_setting = MAX_LR};

const zi_schedule zi_schedule_warmup_cosine = {.name = "WarmupCosineLR",
                                               .help = "warmup, then half a cosine down to a floor",
                                               .settings = cosine_settings,
                                               .n_settings = N_COSINE,
                                               .factor = warmup_cosine};
