/* The calls for checkpoints: refusals that name everything that is wrong, and what a handle does
 * after them. Next: ckpt_without_handle.c, ckpt_slow_disk.c. */
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "ckpt_calls.h"

/* ------------------------------------------------------------------ refusals ----------------- */

static int count(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)) != NULL; text++)
        n++;
    return n;
}

void make_first(h_problem *problem, char path[256])
{
    h_uneven(problem, ZOPT_FP32, 0);
    snprintf(path, 256, "%s/first", root);
    job first = {.problem = problem, .dir = path, .save_every = 1, .last_step = 1};
    run_job(&first, 2);
}

START_TEST(other_tensors_are_refused_and_all_are_told)
{
    h_problem problem;
    char path[256];
    make_first(&problem, path);
    problem.options.force_config = _i;
    problem.tensor[2].name = "renamed";
    problem.tensor[4].shape[0] = 258;
    job load = {.problem = &problem, .load = path};
    run_job(&load, 3);
    ck_assert_int_eq(load.load_status, ZOPT_ERR_DATA);
    ck_assert_msg(strstr(load.error, "9 tensors are not this run's") != NULL, "%s", load.error);
    /* Each in the model and in two states. */
    ck_assert_int_eq(count(load.warnings, "n255' F32 [255] is not one of this run's"), 3);
    ck_assert_int_eq(count(load.warnings, "renamed' F32 [255] is missing"), 3);
    ck_assert_int_eq(count(load.warnings, "n257' is F32 [257], and F32 [258] in this run"), 3);
}
END_TEST

START_TEST(other_settings_are_refused_unless_forced)
{
    h_problem problem;
    char path[256];
    make_first(&problem, path);
    problem.lr *= 2;
    problem.options.clip_norm = 3;
    job load = {.problem = &problem, .load = path, .last_step = 1};
    run_job(&load, 2);
    ck_assert_int_eq(load.load_status, ZOPT_ERR_CONFIG);
    ck_assert_int_eq(count(load.warnings, "\n"), 3);
    ck_assert_int_eq(count(load.warnings, "clip_norm: 0 in the checkpoint, 3 in this run"), 1);
    ck_assert_int_eq(count(load.warnings, "group.1.lr: "), 1);
    problem.options.force_config = 1;
    run_job(&load, 2);
    ck_assert_int_eq(load.load_status, ZOPT_OK);
    ck_assert_int_eq(count(load.warnings, "\n"), 3);
}
END_TEST

START_TEST(other_groups_of_slots_are_refused_unless_forced)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.options.reduce_group = 2;
    job first = {.problem = &problem, .dir = path_of("grouped"), .save_every = 1, .last_step = 1};
    run_job(&first, 2);
    job load = {.problem = &problem, .load = path_of("grouped"), .last_step = 1};
    run_job(&load, 3);
    ck_assert_int_eq(load.load_status, ZOPT_OK);
    for (int group = 1; group <= 3; group += 2) {
        problem.options.reduce_group = group;
        problem.options.force_config = 0;
        run_job(&load, 2);
        ck_assert_int_eq(load.load_status, ZOPT_ERR_CONFIG);
        ck_assert_int_eq(count(load.warnings, "reduce_group: 2 in the checkpoint"), 1);
        problem.options.force_config = 1;
        run_job(&load, 2);
        ck_assert_int_eq(load.load_status, ZOPT_OK);
    }
}
END_TEST

START_TEST(nothing_to_load_is_told_from_a_fresh_start)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP32, 0);
    job load = {.problem = &problem, .load = path_of("nowhere")};
    run_job(&load, 2);
    ck_assert_int_eq(load.load_status, ZOPT_ERR_READ);
    load.load = root;
    run_job(&load, 2);
    ck_assert_int_eq(load.load_status, ZOPT_ERR_READ);
    ck_assert_msg(strstr(load.error, "there is no checkpoint") != NULL, "%s", load.error);
    job fresh = {.problem = &problem, .dir = path_of("new"), .resume = 1, .last_step = 1};
    run_job(&fresh, 2);
    ck_assert_int_eq(fresh.load_status, ZOPT_OK);
}
END_TEST

/* ------------------------------------------------------------------ one handle --------------- */

void expect(zopt_status got, zopt_status want, const char *text)
{
    ck_assert_msg(got == want, "status %d, not %d: %s", got, want, zopt_last_error());
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
}

