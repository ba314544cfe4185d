/* metrics.jsonl: one line a step, in the order of the steps, each of them once. */
#ifndef TRAIN_METRICS_H
#define TRAIN_METRICS_H

#include <stdio.h>

#include "zopt/zopt.h"

/* One step, as metrics.jsonl has it. */
typedef struct metrics {
    zopt_step_report report;
    int has_val;
    double val_loss;
    double step_ms, compute_ms; /* the whole step; this rank's forward and backward passes in it */
    double tokens_per_s;
} metrics;

/* Open it for the line of step `done` + 1: what a run that was interrupted wrote behind line `done`
 * is cut off. 0: a new file. NULL with errno where it cannot be. */
FILE *metrics_open(const char *path, uint64_t done);

/* Append a line and flush it. 0, or -1 with errno. */
int metrics_write(FILE *file, const metrics *row);

#endif
