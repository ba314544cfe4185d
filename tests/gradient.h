/* Gradients against central differences, for the tests of the trainer's layers and model. Compiled
 * with TRAIN_FP64 the trainer computes in double precision, and the bounds are tight. */
#ifndef TESTS_GRADIENT_H
#define TESTS_GRADIENT_H

#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "train/layers.h"
#include "train/random.h"

/* Central differences of a function with values near 1: rounding leaves about u / STEP, u the unit
 * roundoff of what is summed up (2^-24, 2^-53), and truncation STEP^2 f''' / 6, where f''' was seen
 * up to 400 in the model. Relative to the largest gradient of a tensor, or to 0.1 where all are
 * small. ROUNDING bounds single operations. */
#ifdef TRAIN_FP64
#define STEP      1e-5
#define TOLERANCE 1e-7
#define ROUNDING  1e-14
#else
#define STEP      0x1p-9
#define TOLERANCE 2e-3
#define ROUNDING  1e-6
#endif

/* In [-1, 1), a function of the arguments. */
static inline real noise(uint64_t stream, size_t i)
{
    return (real)(2 * random_uniform(random_bits(99, 0, stream, i, 0)) - 1);
}

static inline real *make(uint64_t stream, size_t n, double scale, double offset)
{
    real *x = malloc((n ? n : 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (real)(offset + scale * (double)noise(stream, i));
    return x;
}

/* grad[i] against the central difference of f in x[i], for all i. */
static inline void check_gradient(const char *name, real *x, const real *grad, size_t n,
                                  double (*f)(void *), void *arg)
{
    double largest = 0.1;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)grad[i]));
    for (size_t i = 0; i < n; i++) {
        real middle = x[i];
        x[i] = (real)((double)middle + STEP);
        double above = f(arg), reached = (double)x[i];
        x[i] = (real)((double)middle - STEP);
        double below = f(arg), slope = (above - below) / (reached - (double)x[i]);
        x[i] = middle;
        ck_assert_msg(fabs(slope - (double)grad[i]) <= TOLERANCE * largest,
                      "%s[%zu]: gradient %.9g, difference %.9g, largest %.3g", name, i,
                      (double)grad[i], slope, largest);
    }
}

#endif
