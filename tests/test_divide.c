/* zi_multiplied_quotient: it equals the division for every pair of mantissas that could tell them
 * apart. This file is compiled for machines with fma. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/dtype.h"
#include "optim/rule.h"

/* Mantissas are integers of 24 bits. A quotient x / c lies |k| * 2^-49 of the next power of two
 * below or above the middle of two floats, an odd `middle` of 25 bits, if
 *     x * 2^bits - middle * c = k,   bits = 25 where x < c, else 24.
 * zi_multiplied_quotient is off by less than 7 such units. */
enum { MANTISSA = 1 << 23, UNITS = 8 };

/* Of an odd number, modulo 2^64; every round doubles the bits that are right. */
static uint64_t inverse_of(uint64_t odd)
{
    uint64_t inverse = odd;
    for (int i = 0; i < 5; i++)
        inverse *= 2 - odd * inverse;
    return inverse;
}

/* Numbers of quotients that were tried, and of wrong ones. */
typedef struct tally {
    uint64_t tried, wrong;
} tally;

/* All x of that c and k. */
static void try_all(uint32_t c, uint64_t inverse, int twos, int k, int bits, tally *count)
{
    uint64_t period = 1ull << (bits - twos);
    uint64_t middle = (uint64_t)(-(int64_t)k / (1 << twos)) * inverse & (period - 1);
    for (; middle < 4 * MANTISSA; middle += period) {
        int64_t product = (int64_t)(middle * c) + k, x = product >> bits;
        int in_range = middle > 2 * MANTISSA && middle % 2 == 1 && x >= MANTISSA &&
                       x < 2 * MANTISSA && (x < c) == (bits == 25);
        if (!in_range)
            continue;
        count->tried++;
        count->wrong +=
            (product & ((1ll << bits) - 1)) != 0 ||
            zi_multiplied_quotient((float)x, (float)c, 1.0f / (float)c) != (float)x / (float)c;
    }
}

/* Every c, a share of them in each loop of the suite. */
enum { SHARES = 4 };

START_TEST(quotients_near_the_middle_of_two_floats_are_rounded_as_a_division_rounds)
{
    tally count = {0, 0};
    for (uint32_t c = MANTISSA + (uint32_t)_i; c < 2 * MANTISSA; c += SHARES) {
        int twos = __builtin_ctz(c);
        uint64_t inverse = inverse_of(c >> twos);
        for (int k = -UNITS; k <= UNITS; k++)
            for (int bits = 24; bits <= 25 && k != 0 && k % (1 << twos) == 0; bits++)
                try_all(c, inverse, twos, k, bits, &count);
    }
    ck_assert_uint_eq(count.wrong, 0);
    ck_assert_uint_gt(count.tried, MANTISSA / SHARES);
}
END_TEST

START_TEST(the_ends_of_the_range_are_divided)
{
    static const float x[] = {0.0f,    0x1p-75f,       0x1.fffffep-75f, 0x1.000002p-74f, 1.0f, 0.1f,
                              0x1p63f, 0x1.fffffep63f, 0x1p64f,         INFINITY,        NAN};
    static const float c[] = {
        0x1p-27f, 0x1.fffffep-27f, 0x1.000002p-20f, 0.03f, 0.5f, 0x1.fffffep-1f, 1.0f};
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++)
        for (size_t j = 0; j < sizeof c / sizeof c[0]; j++) {
            float got = zi_multiplied_quotient(x[i], c[j], 1.0f / c[j]), want = x[i] / c[j];
            ck_assert(isnan(want) ? isnan(got) : zi_float_bits(got) == zi_float_bits(want));
        }
}
END_TEST

START_TEST(a_random_million_of_the_range_is_divided)
{
    uint64_t random = 88172645463325252u, n_wrong = 0;
    for (int i = 0; i < 1000000; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        float x = ldexpf((float)(random & 0xffffff), (int)(random >> 24 & 127) - 87);
        float c = ldexpf((float)(MANTISSA | (random >> 40 & 0x7fffff)), -24 - (int)(random % 27));
        n_wrong += zi_multiplied_quotient(x, c, 1.0f / c) != x / c;
    }
    ck_assert_uint_eq(n_wrong, 0);
}
END_TEST

int main(void)
{
    if (!__builtin_cpu_supports("fma")) {
        printf("SKIP: this machine has no fma, a division is one\n");
        return EXIT_SUCCESS;
    }
    Suite *suite = suite_create("divide");
    TCase *tests = tcase_create("divide");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(
        tests, quotients_near_the_middle_of_two_floats_are_rounded_as_a_division_rounds, 0, SHARES);
    tcase_add_test(tests, the_ends_of_the_range_are_divided);
    tcase_add_test(tests, a_random_million_of_the_range_is_divided);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
