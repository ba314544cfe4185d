/* What a rule header is written in: C11 on the host, CUDA C++ on the device. */
#ifndef ZI_OPTIM_RULE_H
#define ZI_OPTIM_RULE_H

#include <math.h>

#include "base/shared.h"

enum { ZI_MAX_SCALARS = 12 };

#define ZI_RULE ZI_SHARED

/* x / c, correctly rounded, made of multiplications: for many x and one c; inverse = 1.0f / c.
 * c in [2^-27, 1]; x: 0 or of magnitude [2^-75, 2^64], inf or NaN.
 *
 * The corrected quotient differs from x / c by less than 7 * 2^-49 of the next power of two above
 * it, so only quotients that close to the middle of two floats could be rounded otherwise. Those
 * are few enough to be tried one by one: test_divide.c does. Source: Markstein, IA-64 and
 * Elementary Functions, on division. */
ZI_RULE float zi_multiplied_quotient(float x, float c, float inverse)
{
    float quotient = x * inverse;
    float rest = fmaf(-quotient, c, x);
    rest = quotient < INFINITY ? rest : 0.0f;
    return fmaf(rest, inverse, quotient);
}

/* The same, as it is faster: a division of 16 floats, or on a GPU, takes as long as a dozen
 * additions; one of 8 floats is done beside them. */
ZI_RULE float zi_divide(float x, float c, float inverse)
{
#if defined(__AVX512F__) || defined(__CUDACC__)
    return zi_multiplied_quotient(x, c, inverse);
#else
    (void)inverse;
    return x / c;
#endif
}

#endif
