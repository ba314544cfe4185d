/* The CPU kernels that sum: on every instruction set, accumulate and norm are the sums that the
 * design writes down, bit for bit. The update is in test_update.c. */
#include "kernel_sources.h"

static void check_accumulate(const zi_cpu_kernels *kernels, reference_random *random)
{
    float want[N], *acc = malloc(N * sizeof *acc);
    int64_t n_bad = 7, want_bad = 7;
    ck_assert_ptr_nonnull(acc);
    for (size_t i = 0; i < N; i++)
        acc[i] = gradient(random, i % 3 == 0 ? WIDE : ORDINARY, ZOPT_FP16);
    expected_sum(acc, want);
    for (size_t b = 0; b < N_BLOCKS; b++) {
        int bad = 0;
        for (size_t i = 0; i < ZI_BLOCK; i++)
            bad |= !isfinite(want[b * ZI_BLOCK + i]);
        want_bad += bad;
    }
    const zi_job job = {.n_elems = N, .source = source, .n_sources = n_sources};
    kernels->accumulate(&job, acc, &n_bad);
    ck_assert_msg(n_different(acc, want, N) == 0, "%s", kernels->name);
    ck_assert_int_eq(n_bad, want_bad);
    free(acc);
}

START_TEST(accumulate_adds_sources_in_slot_order_and_counts_bad_blocks)
{
    each_mix(check_accumulate);
}
END_TEST

/* Section 5: 32 FP64 lanes, element i in lane i mod 32, ascending, combined by halving. */
static double expected_block_squares(const float *g)
{
    double lane[32] = {0};
    for (int i = 0; i < 256; i++)
        lane[i % 32] += (double)g[i] * g[i];
    for (int width = 16; width >= 1; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] = lane[i] + lane[i + width];
    return lane[0];
}

static void check_norm(const zi_cpu_kernels *kernels, reference_random *random)
{
    (void)random;
    float g[N];
    zi_exact want, sum;
    int64_t n_bad = 2, want_bad = 2;
    zi_exact_clear(&want);
    zi_exact_clear(&sum);
    zi_exact_add(&want, 3);
    zi_exact_add(&sum, 3);
    expected_sum(NULL, g);
    for (size_t b = 0; b < N_BLOCKS; b++) {
        double squares = expected_block_squares(g + b * ZI_BLOCK);
        if (isfinite(squares))
            zi_exact_add(&want, squares);
        else
            want_bad++;
    }
    const zi_job job = {.n_elems = N, .source = source, .n_sources = n_sources};
    kernels->norm(&job, &sum, &n_bad);
    ck_assert_int_eq(n_bad, want_bad);
    ck_assert_mem_eq(sum.limb, want.limb, sizeof sum.limb);
}

START_TEST(norm_sums_squares_by_blocks_as_defined_and_leaves_bad_blocks_out)
{
    each_mix(check_norm);
}
END_TEST

START_TEST(norm_is_exact_for_the_least_and_the_largest_floats)
{
    float g[2 * ZI_BLOCK] = {0};
    const zi_source one = {g, ZOPT_FP32};
    const zi_job job = {.n_elems = 2 * ZI_BLOCK, .source = &one, .n_sources = 1};
    g[0] = 0x1p-149f;
    for (size_t i = ZI_BLOCK; i < 2 * ZI_BLOCK; i++)
        g[i] = -0x1p127f;
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++) {
        zi_exact sum;
        int64_t n_bad = 0;
        zi_exact_clear(&sum);
        (*k)->norm(&job, &sum, &n_bad);
        ck_assert_int_eq(n_bad, 0);
        ck_assert(zi_exact_round(sum.limb) == 0x1p262); /* 256 * 2^254 */
        zi_exact_add(&sum, -0x1p262);
        ck_assert(zi_exact_round(sum.limb) == 0x1p-298); /* (2^-149)^2 was not lost beside it */
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels");
    TCase *tcase = tcase_create("kernels");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, accumulate_adds_sources_in_slot_order_and_counts_bad_blocks);
    tcase_add_test(tcase, norm_sums_squares_by_blocks_as_defined_and_leaves_bad_blocks_out);
    tcase_add_test(tcase, norm_is_exact_for_the_least_and_the_largest_floats);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    print_variants();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
