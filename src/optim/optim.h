/* The table of optimizers. A row names an optimizer's settings, its state arrays and its rule, and
 * turns hyper-parameters into the FP32 scalars that the rule reads. The step, the kernels, the
 * memory plan and the run file work from rows; none of them knows an optimizer by name. */
#ifndef ZI_OPTIM_OPTIM_H
#define ZI_OPTIM_OPTIM_H

#include "base/mem.h"
#include "config/setting.h"
#include "optim/rules.h"

enum { ZI_MAX_SETTINGS = 16, ZI_MAX_POWERS = 2 };

typedef struct zi_optim {
    const char *name;
    const char *help;
    zi_rule rule; /* the element rule that the kernels run */
    const zi_setting_row *settings;
    int n_settings;
    int lr_setting; /* index of the learning rate in settings */
    int n_states;   /* FP32 arrays of one element per owned parameter */
    const char *state_name[ZI_MAX_STATES];
    /* Running products, one factor a good step: power[i] *= settings[power_setting[i]]. */
    int n_powers;
    int power_setting[ZI_MAX_POWERS];
    /* The rule's scalars for one group. value: the settings; lr: with the schedule's factor; power:
     * after this step's multiplication. Doubles in, each scalar rounded once. */
    void (*scalars)(const double *value, double lr, const double *power,
                    float scalar[ZI_MAX_SCALARS]);
} zi_optim;

extern const zi_optim *const zi_optims[];
extern const size_t zi_n_optims;

/* The row of that name (case-insensitive). Errors: ERR_CONFIG with the nearest known name. */
zopt_status zi_optim_find(const char *name, const zi_optim **out);

/* A learning rate schedule: the factor on every group's lr as a function of t, the number of the
 * good step from 1. Made on the host in doubles. */
typedef struct zi_schedule {
    const char *name;
    const char *help;
    const zi_setting_row *settings;
    int n_settings;
    double (*factor)(const double *value, uint64_t t);
} zi_schedule;

extern const zi_schedule zi_schedules[];
extern const size_t zi_n_schedules;

zopt_status zi_schedule_find(const char *name, const zi_schedule **out);

#endif
