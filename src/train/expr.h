/* exp() that compilers can vectorize, and the softmax of one row. */
#ifndef TRAIN_EXPR_H
#define TRAIN_EXPR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "train/layers.h"

#ifdef TRAIN_FP64
static inline double exp_real(double x)
{
    return exp(x);
}
#else
/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2, with n and n + 127 read off the low
 * bits of x / ln 2 + 1.5 * 2^23. The polynomial is the Taylor series to degree 6, relative error
 * below 2^-23 before rounding. x is held within +-64, a NaN stays one: far enough for a softmax,
 * and no product of such a small number becomes denormal, which costs 100 cycles. */
static inline float exp_real(float x)
{
    x = x < -64.0f ? -64.0f : x;
    x = x > 64.0f ? 64.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    float n = shifted - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    bits = (bits + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}
#endif

/* row[i] = exp(row[i]) / sum; returns log(sum). */
static inline double softmax_row(int n, real *row)
{
    real top = row[0], sum = 0;
    for (int i = 0; i < n; i++)
        top = row[i] > top ? row[i] : top;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        row[i] = exp_real(row[i] - top);
        sum += row[i];
    }
    real inverse = 1 / sum;
    for (int i = 0; i < n; i++)
        row[i] *= inverse;
    return (double)top + log((double)sum);
}

#endif
