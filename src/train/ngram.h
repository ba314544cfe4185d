/* What counting characters achieves on the same split: yardsticks for the model's validation loss.
 */
#ifndef TRAIN_NGRAM_H
#define TRAIN_NGRAM_H

#include "train/data.h"

enum { NGRAM_ORDERS = 3, NGRAM_MAX_VOCAB = 256 };

/* losses[k-1] = cross entropy in nats of the validation part under a k-gram model counted on the
 * training part, smoothed by the next lower order:
 *   p_k(c | h) = (count(h c) + p_(k-1)(c | h')) / (count(h) + 1), p_0 = 1 / vocabulary.
 * Contexts reach back over the beginning of the validation part. Returns 0 without computing where
 * the vocabulary has more than NGRAM_MAX_VOCAB characters or memory is short. Source of the
 * smoothing: MacKay, Peto, "A hierarchical Dirichlet language model", 1995, with weight 1. */
int ngram_losses(const data *d, double losses[NGRAM_ORDERS]);

#endif
