/* A decoder-only GPT: pre-norm, learned positions, GELU, the embedding shared with the output. It
 * holds a working copy of the parameters, their gradients, and the activations of one micro-batch.
 */
#ifndef TRAIN_MODEL_H
#define TRAIN_MODEL_H

#include "train/layers.h"
#include "train/params.h"

typedef struct model model;

/* Room for micro-batches of up to max_batch windows. Errors: ERR_CONFIG, ERR_MEMORY. */
zopt_status model_create(const model_shape *shape, int max_batch, model **out);
void model_destroy(model *m);

const model_shape *model_get_shape(const model *m);
int model_n_params(const model *m);
/* The table, [model_n_params], and the number of elements of all. */
const param *model_params(const model *m);
size_t model_n_elements(const model *m);

/* Tensor i's working copy, for the caller to write, and its gradient, to read in grad_done. */
real *model_weights(model *m, int i);
const real *model_grad(const model *m, int i);

/* Compute [batch, time] tokens, time <= n_ctx. Returns the mean cross entropy with `targets` in
 * nats, or 0 where that is NULL. Inputs and targets are borrowed until the backward pass is done.
 */
typedef struct model_batch {
    const token *inputs, *targets;
    int batch, time;
} model_batch;
double model_forward(model *m, model_batch batch);

/* Probabilities [batch * time, vocab] of the last forward pass; the backward pass destroys them. */
const real *model_probs(const model *m);

/* Gradients of scale * loss. Calls grad_done once for each tensor as soon as its gradient is final:
 * descending numbers, the last layer first. A failure of it ends the pass and is returned. */
typedef zopt_status model_grad_done(void *arg, int tensor);
zopt_status model_backward(model *m, real scale, model_grad_done *grad_done, void *arg);

#endif
