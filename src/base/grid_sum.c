/* The value of an accumulator of grid_sum.h: its limbs are six of exact.h's, which rounds. */
#include "base/grid_sum.h"

#include "base/exact.h"

enum { LOWEST_LIMB = (320 - 128) / 32 };

double zi_grid_value(const int64_t *limb, size_t stride)
{
    int64_t wide[ZI_EXACT_LIMBS] = {0};
    for (size_t i = 0; i < ZI_GRID_LIMBS; i++)
        wide[LOWEST_LIMB + i] = limb[i * stride];
    return zi_exact_round(wide);
}
