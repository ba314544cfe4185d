/* Exact sums: the same bits in any order and any cut, the right bits against a slow sum digit by
 * digit (reference/exact_sum.h), rounded to nearest even at every place of every limb. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/exact.h"
#include "reference/exact_sum.h"
#include "reference/random.h"

enum { MAX_ADDENDS = 512, LOWEST = -320, HIGHEST = 319 };

static double total_of(const double *x, size_t n)
{
    zi_exact sum;
    zi_exact_clear(&sum);
    for (size_t i = 0; i < n; i++)
        zi_exact_add(&sum, x[i]);
    return zi_exact_round(sum.limb);
}

static double reference_of(const double *x, size_t n)
{
    reference_sum sum = {{0}};
    for (size_t i = 0; i < n; i++)
        reference_sum_add(&sum, x[i]);
    return reference_sum_round(&sum);
}

/* As ranks do it: each part on its own, carried or not, limbs added. */
static double total_of_parts(const double *x, size_t n, size_t n_parts, int carried)
{
    int64_t limb[ZI_EXACT_LIMBS] = {0};
    for (size_t part = 0; part < n_parts; part++) {
        zi_exact sum;
        zi_exact_clear(&sum);
        for (size_t i = part; i < n; i += n_parts)
            zi_exact_add(&sum, x[i]);
        if (carried)
            zi_exact_carry(sum.limb);
        for (int i = 0; i < ZI_EXACT_LIMBS; i++)
            limb[i] += sum.limb[i];
    }
    return zi_exact_round(limb);
}

static void shuffle(reference_random *random, double *x, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)reference_between(random, 0, (int64_t)i - 1);
        double swapped = x[i - 1];
        x[i - 1] = x[j];
        x[j] = swapped;
    }
}

/* A multiple of 2^-320 below 2^320 whose lowest digit lies in [lo, hi]; sparse ones make ties. */
static double random_addend(reference_random *random, int lo, int hi, int with_negative)
{
    uint64_t r = reference_u64(random);
    int digits = (int)reference_between(random, 1, 53);
    int lowest = (int)reference_between(random, lo, hi);
    if (lowest + digits - 1 > HIGHEST)
        lowest = HIGHEST - digits + 1;
    double magnitude = ldexp((double)(r >> (64 - digits)), lowest);
    return with_negative && (r & 1) ? -magnitude : magnitude;
}

START_TEST(sums_are_exact_whatever_the_order_and_the_cut)
{
    static const int spans[][2] = {{LOWEST, HIGHEST}, {-298, 211}, {-40, 20}, {-3, 3}, {267, 300}};
    double x[MAX_ADDENDS];
    reference_random random = {1};
    for (int round = 0; round < 400; round++) {
        const int *span = spans[round % 5];
        size_t n = (size_t)reference_between(&random, 1, round % 3 == 0 ? 4 : MAX_ADDENDS);
        for (size_t i = 0; i < n; i++)
            x[i] = random_addend(&random, span[0], span[1], round % 2);
        double want = reference_of(x, n);
        ck_assert(total_of(x, n) == want);
        for (size_t parts = 1; parts <= 8; parts++) {
            shuffle(&random, x, n);
            ck_assert(total_of(x, n) == want);
            ck_assert(total_of_parts(x, n, parts, 1) == want);
            ck_assert(total_of_parts(x, n, parts, 0) == want);
        }
    }
}
END_TEST

/* Rounding cases worked out by hand, in units of the lowest digit of a double in [2^53, 2^54),
 * which is 2: {addends, expected}. `least` stands for a digit 2^-320 far below. */
static const struct {
    double x[3];
    int least; /* -1, 0, 1 */
    double want;
} ties[] = {
    {{0x1p53, 0, 0}, 0, 0x1p53},       {{0x1p53, 1, 0}, 0, 0x1p53}, /* tie: the even one is below */
    {{0x1p53, 1, 0}, 1, 0x1p53 + 2},                                /* just above the tie */
    {{0x1p53, 1, 0}, -1, 0x1p53},                                   /* just below it */
    {{0x1p53, 2, 1}, 0, 0x1p53 + 4},                                /* tie: the even one is above */
    {{0x1p53, 2, 1}, -1, 0x1p53 + 2},                               /* just below it */
    {{0x1p53, 2, 0}, 1, 0x1p53 + 2},   /* sticky digits alone do not round up */
    {{0x1p54, -1, 0}, 0, 0x1p54},      /* 54 ones: the tie carries into a new digit */
    {{0x1p54, -1, 0}, -1, 0x1p54 - 2}, /* below that tie */
    {{0x1p54, -2, 0}, 0, 0x1p54 - 2},  /* 53 ones fit */
    {{0x1p53, -0x1p53, 0}, 1, 0},      /* all but the least cancels; see below */
    {{-0x1p53, 0x1p53 - 1, 0}, 0, -1}, /* cancellation to a small negative number */
};

