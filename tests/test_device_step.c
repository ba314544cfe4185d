/* Steps that a device decides, on every device that is not the CPU: the CPU's bits in weights,
 * states, parameters, reports and checkpoints, recorded as a graph and not; reports that come late.
 * device_streams.c: on a stream of the caller's. */
#include <math.h>
#include <string.h>

#include "device_step.h"
#include "optimizer_cases.h"

/* Overflows of one slot, of several in a row, and of a sum whose slots are finite (in FP32). */
static float trouble(int step, int slot, int tensor, uint64_t element)
{
    if ((step == 5 && slot == 1 && tensor == 1 && element == 32) ||
        ((step == 40 || step == 41) && tensor == 0 && element == 4000) ||
        (step == 41 && slot == 0 && tensor == 2) || (step == 77 && slot == 1 && tensor == 3))
        return step == 77 ? -INFINITY : NAN;
    if (step == 50 && tensor == 3 && element == 600)
        return 2e38f;
    return h_wide_grad(step, slot, tensor, element);
}

void make_small(h_problem *problem, zopt_dtype dtype, int n_steps)
{
    static const zopt_setting schedule[] = {{"total_num_steps", 120, NULL},
                                            {"warmup_num_steps", 5, NULL}};
    const h_tensor tensors[] = {{"matrix", dtype, 2, {70, 61}, 0},
                                {"n33", dtype, 1, {33}, 1},
                                {"scalar", ZOPT_FP32, 0, {0}, 0},
                                {"n700", dtype, 1, {700}, 1}};
    h_uneven(problem, dtype, 0);
    problem->n_tensors = 4;
    memcpy(problem->tensor, tensors, sizeof tensors);
    problem->n_steps = n_steps;
    problem->options.transport = "self";
    problem->options.schedule = "WarmupCosineLR";
    problem->options.schedule_settings = schedule;
    problem->options.n_schedule_settings = 2;
    problem->options.clip_norm = 1;
    problem->options.dynamic_loss_scale = 1;
    problem->options.loss_scale = 1024;
    problem->options.growth_interval = 7;
    problem->options.hysteresis = 2;
    problem->options.bucket_elems = 2048;
    problem->options.slots = 2;
    problem->grad = trouble;
}

/* No reference is made for nothing. */
static int none_is_here(void)
{
    FOR_DEVICES(device)
    return 0;
    return 1;
}

/* Recorded, where that is refused as it comes, and, if so asked, not recorded. */
static void compare(h_problem *problem, const char *name, int both)
{
    h_result want, got;
    char what[96];
    if (none_is_here())
        return;
    problem->options.device = "cpu";
    problem->options.cuda_graph = -1;
    h_run_one(problem, &problem->options, &want);
    FOR_DEVICES(device)
    {
        problem->options.device = device->name;
        for (int graph = 1; graph >= !both; graph--) {
            problem->options.cuda_graph = graph;
            h_run_one(problem, &problem->options, &got);
            snprintf(what, sizeof what, "%s on %s, cuda_graph %d", name, device->name, graph);
            h_compare(&want, &got, what);
            h_free(&got);
        }
    }
    h_free(&want);
}

/* _i: the case; dtypes in turn. */
START_TEST(a_hundred_steps_of_every_optimizer_are_the_cpus_bits)
{
    const optimizer_case *c = &optimizer_cases[_i];
    h_problem problem;
    make_small(&problem, (zopt_dtype)(_i % 3), 100);
    case_use(c, &problem);
    compare(&problem, c->name, _i % 4 == 0);
}
END_TEST

/* _i: how slots fall on groups and micro-steps; without clipping, where nothing is measured; then
 * the same for an optimizer that reads the sums once more. */
enum { N_SLOT_CASES = 5 };
START_TEST(slots_and_groups_of_slots_are_the_cpus_bits)
{
    const int i = _i % N_SLOT_CASES;
    static const struct {
        int slots, group, check;
    } cases[N_SLOT_CASES] = {{1, 1, -1}, {4, 2, -1}, {7, 3, -1}, {5, 1, 0}, {6, 3, 0}};
    h_problem problem;
    make_small(&problem, ZOPT_FP32, 60);
    case_use(&optimizer_cases[i], &problem);
    problem.options.optimizer = _i < N_SLOT_CASES ? "AdamW" : "Adafactor";
    problem.options.n_settings = 0;
    problem.options.slots = cases[i].slots;
    problem.options.reduce_group = cases[i].group;
    problem.options.check_overflow = cases[i].check;
    if (cases[i].check == 0) {
        problem.options.dynamic_loss_scale = 0;
        problem.options.clip_norm = 0;
        problem.grad = NULL;
    }
    compare(&problem, "slots", 1);
}
END_TEST

