/* The numerics contract, on transport threads: the same bits for every number of ranks and bucket
 * size, and values that agree with independent ones: sums in slot order, float64 norms, clipping,
 * overflow. AdamW against float64 and PyTorch is in test_adamw.c. */
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "harness.h"

static const int worlds[] = {1, 2, 3, 5};
enum { N_WORLDS = sizeof worlds / sizeof worlds[0] };

static const char *const dtype_names[] = {"fp16", "bf16", "fp32", "mixed"};

/* _i / 4: dtypes or mixed; _i % 4: number of slots. */
START_TEST(worlds_and_buckets_change_no_bit)
{
    static const int slots[] = {1, 2, 4, 7};
    h_problem problem;
    char name[64];
    h_uneven(&problem, (zopt_dtype)(_i / 4 % 3), _i / 4 == 3);
    problem.options.slots = slots[_i % 4];
    problem.options.clip_norm = _i % 2 ? 0.5 : 0;
    problem.options.dynamic_loss_scale = _i / 4 == 0;
    problem.options.loss_scale = _i / 4 == 0 ? 256 : 1;
    snprintf(name, sizeof name, "%s, %d slots", dtype_names[_i / 4], slots[_i % 4]);
    h_check_worlds(&problem, name);
}
END_TEST

static int some_absent(int step, int slot, int tensor)
{
    return (step + slot + tensor) % 3 == 0 || tensor == 4;
}

START_TEST(absent_gradients_are_zeros_for_every_world)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.absent = some_absent;
    h_check_worlds(&problem, "absent");
}
END_TEST

static int all_absent(int step, int slot, int tensor)
{
    (void)step;
    (void)slot;
    (void)tensor;
    return 1;
}

START_TEST(a_tensor_that_never_arrives_still_decays)
{
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.absent = all_absent;
    h_run_threads(&problem, 3, &result);
    /* Group 0 decays by 1 - lr * 0.1 a step, group 1 not at all; the update is 0 / (0 + eps). */
    float keep = (float)(1 - 1e-2 * 0.1);
    float want = h_start_value(0, 0);
    for (int s = 0; s < problem.n_steps; s++)
        want *= keep;
    ck_assert_float_eq(result.master[0], want);
    ck_assert_float_eq(result.master[1], h_start_value(1, 0));
    h_free(&result);
}
END_TEST

/* Mantissas of 11 bits and exponents over FP16's whole range: sums round, order matters. */
static float wildest_grad(int step, int slot, int tensor, uint64_t element)
{
    float g = h_wide_grad(step, slot, tensor, element);
    int exponent = (int)((element * 7 + (uint64_t)slot * 13) % 12);
    return ldexpf(g, exponent - 2);
}

/* With beta1 = 0 the first moment of a step is the averaged gradient itself; with 8 slots and scale
 * 1 the coefficient is 2^-3, so the sum can be read back without rounding. */
START_TEST(sums_are_slot_order_float_sums_and_close_to_exact)
{
    enum { S = 8 };
    const zopt_setting settings[] = {{"beta1", 0, NULL}};
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.n_steps = 1;
    problem.grad = wildest_grad;
    problem.options.slots = S;
    problem.options.settings = settings;
    problem.options.n_settings = 1;
    h_run_threads(&problem, worlds[_i], &result);
    uint64_t at = 0;
    for (int t = 0; t < problem.n_tensors; t++)
        for (uint64_t e = 0; e < h_elems(&problem.tensor[t]); e++, at++) {
            float sum = 0.0f;
            double exact = 0, magnitude = 0;
            for (int s = 0; s < S; s++) {
                float g = wildest_grad(1, s, t, e);
                sum += g;
                exact += g; /* 11 bits over 40 exponents, 8 terms: exact in double */
                magnitude += fabs(g);
            }
            ck_assert_float_eq(result.state[0][at] * S, sum);
            /* Each of S-1 additions errs by at most 2^-24 of a partial sum <= magnitude. */
            ck_assert_double_le(fabs(result.state[0][at] * (double)S - exact),
                                (S - 1) * 0x1p-24 * magnitude);
        }
    h_free(&result);
}
END_TEST

/* The norm is that of the averaged, unscaled gradient. The reference sums in double: n <= 2^14
 * terms err by at most n * 2^-53 relative; the library's own sum is exact. */
