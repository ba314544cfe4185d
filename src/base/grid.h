/* The fixed-point grid of grid_sum.h, one square at a time: what the host's loops and a GPU's
 * threads have in common. Next: grid_sum.h sums on it. */
#ifndef ZI_BASE_GRID_H
#define ZI_BASE_GRID_H

#include <stdint.h>
#include <string.h>

#include "base/exact.h"
#include "base/shared.h"

enum { ZI_GRID_LIMBS = 6 };

#define ZI_GRID_LARGEST 0x1p62

ZI_SHARED int64_t zi_double_bits(double x)
{
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* 2^(32*limb - 128) */
ZI_SHARED double zi_grid_weight(int limb)
{
    int64_t bits = (int64_t)(1023 - 128 + 32 * limb) << 52;
    double weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

ZI_SHARED double zi_grid_square(float g)
{
    double square = (double)g * (double)g;
    return square < ZI_GRID_LARGEST ? square : ZI_GRID_LARGEST;
}

/* What a limb of this weight takes: the nearest multiple of the weight, which is left out of *rest.
 * Adding 1.5 * 2^52 weights rounds to a multiple and leaves it, signed, in the low bits of the
 * double. Nothing, where |*rest| is at most half a weight. */
ZI_SHARED int64_t zi_grid_take(double *rest, double weight)
{
    double magic = 0x1.8p52 * weight, shifted = *rest + magic;
    *rest -= shifted - magic;
    return zi_double_bits(shifted) - zi_double_bits(magic);
}

/* A sum of squares rounded to the nearest double, ties to even; limb l at limb[l * stride]. Its
 * leading 64 bits, the last of them a sticky bit for all below, are converted once. */
ZI_SHARED double zi_grid_value(const int64_t *limb, size_t stride)
{
    __extension__ typedef unsigned __int128 wide;
    int64_t digit[ZI_GRID_LIMBS];
    int64_t carry = 0;
    for (int l = 0; l < ZI_GRID_LIMBS; l++) {
        int64_t sum = limb[(size_t)l * stride] + carry;
        digit[l] = l + 1 < ZI_GRID_LIMBS ? sum & 0xffffffff : sum;
        carry = (sum - digit[l]) / (1LL << 32);
    }
    wide window = 0;
    uint64_t below = 0;
    int lowest = 0; /* limb whose digit the window ends with */
    for (int l = ZI_GRID_LIMBS - 1; l >= 0; l--) {
        if (window >> 96 != 0) {
            below |= (uint64_t)digit[l];
        } else {
            window = window << 32 | (uint64_t)digit[l];
            lowest = l;
        }
    }
    int drop = 0;
    while (window >> 64 != 0) {
        window = window >> 1 | (window & 1);
        drop++;
    }
    return (double)((uint64_t)window | (below != 0)) * zi_power_of_two(drop + 32 * lowest - 128);
}

#endif
