/* AdamW, in the order of torch.optim.AdamW (single tensor): decay, moments, bias correction, with
 * eps outside the root. Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization,
 * Algorithm 2. */
#ifndef ZI_OPTIM_RULE_ADAMW_H
#define ZI_OPTIM_RULE_ADAMW_H

#include "optim/rule.h"

/* Scalars, each rounded once from double. */
enum {
    ZI_ADAMW_KEEP,            /* 1 - lr * weight_decay */
    ZI_ADAMW_BETA1,           /* beta1 */
    ZI_ADAMW_ONE_MINUS_BETA1, /* 1 - beta1 */
    ZI_ADAMW_BETA2,           /* beta2 */
    ZI_ADAMW_ONE_MINUS_BETA2, /* 1 - beta2 */
    ZI_ADAMW_ROOT_BC2,        /* sqrt(1 - beta2^t) */
    ZI_ADAMW_MINUS_STEP,      /* -lr / (1 - beta1^t) */
    ZI_ADAMW_EPS
};

/* g: averaged gradient; p: master; m, v: exp_avg and exp_avg_sq; k: the scalars above. */
ZI_RULE void zi_rule_adamw(float g, float *p, float *m, float *v, const float *k)
{
    float decayed = *p * k[ZI_ADAMW_KEEP];
    *m = fmaf(k[ZI_ADAMW_BETA1], *m, k[ZI_ADAMW_ONE_MINUS_BETA1] * g);
    *v = fmaf(k[ZI_ADAMW_BETA2], *v, k[ZI_ADAMW_ONE_MINUS_BETA2] * g * g);
    float denominator = sqrtf(*v) / k[ZI_ADAMW_ROOT_BC2] + k[ZI_ADAMW_EPS];
    *p = fmaf(k[ZI_ADAMW_MINUS_STEP], *m / denominator, decayed);
}

#endif
