/* Adafactor in float64, written from Shazeer and Stern, Adafactor: Adaptive Learning Rates with
 * Sublinear Memory Cost (2018), Algorithms 4 and 5, with means in place of sums and the floors that
 * PyTorch's documentation of torch.optim.Adafactor gives; first moment, relative step and its
 * warm-up as in Hugging Face's documentation. Shares nothing with src/.
 *
 * Beside each number a bound on what FP32 arithmetic may lose (optimizers_f64.h). What joins many
 * elements: an RMS errs by at most the RMS of the errors (the triangle inequality); a mean by the
 * mean of the errors; a sum of squares on a grid by 2^-129 an addend (its range). Sums in FP64
 * lose 2^-53 where FP32 loses 2^-24: the 1.001 of the comparison covers it. */
#ifndef REFERENCE_ADAFACTOR_F64_H
#define REFERENCE_ADAFACTOR_F64_H

#include <stddef.h>

#include "reference/optimizers_f64.h"

enum { ADAFACTOR_MAX_ELEMS = 4096, ADAFACTOR_MAX_FACTORS = 128 };

typedef struct adafactor_options {
    double lr, beta2_decay, eps1, eps2, d, weight_decay, beta1;
    int scale_parameter, relative_step, warmup_init;
} adafactor_options;

/* A tensor of n = matrices * rows * cols elements; rows = 0: a vector of n. */
typedef struct adafactor_tensor {
    size_t n, matrices, rows, cols;
    bounded p[ADAFACTOR_MAX_ELEMS], v[ADAFACTOR_MAX_ELEMS], m[ADAFACTOR_MAX_ELEMS];
    bounded row[ADAFACTOR_MAX_FACTORS], col[ADAFACTOR_MAX_FACTORS];
} adafactor_tensor;

/* (1 - weight) * old + weight * fresh, rounded once. */
static inline bounded b_move(double weight, bounded old, bounded fresh)
{
    return b_round((1 - weight) * old.x + weight * fresh.x,
                   (1 - weight) * old.e + weight * fresh.e);
}

static inline bounded b_at_least(bounded a, double least)
{
    return (bounded){fmax(a.x, least), a.e};
}

static inline bounded b_rms(const bounded *x, size_t n)
{
    double squares = 0, errors = 0;
    for (size_t i = 0; i < n; i++) {
        squares += x[i].x * x[i].x;
        errors += x[i].e * x[i].e;
    }
    return (bounded){sqrt(squares / (double)n), sqrt(errors / (double)n)};
}

/* The mean of n squares, `step` apart. */
static inline bounded mean_square(const double *g, size_t n, size_t step)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += g[i * step] * g[i * step];
    return (bounded){sum / (double)n, 0x1p-129};
}

static inline bounded mean_of(const bounded *x, size_t n)
{
    bounded sum = {0, 0};
    for (size_t i = 0; i < n; i++)
        sum = (bounded){sum.x + x[i].x, sum.e + x[i].e};
    return (bounded){sum.x / (double)n, sum.e / (double)n};
}

/* v of every element, from its row and column. */
static inline void factored_variance(const adafactor_options *o, double weight, const double *g,
                                     adafactor_tensor *t)
{
    for (size_t a = 0; a < t->matrices; a++) {
        const double *matrix = g + a * t->rows * t->cols;
        bounded *row = t->row + a * t->rows, *col = t->col + a * t->cols;
        for (size_t i = 0; i < t->rows; i++)
            row[i] = b_move(weight, row[i], mean_square(matrix + i * t->cols, t->cols, 1));
        for (size_t j = 0; j < t->cols; j++)
            col[j] = b_move(weight, col[j], mean_square(matrix + j, t->rows, t->cols));
        bounded mean = b_at_least(mean_of(row, t->rows), o->eps1);
        mean = b_round(mean.x, mean.e);
        for (size_t i = 0; i < t->rows; i++)
            for (size_t j = 0; j < t->cols; j++)
                t->v[(a * t->rows + i) * t->cols + j] = b_mul(b_div(row[i], mean), col[j]);
    }
}

static inline void adafactor_step(const adafactor_options *o, double time, const double *g,
                                  adafactor_tensor *t)
{
    static _Thread_local bounded u[ADAFACTOR_MAX_ELEMS];
    double weight = pow(time, o->beta2_decay);
    double cap = o->warmup_init ? o->lr * 1e-4 * time : o->lr;
    double rho = fmin(cap, 1 / sqrt(time));
    bounded size = b_at_least(b_rms(t->p, t->n), o->eps2);
    bounded alpha = o->scale_parameter ? (bounded){rho * size.x, rho * size.e} : b_exact(rho);
    bounded keep = {1 - (o->relative_step ? alpha.x : o->lr) * o->weight_decay,
                    o->relative_step ? alpha.e * o->weight_decay : 0};
    keep = b_round(keep.x, keep.e);
    if (t->rows > 0)
        factored_variance(o, weight, g, t);
    else
        for (size_t i = 0; i < t->n; i++)
            t->v[i] = b_mean(1 - weight, t->v[i], b_mul(b_exact(g[i]), b_exact(g[i])));
    for (size_t i = 0; i < t->n; i++) {
        bounded floored = b_at_least(t->v[i], o->eps1 * o->eps1);
        u[i] = b_div(b_exact(g[i]), b_sqrt(b_round(floored.x, floored.e)));
    }
    bounded size_u = b_rms(u, t->n);
    bounded limit = b_at_least((bounded){size_u.x / o->d, size_u.e / o->d}, 1);
    bounded step = b_div(alpha, limit);
    step = b_round(step.x * (1 - o->beta1), step.e * (1 - o->beta1));
    for (size_t i = 0; i < t->n; i++) {
        bounded by = b_mul(step, u[i]);
        if (o->beta1 > 0)
            by = t->m[i] = b_add(b_mul(b_scalar(o->beta1), t->m[i]), by);
        t->p[i] = b_sub(b_mul(t->p[i], keep), by);
    }
}

#endif
