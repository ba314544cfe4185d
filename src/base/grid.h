/* The fixed-point grid of grid_sum.h, one square at a time: what the host's loops and a GPU's
 * threads have in common. Next: grid_sum.h sums on it. */
#ifndef ZI_BASE_GRID_H
#define ZI_BASE_GRID_H

#include <stdint.h>
#include <string.h>

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

#endif
