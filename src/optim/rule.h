/* What a rule header is written in: C11 on the host, CUDA C++ on the device. */
#ifndef ZI_OPTIM_RULE_H
#define ZI_OPTIM_RULE_H

#include <math.h>

#include "base/shared.h"

enum { ZI_MAX_SCALARS = 12 };

#define ZI_RULE ZI_SHARED

/* x / c, correctly rounded, for many x and one c; inverse = 1.0f / c. A vector of divisions takes
 * as long as a dozen additions. c in [2^-27, 1]; x: 0 or of magnitude [2^-75, 2^64], inf or NaN.
 *
 * The corrected quotient differs from x / c by less than 7 * 2^-49 of the next power of two above
 * it, so only quotients that close to the middle of two floats could be rounded otherwise. Those
 * are few enough to be tried one by one: test_divide.c does. Where fma is no instruction, a
 * division gives the same. Source: Markstein, IA-64 and Elementary Functions, on division. */
#if defined(__FMA__) || defined(__CUDACC__)
ZI_RULE float zi_divide(float x, float c, float inverse)
{
    float quotient = x * inverse;
    float rest = fmaf(-quotient, c, x);
    rest = quotient < INFINITY ? rest : 0.0f;
    return fmaf(rest, inverse, quotient);
}
#else
ZI_RULE float zi_divide(float x, float c, float inverse)
{
    (void)inverse;
    return x / c;
}
#endif

#endif