START_TEST(rounding_is_to_nearest_even_at_every_place)
{
    for (size_t i = 0; i < sizeof ties / sizeof ties[0]; i++)
        for (int shift = -300; shift + 54 <= HIGHEST; shift++)
            for (int sign = -1; sign <= 1; sign += 2) {
                double x[4], want = ldexp(sign * ties[i].want, shift);
                for (int j = 0; j < 3; j++)
                    x[j] = ldexp(sign * ties[i].x[j], shift);
                x[3] = ldexp(sign * ties[i].least, LOWEST);
                if (ties[i].want == 0)
                    want = x[3];
                ck_assert(total_of(x, 4) == want);
                ck_assert(reference_of(x, 4) == want);
            }
}
END_TEST

START_TEST(block_sums_at_both_ends_of_their_range_survive_together)
{
    enum { N = 100000 };
    const double least = 0x1p-298, largest = 0x1p264;
    zi_exact sum;
    zi_exact_clear(&sum);
    for (int i = 0; i < N; i++) {
        zi_exact_add(&sum, largest);
        zi_exact_add(&sum, least);
    }
    ck_assert(zi_exact_round(sum.limb) == N * largest);
    for (int i = 0; i < N; i++)
        zi_exact_add(&sum, -largest);
    ck_assert(zi_exact_round(sum.limb) == N * least);
    for (int i = 0; i < N; i++)
        zi_exact_add(&sum, -least);
    double zero = zi_exact_round(sum.limb);
    ck_assert(zero == 0 && !signbit(zero));
    zi_exact_add(&sum, -0.0);
    zi_exact_add(&sum, -least);
    ck_assert(zi_exact_round(sum.limb) == -least);
}
END_TEST

START_TEST(the_ends_of_the_stated_range_are_exact)
{
    const double least = 0x1p-320, largest = ldexp(0x1.fffffffffffffp0, HIGHEST);
    const double x[] = {least, largest, largest, -least, -largest};
    ck_assert(total_of(x, 1) == least);
    ck_assert(total_of(x, 2) == largest);
    ck_assert(total_of(x, 3) == 2 * largest);
    ck_assert(total_of(x, 5) == largest);
    ck_assert(total_of(x, 0) == 0);
}
END_TEST

/* Limbs as 2^30 - 4 additions of the largest parts leave them, then 8 more: the carry in between
 * must lose nothing. The same additions onto limbs that are carried first give the number. */
START_TEST(limbs_are_carried_before_they_overflow)
{
    static const double more[] = {0x1.fffffffffffffp52, -0x1.fffffffffffffp-100, 0x1p300, 0x1p-320};
    for (int sign = -1; sign <= 1; sign += 2) {
        zi_exact full, carried;
        zi_exact_clear(&full);
        full.n_since_carry = (1u << 30) - 4;
        for (int i = 0; i + 1 < ZI_EXACT_LIMBS; i++)
            full.limb[i] = sign * (int64_t)full.n_since_carry * 0xffffffff;
        carried = full;
        zi_exact_carry(carried.limb);
        carried.n_since_carry = 0;
        ck_assert(zi_exact_round(full.limb) == zi_exact_round(carried.limb));
        for (int i = 0; i < 8; i++) {
            zi_exact_add(&full, more[i % 4]);
            zi_exact_add(&carried, more[i % 4]);
        }
        ck_assert_uint_lt(full.n_since_carry, 8);
        zi_exact_carry(full.limb);
        zi_exact_carry(carried.limb);
        ck_assert_mem_eq(full.limb, carried.limb, sizeof full.limb);
        for (int i = 0; i + 1 < ZI_EXACT_LIMBS; i++)
            ck_assert(full.limb[i] >= 0 && full.limb[i] <= 0xffffffff);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("exact");
    TCase *tcase = tcase_create("exact");
    tcase_add_test(tcase, sums_are_exact_whatever_the_order_and_the_cut);
    tcase_add_test(tcase, rounding_is_to_nearest_even_at_every_place);
    tcase_add_test(tcase, block_sums_at_both_ends_of_their_range_survive_together);
    tcase_add_test(tcase, the_ends_of_the_stated_range_are_exact);
    tcase_add_test(tcase, limbs_are_carried_before_they_overflow);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
