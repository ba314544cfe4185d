/* Exact sums of doubles: fixed-point numbers of int64 limbs, so that neither order, nor cut, nor
 * bucket, nor the number of ranks can change a sum. Used for every sum that crosses blocks.
 *
 * A sum is ZI_EXACT_LIMBS limbs; limb i weighs 2^(32*i - 320). Every addend must be a multiple of
 * 2^-320 below 2^320 in magnitude: block sums of squares of floats lie in [2^-298, 2^264]. An
 * addition changes each limb by less than 2^32, so 2^30 additions fit between normalizations;
 * adding limb by limb, also across ranks, adds the numbers. */
#ifndef ZI_BASE_EXACT_H
#define ZI_BASE_EXACT_H

#include <stdint.h>

enum { ZI_EXACT_LIMBS = 21 };

typedef struct zi_exact {
    int64_t limb[ZI_EXACT_LIMBS];
    uint32_t n_since_carry; /* additions since the last normalization; not part of the value */
} zi_exact;

void zi_exact_clear(zi_exact *sum);

/* sum += x, finite. */
void zi_exact_add(zi_exact *sum, double x);

/* Carry, so that every limb but the top one is in [0, 2^32): the form to add over ranks. */
void zi_exact_carry(int64_t limb[ZI_EXACT_LIMBS]);

/* The sum rounded to the nearest double, ties to even; limbs need not be normalized. */
double zi_exact_round(const int64_t limb[ZI_EXACT_LIMBS]);

#endif
