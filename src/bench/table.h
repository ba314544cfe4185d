/* A row of the table of benchmarks, and a request as it takes it. */
#ifndef BENCH_TABLE_H
#define BENCH_TABLE_H

#include "bench/print.h"

typedef struct bench_row {
    const char *name, *help;
    const bench_contestant *contestant[BENCH_N_CONTESTANTS];
    int collective_baseline; /* 1: it needs MPI */
    int has_transport, has_rule;
    int is_step; /* 1: there is a norm to measure, and a backward pass to hide behind */
    int alone;   /* 1: each rank works on a part of its own */
    int has_tensors, has_buckets, has_shared_params, has_files, has_calibration;
    int on_devices;  /* 1: not on the CPU alone */
    double bytes;    /* that it moves for each parameter; 0: those of a step */
    uint64_t params; /* if none are given; 0: DEFAULT_PARAMS */
    /* In place of the contestants. */
    zopt_status (*measure)(const bench_case *c, const char *fault, int index, uint64_t *n_wrong);
} bench_row;

/* Errors: ERR_ARGUMENT with the nearest name. */
zopt_status bench_row_find(const char *name, const bench_row **out);

/* Fill in what is not given, and refuse what would be left out. */
zopt_status bench_request_complete(const bench_row *row, bench_request *request);

#endif
