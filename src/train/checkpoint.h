/* Checkpoints of a run: going on from one, and saving. They lie in checkpoints/ of the run
 * directory. What a step is computed on follows from its number and slot alone, so the step is all
 * that a checkpoint has to say beside the library's own state. */
#ifndef TRAIN_CHECKPOINT_H
#define TRAIN_CHECKPOINT_H

#include "train/trainer.h"

/* Go on from where the request says: sets t->done. *Collective.* Errors: ERR_CONFIG
 * where the checkpoint is another configuration's, ERR_DATA where all there are are damaged. */
zopt_status checkpoint_resume(trainer *t);

/* After step `step`: save where one is due. *Collective.* */
zopt_status checkpoint_after(trainer *t, uint64_t step);
/* The run stops after step `step`: save if that has not been done, and wait for the disk.
 * *Collective.* */
zopt_status checkpoint_last(trainer *t, uint64_t step);

#endif