START_TEST(norm_is_that_of_the_unscaled_average)
{
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.n_steps = 1;
    problem.options.loss_scale = 64;
    h_run_threads(&problem, worlds[_i], &result);
    double squares = 0;
    for (int t = 0; t < problem.n_tensors; t++)
        for (uint64_t e = 0; e < h_elems(&problem.tensor[t]); e++) {
            float sum = 0.0f;
            for (int s = 0; s < 4; s++)
                sum += 64 * h_wide_grad(1, s, t, e);
            squares += (double)sum * sum;
        }
    double want = sqrt(squares) / (4 * 64);
    ck_assert_double_le(fabs(result.report[0].grad_norm - want), want * 0x1p14 * 0x1p-53);
    ck_assert_double_eq(result.report[0].loss,
                        (1.1 + (1.0 + 1 / 3.0 + 0.1) + (1.0 + 2 / 3.0 + 0.1) + 2.1) / 4);
    h_free(&result);
}
END_TEST

/* Clipped, the averaged gradient has norm max_norm * norm / (norm + 1e-6), each element rounded
 * twice (coefficient and product): 2^-23 relative. */
START_TEST(clipping_scales_the_whole_gradient)
{
    const zopt_setting settings[] = {{"beta1", 0, NULL}};
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.n_steps = 1;
    problem.options.clip_norm = 0.25;
    problem.options.settings = settings;
    problem.options.n_settings = 1;
    h_run_threads(&problem, 3, &result);
    double squares = 0, norm = result.report[0].grad_norm;
    for (uint64_t i = 0; i < result.n_elems; i++)
        squares += (double)result.state[0][i] * result.state[0][i];
    ck_assert_double_gt(norm, 1);
    ck_assert_double_eq(result.report[0].clip_coef, 0.25 / (norm + 1e-6));
    double want = 0.25 * norm / (norm + 1e-6);
    ck_assert_double_le(fabs(sqrt(squares) - want), want * 0x1p-22);
    h_free(&result);
}
END_TEST

/* Step 2: Inf in slot 2 of tensor 5 and NaN in slot 3 of tensor 8. Step 3: the scale alone pushes a
 * finite gradient past FP16's range in slot 1 of tensor 6. */
static float faulty_grad(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == 2 && tensor == 5 && element == 4000)
        return INFINITY;
    if (step == 2 && slot == 3 && tensor == 8 && element == 17)
        return NAN;
    if (step == 3 && slot == 1 && tensor == 6 && element == 1)
        return 300.0f;
    return h_wide_grad(step, slot, tensor, element);
}

START_TEST(overflow_skips_on_all_ranks_halves_the_scale_and_names_tensor_and_slot)
{
    h_problem problem;
    h_result result, before;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.grad = faulty_grad;
    problem.options.dynamic_loss_scale = 1;
    problem.options.loss_scale = 1024;
    problem.options.growth_interval = 2;
    problem.n_steps = 1;
    h_run_threads(&problem, worlds[_i], &before);
    problem.n_steps = 3;
    h_run_threads(&problem, worlds[_i], &result);
    /* Worked by hand: 1 good at 1024; 2 and 3 skip at 1024 and 512. */
    static const struct {
        double scale;
        int skipped, good, tensor, slot;
    } want[] = {{1024, 0, 1, -1, -1}, {1024, 1, 1, 5, 2}, {512, 1, 1, 6, 1}};
    for (int s = 0; s < 3; s++) {
        const zopt_step_report *r = &result.report[s];
        ck_assert_double_eq(r->loss_scale, want[s].scale);
        ck_assert_int_eq(r->skipped, want[s].skipped);
        ck_assert_int_eq((int)r->good_step, want[s].good);
        ck_assert_int_eq(r->bad_tensor, want[s].tensor);
        ck_assert_int_eq(r->bad_slot, want[s].slot);
        ck_assert_int_eq(r->bad_rank, want[s].slot < 0 ? -1 : want[s].slot % worlds[_i]);
    }
    ck_assert_int_eq(memcmp(before.master, result.master, 3 * before.n_elems * sizeof(float)), 0);
    h_free(&before);
    h_free(&result);
    problem.n_steps = 8;
    h_run_threads(&problem, worlds[_i], &result);
    /* After the halving to 256: good steps 4, 5 (doubles to 512), 6, 7 (doubles to 1024), 8. */
    static const double scales[] = {1024, 1024, 512, 256, 256, 512, 512, 1024};
    for (int s = 0; s < 8; s++)
        ck_assert_double_eq(result.report[s].loss_scale, scales[s]);
    h_free(&result);
}
END_TEST

