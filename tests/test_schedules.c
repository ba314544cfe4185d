/* Schedules against values worked out by hand from their formulas: DeepSpeed's with its
 * last_batch_iteration = t - 1, but OneCycle's with t - 2. Tolerance: a handful of roundings of
 * doubles, 1e-14 relative. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim/optim.h"

enum { MAX_POINTS = 10, MAX_GIVEN = 8 };

typedef struct point {
    uint64_t t;
    double want;
} point;

typedef struct schedule_case {
    const char *schedule;
    zopt_setting given[MAX_GIVEN]; /* a NULL name ends them */
    point at[MAX_POINTS];          /* t = 0 ends them */
} schedule_case;

#define LOG4(x) (log(x) / log(4.0))

static const schedule_case cases[] = {
    {"constant", {{NULL, 0, NULL}}, {{1, 1}, {1000000, 1}}},
    {"linear",
     {{"total_num_steps", 14, NULL}, {"warmup_num_steps", 4, NULL}, {"end_ratio", 0.1, NULL}},
     {{1, 0.25}, {2, 0.5}, {4, 1}, {5, 0.91}, {9, 0.55}, {13, 0.19}, {14, 0.1}, {100, 0.1}}},
    {"linear", {{"total_num_steps", 2, NULL}}, {{1, 0.5}, {2, 0}, {3, 0}}},
    {"inverse_sqrt",
     {{"warmup_num_steps", 4, NULL}},
     {{1, 0.25}, {3, 0.75}, {4, 1}, {16, 0.5}, {400, 0.1}}},
    {"warmup_stable_decay",
     {{"total_num_steps", 20, NULL},
      {"warmup_num_steps", 2, NULL},
      {"decay_num_steps", 8, NULL},
      {"end_ratio", 0.2, NULL}},
     {{1, 0.5}, {2, 1}, {12, 1}, {14, 0.8}, {16, 0.6}, {20, 0.2}, {21, 0.2}}},
    {"warmup_stable_decay",
     {{"total_num_steps", 16, NULL}, {"decay_num_steps", 16, NULL}, {"decay_type", 0, "sqrt"}},
     {{1, 0.75}, {4, 0.5}, {9, 0.25}, {16, 0}}},
    {"WarmupLR",
     {{"warmup_min_lr", 0.1, NULL}, {"warmup_max_lr", 0.5, NULL}, {"warmup_num_steps", 4, NULL}},
     {{1, 0.1}, {2, 0.3}, {4, 0.5}, {5, 0.5}, {1000, 0.5}}},
    {"WarmupLR",
     {{"warmup_max_lr", 0.01, NULL}, {"warmup_num_steps", 5, NULL}, {"warmup_type", 0, "linear"}},
     {{1, 0}, {2, 0.002}, {5, 0.008}, {6, 0.01}}},
    {"WarmupLR",
     {{"warmup_max_lr", 0.01, NULL}, {"warmup_num_steps", 1.5, NULL}},
     {{1, 0}, {2, 0.01}, {3, 0.01}}},
    {"WarmupDecayLR",
     {{"warmup_min_lr", 0.1, NULL},
      {"warmup_max_lr", 0.5, NULL},
      {"warmup_num_steps", 4, NULL},
      {"total_num_steps", 12, NULL}},
     {{2, 0.3}, {5, 0.5}, {7, 0.4}, {9, 0.3}, {13, 0.1}, {14, 0.1}, {99, 0.1}}},
    {"WarmupCosineLR",
     {{"total_num_steps", 10, NULL},
      {"warmup_num_steps", 4, NULL},
      {"warmup_min_ratio", 0.2, NULL},
      {"cos_min_ratio", 0.1, NULL}},
     {{1, 0.2}, {2, 0.6}, {4, 1}, {6, 0.775}, {7, 0.55}, {8, 0.325}, {10, 0.1}, {50, 0.1}}},
    {"OneCycle",
     {{"cycle_min_lr", 0.1, NULL},
      {"cycle_max_lr", 0.5, NULL},
      {"cycle_first_step_size", 4, NULL},
      {"cycle_second_step_size", 8, NULL},
      {"decay_step_size", 2, NULL},
      {"decay_lr_rate", 0.5, NULL}},
     {{1, 0.1},
      {2, 0.2},
      {5, 0.5},
      {6, 0.45},
      {9, 0.3},
      {12, 0.15},
      {13, 0.1},
      {14, 0.08},
      {15, 0.1 / 1.5},
      {20, 0.1 / 2.75}}},
    {"OneCycle",
     {{"cycle_min_lr", 0, NULL}, {"cycle_max_lr", 1, NULL}, {"cycle_first_step_size", 2, NULL}},
     {{1, 0}, {2, 0.5}, {3, 1}, {4, 0.5}, {5, 0}, {1000, 0}}},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static const zi_schedule *schedule_of(const schedule_case *c, double *value)
{
    const zi_schedule *schedule;
    size_t n = 0;
    while (n < MAX_GIVEN && c->given[n].name != NULL)
        n++;
    ck_assert_int_eq(zi_schedule_find(c->schedule, &schedule), ZOPT_OK);
    zi_settings_default(schedule->settings, (size_t)schedule->n_settings, value);
    ck_assert_int_eq(zi_settings_apply(schedule->name, schedule->settings,
                                       (size_t)schedule->n_settings, c->given, n, value),
                     ZOPT_OK);
    return schedule;
}

START_TEST(schedules_give_the_values_of_their_formulas)
{
    const schedule_case *c = &cases[_i];
    double value[ZI_MAX_SETTINGS];
    const zi_schedule *schedule = schedule_of(c, value);
    for (int i = 0; i < MAX_POINTS && c->at[i].t > 0; i++) {
        double got = (schedule->lr ? schedule->lr : schedule->factor)(value, c->at[i].t);
        ck_assert_msg(fabs(got - c->at[i].want) <= 1e-14, "%s (%d), t = %d: %.17g, want %.17g",
                      c->schedule, _i, (int)c->at[i].t, got, c->at[i].want);
    }
}
END_TEST

/* log(3) / log(4) and the like are no round numbers. */
START_TEST(the_default_warmup_is_logarithmic)
{
    double value[ZI_MAX_SETTINGS];
    const schedule_case c = {
        "warmuplr", {{"warmup_num_steps", 4, NULL}, {"warmup_max_lr", 1, NULL}}, {{0, 0}}};
    const zi_schedule *schedule = schedule_of(&c, value);
    ck_assert_double_eq_tol(schedule->lr(value, 3), LOG4(3), 1e-15);
}
END_TEST

START_TEST(rates_are_absolute_or_factors_and_groups_multiply_them)
{
    double value[ZI_MAX_SETTINGS];
    const schedule_case absolute = {"WarmupLR", {{"warmup_max_lr", 0.25, NULL}}, {{0, 0}}};
    const zi_schedule *schedule = schedule_of(&absolute, value);
    ck_assert_double_eq(zi_schedule_lr(schedule, value, 123, 0.5, 100000), 0.125);
    const schedule_case factor = {"inverse_sqrt", {{"warmup_num_steps", 1, NULL}}, {{0, 0}}};
    schedule = schedule_of(&factor, value);
    ck_assert_double_eq(zi_schedule_lr(schedule, value, 8, 0.5, 4), 2);
}
END_TEST

START_TEST(every_row_is_well_formed)
{
    for (size_t i = 0; i < zi_n_schedules; i++) {
        const zi_schedule *s = zi_schedules[i];
        ck_assert_int_eq((s->factor != NULL) + (s->lr != NULL), 1);
        ck_assert_int_le(s->n_settings, ZI_MAX_SETTINGS);
        for (int row = 0; row < s->n_settings; row++)
            ck_assert_ptr_nonnull(s->settings[row].name);
    }
}
END_TEST

static const struct {
    zopt_setting given;
    const char *text;
} refused[] = {
    {{"cycle_momentum", 1, NULL},
     "OneCycle: cycle_momentum = 1 is not available: momentum is not cycled"},
    {{"cycle_first_stair_count", 5, NULL},
     "OneCycle: cycle_first_stair_count = 5 is not available: stairs are not offered"},
    {{"decay_mom_rate", 0.1, NULL}, "decay_mom_rate = 0.1 is not available"},
    {{"cycle_first_step_size", 0, NULL}, "cycle_first_step_size = 0 is outside [1, 1e+15]"},
    {{"cycle_mx_lr", 1, NULL}, "did you mean 'cycle_max_lr'"},
};

START_TEST(what_one_cycle_has_elsewhere_is_refused_by_name)
{
    double value[ZI_MAX_SETTINGS];
    const schedule_case c = {"OneCycle", {{"cycle_min_mom", 0.8, NULL}}, {{0, 0}}};
    const zi_schedule *schedule = schedule_of(&c, value);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        ck_assert_int_eq(zi_settings_apply(schedule->name, schedule->settings,
                                           (size_t)schedule->n_settings, &refused[i].given, 1,
                                           value),
                         ZOPT_ERR_CONFIG);
        ck_assert_msg(strstr(zopt_last_error(), refused[i].text) != NULL, "'%s' lacks '%s'",
                      zopt_last_error(), refused[i].text);
    }
    ck_assert_int_eq(zi_schedule_find("WarmupCosinLR", &schedule), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "did you mean 'WarmupCosineLR'"));
    ck_assert_int_eq(zi_schedule_find("LRRangeTest", &schedule), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "there are constant, linear"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("schedules");
    TCase *tests = tcase_create("schedules");
    tcase_add_loop_test(tests, schedules_give_the_values_of_their_formulas, 0, N_CASES);
    tcase_add_test(tests, the_default_warmup_is_logarithmic);
    tcase_add_test(tests, rates_are_absolute_or_factors_and_groups_multiply_them);
    tcase_add_test(tests, every_row_is_well_formed);
    tcase_add_test(tests, what_one_cycle_has_elsewhere_is_refused_by_name);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
