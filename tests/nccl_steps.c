/* Transport nccl: what a step does to the host. It is replayed as a graph, on all ranks or none;
 * its ranks do not meet over MPI, and hear late, together, of a step that they did not take alike.
 */
#include <math.h>

#include "nccl_runs.h"
#include "trace_run.h"

/* _i: transport. Steps are graphs from the second on, with gathers and sums in them, and give the
 * bits of those that are enqueued one by one. */
START_TEST(steps_are_replayed_to_the_same_bits)
{
    h_result want, got;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    on_nccl(&problem, _i == 0 ? "nccl" : "nccl-native");
    problem.options.bucket_elems = 700;
    problem.options.slots = 2 * job_world;
    problem.options.cuda_graph = 0;
    h_run_one(&problem, &problem.options, &want);
    problem.options.cuda_graph = 1;
    h_run_one(&problem, &problem.options, &got);
    h_compare(&want, &got, "replayed");
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_ptr_nonnull(strstr(zopt_step_path(z), "replayed as a CUDA graph"));
    int n_before = shim_n_graph_launches();
    for (int step = 1; step <= 4; step++) {
        ck_assert_int_eq(h_step(&problem, z, step), ZOPT_OK);
        ck_assert_int_eq(shim_n_graph_launches() - n_before, step - 1);
    }
    zopt_destroy(z);
    h_free(&got);
    h_free(&want);
}
END_TEST

/* _i: whether steps are graphs. Gathers end on a stream that no step waits for. */
START_TEST(a_trace_has_the_spans_of_a_step)
{
    char path[64];
    h_problem problem;
    trace_want want;
    zopt *z;
    if (job_rank == 0)
        trace_name(path);
    MPI_Bcast(path, sizeof path, MPI_CHAR, 0, MPI_COMM_WORLD);
    trace_problem(&problem, 2 * job_world);
    on_nccl(&problem, "nccl");
    problem.options.cuda_graph = _i;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    trace_steps(&problem, z, path, 5, &want);
    zopt_destroy(z);
    MPI_Barrier(MPI_COMM_WORLD);
    ck_assert_int_ge(want.n_early, 5);
    want.has_parameters = _i == 1 ? -1 : 1;
    if (job_rank > 0)
        return;
    trace_check(path, &want);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

/* One rank fails to record: none replays, and the bits are the same. _i = 1: it was asked for. */
START_TEST(what_one_rank_cannot_record_no_rank_replays)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    on_nccl(&problem, "nccl");
    problem.options.slots = job_world;
    problem.options.cuda_graph = _i == 1 ? 1 : -1;
    int n_before = shim_n_graph_launches(), n_aborted = nccl_shim.n_aborted;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_eq(h_step(&problem, z, 1), ZOPT_OK);
    shim.fail_capture = job_rank == job_world - 1;
    for (int step = 2; step <= 3 - _i; step++)
        ck_assert_int_eq(h_step(&problem, z, step), _i == 1 ? ZOPT_ERR_FAILURE : ZOPT_OK);
    const char *said = _i == 1 ? zopt_last_error() : zopt_step_path(z);
    ck_assert_msg(strstr(said, "cudaStreamEndCapture") != NULL, "%s", said);
    shim.fail_capture = 0;
    ck_assert_int_eq(shim_n_graph_launches(), n_before);
    zopt_destroy(z);
    ck_assert_int_eq(nccl_shim.n_aborted, n_aborted);
}
END_TEST

/* ------------------------------------------------------------------ no meeting --------------- */

/* What transports nccl and mpi begin over MPI. */
static int n_meetings;

int MPI_Iallgather(const void *send, int n_sent, MPI_Datatype sent, void *receive, int n_received,
                   MPI_Datatype received, MPI_Comm comm, MPI_Request *request)
{
    n_meetings++;
    return PMPI_Iallgather(send, n_sent, sent, receive, n_received, received, comm, request);
}

int MPI_Iallreduce(const void *send, void *receive, int n, MPI_Datatype type, MPI_Op op,
                   MPI_Comm comm, MPI_Request *request)
{
    n_meetings++;
    return PMPI_Iallreduce(send, receive, n, type, op, comm, request);
}