/* ---- reports, rates and errors that come late ---- */

/* A rate of the caller's own in every step, set while steps are under way. */
static void run_rates(h_problem *problem, int wait, h_result *result)
{
    zopt *z;
    memset(result, 0, sizeof *result);
    MUST(h_create(problem, &problem->options, &z));
    for (int step = 1; step <= problem->n_steps; step++) {
        zopt_step_report report;
        MUST(zopt_group_set_lr(z, step % 2, 0.01 / step));
        MUST(h_step(problem, z, step));
        zopt_status status = zopt_report(z, wait, &report);
        memset(report.phase_ms, 0, sizeof report.phase_ms);
        if (status != ZOPT_OK) /* the first may not have finished */
            ck_assert(status == ZOPT_ERR_ORDER && step <= 2 && !wait);
        else
            result->report[report.step - 1] = report;
        ck_assert(status != ZOPT_OK || (report.step <= (uint64_t)step &&
                                        report.step + 2 >= (uint64_t)step + 2U * (wait != 0)));
    }
    zopt_step_report last;
    MUST(zopt_report(z, 1, &last));
    ck_assert_int_eq((int)last.step, problem->n_steps);
    memset(last.phase_ms, 0, sizeof last.phase_ms);
    result->report[last.step - 1] = last;
    h_collect(problem, z, result);
    zopt_destroy(z);
}

START_TEST(late_reports_and_rates_set_meanwhile_are_the_cpus)
{
    h_problem problem;
    h_result want, got;
    make_small(&problem, ZOPT_BF16, 60);
    problem.options.optimizer = _i == 0 ? "AdamW" : "Adafactor";
    problem.options.device = "cpu";
    run_rates(&problem, 1, &want);
    FOR_DEVICES(device)
    {
        problem.options.device = device->name;
        run_rates(&problem, 0, &got);
        for (int i = 0; i < problem.n_steps; i++) /* those that nobody asked for in time */
            if (got.report[i].step == 0)
                got.report[i] = want.report[i];
        h_compare(&want, &got, "late reports");
        h_free(&got);
    }
    h_free(&want);
}
END_TEST

static float never_finite(int step, int slot, int tensor, uint64_t element)
{
    return step >= 3 && slot == 1 && tensor == 1 && element == 7
               ? NAN
               : h_wide_grad(step, slot, tensor, element);
}

/* _i = 0: the next steps tell; 1: a report that is waited for. */
START_TEST(giving_up_is_told_once_and_at_most_two_steps_late)
{
    h_problem problem;
    make_small(&problem, ZOPT_BF16, 8);
    problem.options.dynamic_loss_scale = 0;
    problem.options.check_overflow = 1;
    problem.options.max_consecutive_skips = 2;
    problem.grad = never_finite;
    FOR_DEVICES(device)
    {
        zopt *z;
        zopt_step_report report;
        int told_in = 0;
        problem.options.device = device->name;
        MUST(h_create(&problem, &problem.options, &z));
        for (int step = 1; told_in == 0; step++) { /* the fourth is the second that is skipped */
            zopt_status status = h_step(&problem, z, step);
            if (status == ZOPT_OK && _i == 1)
                status = zopt_report(z, 1, &report);
            ck_assert(status == ZOPT_OK || status == ZOPT_ERR_NUMERICS);
            told_in = status == ZOPT_OK ? 0 : step;
        }
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), "step 4: gradients not finite in 2 steps"));
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), "first in 'n33', slot 1 (rank 0)"));
        ck_assert(told_in >= 4 && told_in <= (_i == 1 ? 4 : 6));
        if (_i == 1) {
            ck_assert_uint_eq(report.step, 4);
            ck_assert_int_eq(zopt_report(z, 1, &report), ZOPT_OK);
        }
        zopt_destroy(z);
    }
}
END_TEST

/* ---- checkpoints ---- */