static float always_nan(int step, int slot, int tensor, uint64_t element)
{
    return tensor == 3 ? NAN : h_wide_grad(step, slot, tensor, element);
}

START_TEST(nan_every_step_ends_at_the_minimum_scale)
{
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.grad = always_nan;
    problem.n_steps = 20;
    problem.options.dynamic_loss_scale = 1;
    problem.options.loss_scale = 4;
    problem.options.max_consecutive_skips = 3;
    h_run_threads(&problem, 3, &result);
    ck_assert_int_eq(result.status, ZOPT_ERR_NUMERICS);
    /* 4 -> 2 -> 1, then three skips at 1: step 5 fails. */
    ck_assert_int_eq((int)result.report[4].step, 5);
    ck_assert_int_eq((int)result.report[5].step, 0);
    h_free(&result);
}
END_TEST

/* Finite BF16 slots whose FP32 sum is infinite: no slot is to blame. */
static float huge_grad(int step, int slot, int tensor, uint64_t element)
{
    (void)step;
    (void)slot;
    return tensor == 2 && element == 100 ? 0x1.8p127f : 0.5f;
}

START_TEST(a_sum_that_overflows_names_the_tensor_but_no_slot)
{
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_BF16, 0);
    problem.grad = huge_grad;
    problem.n_steps = 1;
    problem.options.check_overflow = 1;
    h_run_threads(&problem, worlds[_i], &result);
    ck_assert_int_eq(result.report[0].skipped, 1);
    ck_assert_int_eq(result.report[0].bad_tensor, 2);
    ck_assert_int_eq(result.report[0].bad_slot, -1);
    h_free(&result);
}
END_TEST

/* Without clip and check there is no norm round: one pass, and no norm. */
START_TEST(without_clip_and_check_nothing_is_measured)
{
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_BF16, 0);
    problem.n_steps = 1;
    h_run_threads(&problem, 2, &result);
    ck_assert(isnan(result.report[0].grad_norm));
    ck_assert_int_eq(result.report[0].skipped, 0);
    h_free(&result);
}
END_TEST

static float nan_in_step_2(int step, int slot, int tensor, uint64_t element)
{
    return step == 2 ? (float)NAN : h_wide_grad(step, slot, tensor, element);
}

START_TEST(a_skipped_step_does_not_advance_the_schedule)
{
    const zopt_setting settings[] = {
        {"total_num_steps", 10, NULL}, {"warmup_num_steps", 4, NULL}, {"warmup_type", 0, "linear"}};
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.grad = nan_in_step_2;
    problem.options.schedule = "WarmupCosineLR";
    problem.options.schedule_settings = settings;
    problem.options.n_schedule_settings = 3;
    h_run_threads(&problem, 2, &result);
    /* lr 0.01 times 0/4, (1/4, skipped), 1/4, 2/4. */
    static const double want[] = {0, 0.0025, 0.0025, 0.005};
    for (int s = 0; s < 4; s++)
        ck_assert_double_eq_tol(result.report[s].lr, want[s], 1e-15);
    ck_assert_int_eq(result.report[1].skipped, 1);
    h_free(&result);
}
END_TEST

static void odd_environment(int rank, zopt_threads *threads, void *arg)
{
    h_result *result = arg;
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    zopt_options options = problem.options;
    options.threads = threads;
    options.threads_rank = rank;
    int rounding = fegetround();
    if (result[0].n_elems == 1) {
        fesetround(FE_UPWARD);
#if defined(__SSE2__)
        _mm_setcsr(_mm_getcsr() | 0x8040u); /* flush to zero, denormals are zero */
#endif
    }
    h_run_one(&problem, &options, &result[1]);
    if (result[0].n_elems == 1 && fegetround() != FE_UPWARD)
        abort();
#if defined(__SSE2__)
    if (result[0].n_elems == 1 && (_mm_getcsr() & 0x8040u) != 0x8040u)
        abort();
    _mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
    fesetround(rounding);
}

