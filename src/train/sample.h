/* A text sample, character by character. */
#ifndef TRAIN_SAMPLE_H
#define TRAIN_SAMPLE_H

#include "train/trainer.h"

/* Continue the prompt by sample.length characters, a function of the weights and the seed alone.
 * Rank 0 computes; *text is UTF-8 with the prompt, 0-terminated, to be freed, NULL on other ranks.
 * *Collective.* */
zopt_status sample_text(trainer *t, char **text);

#endif
