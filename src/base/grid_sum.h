/* Sums of squares of floats on a fixed-point grid: as exact.h, but with fewer limbs over a narrower
 * range, so that a sum for every row and every column of a matrix is affordable. An accumulator is
 * ZI_GRID_LIMBS limbs of int64; limb i weighs 2^(32*i - 128).
 *
 * Range and rounding: a square is first limited to 2^62 and rounded to the nearest multiple of
 * 2^-128, once (squares of floats are never half way); from there on the sum is exact, so that
 * neither order nor cut can change it. An addition changes a limb by at most 2^31 in magnitude: up
 * to ZI_GRID_MAX_ADDENDS fit, over all ranks together, and limbs are never carried; adding limb by
 * limb adds the numbers. */
#ifndef ZI_BASE_GRID_SUM_H
#define ZI_BASE_GRID_SUM_H

#include <stddef.h>

#include "base/grid.h"

enum { ZI_GRID_RUN = 256 };

#define ZI_GRID_MAX_ADDENDS ((uint64_t)1 << 31)

/* Take what belongs to a limb out of each rest[i], and add it to limb[i] and to *sum. Returns 0 if
 * nothing is left of any. */
static inline int64_t zi_grid_take_all(double *restrict rest, size_t n, double weight,
                                       int64_t *restrict limb, int64_t *restrict sum)
{
    int64_t total = 0, left = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t piece = zi_grid_take(&rest[i], weight);
        left |= zi_double_bits(rest[i]);
        limb[i] += piece;
        total += piece;
    }
    *sum += total;
    return left;
}

/* Add the square of each g[i], finite, n <= ZI_GRID_RUN of them: to column i, and all to the row.
 * Limb l of column i is column[l * stride + i], of the row row[l * stride]. Limbs above the largest
 * square, and those below the last digit of all, are left alone. */
static inline void zi_grid_add_squares(const float *restrict g, size_t n, int64_t *column,
                                       int64_t *row, size_t stride)
{
    double rest[ZI_GRID_RUN];
    uint32_t largest_bits = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &g[i], sizeof bits);
        bits &= 0x7fffffffu;
        largest_bits = bits > largest_bits ? bits : largest_bits;
        rest[i] = zi_grid_square(g[i]);
    }
    float largest;
    memcpy(&largest, &largest_bits, sizeof largest);
    int64_t left = largest_bits;
    int limb = ZI_GRID_LIMBS - 1;
    while (limb > 0 && (double)largest * (double)largest <= zi_grid_weight(limb) / 2)
        limb--; /* every square would round to zero here */
    for (; limb >= 0 && left != 0; limb--)
        left = zi_grid_take_all(rest, n, zi_grid_weight(limb), column + (size_t)limb * stride,
                                row + (size_t)limb * stride);
}

#endif
