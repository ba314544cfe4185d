/* The layers but attention (attention.c): matrix products go to BLAS, the rest are plain loops that
 * compilers vectorize. Sums that would need reordering for that say so with omp simd; the order is
 * then fixed when the program is compiled. model.c joins the layers. */
#include "train/layers.h"

#include <math.h>
#include <string.h>

#include "train/blas.h"
#include "train/expr.h"

void embed_forward(batch_shape s, const token *inputs, const real *wte, const real *wpe, real *x)
{
    size_t width = (size_t)s.width;
    for (int b = 0; b < s.batch; b++) {
        for (int t = 0; t < s.time; t++, inputs++, x += width) {
            const real *word = wte + *inputs * width, *position = wpe + (size_t)t * width;
            for (size_t i = 0; i < width; i++)
                x[i] = word[i] + position[i];
        }
    }
}

void embed_backward(batch_shape s, const token *inputs, const real *dx, real *dwte, real *dwpe)
{
    size_t width = (size_t)s.width;
    for (int b = 0; b < s.batch; b++) {
        for (int t = 0; t < s.time; t++, inputs++, dx += width) {
            real *word = dwte + *inputs * width, *position = dwpe + (size_t)t * width;
            for (size_t i = 0; i < width; i++) {
                word[i] += dx[i];
                position[i] += dx[i];
            }
        }
    }
}

void norm_forward(norm_shape s, const real *x, const real *weight, const real *bias, real *y,
                  real *stats)
{
    int width = s.width;
    for (int row = 0; row < s.rows; row++, x += width, y += width, stats += 2) {
        real sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < width; i++)
            sum += x[i];
        real mean = sum / (real)width;
#pragma omp simd reduction(+ : squares)
        for (int i = 0; i < width; i++)
            squares += (x[i] - mean) * (x[i] - mean);
        real inverse = 1 / (real)sqrt((double)(squares / (real)width) + 1e-5);
        for (int i = 0; i < width; i++)
            y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
        stats[0] = mean;
        stats[1] = inverse;
    }
}

/* With n = (x - mean) * inverse and g = dy * weight: dx = inverse (g - mean(g) - n mean(g n)). */
void norm_backward_input(norm_shape s, const real *x, const real *stats, const real *weight,
                         const real *dy, real *dx)
{
    int width = s.width;
    for (int row = 0; row < s.rows; row++, x += width, dy += width, dx += width, stats += 2) {
        real mean = stats[0], inverse = stats[1], sum = 0, sum_n = 0;
#pragma omp simd reduction(+ : sum, sum_n)
        for (int i = 0; i < width; i++) {
            real g = dy[i] * weight[i];
            sum += g;
            sum_n += g * ((x[i] - mean) * inverse);
        }
        sum /= (real)width;
        sum_n /= (real)width;
        for (int i = 0; i < width; i++)
            dx[i] += inverse * (dy[i] * weight[i] - sum - (x[i] - mean) * inverse * sum_n);
    }
}

void norm_backward_params(norm_shape s, const real *x, const real *stats, const real *dy,
                          real *restrict dweight, real *restrict dbias)
{
    int width = s.width;
    memset(dweight, 0, (size_t)width * sizeof *dweight);
    memset(dbias, 0, (size_t)width * sizeof *dbias);
    for (int row = 0; row < s.rows; row++, x += width, dy += width, stats += 2) {
        real mean = stats[0], inverse = stats[1];
        for (int i = 0; i < width; i++) {
            dweight[i] += dy[i] * ((x[i] - mean) * inverse);
            dbias[i] += dy[i];
        }
    }
}

void linear_forward(linear_shape s, const real *x, const real *weight, const real *bias,
                    const real *residual, real *y)
{
    size_t out = (size_t)s.out, n = (size_t)s.rows * out;
    if (residual)
        memcpy(y, residual, n * sizeof *y);
    else
        memset(y, 0, n * sizeof *y);
    for (size_t row = 0; bias && row < n; row += out)
        for (size_t i = 0; i < out; i++)
            y[row + i] += bias[i];
    gemm(CblasRowMajor, CblasNoTrans, CblasTrans, s.rows, s.out, s.in, 1, x, s.in, weight, s.in, 1,
         y, s.out);
}

void linear_backward_input(linear_shape s, const real *weight, const real *dy, real *dx)
{
    gemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, s.rows, s.in, s.out, 1, dy, s.out, weight, s.in,
         0, dx, s.in);
}

void linear_backward_params(linear_shape s, const real *x, const real *dy, real *dweight,
                            real *dbias)
{
    gemm(CblasRowMajor, CblasTrans, CblasNoTrans, s.out, s.in, s.rows, 1, dy, s.out, x, s.in, 0,
         dweight, s.in);
    if (!dbias)
        return;
    size_t out = (size_t)s.out, n = (size_t)s.rows * out;
    memset(dbias, 0, out * sizeof *dbias);
    for (size_t row = 0; row < n; row += out)
        for (size_t i = 0; i < out; i++)
            dbias[i] += dy[row + i];
}

/* sqrt(8/pi): (1 + tanh(u)) / 2 is 1 / (1 + exp(-2u)). */
#define GELU_SLOPE ((real)1.5957691216057308)
#define GELU_CUBE  ((real)0.044715)

void gelu_forward(size_t n, const real *restrict x, real *restrict gate, real *restrict y)
{
    for (size_t i = 0; i < n; i++) {
        real u = GELU_SLOPE * x[i] * (1 + GELU_CUBE * x[i] * x[i]);
        gate[i] = 1 / (1 + exp_real(-u));
        y[i] = x[i] * gate[i];
    }
}

void gelu_backward(size_t n, const real *restrict x, const real *restrict gate, const real *dy,
                   real *dx)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        real slope = GELU_SLOPE * (1 + 3 * GELU_CUBE * x[i] * x[i]);
        dx[i] = dy[i] * gate[i] * (1 + x[i] * (1 - gate[i]) * slope);
    }
}

double cross_entropy_forward(int rows, int classes, real *logits, const token *targets)
{
    double loss = 0;
    for (int row = 0; row < rows; row++, logits += classes) {
        double target = targets ? (double)logits[targets[row]] : 0;
        double log_sum = softmax_row(classes, logits);
        loss += targets ? log_sum - target : 0;
    }
    return loss;
}

void cross_entropy_backward(int rows, int classes, real *probs, const token *targets, real scale)
{
    for (int row = 0; row < rows; row++, probs += classes) {
        probs[targets[row]] -= 1;
        for (int i = 0; i < classes; i++)
            probs[i] *= scale;
    }
}
