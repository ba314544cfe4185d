/* AdamW in the order of torch.optim.AdamW: decay, moments, step. Its scalars are Adam's. Source:
 * Loshchilov and Hutter, Decoupled Weight Decay Regularization, Algorithm 2. */
#ifndef ZI_OPTIM_RULE_ADAMW_H
#define ZI_OPTIM_RULE_ADAMW_H

#include "optim/rule_adam.h"

ZI_RULE void zi_rule_adamw(float g, float *p, float *m, float *v, const float *k)
{
    float decayed = *p * k[ZI_ADAM_DECAY];
    zi_adam_moments(g, m, v, k);
    *p = zi_adam_stepped(decayed, *m, *v, k);
}

ZI_RULE void zi_rule_adamw_amsgrad(float g, float *p, float *m, float *v, float *largest,
                                   const float *k)
{
    float decayed = *p * k[ZI_ADAM_DECAY];
    zi_adam_moments(g, m, v, k);
    *largest = zi_adam_largest(*largest, *v);
    *p = zi_adam_stepped(decayed, *m, *largest, k);
}

#endif
