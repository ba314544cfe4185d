/* The model's tensors handed to the library, each in its group. */
#ifndef TRAIN_GROUPS_H
#define TRAIN_GROUPS_H

#include "train/trainer.h"

/* Add the groups that are needed and all tensors; ids: [model_n_params]. Before zopt_commit. */
zopt_status groups_add_tensors(const trainer *t, zopt *z, int *ids);

#endif
