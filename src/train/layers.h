/* Forward and backward passes of a GPT's layers, from the mathematics, on one thread. Arrays are
 * dense and row major; rows are tokens (batch * time of them). The same input gives the same bits
 * on every rank. Backward functions overwrite their outputs where the comment does not say "adds".
 *
 * Compiled with TRAIN_FP64 all arithmetic is double: for the tests' finite differences. */
#ifndef TRAIN_LAYERS_H
#define TRAIN_LAYERS_H

#include "train/data.h"

#ifdef TRAIN_FP64
typedef double real;
#else
typedef float real;
#endif

typedef struct batch_shape {
    int batch, time, width;
} batch_shape;

/* x[b,t] = wte[inputs[b,t]] + wpe[t]. Backward adds to dwte and dwpe. */
void embed_forward(batch_shape s, const token *inputs, const real *wte, const real *wpe, real *x);
void embed_backward(batch_shape s, const token *inputs, const real *dx, real *dwte, real *dwpe);

typedef struct norm_shape {
    int rows, width;
} norm_shape;

/* y = (x - mean) / sqrt(var + 1e-5) * weight + bias, row by row. stats: [rows, 2], mean and inverse
 * deviation, for backward. backward_input adds to dx. Source: Ba, Kiros, Hinton, arXiv:1607.06450.
 */
void norm_forward(norm_shape s, const real *x, const real *weight, const real *bias, real *y,
                  real *stats);
void norm_backward_input(norm_shape s, const real *x, const real *stats, const real *weight,
                         const real *dy, real *dx);
void norm_backward_params(norm_shape s, const real *x, const real *stats, const real *dy,
                          real *dweight, real *dbias);

typedef struct linear_shape {
    int rows, in, out;
} linear_shape;

/* y = x weight^T + bias (+ residual, [rows, out], where it is not NULL; bias may be NULL too).
 * weight: [out, in], as in PyTorch. */
void linear_forward(linear_shape s, const real *x, const real *weight, const real *bias,
                    const real *residual, real *y);
void linear_backward_input(linear_shape s, const real *weight, const real *dy, real *dx);
void linear_backward_params(linear_shape s, const real *x, const real *dy, real *dweight,
                            real *dbias);

/* y = x * gate, gate = (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2; gate is kept for backward.
 * dx may be dy. Source: Hendrycks, Gimpel, arXiv:1606.08415, the tanh form. */
void gelu_forward(size_t n, const real *x, real *gate, real *y);
void gelu_backward(size_t n, const real *x, const real *gate, const real *dy, real *dx);

/* Causal self-attention. qkv: [batch, time, 3, heads, width/heads]; probs: [batch, heads, time,
 * time], kept for backward, zero above the diagonal; y: [batch, time, width]. backward's scratch:
 * [time, time]. Source: Vaswani et al., arXiv:1706.03762, equation 1. */
typedef struct attention_shape {
    int batch, time, width, heads;
} attention_shape;
void attention_forward(attention_shape s, const real *qkv, real *probs, real *y);
void attention_backward(attention_shape s, const real *qkv, const real *probs, const real *dy,
                        real *dqkv, real *scratch);

/* Turn logits [rows, classes] into probabilities in place; returns the sum over rows of the cross
 * entropy with `targets`, or 0 where it is NULL. backward turns them into gradients of
 * scale * that sum. */
double cross_entropy_forward(int rows, int classes, real *logits, const token *targets);
void cross_entropy_backward(int rows, int classes, real *probs, const token *targets, real scale);

#endif
