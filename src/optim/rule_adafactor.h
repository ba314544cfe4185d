/* Adafactor, in the form of torch.optim.Adafactor: means of squares instead of sums, eps1 as a
 * floor of the variance; decay, then the update, limited in its RMS, times a step that follows the
 * RMS of the parameters. As an option a first moment of what is subtracted, as Hugging Face's
 * Adafactor has. The second moment is either an element's own or factored into rows and columns.
 * Source: Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost,
 * Algorithms 4 and 5. */
#ifndef ZI_OPTIM_RULE_ADAFACTOR_H
#define ZI_OPTIM_RULE_ADAFACTOR_H

#include "optim/rule.h"

/* Scalars of a tensor, each rounded once from double. */
enum {
    ZI_ADAFACTOR_BETA2,           /* 1 - t^beta2_decay */
    ZI_ADAFACTOR_ONE_MINUS_BETA2, /* t^beta2_decay */
    ZI_ADAFACTOR_FLOOR,           /* eps1^2 */
    ZI_ADAFACTOR_BETA1,
    ZI_ADAFACTOR_DECAY, /* lr * weight_decay; relative step: alpha * weight_decay */
    /* alpha / max(1, RMS(u) / d), with a first moment times 1 - beta1 */
    ZI_ADAFACTOR_STEP
};

/* The element's own second moment, moved on. */
ZI_RULE float zi_adafactor_moved(float g, float exp_avg_sq, const float *k)
{
    return fmaf(k[ZI_ADAFACTOR_BETA2], exp_avg_sq, k[ZI_ADAFACTOR_ONE_MINUS_BETA2] * g * g);
}

/* What each column's mean is multiplied by in a row; mean: of its matrix's rows, at least eps1. */
ZI_RULE float zi_adafactor_row_factor(float row, float mean)
{
    return row / mean;
}

/* u, from the gradient and the estimate of its second moment. */
ZI_RULE float zi_adafactor_scaled(float g, float variance, const float *k)
{
    float floored = variance < k[ZI_ADAFACTOR_FLOOR] ? k[ZI_ADAFACTOR_FLOOR] : variance;
    return g / sqrtf(floored);
}

/* Decays can be too small for 1 - decay to hold in FP32. */
ZI_RULE float zi_adafactor_decayed(float p, const float *k)
{
    return fmaf(-k[ZI_ADAFACTOR_DECAY], p, p);
}

ZI_RULE void zi_adafactor_step(float u, float *p, const float *k)
{
    *p = fmaf(-k[ZI_ADAFACTOR_STEP], u, zi_adafactor_decayed(*p, k));
}

ZI_RULE void zi_adafactor_step_with_moment(float u, float *p, float *exp_avg, const float *k)
{
    *exp_avg = fmaf(k[ZI_ADAFACTOR_BETA1], *exp_avg, k[ZI_ADAFACTOR_STEP] * u);
    *p = zi_adafactor_decayed(*p, k) - *exp_avg;
}

#endif
