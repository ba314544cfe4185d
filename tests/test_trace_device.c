/* Traces of steps on devices that are not the host, whose times are those of events: the same spans
 * in the same order, with and without a stream, and a graph's in one. Where there is no GPU the
 * shim's events have the time at which the host came to them. */
#include "on_devices.h"
#include "trace_run.h"

enum { N_STEPS = 6 };

static char path[64];

static const struct device_case {
    const char *name, *transport;
    int world, n_micro, graph, stream;
} cases[] = {
    {"alone", "self", 1, 1, 0, 0},
    {"alone, two micro-steps", "self", 1, 2, 0, 0},
    {"alone, a stream", "self", 1, 1, 0, 1},
    {"alone, a graph", "self", 1, 1, 1, 0},
    {"alone, a graph and a stream", "self", 1, 2, 1, 1},
    {"threads", "threads", 2, 1, 0, 0},
    {"threads, two micro-steps, a stream", "threads", 2, 2, 0, 1},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

typedef struct traced_run {
    const struct device_case *c;
    const zi_device_ops *device;
    trace_want want;
} traced_run;

static void run_traced(int rank, zopt_threads *threads, void *arg)
{
    traced_run *run = arg;
    const struct device_case *c = run->c;
    trace_want want;
    h_problem problem;
    zopt *z;
    trace_problem(&problem, c->world * c->n_micro);
    problem.options.device = run->device->name;
    problem.options.transport = c->transport;
    problem.options.cuda_graph = c->graph ? 1 : 0;
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    MUST(h_create(&problem, &problem.options, &z));
    if (c->stream)
        MUST(zopt_set_stream(z, NULL));
    trace_steps(&problem, z, path, N_STEPS, &want);
    if (rank == 0)
        run->want = want;
    zopt_destroy(z);
}

/* The first step of the trace is the second of all, from which on they are graphs. */
START_TEST(spans_have_their_order_on_a_device)
{
    const struct device_case *c = &cases[_i];
    for (size_t d = 0; d < zi_n_devices; d++) {
        traced_run run = {.c = c, .device = zi_devices[d]};
        if (run.device->on_host || !device_is_here(run.device))
            continue;
        trace_name(path);
        h_on_threads(c->world, run_traced, &run);
        ck_assert_int_ge(run.want.n_early, 5);
        run.want.has_parameters = c->graph ? -1 : 1;
        run.want.has_stream = c->stream;
        trace_check(path, &run.want);
        ck_assert_int_eq(remove(path), 0);
    }
}
END_TEST

static void begin_trace(zopt *z)
{
    MUST(zopt_trace(z, path, 2));
}

/* _i = 1: state with the host. */
START_TEST(no_bit_depends_on_a_trace_of_a_device)
{
    for (size_t d = 0; d < zi_n_devices; d++) {
        h_problem problem;
        h_result want, got;
        if (zi_devices[d]->on_host || !device_is_here(zi_devices[d]))
            continue;
        trace_problem(&problem, 4);
        trace_name(path);
        problem.options.device = zi_devices[d]->name;
        problem.options.offload_optimizer = _i == 1 ? "cpu" : "none";
        h_run_threads(&problem, 2, &want);
        problem.adjust = begin_trace;
        h_run_threads(&problem, 2, &got);
        h_compare(&want, &got, "traced");
        h_free(&want);
        h_free(&got);
        ck_assert_int_eq(remove(path), 0);
    }
}
END_TEST

static void count_memory(const h_problem *problem, const char *file, zopt_memory_usage usage[2])
{
    zopt *z;
    MUST(h_create(problem, &problem->options, &z));
    MUST(zopt_trace(z, file, N_STEPS));
    MUST(zopt_memory(z, &usage[0]));
    MUST(zopt_device_memory(z, &usage[1]));
    zopt_destroy(z);
}

START_TEST(memory_planned_is_memory_counted)
{
    for (size_t d = 0; d < zi_n_devices; d++) {
        h_problem problem;
        zopt_memory_usage real[2], planned[2];
        if (zi_devices[d]->on_host || !device_is_here(zi_devices[d]))
            continue;
        trace_problem(&problem, 1);
        trace_name(path);
        problem.options.transport = "self";
        problem.options.device = zi_devices[d]->name;
        count_memory(&problem, path, real);
        problem.options.plan_world = 1;
        count_memory(&problem, NULL, planned);
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < real[side].n; i++)
                ck_assert_uint_eq(real[side].category[i].peak_bytes,
                                  planned[side].category[i].peak_bytes);
            ck_assert_uint_eq(real[side].total_peak_bytes, planned[side].total_peak_bytes);
        }
        ck_assert_int_eq(remove(path), 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trace_device");
    TCase *tcase = tcase_create("trace_device");
    tcase_add_loop_test(tcase, spans_have_their_order_on_a_device, 0, N_CASES);
    tcase_add_loop_test(tcase, no_bit_depends_on_a_trace_of_a_device, 0, 2);
    tcase_add_test(tcase, memory_planned_is_memory_counted);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