static void save_run(h_problem *problem, const char *device, const char *load, const char *dir,
                     int last_step)
{
    zopt *z;
    problem->options.device = device;
    MUST(h_create(problem, &problem->options, &z));
    if (load != NULL)
        MUST(zopt_load(z, load));
    for (int step = (int)zopt_steps(z) + 1; step <= last_step; step++)
        MUST(h_step(problem, z, step));
    MUST(zopt_save(z, dir)); /* while steps are under way */
    zopt_destroy(z);
}

START_TEST(checkpoints_are_the_cpus_byte_for_byte)
{
    static const char *const names[] = {"AdamW", "AdamW8bit", "Adafactor"};
    h_problem problem;
    char cpu[128], there[128], at[2][256];
    make_small(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = names[_i];
    FOR_DEVICES(device)
    {
        snprintf(cpu, sizeof cpu, "%s/cpu", root);
        snprintf(there, sizeof there, "%s/%s", root, device->name);
        save_run(&problem, "cpu", NULL, cpu, 6);
        save_run(&problem, device->name, NULL, there, 6);
        snprintf(at[0], sizeof at[0], "%s/step-00000006", cpu);
        snprintf(at[1], sizeof at[1], "%s/step-00000006", there);
        same_files(at[0], at[1]);
        save_run(&problem, "cpu", at[1], cpu, 43);
        save_run(&problem, device->name, at[0], there, 43);
        snprintf(at[0], sizeof at[0], "%s/step-00000043", cpu);
        snprintf(at[1], sizeof at[1], "%s/step-00000043", there);
        same_files(at[0], at[1]);
    }
}
END_TEST

/* ---- refusals ---- */

static void expect_text(const char *text, const char *part)
{
    ck_assert_msg(strstr(text, part) != NULL, "'%s' is not in: %s", part, text);
}

START_TEST(what_steps_cannot_do_is_told_and_refused_where_it_was_asked_for)
{
    static const struct {
        const char *transport, *optimizer, *why;
    } cases[] = {{"threads", "Adafactor", "its transport sums on the host"},
                 {"threads", "AdamW", "its transport sums on the host"}};
    h_problem problem;
    zopt *z;
    make_small(&problem, ZOPT_BF16, 0);
    problem.options.device = "cpu";
    MUST(h_create(&problem, &problem.options, &z));
    ck_assert_int_eq(zopt_set_stream(z, NULL), ZOPT_ERR_UNSUPPORTED);
    expect_text(zopt_last_error(), "device cpu has no streams");
    ck_assert_int_eq(zopt_set_stream(z, ZOPT_NO_STREAM), ZOPT_OK);
    expect_text(zopt_step_path(z), "waits for its sums: its device is the host");
    zopt_destroy(z);
    problem.options.cuda_graph = 1;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_ERR_UNSUPPORTED);
    expect_text(zopt_last_error(), "cuda_graph = 1");
    FOR_DEVICES(device)
    {
        problem.options.device = device->name;
        MUST(zopt_threads_create(1, &problem.options.threads));
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            problem.options.transport = cases[i].transport;
            problem.options.optimizer = cases[i].optimizer;
            problem.options.cuda_graph = 1;
            ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_ERR_UNSUPPORTED);
            expect_text(zopt_last_error(), cases[i].why);
            problem.options.cuda_graph = -1;
            MUST(h_create(&problem, &problem.options, &z));
            expect_text(zopt_step_path(z), cases[i].why);
            zopt_destroy(z);
        }
        zopt_threads_destroy(problem.options.threads);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_step");
    TCase *tcase = tcase_create("device_step");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_loop_test(tcase, a_hundred_steps_of_every_optimizer_are_the_cpus_bits, 0,
                        N_OPTIMIZER_CASES);
    tcase_add_loop_test(tcase, slots_and_groups_of_slots_are_the_cpus_bits, 0, 2 * N_SLOT_CASES);
    tcase_add_loop_test(tcase, late_reports_and_rates_set_meanwhile_are_the_cpus, 0, 2);
    tcase_add_loop_test(tcase, giving_up_is_told_once_and_at_most_two_steps_late, 0, 2);
    tcase_add_loop_test(tcase, checkpoints_are_the_cpus_byte_for_byte, 0, 3);
    add_streams(tcase);
    tcase_add_test(tcase, what_steps_cannot_do_is_told_and_refused_where_it_was_asked_for);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