int MPI_Isend(const void *data, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request *request)
{
    n_meetings++;
    return PMPI_Isend(data, n, type, to, tag, comm, request);
}

/* _i: with a norm, and without: nothing is measured then. Losses are those of one rank that met
 * nobody (h_compare). */
START_TEST(a_replayed_step_meets_nobody_on_the_host)
{
    h_problem problem;
    zopt_step_report report;
    zopt *z;
    h_uneven(&problem, ZOPT_BF16, 0);
    problem.options.clip_norm = _i == 0 ? 0.5 : 0;
    problem.options.slots = 2 * job_world - 1;
    problem.options.bucket_elems = 700;
    compare_with_the_cpu(&problem, _i == 0 ? "measured" : "unmeasured");
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    int n_before = n_meetings;
    for (int step = 1; step <= 2; step++)
        ck_assert_int_eq(h_step(&problem, z, step), ZOPT_OK);
    ck_assert_int_gt(n_meetings, n_before); /* to agree on the recording */
    n_before = n_meetings;
    for (int step = 3; step <= 6; step++)
        ck_assert_int_eq(h_step(&problem, z, step), ZOPT_OK);
    ck_assert_int_eq(zopt_report(z, 1, &report), ZOPT_OK);
    ck_assert_int_eq(n_meetings, n_before);
    zopt_destroy(z);
}
END_TEST

static void read_masters(const h_problem *problem, zopt *z, float *values)
{
    for (int t = 0; t < problem->n_tensors; t++) {
        uint64_t n = h_elems(&problem->tensor[t]);
        ck_assert_int_eq(zopt_get_master(z, t, 0, n, values), ZOPT_OK);
        values += n;
    }
}

/* In step 3. It and those behind it update nothing, and all ranks are told in one call: the step
 * two behind it, or a report that waits (_i = 1). NCCL ends in peace. */
START_TEST(settings_that_differ_update_nothing_and_are_told_in_one_call)
{
    enum { MOST = 20000 };
    static float before[MOST], after[MOST];
    char who[80];
    h_problem problem;
    zopt_step_report report;
    zopt *z;
    if (job_world == 1)
        return;
    h_uneven(&problem, ZOPT_FP16, 0);
    on_nccl(&problem, "nccl");
    int n_aborted = nccl_shim.n_aborted;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    for (int step = 1; step <= 2; step++)
        ck_assert_int_eq(h_step(&problem, z, step), ZOPT_OK);
    read_masters(&problem, z, before);
    ck_assert_int_eq(zopt_group_set_lr(z, 0, job_rank == job_world - 1 ? 0.5 : 0.25), ZOPT_OK);
    ck_assert_int_eq(h_step(&problem, z, 3), ZOPT_OK);
    ck_assert_int_eq(zopt_group_set_lr(z, 0, 0.25), ZOPT_OK);
    if (_i == 0)
        ck_assert_int_eq(h_step(&problem, z, 4), ZOPT_OK);
    read_masters(&problem, z, after);
    ck_assert(memcmp(before, after, sizeof before) == 0);
    ck_assert_int_eq(_i == 0 ? h_step(&problem, z, 5) : zopt_report(z, 1, &report),
                     ZOPT_ERR_DISAGREE);
    snprintf(who, sizeof who, "step 3: rank %d has other group settings", job_world - 1);
    ck_assert_msg(strstr(zopt_last_error(), who) != NULL, "%s", zopt_last_error());
    ck_assert_int_eq(zopt_step(z), ZOPT_ERR_ORDER);
    zopt_destroy(z);
    ck_assert_int_eq(nccl_shim.n_aborted, n_aborted);
}
END_TEST

/* ------------------------------------------------------------------ a stream ----------------- */

/* Parameters of a step, copied on the stream as soon as they are handed out. */
static void take_params(const h_problem *problem, zopt *z, char *to)
{
    for (int t = 0; t < problem->n_tensors; t++) {
        const void *param;
        size_t bytes = h_elems(&problem->tensor[t]) * sizeof(uint16_t);
        ck_assert_int_eq(zopt_param_acquire(z, t, &param), ZOPT_OK);
        (void)cudaMemcpyAsync(to, param, bytes, cudaMemcpyDefault, NULL);
        ck_assert_int_eq(zopt_param_release(z, t), ZOPT_OK);
        to += bytes;
    }
}

