/* Learning rate schedules: factors on each group's lr as functions of t, the number of the good
 * step from 1. Names and formulas are DeepSpeed's, with its last_batch_iteration = t - 1. */
#include <math.h>
#include <strings.h>

#include "base/status.h"
#include "optim/optim.h"

static double constant(const double *value, uint64_t t)
{
    (void)value;
    (void)t;
    return 1.0;
}

enum { TOTAL_STEPS, WARMUP_MIN_RATIO, WARMUP_STEPS, COS_MIN_RATIO, WARMUP_TYPE, N_COSINE };
enum { WARMUP_LOG, WARMUP_LINEAR };

static const char *const warmup_types[] = {
    [WARMUP_LOG] = "log", [WARMUP_LINEAR] = "linear", [WARMUP_LINEAR + 1] = NULL};

static const zi_setting_row cosine_settings[N_COSINE] = {
    [TOTAL_STEPS] = {.name = "total_num_steps",
                     .fallback = 1000,
                     .lo = 1,
                     .hi = 1e15,
                     .help = "steps until the floor is reached"},
    [WARMUP_MIN_RATIO] = {.name = "warmup_min_ratio",
                          .fallback = 0,
                          .lo = 0,
                          .hi = 1,
                          .help = "factor at the first step"},
    [WARMUP_STEPS] = {.name = "warmup_num_steps",
                      .fallback = 1000,
                      .lo = 0,
                      .hi = 1e15,
                      .help = "steps of warmup"},
    [COS_MIN_RATIO] = {.name = "cos_min_ratio",
                       .fallback = 1e-4,
                       .lo = 0,
                       .hi = 1,
                       .help = "factor at the floor"},
    [WARMUP_TYPE] = {.name = "warmup_type",
                     .fallback = WARMUP_LOG,
                     .choices = warmup_types,
                     .help = "shape of the warmup"},
};

/* Source: DeepSpeed, runtime/lr_schedules.py, WarmupCosineLR. Past total_num_steps it stays at the
 * floor, where the original would follow the cosine up again. */
static double warmup_cosine(const double *value, uint64_t t)
{
    const double pi = 3.14159265358979323846;
    double iteration = (double)(t - 1), warmup = value[WARMUP_STEPS];
    if (iteration < warmup) {
        double done = iteration / warmup;
        if (value[WARMUP_TYPE] == WARMUP_LOG)
            done = warmup > 1 ? log(iteration + 1) / log(warmup) : 1.0;
        return value[WARMUP_MIN_RATIO] + (1 - value[WARMUP_MIN_RATIO]) * done;
    }
    double length = value[TOTAL_STEPS] - warmup;
    double done = length > 0 ? (iteration - warmup + 1) / length : 1.0;
    double ratio = done < 1 ? (1 + cos(pi * done)) / 2 : 0.0;
    return value[COS_MIN_RATIO] + (1 - value[COS_MIN_RATIO]) * ratio;
}

const zi_schedule zi_schedules[] = {
    {.name = "constant", .help = "the group's lr throughout", .factor = constant},
    {.name = "WarmupCosineLR",
     .help = "warmup, then half a cosine down to a floor",
     .settings = cosine_settings,
     .n_settings = N_COSINE,
     .factor = warmup_cosine},
};
const size_t zi_n_schedules = sizeof zi_schedules / sizeof zi_schedules[0];

zopt_status zi_schedule_find(const char *name, const zi_schedule **out)
{
    *out = NULL;
    for (size_t i = 0; i < zi_n_schedules; i++)
        if (strcasecmp(name, zi_schedules[i].name) == 0) {
            *out = &zi_schedules[i];
            return ZOPT_OK;
        }
    const char *near =
        zi_nearest(name, &zi_schedules[0].name, zi_n_schedules, sizeof zi_schedules[0]);
    return ZI_FAIL(ZOPT_ERR_CONFIG, "unknown schedule '%s'; %s '%s'", name,
                   near ? "did you mean" : "there is", near ? near : zi_schedules[0].name);
}
