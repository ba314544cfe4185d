/* Checkpoints of any number of ranks: files that do not depend on it, loads at any other, and runs
 * that go on to the same bits, with every optimizer. */
#include <string.h>

#include "ckpt_runs.h"
#include "optimizer_cases.h"

/* ------------------------------------------------------------------ any number of ranks ------ */

START_TEST(files_and_what_follows_do_not_depend_on_ranks)
{
    static const int worlds[] = {1, 2, 3, 7};
    static const size_t buckets[] = {700, 4 << 20, 2000, 5000};
    h_problem problem;
    make_problem(&problem);
    job whole = {.problem = &problem, .dir = path_of("whole"), .save_every = 3, .last_step = 6};
    h_result want = result_of(&whole, 4);
    for (size_t i = 0; i < sizeof worlds / sizeof worlds[0]; i++) {
        char name[16], what[64], a[256], b[256];
        snprintf(name, sizeof name, "on%d", worlds[i]);
        problem.options.bucket_elems = buckets[i];
        snprintf(a, sizeof a, "%s/whole/step-00000003", root);
        job rest = {
            .problem = &problem, .load = a, .dir = path_of(name), .save_every = 3, .last_step = 6};
        h_result got = result_of(&rest, worlds[i]);
        snprintf(what, sizeof what, "resumed on %d ranks", worlds[i]);
        h_compare(&want, &got, what);
        h_free(&got);
        ck_assert_str_eq(rest.warnings, "");
        snprintf(a, sizeof a, "%s/whole/step-00000006", root);
        snprintf(b, sizeof b, "%s/%s/step-00000006", root, name);
        same_files(a, b);
    }
    h_free(&want);
}
END_TEST

START_TEST(files_are_equal_for_every_number_of_ranks)
{
    h_problem problem;
    make_problem(&problem);
    for (int n = 1; n <= 5; n++) {
        char a[256], b[256];
        snprintf(b, sizeof b, "%s/n%d", root, n);
        problem.options.bucket_elems = (size_t)n * 900;
        problem.options.async_save = n % 2;
        job j = {.problem = &problem, .dir = b, .save_every = 1, .last_step = 3};
        run_job(&j, n);
        for (int step = 1; step <= 3; step++) {
            snprintf(a, sizeof a, "%s/n1/step-%08d", root, step);
            snprintf(b, sizeof b, "%s/n%d/step-%08d", root, n, step);
            same_files(a, b);
        }
    }
}
END_TEST

/* Tensors of several pieces, and a piece of several tensors; in parts, too. */
START_TEST(large_tensors_go_piece_by_piece)
{
    h_problem problem = {.n_tensors = 3, .n_steps = 1, .lr = 1e-2};
    static const h_tensor tensors[] = {{"b", ZOPT_BF16, 1, {2200001}, 0},
                                       {"a", ZOPT_BF16, 2, {3, 1000}, 1},
                                       {"d", ZOPT_BF16, 1, {70000}, 0}};
    memcpy(problem.tensor, tensors, sizeof tensors);
    zopt_options_init(&problem.options);
    problem.options.slots = 3;
    char one[256];
    snprintf(one, sizeof one, "%s/one", root);
    job j = {.problem = &problem, .dir = one, .save_every = 1, .last_step = 1};
    h_result want = result_of(&j, 1);
    for (int n = 2; n <= 4; n++) {
        char dir[256], a[256], b[256];
        snprintf(dir, sizeof dir, "%s/on%d", root, n);
        snprintf(a, sizeof a, "%s/one/step-00000001", root);
        snprintf(b, sizeof b, "%s/on%d/step-00000001", root, n);
        problem.options.bucket_elems = 300000u * (unsigned)n;
        problem.options.async_save = n == 3;
        job save = {.problem = &problem, .dir = dir, .save_every = 1, .last_step = 1};
        run_job(&save, n);
        same_files(a, b);
        job load = {.problem = &problem, .load = a, .last_step = 1};
        h_result got = result_of(&load, n);
        h_compare(&want, &got, "large tensors");
        h_free(&got);
    }
    problem.options.part_bytes = 8 << 20;
    char parts[256], again[256];
    snprintf(parts, sizeof parts, "%s/parts", root);
    job save = {.problem = &problem, .dir = parts, .save_every = 1, .last_step = 1};
    run_job(&save, 2);
    snprintf(again, sizeof again, "%s/parts/step-00000001", root);
    ck_assert_int_eq(n_entries(again), 3 + 1 + 5 + 1);
    job load = {.problem = &problem, .load = parts, .last_step = 1};
    h_result got = result_of(&load, 3);
    h_compare(&want, &got, "parts");
    h_free(&got);
    h_free(&want);
}
END_TEST

/* ------------------------------------------------------------------ every optimizer ---------- */

/* Saved half way on 3 ranks, finished on 2. */
static void check_resumes(h_problem *problem, const char *name)
{
    char dir[256], step[256];
    snprintf(dir, sizeof dir, "%s/%s", root, name);
    snprintf(step, sizeof step, "%s/%s/step-00000002", root, name);
    problem->options.bucket_elems = 900;
    job whole = {.problem = problem, .dir = dir, .save_every = 2, .last_step = 4};
    h_result want = result_of(&whole, 3);
    problem->options.bucket_elems = 4 << 20;
    job rest = {.problem = problem, .load = step, .last_step = 4};
    h_result got = result_of(&rest, 2);
    h_compare(&want, &got, name);
    h_free(&got);
    h_free(&want);
}

/* Each step's a thousandth of the last one's, so that moments decay from where they stood. */
static float fading_grad(int step, int slot, int tensor, uint64_t element)
{
    float g = h_wide_grad(step, slot, tensor, element);
    for (int i = 1; i < step; i++)
        g /= 1024;
    return g;
}

START_TEST(every_optimizer_resumes)
{
    const optimizer_case *c = &optimizer_cases[_i];
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 1);
    case_use(c, &problem);
    check_resumes(&problem, c->name);
}
END_TEST

/* A last block of which most is padding: its codes are not in the file, and matter. */
START_TEST(blocks_that_end_in_padding_resume)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = "AdamW8bit";
    problem.tensor[6].shape[0] = 5 * 4096 + 3;
    problem.grad = fading_grad;
    check_resumes(&problem, "padding");
}
END_TEST

START_TEST(frozen_tensors_resume)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_BF16, 1);
    problem.group_setting[1][0] = (zopt_setting){"frozen", 1, NULL};
    check_resumes(&problem, "frozen");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt");
    TCase *tests = tcase_create("ckpt");
    suite_add_tcase(suite, tests);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, files_and_what_follows_do_not_depend_on_ranks);
    tcase_add_test(tests, files_are_equal_for_every_number_of_ranks);
    tcase_add_test(tests, large_tensors_go_piece_by_piece);
    tcase_add_loop_test(tests, every_optimizer_resumes, 0,
                        (int)(sizeof optimizer_cases / sizeof optimizer_cases[0]));
    tcase_add_test(tests, blocks_that_end_in_padding_resume);
    tcase_add_test(tests, frozen_tensors_resume);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
