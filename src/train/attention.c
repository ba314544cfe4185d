/* Causal self-attention, head by head: two products of [time, head] matrices forward, four
 * backward, with rows of q, k and v picked out of qkv by their stride. */
#include <math.h>
#include <string.h>

#include "train/blas.h"
#include "train/expr.h"
#include "train/layers.h"

/* The matrices of one head of one sample. Rows of q, k, v are 3 * width apart, rows of y width. */
typedef struct head {
    size_t q, k, v; /* offsets into qkv */
    size_t probs, y;
    int size, stride;
    real scale;
} head;

static head find_head(attention_shape s, int b, int h)
{
    size_t width = (size_t)s.width, size = (size_t)(s.width / s.heads), time = (size_t)s.time;
    size_t at = (size_t)b * time * 3 * width + (size_t)h * size;
    return (head){.q = at,
                  .k = at + width,
                  .v = at + 2 * width,
                  .probs = ((size_t)b * (size_t)s.heads + (size_t)h) * time * time,
                  .y = (size_t)b * time * width + (size_t)h * size,
                  .size = (int)size,
                  .stride = 3 * s.width,
                  .scale = (real)(1 / sqrt((double)size))};
}

void attention_forward(attention_shape s, const real *qkv, real *probs, real *y)
{
    int time = s.time;
    for (int i = 0; i < s.batch * s.heads; i++) {
        head h = find_head(s, i / s.heads, i % s.heads);
        real *p = probs + h.probs;
        gemm(CblasRowMajor, CblasNoTrans, CblasTrans, time, time, h.size, h.scale, qkv + h.q,
             h.stride, qkv + h.k, h.stride, 0, p, time);
        for (int t = 0; t < time; t++) {
            real *row = p + (size_t)t * (size_t)time;
            softmax_row(t + 1, row);
            memset(row + t + 1, 0, (size_t)(time - t - 1) * sizeof *row);
        }
        gemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, time, h.size, time, 1, p, time, qkv + h.v,
             h.stride, 0, y + h.y, s.width);
    }
}

/* d: gradients of the probabilities in, of the scaled scores out: d = p (d - sum(p d)), row by row.
 */
static void softmax_backward(int time, const real *p, real *d)
{
    for (int t = 0; t < time; t++, p += time, d += time) {
        real dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int i = 0; i <= t; i++)
            dot += p[i] * d[i];
        for (int i = 0; i <= t; i++)
            d[i] = p[i] * (d[i] - dot);
        memset(d + t + 1, 0, (size_t)(time - t - 1) * sizeof *d);
    }
}

void attention_backward(attention_shape s, const real *qkv, const real *probs, const real *dy,
                        real *dqkv, real *scratch)
{
    int time = s.time;
    for (int i = 0; i < s.batch * s.heads; i++) {
        head h = find_head(s, i / s.heads, i % s.heads);
        const real *p = probs + h.probs;
        gemm(CblasRowMajor, CblasNoTrans, CblasTrans, time, time, h.size, 1, dy + h.y, s.width,
             qkv + h.v, h.stride, 0, scratch, time);
        gemm(CblasRowMajor, CblasTrans, CblasNoTrans, time, h.size, time, 1, p, time, dy + h.y,
             s.width, 0, dqkv + h.v, h.stride);
        softmax_backward(time, p, scratch);
        gemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, time, h.size, time, h.scale, scratch, time,
             qkv + h.k, h.stride, 0, dqkv + h.q, h.stride);
        gemm(CblasRowMajor, CblasTrans, CblasNoTrans, time, h.size, time, h.scale, scratch, time,
             qkv + h.q, h.stride, 0, dqkv + h.k, h.stride);
    }
}
