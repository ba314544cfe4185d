/* The table of schedules, look-up by name, and a group's rate from a schedule's value. Adding one:
 * a row in one of this room's schedule files, and its line here. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/status.h"
#include "optim/rows.h"

enum { MAX_NAMES = 64, MAX_TEXT = 400 };

const zi_schedule *const zi_schedules[] = {
    &zi_schedule_constant,      &zi_schedule_linear,    &zi_schedule_inverse_sqrt,
    &zi_schedule_wsd,           &zi_schedule_warmup,    &zi_schedule_warmup_decay,
    &zi_schedule_warmup_cosine, &zi_schedule_one_cycle,
};
const size_t zi_n_schedules = sizeof zi_schedules / sizeof zi_schedules[0];

zopt_status zi_schedule_find(const char *name, const zi_schedule **out)
{
    const char *names[MAX_NAMES];
    char all[MAX_TEXT] = "";
    *out = NULL;
    for (size_t i = 0; i < zi_n_schedules; i++) {
        names[i] = zi_schedules[i]->name;
        if (strcasecmp(name, names[i]) == 0) {
            *out = zi_schedules[i];
            return ZOPT_OK;
        }
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i > 0 ? ", " : "", names[i]);
    }
    const char *near = zi_nearest(name, names, zi_n_schedules, sizeof *names);
    return near ? ZI_FAIL(ZOPT_ERR_CONFIG, "unknown schedule '%s'; did you mean '%s'", name, near)
                : ZI_FAIL(ZOPT_ERR_CONFIG, "unknown schedule '%s'; there are %s", name, all);
}

double zi_schedule_lr(const zi_schedule *schedule, const double *schedule_value, double lr,
                      double lr_mult, uint64_t t)
{
    if (schedule->lr != NULL)
        return lr_mult * schedule->lr(schedule_value, t);
    return lr_mult * (lr * schedule->factor(schedule_value, t));
}

zopt_status zi_schedule_check_lr(const zi_schedule *schedule, const double *schedule_value,
                                 const zi_optim *optim, const zopt_setting *settings, size_t n)
{
    const char *lr = optim->settings[optim->lr_setting].name;
    for (size_t i = 0; schedule->lr != NULL && i < n; i++) {
        double peak = schedule_value[schedule->peak_setting];
        if (settings[i].name != NULL && strcmp(settings[i].name, lr) == 0 &&
            settings[i].value != peak)
            return ZI_FAIL(ZOPT_ERR_CONFIG,
                           "%s: %s = %g, but schedule %s sets the rate itself: leave %s out or "
                           "make it %s = %g; lr_mult scales it for a group",
                           optim->name, lr, settings[i].value, schedule->name, lr,
                           schedule->settings[schedule->peak_setting].name, peak);
    }
    return ZOPT_OK;
}
