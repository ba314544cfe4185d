/* Validation loss: the same double for every number of ranks. */
#ifndef TRAIN_EVAL_H
#define TRAIN_EVAL_H

#include "train/trainer.h"

/* Mean cross entropy, in nats a character, of `batches` evenly spaced batches of the held-out part,
 * or of all of it where batches is 0 or more than there are. *Collective.* */
zopt_status eval_loss(trainer *t, int64_t batches, double *loss);

#endif
