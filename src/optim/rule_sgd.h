/* SGD, in the order of torch.optim.SGD: L2 inside the gradient, momentum, Nesterov. What changes
 * from step to step, or is an option, is a scalar: the first momentum buffer is the gradient itself
 * because ADD is 1 in step 1, on a buffer of zeros. Source: Sutskever, Martens, Dahl and Hinton, On
 * the importance of initialization and momentum in deep learning, in torch's form. */
#ifndef ZI_OPTIM_RULE_SGD_H
#define ZI_OPTIM_RULE_SGD_H

#include "optim/rule.h"

/* Scalars, each rounded once from double. */
enum {
    ZI_SGD_WEIGHT_DECAY,
    ZI_SGD_MINUS_LR,
    ZI_SGD_MOMENTUM,
    ZI_SGD_ADD,          /* 1 - dampening; 1 in step 1 */
    ZI_SGD_USE_GRADIENT, /* Nesterov: 1; else 0 */
    ZI_SGD_USE_BUFFER    /* Nesterov: momentum; else 1 */
};

ZI_RULE void zi_rule_sgd(float g, float *p, const float *k)
{
    *p = fmaf(k[ZI_SGD_MINUS_LR], fmaf(k[ZI_SGD_WEIGHT_DECAY], *p, g), *p);
}

ZI_RULE void zi_rule_sgd_momentum(float g, float *p, float *buffer, const float *k)
{
    float decayed = fmaf(k[ZI_SGD_WEIGHT_DECAY], *p, g);
    *buffer = fmaf(k[ZI_SGD_MOMENTUM], *buffer, k[ZI_SGD_ADD] * decayed);
    float direction = fmaf(k[ZI_SGD_USE_BUFFER], *buffer, k[ZI_SGD_USE_GRADIENT] * decayed);
    *p = fmaf(k[ZI_SGD_MINUS_LR], direction, *p);
}

#endif
