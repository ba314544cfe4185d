/* Steps that a device decides, on every device that is not the CPU: the CPU's bits in weights,
 * states, parameters, reports and checkpoints, recorded as a graph and not; reports that come late;
 * gradients and parameters on a stream of the caller's. */
#include <math.h>
#include <string.h>

#include "on_devices.h" /* whose rules have names that ckpt_runs.h makes global */

#include "ckpt_runs.h"
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

/* Two groups, a schedule, clipping, a scale that moves, and 2 slots on the one rank. */
static void make_small(h_problem *problem, zopt_dtype dtype, int n_steps)
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

static void use_case(h_problem *problem, const optimizer_case *c)
{
    problem->lr = c->lr;
    problem->weight_decay[0] = c->weight_decay;
    problem->options.optimizer = c->optimizer;
    problem->options.settings = c->setting;
    problem->options.n_settings = case_n_settings(c);
}

/* Every row of the table of devices that is here and is not the host. */
#define FOR_DEVICES(device)                               \
    for (size_t d = 0; d < zi_n_devices; d++)             \
        for (const zi_device_ops *device = zi_devices[d]; \
             device != NULL && !device->on_host && device_is_here(device); device = NULL)

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
    use_case(&problem, c);
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
    use_case(&problem, &optimizer_cases[i]);
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

/* ---- the caller's streams ---- */

enum { N_STREAM_STEPS = 10, N_STREAM_SLOTS = 2 };

/* What the caller enqueues: copies on two streams in turn, from and to page-locked memory. */
typedef struct caller {
    const h_problem *problem;
    const zi_device_ops *device; /* NULL: the CPU, and copies by zopt_copy */
    zopt *z;
    zi_mem mem;
    zi_queue *own, *stream[2];
    int n_streams;
    char *from, *to; /* what gradients come from, and parameters go to, of all steps */
    size_t step_bytes;
} caller;

/* The legacy default stream, and that of the thread, by CUDA's own numbers. */
static void *const streams[2] = {NULL, (void *)2};

static void move(const caller *c, int on, void *dst, const void *src, size_t bytes)
{
    if (c->device != NULL)
        c->device->copy(c->stream[on], dst, src, bytes);
    else
        MUST(zopt_copy(c->z, dst, src, bytes));
}

/* Odd tensors on the other stream, if there are two: which one it is. */
static int use_stream(const caller *c, int tensor)
{
    int on = c->n_streams == 2 ? tensor % 2 : 0;
    if (c->device != NULL && (c->n_streams == 2 || tensor == 0))
        MUST(zopt_set_stream(c->z, streams[on]));
    return on;
}

static void give_slot(caller *c, int step, int slot)
{
    const h_problem *p = c->problem;
    size_t at = ((size_t)step * N_STREAM_SLOTS + (size_t)slot) * c->step_bytes;
    for (int t = 0; t < p->n_tensors; t++) {
        uint64_t n = h_elems(&p->tensor[t]);
        size_t bytes = n * zopt_dtype_bytes(p->tensor[t].dtype);
        void *grad;
        for (uint64_t e = 0; e < n; e++) {
            float g = p->grad(step + 1, slot, t, e);
            MUST(zopt_convert(c->from + at + e * zopt_dtype_bytes(p->tensor[t].dtype),
                              p->tensor[t].dtype, &g, ZOPT_FP32, 1));
        }
        int on = use_stream(c, t);
        MUST(zopt_grad_acquire(c->z, t, &grad));
        move(c, on, grad, c->from + at, bytes);
        MUST(zopt_grad_ready(c->z, t));
        at += bytes;
    }
}

static void take_params(caller *c, int step)
{
    const h_problem *p = c->problem;
    size_t at = (size_t)step * c->step_bytes;
    for (int t = 0; t < p->n_tensors; t++) {
        size_t bytes = h_elems(&p->tensor[t]) * zopt_dtype_bytes(p->tensor[t].dtype);
        const void *param;
        int on = use_stream(c, t);
        MUST(zopt_param_acquire(c->z, t, &param));
        move(c, on, c->to + at, param, bytes);
        MUST(zopt_param_release(c->z, t));
        at += bytes;
    }
}

