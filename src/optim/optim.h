/* The table of optimizers. A row names an optimizer's settings and its variants: which state arrays
 * the settings ask for, and the rule that works on them. It turns hyper-parameters into the FP32
 * scalars that the rule reads. The step, the kernels, the memory plan and the run file work from
 * rows; none of them knows an optimizer by name. */
#ifndef ZI_OPTIM_OPTIM_H
#define ZI_OPTIM_OPTIM_H

#include "base/mem.h"
#include "config/setting.h"
#include "optim/rules.h"

enum { ZI_MAX_SETTINGS = 16, ZI_MAX_POWERS = 2 };

/* One shape of an optimizer. All groups of a handle have the same one. */
typedef struct zi_variant {
    zi_rule rule; /* the element rule that the kernels run */
    int n_states; /* FP32 arrays of one element per owned parameter */
    const char *state_name[ZI_MAX_STATES];
} zi_variant;

/* Where a group stands in a step. Doubles, made on the host. */
typedef struct zi_instant {
    uint64_t t;          /* number of the good step, from 1 */
    double lr;           /* with schedule and multiplier */
    const double *power; /* after this step's multiplication */
} zi_instant;

typedef struct zi_optim {
    const char *name;
    const char *help;
    const zi_setting_row *settings;
    int n_settings;
    int lr_setting; /* index of the learning rate in settings */
    /* Why these settings do not go together, or NULL. NULL: they always do. */
    const char *(*refuse)(const double *value);
    /* The variant that these settings ask for. */
    const zi_variant *(*variant)(const double *value);
    /* What every element of a state begins at; NULL: zero. */
    float (*start)(const double *value, int state);
    /* Running products, one factor a good step: power[i] *= settings[power_setting[i]]. */
    int n_powers;
    int power_setting[ZI_MAX_POWERS];
    /* The rule's scalars for one group, each rounded once from double. */
    void (*scalars)(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS]);
} zi_optim;

extern const zi_optim *const zi_optims[];
extern const size_t zi_n_optims;

/* The row of that name (case-insensitive). Errors: ERR_CONFIG with the nearest known name. */
zopt_status zi_optim_find(const char *name, const zi_optim **out);

/* A learning rate schedule, a function of t, the number of the good step from 1. Made on the host
 * in doubles. Exactly one of the two functions is there: `factor` multiplies every group's lr; `lr`
 * takes its place, and a group has then its multiplier alone. */
typedef struct zi_schedule {
    const char *name;
    const char *help;
    const zi_setting_row *settings;
    int n_settings;
    double (*factor)(const double *value, uint64_t t);
    double (*lr)(const double *value, uint64_t t);
    int peak_setting; /* with `lr`: index of the setting that is the highest rate */
} zi_schedule;

extern const zi_schedule *const zi_schedules[];
extern const size_t zi_n_schedules;

zopt_status zi_schedule_find(const char *name, const zi_schedule **out);

/* The rate of a group in good step t. */
double zi_schedule_lr(const zi_schedule *schedule, const double *schedule_value, double lr,
                      double lr_mult, uint64_t t);

/* Refuse a group's lr beside a schedule that sets the rate itself, unless it is the schedule's own
 * peak. settings: what was written for the group, before defaults. Errors: ERR_CONFIG. */
zopt_status zi_schedule_check_lr(const zi_schedule *schedule, const double *schedule_value,
                                 const zi_optim *optim, const zopt_setting *settings, size_t n);

#endif
