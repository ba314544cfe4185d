/* Adam, in the order of torch.optim.Adam (single tensor): L2 inside the gradient, moments, bias
 * correction, with eps outside the root; and what it has in common with AdamW. Source: Kingma and
 * Ba, Adam, Algorithm 1; AMSGrad: Reddi, Kale and Kumar, On the Convergence of Adam and Beyond,
 * with torch's bias corrections. */
#ifndef ZI_OPTIM_RULE_ADAM_H
#define ZI_OPTIM_RULE_ADAM_H

#include "optim/rule.h"

/* Scalars, each rounded once from double. */
enum {
    ZI_ADAM_DECAY, /* Adam: weight_decay; AdamW: 1 - lr * weight_decay */
    ZI_ADAM_BETA1,
    ZI_ADAM_ONE_MINUS_BETA1,
    ZI_ADAM_BETA2,
    ZI_ADAM_ONE_MINUS_BETA2,
    ZI_ADAM_ROOT_BC2, /* sqrt(1 - beta2^t) */
    ZI_ADAM_INVERSE_ROOT_BC2,
    ZI_ADAM_MINUS_STEP, /* -lr / (1 - beta1^t) */
    ZI_ADAM_EPS
};

/* m, v: exp_avg and exp_avg_sq. */
ZI_RULE void zi_adam_moments(float g, float *m, float *v, const float *k)
{
    *m = fmaf(k[ZI_ADAM_BETA1], *m, k[ZI_ADAM_ONE_MINUS_BETA1] * g);
    *v = fmaf(k[ZI_ADAM_BETA2], *v, k[ZI_ADAM_ONE_MINUS_BETA2] * g * g);
}

/* p less a step along m over the root of v. */
ZI_RULE float zi_adam_stepped(float p, float m, float v, const float *k)
{
    float root = zi_divide(sqrtf(v), k[ZI_ADAM_ROOT_BC2], k[ZI_ADAM_INVERSE_ROOT_BC2]);
    return fmaf(k[ZI_ADAM_MINUS_STEP], m / (root + k[ZI_ADAM_EPS]), p);
}

/* The larger one; v where v is NaN. */
ZI_RULE float zi_adam_largest(float largest, float v)
{
    return v < largest ? largest : v;
}

/* g: averaged gradient; p: master; k: the scalars above. */
ZI_RULE void zi_rule_adam(float g, float *p, float *m, float *v, const float *k)
{
    zi_adam_moments(fmaf(k[ZI_ADAM_DECAY], *p, g), m, v, k);
    *p = zi_adam_stepped(*p, *m, *v, k);
}

/* largest: max_exp_avg_sq. */
ZI_RULE void zi_rule_adam_amsgrad(float g, float *p, float *m, float *v, float *largest,
                                  const float *k)
{
    zi_adam_moments(fmaf(k[ZI_ADAM_DECAY], *p, g), m, v, k);
    *largest = zi_adam_largest(*largest, *v);
    *p = zi_adam_stepped(*p, *m, *largest, k);
}

#endif