static void open_caller(caller *c, const h_problem *problem, const zi_device_ops *device)
{
    *c = (caller){.problem = problem, .device = device};
    for (int t = 0; t < problem->n_tensors; t++)
        c->step_bytes += h_elems(&problem->tensor[t]) * zopt_dtype_bytes(problem->tensor[t].dtype);
    size_t to = N_STREAM_STEPS * c->step_bytes, from = N_STREAM_SLOTS * to;
    if (device == NULL) {
        c->from = calloc(from, 1);
        c->to = calloc(to, 1);
        ck_assert(c->from != NULL && c->to != NULL);
        return;
    }
    MUST(device->open(0, &c->own));
    MUST(device->adopt(c->own, streams[0], &c->stream[0]));
    MUST(device->adopt(c->own, streams[1], &c->stream[1]));
    MUST(device->alloc_host(c->own, &c->mem, ZI_MEM_STAGING, from, &c->from));
    MUST(device->alloc_host(c->own, &c->mem, ZI_MEM_STAGING, to, &c->to));
}

static void close_caller(caller *c)
{
    size_t to = N_STREAM_STEPS * c->step_bytes;
    if (c->device == NULL) {
        free(c->from);
        free(c->to);
        return;
    }
    c->device->free_host(c->own, &c->mem, ZI_MEM_STAGING, c->from, N_STREAM_SLOTS * to);
    c->device->free_host(c->own, &c->mem, ZI_MEM_STAGING, c->to, to);
    c->device->close(c->stream[0]);
    c->device->close(c->stream[1]);
    c->device->close(c->own);
}

/* is_late: parameters are read at the last moment before the next step; ours_first: what is on the
 * library's queue is waited for before what is on the caller's. */
static void run_caller(caller *c, int is_late, int ours_first)
{
    zopt_step_report report;
    MUST(h_create(c->problem, &c->problem->options, &c->z));
    for (int step = 0; step < N_STREAM_STEPS; step++) {
        for (int slot = 0; slot < N_STREAM_SLOTS; slot++) {
            give_slot(c, step, slot);
            MUST(zopt_micro_end(c->z, 0));
        }
        if (is_late && step > 0)
            take_params(c, step - 1);
        MUST(zopt_step(c->z));
        if (ours_first)
            MUST(zopt_report(c->z, 1, &report));
        if (!is_late || step == N_STREAM_STEPS - 1)
            take_params(c, step);
    }
    for (int i = 0; i < 2 && c->device != NULL; i++)
        MUST(c->device->wait(c->stream[i]));
    zopt_destroy(c->z);
}

/* _i: each of two streams or one, ours first or not, and steps that wait or do not. */
START_TEST(work_on_the_callers_streams_is_ordered_by_events)
{
    h_problem problem;
    caller want, got;
    make_small(&problem, ZOPT_BF16, 0);
    problem.options.dynamic_loss_scale = 0;
    problem.options.loss_scale = 1;
    problem.options.check_overflow = 1;
    problem.options.slots = N_STREAM_SLOTS;
    problem.options.device = "cpu";
    open_caller(&want, &problem, NULL);
    run_caller(&want, 0, 0);
    FOR_DEVICES(device)
    {
        problem.options.device = device->name;
        problem.options.transport = _i < 4 ? "self" : "threads";
        problem.options.cuda_graph = _i < 4 ? 1 : -1;
        if (_i >= 4) /* whose steps wait */
            MUST(zopt_threads_create(1, &problem.options.threads));
        open_caller(&got, &problem, device);
        got.n_streams = 1 + _i / 2 % 2;
        run_caller(&got, got.n_streams == 1, _i % 2);
        ck_assert_int_eq(memcmp(want.to, got.to, N_STREAM_STEPS * want.step_bytes), 0);
        close_caller(&got);
        zopt_threads_destroy(problem.options.threads);
    }
    close_caller(&want);
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
    tcase_add_loop_test(tcase, work_on_the_callers_streams_is_ordered_by_events, 0, 8);
    tcase_add_test(tcase, what_steps_cannot_do_is_told_and_refused_where_it_was_asked_for);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
