/* What a step does to the host, on a CUDA runtime that counts: it waits for nothing, is launched as
 * a graph from the third on, goes on without where nothing can be recorded, and fails with CUDA's
 * words where the GPU does. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api_local.h"
#include "cuda_shim/shim.h"
#include "device/cuda_queue.h"
#include "harness.h"

enum { N_STEPS = 8 };

static void ok(zopt_status status)
{
    ck_assert_msg(status == ZOPT_OK, "%s", zopt_last_error());
}

static void heal(void)
{
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
    shim = shim_healthy;
}

static void make_problem(h_problem *problem, const char *optimizer)
{
    h_uneven(problem, ZOPT_BF16, 0);
    problem->options.device = "cuda";
    problem->options.transport = "self";
    problem->options.bucket_elems = 700;
    problem->options.clip_norm = 1;
    problem->options.slots = 2;
    problem->options.optimizer = optimizer;
}

/* A rule of elements, of blocks, of tensors. */
enum { N_OPTIMIZERS = 3 };
static const char *const optimizers[N_OPTIMIZERS] = {"AdamW", "AdamW8bit", "Adafactor"};

static void expect_path(zopt *z, const char *part)
{
    ck_assert_msg(strstr(zopt_step_path(z), part) != NULL, "'%s' is not in: %s", part,
                  zopt_step_path(z));
}

/* Gradients of a step, all of them ready. */
static void give_gradients(const h_problem *problem, zopt *z)
{
    for (int k = 0; k < zopt_micro_steps(z); k++) {
        for (int t = 0; t < problem->n_tensors; t++) {
            void *grad;
            ok(zopt_grad_acquire(z, t, &grad));
            ok(zopt_grad_ready(z, t));
        }
        ok(zopt_micro_end(z, 1));
    }
}

START_TEST(a_step_waits_for_nothing)
{
    h_problem problem;
    zopt_step_report report;
    zopt *z;
    make_problem(&problem, optimizers[_i]);
    ok(h_create(&problem, &problem.options, &z));
    for (int step = 1; step <= N_STEPS; step++) {
        give_gradients(&problem, z); /* acquiring waits for the step before: no stream is set */
        int n_waits = shim_n_waits();
        ok(zopt_step(z));
        zopt_status status = zopt_report(z, 0, &report);
        ck_assert_int_eq(shim_n_waits(), n_waits);
        ck_assert_int_eq(status, step == 1 ? ZOPT_ERR_ORDER : ZOPT_OK);
        ck_assert(step == 1 || report.step == (uint64_t)step - 1);
        ck_assert_uint_eq(zopt_steps(z), (uint64_t)step);
    }
    ok(zopt_report(z, 1, &report));
    ck_assert_uint_eq(report.step, N_STEPS);
    ck_assert_uint_eq(report.good_step, N_STEPS);
    zopt_destroy(z);
    heal();
}
END_TEST

/* Over a transport whose transfers have events: on a thread that is a world of its own. */
static zopt_threads *create_alone(h_problem *problem, zopt **z)
{
    zopt_threads *threads;
    make_problem(problem, "AdamW");
    ok(zopt_threads_create(1, &threads));
    problem->options.transport = "threads";
    problem->options.threads = threads;
    ok(h_create(problem, &problem->options, z));
    return threads;
}

START_TEST(the_first_parameters_are_there_while_later_ones_are_made)
{
    h_problem problem;
    const void *param;
    zopt *z;
    zopt_threads *threads = create_alone(&problem, &z);
    cudaStream_t stream = zi_zero_of(z)->queue->stream;
    give_gradients(&problem, z);
    ok(zopt_step(z));
    ok(zopt_param_acquire(z, 0, &param));
    ck_assert_int_eq(cudaStreamQuery(stream), cudaErrorNotReady);
    for (int t = 0; t < problem.n_tensors; t++)
        ok(zopt_param_acquire(z, t, &param));
    zopt_destroy(z);
    zopt_threads_destroy(threads);
    heal();
}
END_TEST

/* The same for a stream, which they let go on, and not for the host: all that the last ones need is
 * still to be done when the call returns. */
START_TEST(parameters_for_a_stream_are_ordered_and_not_waited_for)
{
    h_problem problem;
    const void *param;
    zopt *z;
    zopt_threads *threads = create_alone(&problem, &z);
    ok(zopt_set_stream(z, NULL));
    cudaStream_t stream = zi_zero_of(z)->queue->stream;
    for (int step = 0; step < 2; step++) {
        give_gradients(&problem, z);
        ok(zopt_step(z));
        int n_waits = shim_n_waits();
        for (int t = 0; t < problem.n_tensors; t++)
            ok(zopt_param_acquire(z, t, &param));
        ck_assert_int_eq(shim_n_waits(), n_waits);
        ck_assert_int_eq(cudaStreamQuery(stream), cudaErrorNotReady);
    }
    zopt_destroy(z);
    zopt_threads_destroy(threads);
    heal();
}
END_TEST

