/* The table of optimizers. A row names an optimizer's settings and chooses each tensor's variant:
 * the rule, the unit it works in, and the states it keeps. It turns hyper-parameters into the FP32
 * scalars that the rule reads. The step, the kernels, the memory plan and the run file work from
 * rows; none of them knows an optimizer by name. */
#ifndef ZI_OPTIM_OPTIM_H
#define ZI_OPTIM_OPTIM_H

#include "base/mem.h"
#include "config/setting.h"
#include "optim/rules.h"

enum { ZI_MAX_SETTINGS = 16, ZI_MAX_POWERS = 2, ZI_MAX_VARIANTS = 4 };

/* What a state keeps, and where. */
typedef enum zi_form {
    ZI_FORM_F32,       /* one float for each owned element */
    ZI_FORM_Q8_SIGNED, /* one byte for each owned element, one float, the largest magnitude, for */
    ZI_FORM_Q8_UNSIGNED, /* each block of 256 */
    ZI_FORM_ROWS, /* a tensor's matrices, one float for each row or column of each, on every */
    ZI_FORM_COLS  /* rank */
} zi_form;

typedef struct zi_state_row {
    int name; /* index in the optimizer's state_name */
    zi_form form;
} zi_state_row;

/* What a kernel works on at once. */
typedef enum zi_unit {
    ZI_UNIT_ELEMENT, /* the rule, element by element */
    ZI_UNIT_BLOCK,   /* states of a block are decoded, the rule runs, they are encoded again */
    ZI_UNIT_TENSOR,  /* Adafactor's rule, from statistics of the tensor. States: a second moment, */
                     /* F32 or ROWS and COLS; behind it a first moment, if there is one */
    ZI_N_UNITS
} zi_unit;

/* One treatment of a tensor. Tensors of one variant and dtype share a flat space. */
typedef struct zi_variant {
    zi_rule rule;
    zi_unit unit;
    int n_states;
    zi_state_row state[ZI_MAX_STATES]; /* in the order of the rule's arguments */
} zi_variant;

/* A tensor as a row sees it: the whole one, however it is cut. */
typedef struct zi_shape {
    int ndim;
    const uint64_t *extent; /* [ndim] */
    uint64_t n_elems;
} zi_shape;

/* The rounds of statistics that ZI_UNIT_TENSOR has before its update. */
typedef enum zi_statistics_round {
    ZI_STATISTICS_MOMENTS, /* squares of the gradient by row and column, and of the parameters */
    ZI_STATISTICS_UPDATE,  /* squares of u, the gradient over the root of its second moment */
    ZI_N_STATISTICS
} zi_statistics_round;

/* A tensor of ZI_UNIT_TENSOR: where it lies, what is summed, and what the rule reads of it. The
 * last two dimensions are the rows and columns of a matrix, the others count matrices. */
typedef struct zi_tensor_statistics {
    uint64_t start, n_elems;             /* in its space */
    uint64_t n_matrices, n_rows, n_cols; /* 0: not factored */
    float *row, *col;                    /* states, matrix after matrix, on every rank */
    float *row_mean;                     /* of each matrix, at least eps1 */
    /* ZI_EXACT_LIMBS of the squares, and how many blocks were not finite; NULL: of another unit */
    int64_t *sum;
    int64_t *row_sum, *col_sum; /* base/grid_sum.h, limbs `stride` apart */
    size_t stride;
    uint32_t group;
    double alpha; /* from the first round for the second */
    float scalar[ZI_MAX_SCALARS];
} zi_tensor_statistics;

/* Where a group stands in a step. Doubles, made on the host. */
typedef struct zi_instant {
    uint64_t t;          /* number of the good step, from 1 */
    double lr;           /* with schedule and multiplier */
    const double *power; /* after this step's multiplication */
} zi_instant;

/* What the statistics of a group's tensors are settled with in a step (settle.h). */
typedef struct zi_terms {
    double fresh;         /* weight of this step's squares in the second moments */
    double rho;           /* the relative step */
    double eps1, eps2, d; /* the optimizer's settings */
    double one_minus_beta1;
    double decay;
    int is_scaled;       /* 1: rho is times the RMS of the parameters */
    int decays_by_alpha; /* 1: decay is times the step that comes of it */
} zi_terms;

typedef struct zi_optim {
    const char *name;
    const char *help;
    const zi_setting_row *settings;
    int n_settings;
    int lr_setting; /* index of the learning rate in settings */
    /* Why these settings do not go together, or NULL. NULL: they always do. */
    const char *(*refuse)(const double *value);
    const char *state_name[ZI_MAX_STATES]; /* of all variants; NULL past the last */
    /* The variant of a tensor in a group of these settings: static, one of at most
     * ZI_MAX_VARIANTS. */
    const zi_variant *(*variant)(const double *value, const zi_shape *shape);
    /* What every element of the state of that name begins at; NULL: zero. F32 states alone. */
    float (*start)(const double *value, int name);
    /* Running products, one factor a good step: power[i] *= settings[power_setting[i]]. */
    int n_powers;
    int power_setting[ZI_MAX_POWERS];
    /* The rule's scalars for one group, each rounded once from double. */
    void (*scalars)(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS]);
    /* ZI_UNIT_TENSOR: what its statistics are settled with. */
    void (*terms)(const double *value, const zi_instant *now, zi_terms *terms);
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
