/* Exact sums of doubles: fixed-point numbers of int64 limbs, so that neither order, nor cut, nor
 * bucket, nor the number of ranks can change a sum. Used for every sum that crosses blocks.
 *
 * A sum is ZI_EXACT_LIMBS limbs; limb i weighs 2^(32*i - 320). Every addend must be a multiple of
 * 2^-320 below 2^320 in magnitude: block sums of squares of floats lie in [2^-298, 2^264]. An
 * addition changes each limb by less than 2^32, so 2^30 additions fit between normalizations;
 * adding limb by limb, also across ranks, adds the numbers. */
#ifndef ZI_BASE_EXACT_H
#define ZI_BASE_EXACT_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/shared.h"

enum { ZI_EXACT_LIMBS = 21, ZI_LIMB_BITS = 32, ZI_EXACT_BIAS = 320 };

typedef struct zi_exact {
    int64_t limb[ZI_EXACT_LIMBS];
    uint32_t n_since_carry; /* additions since the last normalization; not part of the value */
} zi_exact;

void zi_exact_clear(zi_exact *sum);

/* What an addition changes: limb first + i by part[i]. */
typedef struct zi_exact_parts {
    int first;
    int64_t part[3];
} zi_exact_parts;

/* x: finite, not 0. */
ZI_SHARED zi_exact_parts zi_exact_split(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff);
    assert(exponent != 0x7ff);
    uint64_t mantissa = bits & 0xfffffffffffffULL;
    if (exponent != 0)
        mantissa |= 1ULL << 52;
    else
        exponent = 1;
    int position = exponent - 1075 + ZI_EXACT_BIAS; /* of the mantissa's lowest bit */
    while (position < 0) { /* trailing zeros of a tiny multiple of 2^-320 */
        assert((mantissa & 1) == 0);
        mantissa >>= 1;
        position++;
    }
    int shift = position % ZI_LIMB_BITS;
    uint64_t low = mantissa << shift;
    uint64_t high = shift == 0 ? 0 : mantissa >> (64 - shift);
    int64_t sign = bits >> 63 ? -1 : 1;
    zi_exact_parts parts = {position / ZI_LIMB_BITS,
                            {sign * (int64_t)(low & 0xffffffffu),
                             sign * (int64_t)(low >> ZI_LIMB_BITS), sign * (int64_t)high}};
    assert(parts.first + 2 < ZI_EXACT_LIMBS);
    return parts;
}

/* sum += x, finite. */
void zi_exact_add(zi_exact *sum, double x);

/* Carry, so that every limb but the top one is in [0, 2^32): the form to add over ranks. */
void zi_exact_carry(int64_t limb[ZI_EXACT_LIMBS]);

/* The sum rounded to the nearest double, ties to even; limbs need not be normalized. */
double zi_exact_round(const int64_t limb[ZI_EXACT_LIMBS]);

#endif
