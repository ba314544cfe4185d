/* Groups in one handle: states that one has and another does not, frozen tensors, rates. */
#include <string.h>

#include "harness.h"

static zopt *handle(const char *optimizer, const char *schedule)
{
    zopt_options options;
    zopt *z;
    zopt_options_init(&options);
    options.transport = "self";
    options.optimizer = optimizer;
    options.schedule = schedule;
    ck_assert_int_eq(zopt_create(&options, &z), ZOPT_OK);
    return z;
}

static uint64_t bytes_of(const zopt_memory_usage *usage, const char *name)
{
    for (int c = 0; c < usage->n; c++)
        if (strcmp(usage->category[c].name, name) == 0)
            return usage->category[c].bytes;
    return 0;
}

/* Momentum for group 1 alone: half of the tensors have a buffer. */
START_TEST(groups_may_differ_in_the_states_they_need)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP32, 1);
    problem.options.optimizer = "SGD";
    problem.group_setting[1][0] = (zopt_setting){"momentum", 0.9, NULL};
    problem.options.clip_norm = 0.5;
    h_check_worlds(&problem, "groups of different states");
    zopt *z = handle("RMSprop", "constant");
    const zopt_setting centered[] = {{"centered", 1, NULL}};
    const uint64_t n = 5000;
    zopt_memory_usage usage;
    float state[5000];
    for (int i = 0; i < 2; i++) {
        int group, id;
        ck_assert_int_eq(zopt_add_group(z, centered, i == 1, &group), ZOPT_OK);
        ck_assert_int_eq(zopt_add_tensor(z, i ? "b" : "a", ZOPT_FP32, 1, &n, group, &id), 0);
    }
    ck_assert_int_eq(zopt_commit(z), ZOPT_OK);
    ck_assert_int_eq(zopt_memory(z, &usage), ZOPT_OK);
    ck_assert_uint_eq(bytes_of(&usage, "square_avg"), 2 * bytes_of(&usage, "grad_avg"));
    ck_assert_int_eq(zopt_get_state(z, "grad_avg", 1, 0, n, state), ZOPT_OK);
    ck_assert_int_eq(zopt_get_state(z, "grad_avg", 0, 0, n, state), ZOPT_ERR_ARGUMENT);
    ck_assert_str_eq(zopt_last_error(),
                     "RMSprop has no state 'grad_avg' of 'a'; there is 'square_avg'");
    zopt_destroy(z);
}
END_TEST

/* ---- frozen tensors ---- */

/* h_uneven without the tensors of group 1. */
static void without_group_1(h_problem *problem, const h_problem *all)
{
    *problem = *all;
    problem->n_tensors = 0;
    for (int i = 0; i < all->n_tensors; i++)
        if (all->tensor[i].group == 0)
            problem->tensor[problem->n_tensors++] = all->tensor[i];
}

/* The same for every tensor, which has another number where others are left out. */
static float same_grad(int step, int slot, int tensor, uint64_t element)
{
    (void)tensor;
    return h_wide_grad(step, slot, 3, element);
}

static float same_start(int step, int slot, int tensor, uint64_t element)
{
    (void)step;
    (void)slot;
    (void)tensor;
    return h_start_value(3, element);
}

/* Group 1 is frozen: its tensors keep their bits, and the others end as if there were no such
 * tensors, having sent as much. */
