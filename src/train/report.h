/* What rank 0 prints: progress while training, and what came of it. */
#ifndef TRAIN_REPORT_H
#define TRAIN_REPORT_H

#include "train/rundir.h"

/* What the run is about to do. */
void report_start(const trainer *t);

/* A line for a step: an updating one on a terminal, else every steps_per_print steps. */
void report_step(const trainer *t, const metrics *row);

/* End an updating line that will not be updated: the steps failed. */
void report_break(const trainer *t);

typedef struct outcome {
    uint64_t step; /* the last one */
    int stopped;   /* 1: before the end, by a signal */
    double val_loss, train_s;
    const char *sample; /* rank 0's; NULL: none */
} outcome;
/* The end of a run. *Collective*: planned and counted bytes are compared over all ranks. */
zopt_status report_end(trainer *t, const outcome *o);
/* A run that was told to stop. */
void report_stop(const trainer *t, const outcome *o);

#endif