/* A failed save changes nothing, and another can follow. */
START_TEST(a_handle_outlives_failed_saves)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    h_result want, got = {0};
    h_run_one(&problem, &problem.options, &want);
    zopt *z;
    MUST(h_create(&problem, &problem.options, &z));
    for (int step = 1; step <= problem.n_steps; step++) {
        expect(zopt_save(z, "nowhere/at/all"), ZOPT_ERR_WRITE, "No such file");
        MUST(h_step(&problem, z, step));
        MUST(zopt_save(z, path_of("dir")));
    }
    MUST(zopt_memory(z, &got.memory));
    h_collect(&problem, z, &got);
    memset(want.report, 0, sizeof want.report);
    h_compare(&want, &got, "with failed saves");
    zopt_destroy(z);
    h_free(&want);
    h_free(&got);
}
END_TEST

typedef struct full_disk {
    int async;
    char left[256]; /* what a rank found behind a failed save */
} full_disk;

static void save_too_much(int rank, zopt_threads *threads, void *arg)
{
    full_disk *f = arg;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    problem.options.async_save = f->async;
    MUST(h_create(&problem, &problem.options, &z));
    for (int i = 0; i < 50; i++) {
        zopt_status status = zopt_save(z, root);
        expect(status == ZOPT_OK ? zopt_save_wait(z) : status, ZOPT_ERR_WRITE, "File too large");
        if (access(path_of("step-00000000.tmp"), F_OK) == 0)
            snprintf(f->left, sizeof f->left, "rank %d, save %d", rank, i);
    }
    zopt_destroy(z);
}

/* Where a rank ends for it, a launcher ends the others, and with them the one that removes files.
 */
START_TEST(no_rank_returns_before_a_failed_save_has_removed_its_files)
{
    full_disk f = {.async = _i};
    struct rlimit before;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 16, before.rlim_max}), 0);
    h_on_threads(3, save_too_much, &f);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    ck_assert_str_eq(f.left, "");
}
END_TEST

START_TEST(calls_at_the_wrong_time_are_refused)
{
    h_problem problem;
    const char *value;
    void *grad;
    int resumed;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.slots = 1;
    MUST(zopt_create(&problem.options, &z));
    expect(zopt_save(z, root), ZOPT_ERR_ORDER, "before zopt_commit");
    expect(zopt_note(z, "a", "b"), ZOPT_ERR_ORDER, "before zopt_commit");
    zopt_destroy(z);
    MUST(h_create(&problem, &problem.options, &z));
    expect(zopt_note(z, "", "b"), ZOPT_ERR_ARGUMENT, "empty or too long");
    expect(zopt_note(z, "a", "\xff"), ZOPT_ERR_ARGUMENT, "not UTF-8");
    MUST(zopt_noted(z, "a", &value));
    ck_assert_ptr_eq(value, NULL);
    MUST(zopt_grad_acquire(z, 9, &grad));
    MUST(zopt_micro_end(z, 0));
    expect(zopt_save(z, root), ZOPT_ERR_ORDER, "in the middle of a step");
    expect(zopt_load(z, root), ZOPT_ERR_ORDER, "in the middle of a step");
    expect(zopt_resume(z, root, &resumed), ZOPT_ERR_ORDER, "in the middle of a step");
    zopt_destroy(z);
}
END_TEST

/* What is loaded is what was saved, notes and loss scale too; then back to an earlier one. */
START_TEST(loads_bring_back_where_the_run_stood)
{
    h_problem problem;
    const char *value;
    const float *scale;
    zopt_step_report report;
    char path[256];
    zopt *z;
    make_problem(&problem);
    problem.options.transport = "self";
    MUST(h_create(&problem, &problem.options, &z));
    MUST(zopt_loss_scale(z, &scale));
    for (int step = 1; step <= 5; step++) {
        char text[32];
        MUST(h_step(&problem, z, step));
        snprintf(text, sizeof text, "\"%d\" of \xc3\xa4", step);
        MUST(zopt_note(z, "place", text));
        MUST(zopt_save(z, path_of("dir")));
    }
    float last = *scale;
    snprintf(path, sizeof path, "%s/dir/step-00000002/", root);
    MUST(zopt_load(z, path));
    ck_assert_uint_eq(zopt_steps(z), 2);
    ck_assert(*scale != last);
    MUST(zopt_noted(z, "place", &value));
    ck_assert_str_eq(value, "\"2\" of \xc3\xa4");
    expect(zopt_report(z, 1, &report), ZOPT_ERR_ORDER, "before the first");
    for (int step = 3; step <= 5; step++)
        MUST(h_step(&problem, z, step));
    ck_assert(*scale == last);
    zopt_destroy(z);
}
END_TEST

typedef struct counted {
    h_problem problem;
    zopt_memory_usage usage[5];
} counted;

