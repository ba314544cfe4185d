/* The run directory: config.json, env.json, metrics.jsonl, memory.json, sample.txt,
 * model.safetensors, and the lock of the run that writes there. Rank 0 writes all but the model;
 * where it cannot, all ranks fail together. */
#ifndef TRAIN_RUNDIR_H
#define TRAIN_RUNDIR_H

#include "train/trainer.h"

/* Make the directory, or take one over from a run that has ended: its results are removed. Write
 * the first files. *Collective.* Errors: ERR_WRITE, also where another run is under way there, and
 * ERR_PERMISSION. */
zopt_status rundir_open(trainer *t);
void rundir_close(rundir *dir);

const char *rundir_path(const rundir *dir);

/* One step, as metrics.jsonl has it. */
typedef struct metrics {
    zopt_step_report report;
    int has_val;
    double val_loss;
    double step_ms, compute_ms; /* the whole step; this rank's forward and backward passes in it */
    double tokens_per_s;
} metrics;

/* Append a line. Not collective: a failure is kept, and all ranks learn it from rundir_check. */
void rundir_metrics(trainer *t, const metrics *row);
/* *Collective.* */
zopt_status rundir_check(trainer *t);

/* Write memory.json: peak bytes of every rank, per category. *Collective.* */
zopt_status rundir_memory(trainer *t);

/* Write sample.txt; `text` is rank 0's. *Collective.* */
zopt_status rundir_sample(trainer *t, const char *text);

/* Write model.safetensors. *Collective.* */
zopt_status rundir_export(trainer *t);

#endif
