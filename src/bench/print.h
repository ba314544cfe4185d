/* Rows of results, as a table in the manner of nccl-tests or as JSON. */
#ifndef BENCH_PRINT_H
#define BENCH_PRINT_H

#include "bench/contestant.h"

enum {
    BENCH_SUBJECT,
    BENCH_LIMIT,
    BENCH_BASELINE,
    BENCH_COPY,
    BENCH_NO_GRAPH,
    BENCH_N_CONTESTANTS
};

typedef struct bench_result {
    const bench_case *c;
    const char *transport;          /* in use; NULL: none */
    double ms[BENCH_N_CONTESTANTS]; /* medians; NaN: not measured */
    double backward_ms;             /* median of what was taken off; NaN: nothing */
    double call_ms;                 /* median of the subject's; NaN: it has none */
    const char *path;               /* the subject's; NULL: it has none */
    zi_overlap overlap;             /* of the steps that were traced; of none: zero */
    double bytes; /* that a step moves for each parameter, all ranks together, in one pass */
    uint64_t n_wrong;
} bench_result;

/* Before the first row of all, once nothing of the request can be refused any more: what is
 * measured, or JSON's beginning. */
void bench_print_begin(const bench_case *c);
/* JSON: begin a row with what its case is. transport: in use, or NULL. */
void bench_print_keys(const bench_case *c, const char *transport, int index);
/* A row, and before the first, index 0, bench_print_begin and the heads of its columns. */
void bench_print_row(const bench_result *result, int index);
void bench_print_end(const bench_request *request);

#endif
