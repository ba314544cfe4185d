/* RMSprop, in the order of torch.optim.RMSprop: L2 inside the gradient, eps outside the root, and
 * as options the centered form and momentum on the scaled gradient. Source: Tieleman and Hinton,
 * Lecture 6.5; centered: Graves, Generating Sequences With Recurrent Neural Networks. */
#ifndef ZI_OPTIM_RULE_RMSPROP_H
#define ZI_OPTIM_RULE_RMSPROP_H

#include "optim/rule.h"

/* Scalars, each rounded once from double. */
enum {
    ZI_RMSPROP_WEIGHT_DECAY,
    ZI_RMSPROP_ALPHA,
    ZI_RMSPROP_ONE_MINUS_ALPHA,
    ZI_RMSPROP_EPS,
    ZI_RMSPROP_MOMENTUM,
    ZI_RMSPROP_MINUS_LR
};

/* The root of the mean square; moves square_avg on. */
ZI_RULE float zi_rmsprop_root(float g, float *square_avg, const float *k)
{
    *square_avg = fmaf(k[ZI_RMSPROP_ALPHA], *square_avg, k[ZI_RMSPROP_ONE_MINUS_ALPHA] * g * g);
    return sqrtf(*square_avg);
}

/* The deviation: the mean's square taken off first. Rounding can leave less than nothing of a
 * gradient that hardly changes; that counts as zero, where torch's root is NaN. */
ZI_RULE float zi_rmsprop_deviation(float g, float *square_avg, float *grad_avg, const float *k)
{
    *square_avg = fmaf(k[ZI_RMSPROP_ALPHA], *square_avg, k[ZI_RMSPROP_ONE_MINUS_ALPHA] * g * g);
    *grad_avg = fmaf(k[ZI_RMSPROP_ALPHA], *grad_avg, k[ZI_RMSPROP_ONE_MINUS_ALPHA] * g);
    float variance = fmaf(-*grad_avg, *grad_avg, *square_avg);
    return sqrtf(variance < 0.0f ? 0.0f : variance);
}

ZI_RULE void zi_rmsprop_with_momentum(float scaled, float *p, float *buffer, const float *k)
{
    *buffer = fmaf(k[ZI_RMSPROP_MOMENTUM], *buffer, scaled);
    *p = fmaf(k[ZI_RMSPROP_MINUS_LR], *buffer, *p);
}

ZI_RULE void zi_rule_rmsprop(float g, float *p, float *square_avg, const float *k)
{
    float decayed = fmaf(k[ZI_RMSPROP_WEIGHT_DECAY], *p, g);
    float root = zi_rmsprop_root(decayed, square_avg, k);
    *p = fmaf(k[ZI_RMSPROP_MINUS_LR], decayed / (root + k[ZI_RMSPROP_EPS]), *p);
}

ZI_RULE void zi_rule_rmsprop_momentum(float g, float *p, float *square_avg, float *buffer,
                                      const float *k)
{
    float decayed = fmaf(k[ZI_RMSPROP_WEIGHT_DECAY], *p, g);
    float root = zi_rmsprop_root(decayed, square_avg, k);
    zi_rmsprop_with_momentum(decayed / (root + k[ZI_RMSPROP_EPS]), p, buffer, k);
}

ZI_RULE void zi_rule_rmsprop_centered(float g, float *p, float *square_avg, float *grad_avg,
                                      const float *k)
{
    float decayed = fmaf(k[ZI_RMSPROP_WEIGHT_DECAY], *p, g);
    float root = zi_rmsprop_deviation(decayed, square_avg, grad_avg, k);
    *p = fmaf(k[ZI_RMSPROP_MINUS_LR], decayed / (root + k[ZI_RMSPROP_EPS]), *p);
}

ZI_RULE void zi_rule_rmsprop_centered_momentum(float g, float *p, float *square_avg,
                                               float *grad_avg, float *buffer, const float *k)
{
    float decayed = fmaf(k[ZI_RMSPROP_WEIGHT_DECAY], *p, g);
    float root = zi_rmsprop_deviation(decayed, square_avg, grad_avg, k);
    zi_rmsprop_with_momentum(decayed / (root + k[ZI_RMSPROP_EPS]), p, buffer, k);
}

#endif