/* But for the step before the last, which zopt_step lets finish. */
START_TEST(with_a_stream_no_call_waits)
{
    h_problem problem;
    const void *param;
    zopt *z;
    make_problem(&problem, optimizers[_i]);
    ok(h_create(&problem, &problem.options, &z));
    ok(zopt_set_stream(z, NULL));
    for (int step = 1; step <= N_STEPS; step++) {
        int n_waits = shim_n_waits();
        give_gradients(&problem, z);
        ck_assert_int_eq(shim_n_waits(), n_waits);
        ok(zopt_step(z));
        ck_assert_int_le(shim_n_waits(), n_waits + 1);
        n_waits = shim_n_waits();
        for (int t = 0; t < problem.n_tensors; t++) {
            ok(zopt_param_acquire(z, t, &param));
            ok(zopt_param_release(z, t));
        }
        ck_assert_int_eq(shim_n_waits(), n_waits);
    }
    ok(zopt_set_stream(z, ZOPT_NO_STREAM));
    int n_waits = shim_n_waits();
    ok(zopt_param_acquire(z, 0, &param));
    ck_assert_int_eq(shim_n_waits(), n_waits + 1);
    zopt_destroy(z);
    heal();
}
END_TEST

/* And none of a trace: its times are read when they are there. */
START_TEST(a_trace_waits_for_nothing)
{
    char path[64] = "/tmp/zopt-trace-XXXXXX";
    h_problem problem;
    const void *param;
    zopt *z;
    int n_waits[2] = {0, 0}, fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    for (int traced = 0; traced < 2; traced++) {
        make_problem(&problem, "AdamW");
        problem.options.cuda_graph = _i;
        ok(h_create(&problem, &problem.options, &z));
        ok(zopt_set_stream(z, NULL));
        if (traced)
            ok(zopt_trace(z, path, 3));
        int n_before = shim_n_waits();
        for (int step = 1; step <= N_STEPS; step++) {
            give_gradients(&problem, z);
            ok(zopt_step(z));
            for (int t = 0; t < problem.n_tensors; t++) {
                ok(zopt_param_acquire(z, t, &param));
                ok(zopt_param_release(z, t));
            }
        }
        n_waits[traced] = shim_n_waits() - n_before;
        ck_assert_uint_eq(zi_zero_of(z)->overlap.n_steps, traced ? 3 : 0);
        ck_assert_ptr_null(zi_zero_of(z)->trace); /* ended in a step, without a wait too */
        zopt_destroy(z);
    }
    ck_assert_int_eq(n_waits[0], n_waits[1]);
    ck_assert_int_eq(remove(path), 0);
    heal();
}
END_TEST

/* _i: cuda_graph, for each optimizer. The first step launches kernels, the second records them. */
START_TEST(steps_are_launched_as_a_graph_from_the_second_on)
{
    h_problem problem;
    zopt *z;
    make_problem(&problem, optimizers[_i / 2]);
    problem.options.cuda_graph = _i % 2;
    ok(h_create(&problem, &problem.options, &z));
    expect_path(z,
                _i % 2 == 0 ? "not as a CUDA graph: cuda_graph is 0" : "replayed as a CUDA graph");
    int n_before = shim_n_graph_launches();
    for (int step = 1; step <= N_STEPS; step++) {
        ok(h_step(&problem, z, step));
        ck_assert_int_eq(shim_n_graph_launches() - n_before, _i % 2 == 0 ? 0 : step - 1);
    }
    zopt_destroy(z);
    heal();
}
END_TEST

static void count_memory(const h_problem *problem, const zopt_options *options,
                         zopt_memory_usage usage[2])
{
    zopt *z;
    ok(h_create(problem, options, &z));
    ok(zopt_memory(z, &usage[0]));
    ok(zopt_device_memory(z, &usage[1]));
    zopt_destroy(z);
}

/* What host and device tell each other of a step is in the plan too. */
START_TEST(memory_planned_is_memory_counted)
{
    h_problem problem;
    zopt_memory_usage real[2], planned[2];
    make_problem(&problem, optimizers[_i]);
    count_memory(&problem, &problem.options, real);
    problem.options.plan_world = 1;
    count_memory(&problem, &problem.options, planned);
    for (int side = 0; side < 2; side++) {
        ck_assert_int_eq(real[side].n, planned[side].n);
        for (int i = 0; i < real[side].n; i++)
            ck_assert_uint_eq(real[side].category[i].bytes, planned[side].category[i].bytes);
        ck_assert_uint_eq(real[side].total_peak_bytes, planned[side].total_peak_bytes);
    }
    heal();
}
END_TEST

