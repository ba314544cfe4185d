/* The model's parameters as one table: names, shapes and initial values all follow from it, for the
 * model, the optimizer and the tests alike. Names and shapes are those of PyTorch GPTs (nanoGPT,
 * GPT-2 with [out, in] weights), so that tools find what they expect. */
#ifndef TRAIN_PARAMS_H
#define TRAIN_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#include <zopt/zopt.h>

typedef struct model_shape {
    int vocab, n_layer, n_head, n_embd, n_ctx;
} model_shape;

typedef enum param_init {
    INIT_ZERO,
    INIT_ONE,
    INIT_EMBEDDING,
    INIT_LINEAR,
    INIT_RESIDUAL
} param_init;

typedef struct param {
    char name[48];
    int ndim; /* matrices decay, vectors do not */
    uint64_t shape[2];
    size_t n, offset; /* elements; where they begin in one array of all parameters */
    param_init init;
} param;

/* Order of the forward pass: wte, wpe, each layer's, ln_f. */
enum { PARAM_WTE, PARAM_WPE, PARAM_LAYERS };
enum {
    LN1_W,
    LN1_B,
    QKV_W,
    QKV_B,
    PROJ_W,
    PROJ_B,
    LN2_W,
    LN2_B,
    UP_W,
    UP_B,
    DOWN_W,
    DOWN_B,
    LAYER_PARAMS
};
enum { LN_F_W, LN_F_B, FINAL_PARAMS };

static inline int param_count(const model_shape *s)
{
    return PARAM_LAYERS + s->n_layer * LAYER_PARAMS + FINAL_PARAMS;
}
static inline int param_layer(int layer, int which)
{
    return PARAM_LAYERS + layer * LAYER_PARAMS + which;
}
static inline int param_final(const model_shape *s, int which)
{
    return param_layer(s->n_layer, which);
}

/* Fill in params[0, param_count); returns the number of elements of all. */
size_t params_table(const model_shape *s, param *params);

/* Initial values of elements [offset, offset+n) of a tensor, a function of these arguments alone:
 * embeddings normal with deviation 0.02, matrices 1/sqrt(3 inputs), projections onto the residual
 * stream that by 1/sqrt(2 n_layer). Source: GPT-2, whose 0.02 is 1/sqrt(3 * 768); a narrow model
 * needs the formula. */
void params_init(const model_shape *s, const param *params, int tensor, uint64_t seed,
                 uint64_t offset, size_t n, float *values);

#endif