/* All that takes memory behind zopt_commit, one after the other and on top of each other. */
static void use_checkpoints(int rank, zopt_threads *threads, void *arg)
{
    counted *c = arg;
    zopt_options options = c->problem.options;
    zopt *z;
    options.threads = threads;
    options.threads_rank = rank;
    MUST(h_create(&c->problem, &options, &z));
    MUST(h_step(&c->problem, z, 1));
    MUST(zopt_save(z, path_of("dir")));
    MUST(zopt_export(z, path_of("32")));
    MUST(zopt_export_params(z, path_of("16")));
    MUST(zopt_load(z, path_of("dir")));
    MUST(zopt_save(z, path_of("dir")));
    MUST(zopt_memory(z, &c->usage[rank]));
    zopt_destroy(z);
}

START_TEST(saves_exports_and_loads_take_what_a_plan_says)
{
    static const int worlds[] = {1, 2, 5};
    counted c;
    zopt *z;
    int world = worlds[_i / 2];
    h_uneven(&c.problem, ZOPT_FP16, 1);
    c.problem.options.async_save = _i % 2;
    FILE *taken = fopen(path_of("32.tmp"), "w"); /* so that ranks need another name */
    ck_assert(taken != NULL && fclose(taken) == 0);
    h_on_threads(world, use_checkpoints, &c);
    c.problem.options.transport = "threads";
    c.problem.options.plan_world = world;
    for (int rank = 0; rank < world; rank++) {
        zopt_memory_usage plan;
        c.problem.options.plan_rank = rank;
        MUST(h_create(&c.problem, &c.problem.options, &z));
        MUST(zopt_memory(z, &plan));
        zopt_destroy(z);
        for (int i = 0; i < plan.n; i++)
            ck_assert_msg(plan.category[i].peak_bytes == c.usage[rank].category[i].peak_bytes,
                          "rank %d of %d, %s: planned %llu, counted %llu", rank, world,
                          plan.category[i].name, (unsigned long long)plan.category[i].peak_bytes,
                          (unsigned long long)c.usage[rank].category[i].peak_bytes);
        ck_assert_uint_eq(plan.total_peak_bytes, c.usage[rank].total_peak_bytes);
    }
}
END_TEST

static void load_whole(int rank, zopt_threads *threads, void *arg)
{
    counted *c = arg;
    zopt_options options = c->problem.options;
    zopt *z;
    options.threads = threads;
    options.threads_rank = rank;
    MUST(h_create(&c->problem, &options, &z));
    MUST(zopt_load(z, path_of("whole")));
    MUST(zopt_memory(z, &c->usage[rank]));
    zopt_destroy(z);
}

/* Pieces are longer then than those of the handle's own checkpoints. */
START_TEST(loads_of_other_parts_take_what_a_plan_says)
{
    counted c;
    zopt *z;
    zopt_memory_usage plan;
    int world = _i + 1;
    h_uneven(&c.problem, ZOPT_FP16, 1);
    job first = {.problem = &c.problem, .dir = path_of("whole"), .save_every = 1, .last_step = 1};
    run_job(&first, 2);
    c.problem.options.part_bytes = 1;
    h_on_threads(world, load_whole, &c);
    c.problem.options.transport = "threads";
    c.problem.options.plan_world = world;
    c.problem.options.plan_rank = 0;
    MUST(h_create(&c.problem, &c.problem.options, &z));
    MUST(zopt_memory(z, &plan));
    zopt_destroy(z);
    ck_assert_uint_eq(plan.total_peak_bytes, c.usage[0].total_peak_bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_calls");
    TCase *tests = tcase_create("ckpt_calls");
    suite_add_tcase(suite, tests);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, other_tensors_are_refused_and_all_are_told, 0, 2);
    tcase_add_test(tests, other_settings_are_refused_unless_forced);
    tcase_add_test(tests, other_groups_of_slots_are_refused_unless_forced);
    tcase_add_test(tests, nothing_to_load_is_told_from_a_fresh_start);
    tcase_add_test(tests, a_handle_outlives_failed_saves);
    tcase_add_loop_test(tests, no_rank_returns_before_a_failed_save_has_removed_its_files, 0, 2);
    tcase_add_test(tests, calls_at_the_wrong_time_are_refused);
    tcase_add_loop_test(tests, saves_exports_and_loads_take_what_a_plan_says, 0, 6);
    tcase_add_test(tests, loads_bring_back_where_the_run_stood);
    tcase_add_loop_test(tests, loads_of_other_parts_take_what_a_plan_says, 0, 3);
    add_without_handle(tests);
    add_slow_disk(tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
