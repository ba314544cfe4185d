/* Schedules against values worked out by hand from DeepSpeed's formulas, and that a skipped step
 * does not move them. */
#include <math.h>
#include <string.h>

#include "harness.h"
#include "optim/optim.h"

static double factor(const char *name, const zopt_setting *settings, size_t n, uint64_t t)
{
    const zi_schedule *schedule;
    double value[ZI_MAX_SETTINGS];
    ck_assert_int_eq(zi_schedule_find(name, &schedule), ZOPT_OK);
    zi_settings_default(schedule->settings, (size_t)schedule->n_settings, value);
    ck_assert_int_eq(zi_settings_apply(name, schedule->settings, (size_t)schedule->n_settings,
                                       settings, n, value),
                     ZOPT_OK);
    return schedule->factor(value, t);
}

START_TEST(constant_is_one)
{
    ck_assert_double_eq(factor("constant", NULL, 0, 1), 1);
    ck_assert_double_eq(factor("Constant", NULL, 0, 1000000), 1);
}
END_TEST

/* DeepSpeed counts iterations from 0: t = iteration + 1. 10 of warmup, 110 in all, floor 0.1. */
START_TEST(warmup_cosine_is_deepspeeds)
{
    const zopt_setting settings[] = {{"total_num_steps", 110, NULL},
                                     {"warmup_num_steps", 10, NULL},
                                     {"cos_min_ratio", 0.1, NULL},
                                     {"warmup_type", 0, "linear"}};
    static const struct {
        uint64_t t;
        double want;
    } rows[] = {
        {1, 0},                        /* iteration 0: 0 / 10 */
        {6, 0.5},                      /* 5 / 10 */
        {10, 0.9},                     /* 9 / 10 */
        {60, 0.1 + 0.9 * 0.5},         /* iteration 59, real step 50 of 100: cos(pi / 2) = 0 */
        {85, 0.1 + 0.9 * 0.146446609}, /* 75 of 100: (1 - sqrt(1/2)) / 2 */
        {110, 0.1},                    /* 100 of 100 */
        {5000, 0.1},                   /* stays at the floor */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        ck_assert_double_eq_tol(factor("WarmupCosineLR", settings, 4, rows[i].t), rows[i].want,
                                1e-9);
}
END_TEST

START_TEST(warmup_is_logarithmic_by_default)
{
    const zopt_setting settings[] = {{"warmup_num_steps", 100, NULL},
                                     {"warmup_min_ratio", 0.2, NULL}};
    ck_assert_double_eq_tol(factor("WarmupCosineLR", settings, 2, 1), 0.2, 1e-12);
    /* log(10) / log(100) = 1/2 at iteration 9 */
    ck_assert_double_eq_tol(factor("WarmupCosineLR", settings, 2, 10), 0.6, 1e-12);
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

START_TEST(unknown_schedules_and_words_are_refused)
{
    const zi_schedule *schedule;
    double value[ZI_MAX_SETTINGS];
    ck_assert_int_eq(zi_schedule_find("WarmupCosinLR", &schedule), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "WarmupCosineLR"));
    ck_assert_int_eq(zi_schedule_find("WarmupCosineLR", &schedule), ZOPT_OK);
    const zopt_setting word = {"warmup_type", 0, "cubic"};
    ck_assert_int_eq(
        zi_settings_apply("s", schedule->settings, (size_t)schedule->n_settings, &word, 1, value),
        ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "log, linear"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("schedule");
    TCase *tests = tcase_create("factors");
    tcase_add_test(tests, constant_is_one);
    tcase_add_test(tests, warmup_cosine_is_deepspeeds);
    tcase_add_test(tests, warmup_is_logarithmic_by_default);
    tcase_add_test(tests, a_skipped_step_does_not_advance_the_schedule);
    tcase_add_test(tests, unknown_schedules_and_words_are_refused);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
