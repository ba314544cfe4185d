/* Adam as torch.optim.Adam defines it: L2 inside the gradient, moments, bias correction, with eps
 * outside the root; and what it has in common with AdamW. The bias corrections are moved into the
 * scalars: with c = sqrt(1 - beta2^t),
 *     lr / (1 - beta1^t) * m / (sqrt(v) / c + eps)
 *         = lr * c / (1 - beta1^t) * m / (sqrt(v) + eps * c),
 * a division and two roundings fewer for each element. Source: Kingma and Ba, Adam, Algorithm 1 and
 * the end of section 2; AMSGrad: Reddi, Kale and Kumar, On the Convergence of Adam and Beyond, with
 * torch's bias corrections. */
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
    ZI_ADAM_MINUS_STEP, /* -lr * c / (1 - beta1^t) */
    ZI_ADAM_EPS         /* eps * c */
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
    return fmaf(k[ZI_ADAM_MINUS_STEP], m / (sqrtf(v) + k[ZI_ADAM_EPS]), p);
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