/* The harness's own arithmetic is exact (powers of two), so only the library could round. */
START_TEST(the_callers_rounding_mode_changes_nothing_and_is_restored)
{
    h_result plain[2] = {0}, odd[2] = {0};
    odd[0].n_elems = 1;
    h_on_threads(1, odd_environment, plain);
    h_on_threads(1, odd_environment, odd);
    ck_assert_int_eq(memcmp(plain[1].master, odd[1].master, 3 * plain[1].n_elems * sizeof(float)),
                     0);
    h_free(&plain[1]);
    h_free(&odd[1]);
}
END_TEST

enum { SHARED_ELEMS = 3000, N_SETS = 30 };

/* Every rank sets all elements to k, reads them and goes on at once. */
static void set_and_read(int rank, zopt_threads *threads, void *arg)
{
    float values[SHARED_ELEMS];
    const float *param;
    int group, id, *n_wrong = arg;
    zopt *z;
    zopt_options options;
    const uint64_t shape[] = {SHARED_ELEMS};
    zopt_options_init(&options);
    options.threads = threads;
    options.threads_rank = rank;
    options.shared_params = 1;
    options.bucket_elems = 1000;
    if (zopt_create(&options, &z) != ZOPT_OK || zopt_add_group(z, NULL, 0, &group) != ZOPT_OK ||
        zopt_add_tensor(z, "w", ZOPT_FP32, 1, shape, group, &id) != ZOPT_OK ||
        zopt_commit(z) != ZOPT_OK)
        abort();
    for (int k = 0; k < N_SETS; k++) {
        for (int i = 0; i < SHARED_ELEMS; i++)
            values[i] = (float)k;
        if (zopt_set_master(z, id, 0, SHARED_ELEMS, values) != ZOPT_OK ||
            zopt_param_acquire(z, id, (const void **)&param) != ZOPT_OK)
            abort();
        for (int i = 0; i < SHARED_ELEMS; i++)
            n_wrong[rank] += param[i] != (float)k;
    }
    zopt_destroy(z);
}

START_TEST(shared_parameters_are_set_when_all_have_read_them_and_read_when_all_have_set_them)
{
    int n_wrong[3] = {0};
    h_on_threads(3, set_and_read, n_wrong);
    for (int r = 0; r < 3; r++)
        ck_assert_int_eq(n_wrong[r], 0);
}
END_TEST

/* Memory above a megabyte begins off its page, and what threads share is freed by the last rank. */
START_TEST(large_buffers_are_given_back_as_they_were_taken)
{
    h_problem problem = {.n_tensors = 1, .n_steps = 1, .lr = 1e-3};
    h_result one, two;
    problem.tensor[0] = (h_tensor){"large", ZOPT_FP32, 1, {1 << 19}, 0};
    zopt_options_init(&problem.options);
    problem.options.slots = 1;
    h_run_threads(&problem, 1, &one);
    h_run_threads(&problem, 2, &two);
    h_compare(&one, &two, "2 ranks");
    h_free(&one);
    h_free(&two);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("numerics");
    TCase *tests = tcase_create("threads");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, worlds_and_buckets_change_no_bit, 0, 16);
    tcase_add_test(tests, absent_gradients_are_zeros_for_every_world);
    tcase_add_test(tests, a_tensor_that_never_arrives_still_decays);
    tcase_add_loop_test(tests, sums_are_slot_order_float_sums_and_close_to_exact, 0, N_WORLDS);
    tcase_add_loop_test(tests, norm_is_that_of_the_unscaled_average, 0, N_WORLDS);
    tcase_add_test(tests, clipping_scales_the_whole_gradient);
    tcase_add_loop_test(
        tests, overflow_skips_on_all_ranks_halves_the_scale_and_names_tensor_and_slot, 0, N_WORLDS);
    tcase_add_test(tests, nan_every_step_ends_at_the_minimum_scale);
    tcase_add_loop_test(tests, a_sum_that_overflows_names_the_tensor_but_no_slot, 0, N_WORLDS);
    tcase_add_test(tests, without_clip_and_check_nothing_is_measured);
    tcase_add_test(tests, a_skipped_step_does_not_advance_the_schedule);
    tcase_add_test(tests, the_callers_rounding_mode_changes_nothing_and_is_restored);
    tcase_add_test(
        tests, shared_parameters_are_set_when_all_have_read_them_and_read_when_all_have_set_them);
    tcase_add_test(tests, large_buffers_are_given_back_as_they_were_taken);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
