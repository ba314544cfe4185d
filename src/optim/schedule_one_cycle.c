/* DeepSpeed's OneCycle, the learning rate part: up from cycle_min_lr to cycle_max_lr, down again,
 * then decay. What DeepSpeed has beside that (momentum cycles, stairs) is refused by name. Formulas
 * from its documentation and runtime/lr_schedules.py. The rates are those that its engine takes the
 * steps with: the first with cycle_min_lr, the others with last_batch_iteration = t - 2, to which
 * the schedule adds 1. */
#include "optim/rows.h"

enum {
    MIN_LR,
    MAX_LR,
    FIRST,
    SECOND,
    DECAY_STEP,
    DECAY_RATE,
    FIRST_STAIRS,
    SECOND_STAIRS,
    CYCLE_MOMENTUM,
    MIN_MOM,
    MAX_MOM,
    MOM_RATE,
    N_SETTINGS
};

static const char no_stairs[] = "stairs are not offered, the rate changes every step";
static const char no_momentum[] = "momentum is not cycled, the optimizer's own stays as it is";

static const zi_setting_row settings[N_SETTINGS] = {
    [MIN_LR] = {.name = "cycle_min_lr",
                .fallback = 0.01,
                .hi = 1e6,
                .help = "rate at both ends of the cycle"},
    [MAX_LR] = {.name = "cycle_max_lr",
                .fallback = 0.1,
                .hi = 1e6,
                .help = "rate in the middle of the cycle, in place of the groups' lr"},
    [FIRST] = {.name = "cycle_first_step_size",
               .fallback = 2000,
               .lo = 1,
               .hi = 1e15,
               .help = "steps of the rising half"},
    [SECOND] = {.name = "cycle_second_step_size",
                .hi = 1e15,
                .help = "steps of the falling half; 0: as many as rise"},
    [DECAY_STEP] = {.name = "decay_step_size",
                    .hi = 1e15,
                    .help = "steps after the cycle that decay by decay_lr_rate; 0: no decay"},
    [DECAY_RATE] = {.name = "decay_lr_rate",
                    .hi = 1e6,
                    .help = "after n * decay_step_size steps: cycle_min_lr / (1 + n * this)"},
    [FIRST_STAIRS] = {.name = "cycle_first_stair_count", .only_default = no_stairs, .help = "0"},
    [SECOND_STAIRS] = {.name = "cycle_second_stair_count", .only_default = no_stairs, .help = "0"},
    [CYCLE_MOMENTUM] = {.name = "cycle_momentum",
                        .hi = 1,
                        .is_flag = 1,
                        .only_default = no_momentum,
                        .help = "false, where DeepSpeed's default is true"},
    [MIN_MOM] = {.name = "cycle_min_mom",
                 .fallback = 0.8,
                 .hi = 1,
                 .only_default = no_momentum,
                 .help = "not used"},
    [MAX_MOM] = {.name = "cycle_max_mom",
                 .fallback = 0.9,
                 .hi = 1,
                 .only_default = no_momentum,
                 .help = "not used"},
    [MOM_RATE] = {.name = "decay_mom_rate",
                  .hi = 1,
                  .only_default = no_momentum,
                  .help = "not used"},
};

static double one_cycle(const double *value, uint64_t t)
{
    double iteration = (double)(t - 1), first = value[FIRST];
    double second = value[SECOND] > 0 ? value[SECOND] : first, total = first + second;
    if (iteration < total) {
        double height = iteration <= first ? iteration / first : (total - iteration) / second;
        return value[MIN_LR] + (value[MAX_LR] - value[MIN_LR]) * height;
    }
    if (value[DECAY_STEP] == 0)
        return value[MIN_LR];
    double intervals = (iteration - total) / value[DECAY_STEP];
    return value[MIN_LR] / (1 + value[DECAY_RATE] * intervals);
}

const zi_schedule zi_schedule_one_cycle = {.name = "OneCycle",
                                           .help = "up, down and decay, in place of the groups' lr",
                                           .settings = settings,
                                           .n_settings = N_SETTINGS,
                                           .lr = one_cycle,
                                           .peak_setting = MAX_LR};
