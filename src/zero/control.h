/* The decision of a step, made once and the same on all ranks: skip or update, the coefficient, the
 * next loss scale. A pure function of agreed sums and of plain data, so that it can run where the
 * kernels run. round.c brings the sums; next: step.c. */
#ifndef ZI_ZERO_CONTROL_H
#define ZI_ZERO_CONTROL_H

#include <stdint.h>

/* What is asked for; fixed at create. */
typedef struct zi_scale_rules {
    int dynamic;
    double min_scale;
    int growth_interval; /* good steps in a row before the scale doubles */
    int hysteresis;      /* overflows before it halves */
    int max_consecutive_skips;
    double clip_norm; /* 0: off */
    int slots;
} zi_scale_rules;

/* What moves from step to step; part of a checkpoint. */
typedef struct zi_scale_state {
    double scale;
    int n_good;          /* good steps in a row since the scale last grew */
    int hysteresis_left; /* overflows until it halves */
    int n_skips;         /* consecutive skips at a scale that cannot go lower */
} zi_scale_state;

typedef struct zi_decision {
    int skip;
    int give_up; /* 1: max_consecutive_skips was reached */
    double norm; /* of the unscaled, averaged gradient; NaN if not finite or not measured */
    double clip; /* 1 where nothing is clipped */
    double coef; /* clip / (slots * scale) */
} zi_decision;

void zi_scale_start(const zi_scale_rules *rules, double scale, zi_scale_state *state);

/* sum_of_squares: of the summed gradient, loss scale included; n_bad: blocks that were not finite;
 * measured: 0 where no sums were made. Moves *state on. */
zi_decision zi_decide(const zi_scale_rules *rules, zi_scale_state *state, int measured,
                      double sum_of_squares, int64_t n_bad);

#endif
