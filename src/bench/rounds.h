/* Contestants that take turns in one case. */
#ifndef BENCH_ROUNDS_H
#define BENCH_ROUNDS_H

#include "bench/print.h"

typedef struct bench_contest {
    const bench_contestant *contestant[BENCH_N_CONTESTANTS]; /* NULL: does not take part */
    const char *fault;                                       /* as in bench.h, "" for none */
    int has_transport;                                       /* 1: the subject has one */
} bench_contest;

/* Measure and check; fills in the result's times and n_wrong, of all ranks, and prints it as row
 * `index` unless that is negative. *Collective.* */
zopt_status bench_contest_run(const bench_case *c, const bench_contest *contest, int index,
                              bench_result *result);

#endif