static void check_params(const h_problem *problem, zopt *z, const char *got)
{
    float master[5000];
    char want[sizeof master];
    for (int t = 0; t < problem->n_tensors; t++) {
        uint64_t n = h_elems(&problem->tensor[t]);
        ck_assert_int_eq(zopt_get_master(z, t, 0, n, master), ZOPT_OK);
        ck_assert_int_eq(zopt_convert(want, ZOPT_BF16, master, ZOPT_FP32, n), ZOPT_OK);
        ck_assert_msg(memcmp(want, got, n * sizeof(uint16_t)) == 0, "'%s'",
                      problem->tensor[t].name);
        got += n * sizeof(uint16_t);
    }
}

/* In steps that are enqueued, and that are replayed. Some gradients are left out. */
static int odd_tensors(int step, int slot, int tensor)
{
    return (step + slot + tensor) % 3 == 0;
}

START_TEST(a_stream_is_ordered_behind_the_parameters_and_no_host_waits)
{
    enum { BYTES = 1 << 16 };
    h_problem problem;
    zopt *z;
    void *to;
    h_uneven(&problem, ZOPT_BF16, 0);
    on_nccl(&problem, "nccl");
    problem.options.bucket_elems = 700;
    problem.options.slots = 2 * job_world;
    problem.absent = odd_tensors;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_set_stream(z, NULL), ZOPT_OK);
    ck_assert_int_eq(cudaHostAlloc(&to, BYTES, cudaHostAllocPortable), cudaSuccess);
    for (int step = 1; step <= 4; step++) {
        ck_assert_int_eq(h_step(&problem, z, step), ZOPT_OK);
        int n_waits = shim_n_waits();
        take_params(&problem, z, to);
        ck_assert_int_eq(shim_n_waits(), n_waits);
        ck_assert_int_eq(cudaStreamSynchronize(NULL), cudaSuccess);
        check_params(&problem, z, to);
    }
    zopt_destroy(z);
    cudaFreeHost(to);
}
END_TEST

/* ------------------------------------------------------------------ giving up ---------------- */

static float always_infinite(int step, int slot, int tensor, uint64_t element)
{
    (void)step, (void)slot, (void)tensor, (void)element;
    return INFINITY;
}

/* A rank that looks early hears early, but is not told before the others are. */
START_TEST(all_ranks_give_up_in_the_same_call)
{
    h_problem problem;
    zopt_step_report report;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    on_nccl(&problem, "nccl");
    problem.options.max_consecutive_skips = 1;
    problem.grad = always_infinite;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    for (int step = 1; step <= 3; step++) {
        ck_assert_int_eq(h_step(&problem, z, step), step < 3 ? ZOPT_OK : ZOPT_ERR_NUMERICS);
        for (int i = 0; i < 1000 && job_rank == 0 && step == 1; i++)
            ck_assert_int_ne(zopt_report(z, 0, &report), ZOPT_ERR_NUMERICS);
    }
    ck_assert_msg(strstr(zopt_last_error(), "step 1: ") != NULL, "%s", zopt_last_error());
    zopt_destroy(z);
}
END_TEST

void add_steps(TCase *tests)
{
    tcase_add_loop_test(tests, steps_are_replayed_to_the_same_bits, 0, 2);
    tcase_add_loop_test(tests, a_trace_has_the_spans_of_a_step, 0, 2);
    tcase_add_loop_test(tests, what_one_rank_cannot_record_no_rank_replays, 0, 2);
    tcase_add_loop_test(tests, a_replayed_step_meets_nobody_on_the_host, 0, 2);
    tcase_add_loop_test(tests, settings_that_differ_update_nothing_and_are_told_in_one_call, 0, 2);
    tcase_add_test(tests, a_stream_is_ordered_behind_the_parameters_and_no_host_waits);
    tcase_add_test(tests, all_ranks_give_up_in_the_same_call);
}
