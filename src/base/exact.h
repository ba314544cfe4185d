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
ZI_SHARED void zi_exact_carry(int64_t limb[ZI_EXACT_LIMBS])
{
    for (int i = 0; i + 1 < ZI_EXACT_LIMBS; i++) {
        int64_t low = limb[i] & 0xffffffff;
        limb[i + 1] += (limb[i] - low) / (1LL << ZI_LIMB_BITS);
        limb[i] = low;
    }
}

/* 2 to a power that a normal double has. */
ZI_SHARED double zi_power_of_two(int power)
{
    uint64_t bits = (uint64_t)(1023 + power) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The sum rounded to the nearest double, ties to even; limbs need not be normalized, and are used
 * up. */
ZI_SHARED double zi_exact_round_off(int64_t limb[ZI_EXACT_LIMBS])
{
    zi_exact_carry(limb);
    int negative = limb[ZI_EXACT_LIMBS - 1] < 0;
    if (negative) {
        for (int i = 0; i < ZI_EXACT_LIMBS; i++)
            limb[i] = -limb[i];
        zi_exact_carry(limb);
    }
    int top = ZI_EXACT_LIMBS - 1;
    while (top > 0 && limb[top] == 0)
        top--;
    /* The leading 64 bits, the last of them a sticky bit for all that lies below: a double keeps 53
     * of them, so converting the integer rounds once and right. */
    __extension__ typedef unsigned __int128 wide;
    wide window = 0;
    for (int i = 0; i < 4; i++)
        window = window << ZI_LIMB_BITS | (top - i >= 0 ? (wide)(uint64_t)limb[top - i] : 0);
    if (window == 0)
        return 0.0;
    int drop = 0;
    while (window >> 64 != 0) {
        window = window >> 1 | (window & 1);
        drop++;
    }
    for (int i = top - 4; i >= 0; i--)
        if (limb[i] != 0) {
            window |= 1;
            break;
        }
    double value =
        (double)(uint64_t)window * zi_power_of_two(drop + (top - 3) * ZI_LIMB_BITS - ZI_EXACT_BIAS);
    return negative ? -value : value;
}

/* The same, and the limbs stay as they are. */
double zi_exact_round(const int64_t limb[ZI_EXACT_LIMBS]);

#endif
