/* Exact sums of doubles in fixed point; see exact.h for the format and its range.
 * Source of the idea: the "long accumulator" of Kulisch, Computer Arithmetic and Validity. */
#include "base/exact.h"

#include <string.h>

enum { ADDS_BEFORE_CARRY = 1 << 30 };

void zi_exact_clear(zi_exact *sum)
{
    memset(sum, 0, sizeof *sum);
}

void zi_exact_add(zi_exact *sum, double x)
{
    if (x == 0.0)
        return;
    zi_exact_parts parts = zi_exact_split(x);
    for (int i = 0; i < 3; i++)
        sum->limb[parts.first + i] += parts.part[i];
    if (++sum->n_since_carry == ADDS_BEFORE_CARRY) {
        zi_exact_carry(sum->limb);
        sum->n_since_carry = 0;
    }
}

double zi_exact_round(const int64_t limb[ZI_EXACT_LIMBS])
{
    int64_t digit[ZI_EXACT_LIMBS];
    memcpy(digit, limb, sizeof digit);
    return zi_exact_round_off(digit);
}
