/* Fixed-point sums of squares: the right bits against a slow sum digit by digit of what the range
 * leaves of each square, in rows and in columns, in any order and any cut, up to the stated number
 * of addends. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/grid_sum.h"
#include "reference/exact_sum.h"
#include "reference/random.h"

enum { MAX_ROWS = 24, MAX_COLS = 600, MAX_SUMS = MAX_ROWS + MAX_COLS };

/* The square as it is added: written from the header's promise. */
static double on_grid(float g)
{
    double square = fmin((double)g * (double)g, 0x1p62);
    return ldexp(nearbyint(ldexp(square, 128)), -128);
}

/* A float whose leading digit lies in [lo, hi]; some zeros, some powers of two. */
static float random_float(reference_random *random, int lo, int hi)
{
    uint64_t r = reference_u64(random);
    int exponent = (int)reference_between(random, lo, hi);
    double fraction = r % 5 == 0 ? 1.0 : 1.0 + (double)(r >> 41) * 0x1p-23;
    float magnitude = r % 11 == 0 ? 0.0f : (float)ldexp(fraction, exponent);
    return r & (1u << 20) ? -magnitude : magnitude;
}

/* Every cut of each row into runs, rows in any order. */
static void add_matrix(reference_random *random, const float *g, size_t rows, size_t cols,
                       int64_t *acc)
{
    size_t stride = rows + cols,
           first_row = (size_t)reference_between(random, 0, (int64_t)rows - 1);
    for (size_t i = 0; i < rows; i++) {
        size_t r = (first_row + i) % rows;
        for (size_t at = 0; at < cols;) {
            size_t n = (size_t)reference_between(random, 1, ZI_GRID_RUN);
            n = n < cols - at ? n : cols - at;
            zi_grid_add_squares(g + r * cols + at, n, acc + at, acc + cols + r, stride);
            at += n;
        }
    }
}

static void check_sum(const float *g, size_t n, size_t step, const int64_t *limb, size_t stride)
{
    reference_sum sum = {{0}};
    for (size_t i = 0; i < n; i++)
        reference_sum_add(&sum, on_grid(g[i * step]));
    double got = zi_grid_value(limb, stride), want = reference_sum_round(&sum);
    ck_assert_msg(got == want, "%a, want %a", got, want);
}

START_TEST(rows_and_columns_are_exact_whatever_the_order_and_the_cut)
{
    static const int spans[][2] = {{-149, 127}, {-70, 33}, {-20, 4}, {-3, 3}, {28, 40}, {-67, -60}};
    static float g[MAX_ROWS * MAX_COLS];
    static int64_t acc[ZI_GRID_LIMBS * MAX_SUMS], other[ZI_GRID_LIMBS * MAX_SUMS];
    const int *span = spans[_i % 6];
    reference_random random = {(uint64_t)_i + 1};
    size_t rows = (size_t)reference_between(&random, 1, MAX_ROWS);
    size_t cols = (size_t)reference_between(&random, 1, _i % 2 ? 8 : MAX_COLS);
    size_t stride = rows + cols, n_words = stride * ZI_GRID_LIMBS;
    for (size_t i = 0; i < rows * cols; i++)
        g[i] = random_float(&random, span[0], span[1]);
    memset(acc, 0, sizeof acc);
    memset(other, 0, sizeof other);
    add_matrix(&random, g, rows, cols, acc);
    add_matrix(&random, g, rows, cols, other);
    ck_assert_mem_eq(acc, other, n_words * sizeof *acc);
    for (size_t r = 0; r < rows; r++)
        check_sum(g + r * cols, cols, 1, acc + cols + r, stride);
    for (size_t c = 0; c < cols; c++)
        check_sum(g + c, rows, cols, acc + c, stride);
}
END_TEST

static double value_of(float g)
{
    int64_t acc[2 * ZI_GRID_LIMBS] = {0};
    zi_grid_add_squares(&g, 1, acc, acc + 1, 2);
    ck_assert(zi_grid_value(acc, 2) == zi_grid_value(acc + 1, 2));
    return zi_grid_value(acc, 2);
}

START_TEST(the_ends_of_the_range_are_as_stated)
{
    ck_assert(value_of(0) == 0);
    ck_assert(value_of(0x1p-64f) == 0x1p-128);
    ck_assert(value_of(0x1.8p-64f) == 2 * 0x1p-128); /* 2.25 */
    ck_assert(value_of(-0x1.6ap-65f) == 0);          /* 0.4999 */
    ck_assert(value_of(0x1.6cp-65f) == 0x1p-128);    /* 0.5054 */
    ck_assert(value_of(0x1p-149f) == 0);
    ck_assert(value_of(0x1p31f) == 0x1p62);
    ck_assert(value_of(-0x1.fffffep30f) == 0x1.fffffep30 * 0x1.fffffep30);
    ck_assert(value_of(0x1.000002p31f) == 0x1p62);
    ck_assert(value_of(0x1.fffffep127f) == 0x1p62);
}
END_TEST

/* So that 2^31 of them fit: squares around half of each limb's weight, whose remainders are the
 * largest there are, of both signs. */
START_TEST(an_addition_changes_a_limb_by_at_most_2_to_the_31)
{
    for (int l = 0; l + 1 < ZI_GRID_LIMBS; l++) {
        int64_t most = 0, least = 0;
        for (int i = -2000; i < 2000; i++) {
            int64_t acc[2 * ZI_GRID_LIMBS] = {0};
            float g = (float)sqrt(ldexp(0.5 + i * 0x1p-22, 32 * l - 96));
            zi_grid_add_squares(&g, 1, acc, acc + 1, 2);
            most = acc[2 * l] > most ? acc[2 * l] : most;
            least = acc[2 * l] < least ? acc[2 * l] : least;
        }
        ck_assert_int_le(most, (int64_t)1 << 31);
        ck_assert_int_ge(least, -((int64_t)1 << 31));
        ck_assert_int_gt(most - least, 0xfff00000); /* the ends were near */
    }
}
END_TEST

/* Limbs as the worst case leaves them: 2^62 times 2^32 + 1 + 2^-32 + ... */
START_TEST(full_limbs_have_the_right_value)
{
    const int64_t full = (int64_t)(ZI_GRID_MAX_ADDENDS << 31);
    int64_t plus[ZI_GRID_LIMBS], minus[ZI_GRID_LIMBS];
    for (int l = 0; l < ZI_GRID_LIMBS; l++) {
        plus[l] = full;
        minus[l] = l == ZI_GRID_LIMBS - 1 ? full : -full;
    }
    ck_assert(zi_grid_value(plus, 1) == 0x1p94 + 0x1p62);
    ck_assert(zi_grid_value(minus, 1) == 0x1p94 - 0x1p62);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("grid_sum");
    TCase *tcase = tcase_create("grid_sum");
    tcase_add_loop_test(tcase, rows_and_columns_are_exact_whatever_the_order_and_the_cut, 0, 60);
    tcase_add_test(tcase, the_ends_of_the_range_are_as_stated);
    tcase_add_test(tcase, an_addition_changes_a_limb_by_at_most_2_to_the_31);
    tcase_add_test(tcase, full_limbs_have_the_right_value);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
