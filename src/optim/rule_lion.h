/* Lion: the sign of a mix of momentum and gradient, with decoupled decay. Source: Chen et al.,
 * Symbolic Discovery of Optimization Algorithms, Algorithm 2. */
#ifndef ZI_OPTIM_RULE_LION_H
#define ZI_OPTIM_RULE_LION_H

#include "optim/rule.h"

/* Scalars, each rounded once from double. */
enum {
    ZI_LION_KEEP, /* 1 - lr * weight_decay */
    ZI_LION_BETA1,
    ZI_LION_ONE_MINUS_BETA1,
    ZI_LION_BETA2,
    ZI_LION_ONE_MINUS_BETA2,
    ZI_LION_MINUS_LR
};

ZI_RULE void zi_rule_lion(float g, float *p, float *m, const float *k)
{
    float mix = fmaf(k[ZI_LION_BETA1], *m, k[ZI_LION_ONE_MINUS_BETA1] * g);
    float sign = mix > 0.0f ? 1.0f : mix < 0.0f ? -1.0f : mix; /* zero and NaN as they are */
    *p = fmaf(k[ZI_LION_MINUS_LR], sign, *p * k[ZI_LION_KEEP]);
    *m = fmaf(k[ZI_LION_BETA2], *m, k[ZI_LION_ONE_MINUS_BETA2] * g);
}

#endif
