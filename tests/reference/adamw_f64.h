/* AdamW in float64, written from the paper, and the fixed problem that adamw_200.txt records: the
 * generator of its numbers and its hyper-parameters (adamw_torch.py makes the same). Shares nothing
 * with src/: powers come from pow(), and the update is the paper's formula, not the kernels'. */
#ifndef REFERENCE_ADAMW_F64_H
#define REFERENCE_ADAMW_F64_H

#include <math.h>
#include <stdint.h>

enum { REFERENCE_ELEMS = 64, REFERENCE_STEPS = 200 };

typedef struct reference_hyper {
    double lr, beta1, beta2, eps, weight_decay;
} reference_hyper;

static const reference_hyper reference_problem = {
    .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1};

/* Source: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators (2014). */
static inline uint64_t reference_splitmix64(uint64_t state)
{
    uint64_t x = state + 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Exactly an FP16 number: sign, exponent in [-12, 4], 11-bit significand. Step 0: the parameter's
 * start; steps 1, 2, ...: the gradients. */
static inline double reference_number(uint32_t step, uint32_t i)
{
    uint64_t r = reference_splitmix64((uint64_t)step << 32 | i);
    int exponent = (int)((r >> 1 & 0xffff) % 17) - 12;
    double magnitude = ldexp((double)(1024 + (r >> 32 & 1023)), exponent - 10);
    return r & 1 ? -magnitude : magnitude;
}

/* Step t >= 1. Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019),
 * Algorithm 2 lines 6 to 12, with the schedule multiplier 1 and the decay scaled by lr as in
 * PyTorch. */
static inline void reference_adamw(const reference_hyper *h, double t, double g, double *p,
                                   double *m, double *v)
{
    *m = h->beta1 * *m + (1 - h->beta1) * g;
    *v = h->beta2 * *v + (1 - h->beta2) * g * g;
    double m_hat = *m / (1 - pow(h->beta1, t));
    double v_hat = *v / (1 - pow(h->beta2, t));
    *p -= h->lr * m_hat / (sqrt(v_hat) + h->eps) + h->lr * h->weight_decay * *p;
}

#endif
