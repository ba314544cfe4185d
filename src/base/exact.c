/* Exact sums of doubles in fixed point; see exact.h for the format and its range.
 * Source of the idea: the "long accumulator" of Kulisch, Computer Arithmetic and Validity. */
#include "base/exact.h"

#include <math.h>
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

void zi_exact_carry(int64_t limb[ZI_EXACT_LIMBS])
{
    for (int i = 0; i + 1 < ZI_EXACT_LIMBS; i++) {
        int64_t low = limb[i] & 0xffffffff;
        limb[i + 1] += (limb[i] - low) / (1LL << ZI_LIMB_BITS);
        limb[i] = low;
    }
}

double zi_exact_round(const int64_t limb[ZI_EXACT_LIMBS])
{
    int64_t digit[ZI_EXACT_LIMBS];
    memcpy(digit, limb, sizeof digit);
    zi_exact_carry(digit);
    int negative = digit[ZI_EXACT_LIMBS - 1] < 0;
    if (negative) {
        for (int i = 0; i < ZI_EXACT_LIMBS; i++)
            digit[i] = -digit[i];
        zi_exact_carry(digit);
    }
    int top = ZI_EXACT_LIMBS - 1;
    while (top > 0 && digit[top] == 0)
        top--;
    /* The leading 64 bits, the last of them a sticky bit for all that lies below: a double keeps 53
     * of them, so converting the integer rounds once and right. */
    __extension__ typedef unsigned __int128 wide;
    wide window = 0;
    for (int i = 0; i < 4; i++)
        window = window << ZI_LIMB_BITS | (top - i >= 0 ? (wide)(uint64_t)digit[top - i] : 0);
    if (window == 0)
        return 0.0;
    int drop = 0;
    while (window >> 64 != 0) {
        window = window >> 1 | (window & 1);
        drop++;
    }
    for (int i = top - 4; i >= 0; i--)
        if (digit[i] != 0) {
            window |= 1;
            break;
        }
    double value = ldexp((double)(uint64_t)window, drop + (top - 3) * ZI_LIMB_BITS - ZI_EXACT_BIAS);
    return negative ? -value : value;
}