/* _i = 1: it was asked for. */
START_TEST(what_cannot_be_recorded_runs_without_or_fails_if_that_was_asked_for)
{
    h_problem problem;
    h_result want, got;
    zopt *z;
    make_problem(&problem, "AdamW");
    problem.options.cuda_graph = _i == 1 ? 1 : -1;
    if (_i == 1) {
        ok(h_create(&problem, &problem.options, &z));
        ok(h_step(&problem, z, 1));
        shim.fail_capture = 1;
        ck_assert_int_eq(h_step(&problem, z, 2), ZOPT_ERR_FAILURE);
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), "cudaStreamEndCapture"));
        zopt_destroy(z);
        heal();
        return;
    }
    h_run_one(&problem, &problem.options, &want);
    shim.fail_capture = 1;
    h_run_one(&problem, &problem.options, &got);
    h_compare(&want, &got, "without a graph");
    h_free(&want);
    h_free(&got);
    ok(h_create(&problem, &problem.options, &z));
    for (int step = 1; step <= 2; step++)
        ok(h_step(&problem, z, step));
    expect_path(z, "not as a CUDA graph: GPU 0: cudaStreamEndCapture");
    zopt_destroy(z);
    heal();
}
END_TEST

/* _i: which launch breaks. The handle is not used again. */
START_TEST(a_gpu_that_breaks_is_told_by_the_report)
{
    h_problem problem;
    zopt_step_report report;
    zopt *z;
    make_problem(&problem, "AdamW");
    ok(h_create(&problem, &problem.options, &z));
    for (int step = 1; step <= 3; step++)
        ok(h_step(&problem, z, step));
    give_gradients(&problem, z);
    shim.fail_at_launch = _i;
    ok(zopt_step(z));
    ck_assert_int_eq(zopt_report(z, 1, &report), ZOPT_ERR_FAILURE);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "GPU 0"));
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "illegal memory access"));
    ck_assert_int_eq(zopt_save(z, "nowhere"), ZOPT_ERR_ORDER);
    zopt_destroy(z);
    heal();
}
END_TEST

/* Bytes of tables in the host's memory. */
static uint64_t host_tables(zopt *z)
{
    zopt_memory_usage all, on_device;
    ok(zopt_memory(z, &all));
    ok(zopt_device_memory(z, &on_device));
    for (int i = 0; i < all.n; i++)
        if (strcmp(all.category[i].name, "tables") == 0)
            return all.category[i].bytes - on_device.category[i].bytes;
    ck_abort_msg("no tables");
    return 0;
}

/* What the host keeps of each slot's loss, planned and real: on a GPU it has one, and two offered;
 * on the CPU its own, and all ranks'. */
START_TEST(losses_that_travel_enqueued_have_no_table_of_all_ranks)
{
    enum { MORE = 10000 };
    static const struct {
        const char *device;
        uint64_t bytes;
    } row[] = {{"cuda", 3 * sizeof(double)}, {"cpu", 2 * sizeof(double)}};
    uint64_t bytes[2];
    for (int planned = 0; planned < 2; planned++) {
        for (int more = 0; more < 2; more++) {
            h_problem problem;
            zopt *z;
            make_problem(&problem, "SGD");
            problem.options.device = row[_i].device;
            problem.options.slots = 2 + more * MORE;
            problem.options.plan_world = planned;
            ok(h_create(&problem, &problem.options, &z));
            bytes[more] = host_tables(z);
            zopt_destroy(z);
        }
        ck_assert_uint_eq(bytes[1] - bytes[0], MORE * row[_i].bytes);
    }
    heal();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_step");
    TCase *tcase = tcase_create("cuda_step");
    tcase_add_loop_test(tcase, a_step_waits_for_nothing, 0, N_OPTIMIZERS);
    tcase_add_test(tcase, the_first_parameters_are_there_while_later_ones_are_made);
    tcase_add_test(tcase, parameters_for_a_stream_are_ordered_and_not_waited_for);
    tcase_add_loop_test(tcase, with_a_stream_no_call_waits, 0, N_OPTIMIZERS);
    tcase_add_loop_test(tcase, a_trace_waits_for_nothing, 0, 2);
    tcase_add_loop_test(tcase, memory_planned_is_memory_counted, 0, N_OPTIMIZERS);
    tcase_add_loop_test(tcase, losses_that_travel_enqueued_have_no_table_of_all_ranks, 0, 2);
    tcase_add_loop_test(tcase, steps_are_launched_as_a_graph_from_the_second_on, 0,
                        2 * N_OPTIMIZERS);
    tcase_add_loop_test(tcase, what_cannot_be_recorded_runs_without_or_fails_if_that_was_asked_for,
                        0, 2);
    tcase_add_loop_test(tcase, a_gpu_that_breaks_is_told_by_the_report, 1, 4);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
