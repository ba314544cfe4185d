/* Exact sums of doubles in fixed point; see exact.h for the format and its range.
 * Source of the idea: the "long accumulator" of Kulisch, Computer Arithmetic and Validity. */
#include "base/exact.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { LIMB_BITS = 32, BIAS = 320, ADDS_BEFORE_CARRY = 1 << 30 };

void zi_exact_clear(zi_exact *sum)
{
    memset(sum, 0, sizeof *sum);
}

void zi_exact_add(zi_exact *sum, double x)
{
    if (x == 0.0)
        return;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff);
    assert(exponent != 0x7ff);
    uint64_t mantissa = bits & 0xfffffffffffffULL;
    if (exponent != 0)
        mantissa |= 1ULL << 52;
    else
        exponent = 1;
    int position = exponent - 1075 + BIAS; /* of the mantissa's lowest bit */
    while (position < 0) {                 /* trailing zeros of a tiny multiple of 2^-320 */
        assert((mantissa & 1) == 0);
        mantissa >>= 1;
        position++;
    }
    int first = position / LIMB_BITS, shift = position % LIMB_BITS;
    assert(first + 2 < ZI_EXACT_LIMBS);
    uint64_t low = mantissa << shift;
    uint64_t high = shift == 0 ? 0 : mantissa >> (64 - shift);
    int64_t part[3] = {(int64_t)(low & 0xffffffffu), (int64_t)(low >> LIMB_BITS), (int64_t)high};
    for (int i = 0; i < 3; i++)
        sum->limb[first + i] += bits >> 63 ? -part[i] : part[i];
    if (++sum->n_since_carry == ADDS_BEFORE_CARRY) {
        zi_exact_carry(sum->limb);
        sum->n_since_carry = 0;
    }
}

void zi_exact_carry(int64_t limb[ZI_EXACT_LIMBS])
{
    for (int i = 0; i + 1 < ZI_EXACT_LIMBS; i++) {
        int64_t low = limb[i] & 0xffffffff;
        limb[i + 1] += (limb[i] - low) / (1LL << LIMB_BITS);
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
        window = window << LIMB_BITS | (top - i >= 0 ? (wide)(uint64_t)digit[top - i] : 0);
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
    double value = ldexp((double)(uint64_t)window, drop + (top - 3) * LIMB_BITS - BIAS);
    return negative ? -value : value;
}