START_TEST(frozen_tensors_change_nothing_and_are_not_changed)
{
    h_problem problem, trained;
    h_result all, less;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.grad = same_grad;
    problem.start = same_start;
    problem.options.clip_norm = 0.5;
    without_group_1(&trained, &problem);
    problem.group_setting[1][0] = (zopt_setting){"frozen", 1, NULL};
    h_check_worlds(&problem, "frozen tensors");
    for (int n_ranks = 1; n_ranks <= 3; n_ranks += 2) {
        uint64_t a = 0, b = 0;
        h_run_threads(&problem, n_ranks, &all);
        h_run_threads(&trained, n_ranks, &less);
        for (int i = 0; i < problem.n_tensors; i++) {
            uint64_t n = h_elems(&problem.tensor[i]);
            if (problem.tensor[i].group == 0) {
                ck_assert_mem_eq(all.master + a, less.master + b, n * sizeof(float));
                b += n;
            } else {
                for (uint64_t e = 0; e < n; e++)
                    ck_assert_float_eq(all.master[a + e], h_start_value(3, e));
            }
            a += n;
        }
        for (int s = 0; s < problem.n_steps; s++)
            ck_assert_mem_eq(&all.report[s], &less.report[s], sizeof all.report[s]);
        h_free(&all);
        h_free(&less);
    }
}
END_TEST

