/* Sums by groups of slots (options.reduce_group) against a scalar loop that states their order, on
 * worlds, buckets and groups that fall on micro-steps in every way; overflows in a group. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "slot_group.h"

static const int slot_counts[] = {1, 4, 7, 12};
static const int groups[] = {2, 3, 4, 5, 12, 100};
static const int worlds[] = {1, 2, 3, 5};
enum { N_SLOT_COUNTS = 4, N_GROUPS = 6, N_WORLDS = 4 };

/* _i / N_GROUPS: the slots; _i % N_GROUPS: the group. Bucket sizes take turns. */
START_TEST(every_world_sums_in_the_order_that_is_stated)
{
    h_problem problem;
    h_result got;
    char what[96];
    slot_group_problem(&problem, ZOPT_FP16, slot_counts[_i / N_GROUPS], groups[_i % N_GROUPS]);
    for (int w = 0; w < N_WORLDS; w++) {
        int small = (_i + w) % 2;
        problem.options.bucket_elems = small ? 700 : 4 << 20;
        problem.options.shared_params = small;
        problem.options.check_overflow = small;
        h_run_threads(&problem, worlds[w], &got);
        snprintf(what, sizeof what, "%d slots in groups of %d, %d ranks", problem.options.slots,
                 problem.options.reduce_group, worlds[w]);
        slot_group_check(&problem, &got, what);
        h_free(&got);
    }
}
END_TEST

START_TEST(groups_are_part_of_the_result)
{
    h_problem problem;
    h_result plain, grouped, one_group;
    slot_group_problem(&problem, ZOPT_FP16, 7, 1);
    h_run_threads(&problem, 2, &plain);
    problem.options.reduce_group = 3;
    h_run_threads(&problem, 2, &grouped);
    ck_assert(memcmp(plain.master, grouped.master, plain.n_elems * sizeof(float)) != 0);
    problem.options.reduce_group = 7;
    h_run_threads(&problem, 2, &one_group);
    h_compare(&plain, &one_group, "one group of all slots");
    h_free(&plain);
    h_free(&grouped);
    h_free(&one_group);
}
END_TEST

/* Every optimizer's way through the rounds, Adafactor's statistics too. */
START_TEST(optimizers_see_the_same_sums_on_every_world)
{
    static const char *const names[] = {"AdamW", "Adafactor", "AdamW8bit"};
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 2), _i == 2);
    problem.options.optimizer = names[_i];
    problem.n_steps = 2;
    problem.options.slots = 7;
    problem.options.reduce_group = 3;
    problem.options.clip_norm = 0.5;
    h_check_worlds(&problem, names[_i]);
}
END_TEST

static int bad_slot_of_step_2;

static float faulty_grad(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == bad_slot_of_step_2 && tensor == 5 && element == 4000)
        return INFINITY;
    return h_wide_grad(step, slot, tensor, element);
}

/* Each slot is finite, and two of them are not. */
static float large_grad(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    return step == 2 && tensor == 6 && element == 77 ? 3e38f
                                                     : h_wide_grad(step, 0, tensor, element);
}

START_TEST(a_bad_slot_is_named_wherever_its_group_is)
{
    h_problem problem;
    h_result got;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.slots = 7;
    problem.options.reduce_group = 3;
    problem.options.check_overflow = 1;
    problem.grad = faulty_grad;
    bad_slot_of_step_2 = 4 * _i + 2;
    h_check_worlds(&problem, "a bad slot");
    h_run_threads(&problem, 2, &got);
    ck_assert_int_eq(got.report[1].skipped, 1);
    ck_assert_int_eq(got.report[1].bad_tensor, 5);
    ck_assert_int_eq(got.report[1].bad_slot, bad_slot_of_step_2);
    ck_assert_int_eq(got.report[1].bad_rank, 0);
    h_free(&got);
}
END_TEST

START_TEST(an_overflow_of_a_groups_sum_skips_the_step)
{
    h_problem problem;
    h_result got;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.options.slots = 5;
    problem.options.reduce_group = 2;
    problem.options.check_overflow = 1;
    problem.grad = large_grad;
    h_check_worlds(&problem, "overflow of a sum");
    h_run_threads(&problem, 2, &got);
    ck_assert_int_eq(got.report[1].skipped, 1);
    ck_assert_int_eq(got.report[1].bad_tensor, 6);
    ck_assert_int_eq(got.report[1].bad_slot, -1);
    h_free(&got);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("groups of slots");
    TCase *tests = tcase_create("slot_group");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, every_world_sums_in_the_order_that_is_stated, 0,
                        N_SLOT_COUNTS * N_GROUPS);
    tcase_add_test(tests, groups_are_part_of_the_result);
    tcase_add_loop_test(tests, optimizers_see_the_same_sums_on_every_world, 0, 3);
    tcase_add_loop_test(tests, a_bad_slot_is_named_wherever_its_group_is, 0, 2);
    tcase_add_test(tests, an_overflow_of_a_groups_sum_skips_the_step);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
