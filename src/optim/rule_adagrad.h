/* Adagrad, in the order of torch.optim.Adagrad: L2 inside the gradient, eps outside the root; the
 * decay of the rate with t is in the scalar. Source: Duchi, Hazan and Singer, Adaptive Subgradient
 * Methods for Online Learning and Stochastic Optimization. */
#ifndef ZI_OPTIM_RULE_ADAGRAD_H
#define ZI_OPTIM_RULE_ADAGRAD_H

#include "optim/rule.h"

/* Scalars, each rounded once from double. */
enum {
    ZI_ADAGRAD_WEIGHT_DECAY,
    ZI_ADAGRAD_EPS,
    ZI_ADAGRAD_MINUS_LR /* -lr / (1 + (t - 1) * lr_decay) */
};

ZI_RULE void zi_rule_adagrad(float g, float *p, float *sum, const float *k)
{
    float decayed = fmaf(k[ZI_ADAGRAD_WEIGHT_DECAY], *p, g);
    *sum = fmaf(decayed, decayed, *sum);
    *p = fmaf(k[ZI_ADAGRAD_MINUS_LR], decayed / (sqrtf(*sum) + k[ZI_ADAGRAD_EPS]), *p);
}

#endif