/* One large frozen tensor beside a small trained one: FP16 parameters, and 1/N of the master. */
START_TEST(a_frozen_parameter_takes_2_plus_4_over_n_bytes)
{
    enum { RANKS = 4, BIG = RANKS * 4096 };
    zopt_memory_usage usage[2];
    for (int with = 0; with < 2; with++) {
        const zopt_setting frozen[] = {{"frozen", 1, NULL}};
        const uint64_t small = 100, big = BIG;
        zopt_options options;
        int group, id;
        zopt *z;
        zopt_options_init(&options);
        options.transport = "threads";
        options.plan_world = RANKS;
        ck_assert_int_eq(zopt_create(&options, &z), ZOPT_OK);
        ck_assert_int_eq(zopt_add_group(z, NULL, 0, &group), ZOPT_OK);
        ck_assert_int_eq(zopt_add_tensor(z, "small", ZOPT_FP16, 1, &small, group, &id), ZOPT_OK);
        ck_assert_int_eq(zopt_add_group(z, frozen, 1, &group), ZOPT_OK);
        if (with)
            ck_assert_int_eq(zopt_add_tensor(z, "big", ZOPT_FP16, 1, &big, group, &id), ZOPT_OK);
        ck_assert_int_eq(zopt_commit(z), ZOPT_OK);
        ck_assert_int_eq(zopt_memory(z, &usage[with]), ZOPT_OK);
        zopt_destroy(z);
    }
    static const struct {
        const char *name;
        uint64_t more;
    } want[] = {{"params", 2 * BIG}, {"master", 4 * BIG / RANKS}, {"grads", 0},
                {"exp_avg", 0},      {"exp_avg_sq", 0},           {"staging", 0}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        ck_assert_uint_eq(bytes_of(&usage[1], want[i].name) - bytes_of(&usage[0], want[i].name),
                          want[i].more);
}
END_TEST

START_TEST(frozen_gradients_and_nothing_to_train_are_refused)
{
    const zopt_setting frozen[] = {{"frozen", 1, NULL}};
    const uint64_t n = 10;
    for (int all = 0; all < 2; all++) {
        zopt *z = handle("AdamW", "constant");
        int group, id, needed;
        void *grad;
        for (int i = 0; i < 2; i++) {
            ck_assert_int_eq(zopt_add_group(z, frozen, i == 0 || all, &group), ZOPT_OK);
            ck_assert_int_eq(zopt_add_tensor(z, i ? "b" : "a", ZOPT_FP16, 1, &n, group, &id), 0);
        }
        ck_assert_int_eq(zopt_commit(z), all ? ZOPT_ERR_CONFIG : ZOPT_OK);
        if (all) {
            ck_assert_str_eq(zopt_last_error(),
                             "every tensor is frozen: there is nothing to train");
        } else {
            ck_assert_int_eq(zopt_needs_grad(z, 0, &needed), ZOPT_OK);
            ck_assert_int_eq(needed, 0);
            ck_assert_int_eq(zopt_grad_acquire(z, 0, &grad), ZOPT_ERR_ARGUMENT);
            ck_assert_str_eq(zopt_last_error(), "zopt_grad_acquire: 'a' is frozen");
            ck_assert_int_eq(zopt_needs_grad(z, 1, &needed), ZOPT_OK);
            ck_assert_int_eq(needed, 1);
        }
        zopt_destroy(z);
    }
}
END_TEST

/* Two elements in two groups, one step of SGD with gradient 1 from 0: each ends at minus its rate.
 */
static void one_step_of(zopt *z, double rates[2])
{
    static const zopt_setting half[] = {{"lr_mult", 0.5, NULL}};
    const uint64_t one = 1;
    const float zero = 0;
    for (int i = 0; i < 2; i++) {
        int group, id;
        ck_assert_int_eq(zopt_add_group(z, half, i == 1, &group), ZOPT_OK);
        ck_assert_int_eq(zopt_add_tensor(z, i ? "b" : "a", ZOPT_FP32, 1, &one, group, &id), 0);
    }
    ck_assert_int_eq(zopt_commit(z), ZOPT_OK);
    for (int i = 0; i < 2; i++) {
        void *grad;
        ck_assert_int_eq(zopt_set_master(z, i, 0, 1, &zero), ZOPT_OK);
        ck_assert_int_eq(zopt_grad_acquire(z, i, &grad), ZOPT_OK);
        *(float *)grad = 1;
        ck_assert_int_eq(zopt_grad_ready(z, i), ZOPT_OK);
    }
    ck_assert_int_eq(zopt_micro_end(z, 0), ZOPT_OK);
    ck_assert_int_eq(zopt_step(z), ZOPT_OK);
    for (int i = 0; i < 2; i++) {
        float p;
        ck_assert_int_eq(zopt_get_master(z, i, 0, 1, &p), ZOPT_OK);
        rates[i] = -(double)p;
    }
}

START_TEST(lr_mult_scales_a_groups_rate_whatever_the_schedule)
{
    double rates[2];
    zopt *z = handle("SGD", "constant"); /* lr 1e-3 */
    one_step_of(z, rates);
    ck_assert_double_eq(rates[0], (double)1e-3f);
    ck_assert_double_eq(rates[1], (double)0.5e-3f);
    zopt_destroy(z);
    z = handle("SGD", "OneCycle"); /* begins at cycle_min_lr = 0.01 */
    one_step_of(z, rates);
    ck_assert_double_eq(rates[0], (double)0.01f);
    ck_assert_double_eq(rates[1], (double)0.005f);
    zopt_destroy(z);
}
END_TEST

START_TEST(a_schedule_that_sets_the_rate_refuses_another_one)
{
    const zopt_setting other[] = {{"lr", 0.002, NULL}}, peak[] = {{"lr", 0.001, NULL}};
    zopt *z = handle("AdamW", "WarmupLR");
    int group;
    ck_assert_int_eq(zopt_add_group(z, other, 1, &group), ZOPT_ERR_CONFIG);
    ck_assert_msg(strstr(zopt_last_error(), "lr = 0.002, but schedule WarmupLR sets the rate") &&
                      strstr(zopt_last_error(), "warmup_max_lr = 0.001"),
                  "%s", zopt_last_error());
    ck_assert_int_eq(zopt_add_group(z, peak, 1, &group), ZOPT_OK);
    ck_assert_int_eq(zopt_group_set_lr(z, group, 0.5), ZOPT_ERR_CONFIG);
    zopt_destroy(z);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("groups");
    TCase *tests = tcase_create("groups");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, groups_may_differ_in_the_states_they_need);
    tcase_add_test(tests, frozen_tensors_change_nothing_and_are_not_changed);
    tcase_add_test(tests, a_frozen_parameter_takes_2_plus_4_over_n_bytes);
    tcase_add_test(tests, frozen_gradients_and_nothing_to_train_are_refused);
    tcase_add_test(tests, lr_mult_scales_a_groups_rate_whatever_the_schedule);
    tcase_add_test(tests, a_schedule_that_sets_the_rate_refuses_another_one);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
