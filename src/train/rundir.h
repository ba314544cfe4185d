/* The run directory: config.json, env.json, metrics.jsonl, memory.json, trace.json, sample.txt,
 * model.safetensors, checkpoints/, and the lock of the run that writes there. Rank 0 writes all but
 * trace, model and checkpoints; where it cannot, all ranks fail together. */
#ifndef TRAIN_RUNDIR_H
#define TRAIN_RUNDIR_H

#include "train/metrics.h"
#include "train/trainer.h"

/* Make the directory, or take one over from a run that has ended. *Collective.* Errors: ERR_WRITE,
 * also where another run is under way there, and ERR_PERMISSION. */
zopt_status rundir_open(trainer *t);
/* Remove an earlier run's results, but for the metrics of the t->done steps that this one goes on
 * from, and write the first files. *Collective.* */
zopt_status rundir_begin(trainer *t);
/* Begin trace.json, if the run file asks for one. *Collective.* */
zopt_status rundir_trace(trainer *t);
void rundir_close(rundir *dir);

const char *rundir_path(const rundir *dir);

/* Append a line. Not collective: a failure is kept, and all ranks learn it from rundir_check. */
void rundir_metrics(trainer *t, const metrics *row);
/* Once a step. *stop: this rank has been told to; then whether any has. *Collective.* */
zopt_status rundir_check(trainer *t, int *stop);

/* Write memory.json: peak bytes of every rank, per category. *Collective.* */
zopt_status rundir_memory(trainer *t);

/* Write sample.txt; `text` is rank 0's. *Collective.* */
zopt_status rundir_sample(trainer *t, const char *text);

/* checkpoints/ in the run directory; `path` has room for PATH_MAX bytes. */
void rundir_checkpoints(const rundir *dir, char *path);

/* Write model.safetensors. *Collective.* */
zopt_status rundir_export(trainer *t);

#endif
