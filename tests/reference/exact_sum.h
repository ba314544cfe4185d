/* Slow exact sums of doubles, for checking base/exact.h: one signed counter for each binary digit
 * from 2^-330 to 2^369, carried and rounded by hand. Shares neither limbs nor code with src/. */
#ifndef REFERENCE_EXACT_SUM_H
#define REFERENCE_EXACT_SUM_H

#include <math.h>
#include <stdint.h>

enum { REFERENCE_LOWEST = -330, REFERENCE_DIGITS = 700 };

typedef struct reference_sum {
    int64_t digit[REFERENCE_DIGITS]; /* digit[i] weighs 2^(i + REFERENCE_LOWEST) */
} reference_sum;

static inline void reference_sum_add(reference_sum *sum, double x)
{
    int exponent;
    double fraction = frexp(fabs(x), &exponent); /* in [0.5, 1): its first digit weighs 1/2 */
    for (int weight = exponent - 1; fraction != 0; weight--) {
        fraction *= 2;
        if (fraction >= 1) {
            fraction -= 1;
            sum->digit[weight - REFERENCE_LOWEST] += x < 0 ? -1 : 1;
        }
    }
}

/* Digits to 0 or 1; returns what is carried out of the top: negative for a negative sum. */
static inline int64_t reference_sum_carry(int64_t digit[REFERENCE_DIGITS])
{
    int64_t carry = 0;
    for (int i = 0; i < REFERENCE_DIGITS; i++) {
        int64_t total = digit[i] + carry;
        digit[i] = total & 1;
        carry = (total - digit[i]) / 2;
    }
    return carry;
}

/* To the nearest double, ties to even: 53 digits, the next one, and whether any follows. */
static inline double reference_sum_round(const reference_sum *sum)
{
    reference_sum magnitude = *sum;
    int negative = reference_sum_carry(magnitude.digit) < 0;
    if (negative) {
        for (int i = 0; i < REFERENCE_DIGITS; i++)
            magnitude.digit[i] = -sum->digit[i];
        reference_sum_carry(magnitude.digit);
    }
    int top = REFERENCE_DIGITS - 1;
    while (top > 0 && magnitude.digit[top] == 0)
        top--;
    int lowest = top - 52;
    double kept = 0;
    for (int i = top; i >= lowest; i--)
        kept = 2 * kept + (i >= 0 ? (double)magnitude.digit[i] : 0.0);
    int guard = lowest >= 1 && magnitude.digit[lowest - 1] != 0, follows = 0;
    for (int i = lowest - 2; i >= 0; i--)
        follows |= magnitude.digit[i] != 0;
    if (guard && (follows || fmod(kept, 2) != 0))
        kept += 1;
    double value = ldexp(kept, lowest + REFERENCE_LOWEST);
    return negative ? -value : value;
}

#endif
