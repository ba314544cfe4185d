/* Transport nccl over the runtimes of cuda_shim and nccl_shim: the suite of every transport, whole
 * runs against one rank on the CPU, bit for bit, what is refused, and how failures end. Run with
 * mpirun -n 1 to 4; "broken" as argument: the tests that end transports; "old": with a NCCL that is
 * too old. */
#include <check.h>
#include <math.h>
#include <mpi.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm_suite.h"
#include "cuda_shim/shim.h"
#include "device/device.h"
#include "harness.h"

enum { DEADLINE_MS = 60000, N_GPUS = 8 };

static int job_rank, job_world;

static const zi_comm_ops *row(const char *name)
{
    for (size_t i = 0; i < zi_n_comms; i++)
        if (strcmp(zi_comms[i]->name, name) == 0)
            return zi_comms[i];
    return NULL;
}

static void assert_all_passed(const suite_failure *failure)
{
    int failed = failure->text[0] != '\0', any = 0;
    if (failed)
        fprintf(stderr, "rank %d: %s\n", job_rank, failure->text);
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    ck_assert_msg(!any, "rank %d: %s", job_rank, failed ? failure->text : "another rank failed");
}

/* Communicators of zopt's own, all of which must have ended. */
static void assert_all_ended(int n_before, int n_aborted)
{
    ck_assert_int_eq(nccl_shim.n_begun - n_before,
                     nccl_shim.n_destroyed + nccl_shim.n_aborted - n_before);
    ck_assert_int_eq(nccl_shim.n_aborted, n_aborted);
}

static zi_comm_config on_gpus = {.deadline_ms = DEADLINE_MS};

/* ------------------------------------------------------------------ the suite ---------------- */

START_TEST(nccl_does_what_a_transport_must)
{
    suite_failure failure = {""};
    comm_suite_run(row("nccl"), &on_gpus, &failure);
    assert_all_passed(&failure);
    assert_all_ended(0, nccl_shim.n_aborted);
}
END_TEST

static void sum_on_the_queue(suite_failure *failure)
{
    enum { N = 70000 };
    zi_mem mem = {0}, other = {0};
    zi_comm *comm;
    int64_t *values, *host = malloc(N * sizeof *host);
    const zi_comm_ops *ops = row("nccl");
    SUITE_OK(failure, ops->create(&on_gpus, &mem, &comm));
    const zi_device_ops *device = on_gpus.device;
    comm->device = device;
    SUITE_OK(failure, device->open(comm->local_rank, &comm->queue));
    SUITE_OK(failure, ops->reserve(comm, 2, 64));
    SUITE_OK(failure,
             device->alloc(comm->queue, &other, ZI_MEM_STAGING, N * sizeof *host, &values));
    for (int64_t i = 0; i < N; i++)
        host[i] = i * 1000000007 - comm->rank;
    device->copy(comm->queue, values, host, N * sizeof *host);
    SUITE_OK(failure, ops->sum_enqueue(comm, values, N));
    device->copy(comm->queue, host, values, N * sizeof *host);
    SUITE_OK(failure, device->wait(comm->queue));
    int64_t n = comm->world;
    for (int64_t i = 0; i < N; i++)
        SUITE_EXPECT(failure, host[i] == n * i * 1000000007 - n * (n - 1) / 2, "sum %d is %lld",
                     (int)i, (long long)host[i]);
    device->free(comm->queue, &other, ZI_MEM_STAGING, values, N * sizeof *host);
    zi_queue *queue = comm->queue;
    ops->destroy(comm);
    device->close(queue);
    free(host);
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
}

START_TEST(sums_are_enqueued_where_kernels_are)
{
    suite_failure failure = {""};
    sum_on_the_queue(&failure);
    assert_all_passed(&failure);
}
END_TEST

/* ------------------------------------------------------------------ whole runs --------------- */

static void on_nccl(h_problem *problem, const char *transport)
{
    problem->options.transport = transport;
    problem->options.device = "cuda";
    problem->options.deadline_ms = DEADLINE_MS;
}

static void compare_with_the_cpu(h_problem *problem, const char *name)
{
    h_result want, got;
    char what[96];
    problem->options.transport = "self";
    problem->options.device = "cpu";
    h_run_one(problem, &problem->options, &want);
    on_nccl(problem, "nccl");
    h_run_one(problem, &problem->options, &got);
    snprintf(what, sizeof what, "%s, rank %d", name, job_rank);
    h_compare(&want, &got, what);
    h_free(&got);
    h_free(&want);
}

/* _i: optimizer; dtypes, slots and buckets go with it. */
START_TEST(every_optimizer_gives_the_cpus_bits)
{
    static const int slots[] = {4, 2, 6, 1};
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 2), _i % 3 == 0);
    problem.options.optimizer = zi_optims[_i]->name;
    problem.options.clip_norm = _i % 2 ? 0 : 0.5;
    problem.options.slots = slots[_i % 4];
    problem.options.bucket_elems = _i % 3 == 2 ? 0 : 700;
    compare_with_the_cpu(&problem, problem.options.optimizer);
}
END_TEST

START_TEST(groups_of_slots_give_the_cpus_bits)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 1);
    problem.options.reduce_group = 2;
    problem.options.slots = 5;
    problem.options.bucket_elems = 700;
    compare_with_the_cpu(&problem, "groups");
}
END_TEST

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

static float bad_grad(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == 1 && tensor == 5 && element == 4000)
        return INFINITY;
    return h_wide_grad(step, slot, tensor, element);
}

START_TEST(overflows_are_found_as_on_the_cpu)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.dynamic_loss_scale = 1;
    problem.options.bucket_elems = 700;
    problem.grad = bad_grad;
    compare_with_the_cpu(&problem, "overflow");
}
END_TEST

static void remember(void *arg, const char *text)
{
    snprintf(((suite_failure *)arg)->text, sizeof((suite_failure *)arg)->text, "%s", text);
}

/* A micro-step's sum of n <= 4 gradients below 16 in size is rounded to 11 bits at up to 3 hops:
 * 3 * 16n * 2^-12, over n slots 0.012; times a rate of 0.02, in each of 4 steps: 0.00094. Every
 * rank has a slot in each micro-step, as the harness counts bytes. */
START_TEST(native_sums_are_near_and_labelled)
{
    h_result want, got;
    h_problem problem;
    suite_failure told = {""};
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = "SGD";
    problem.options.slots = 2 * job_world;
    problem.options.bucket_elems = 700;
    problem.options.on_warning = remember;
    problem.options.on_warning_arg = &told;
    problem.options.transport = "self";
    problem.options.device = "cpu";
    h_run_one(&problem, &problem.options, &want);
    ck_assert_str_eq(told.text, "");
    on_nccl(&problem, "nccl-native");
    h_run_one(&problem, &problem.options, &got);
    for (uint64_t i = 0; i < want.n_elems; i++)
        ck_assert_msg(fabsf(want.master[i] - got.master[i]) <= 0.001f,
                      "element %d: %g, and exactly %g", (int)i, (double)got.master[i],
                      (double)want.master[i]);
    ck_assert_msg(job_rank > 0 || strstr(told.text, "not bit-invariant") != NULL, "%s", told.text);
    h_free(&got);
    h_free(&want);
}
END_TEST

START_TEST(native_overflows_are_found_without_their_slot)
{
    zopt *z;
    zopt_step_report report;
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.dynamic_loss_scale = 1;
    problem.grad = bad_grad;
    on_nccl(&problem, "nccl-native");
    problem.options.slots = job_world;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    for (int step = 1; step <= 2; step++)
        ck_assert_int_eq(h_step(&problem, z, step), ZOPT_OK);
    ck_assert_int_eq(zopt_report(z, 1, &report), ZOPT_OK);
    ck_assert_int_eq(report.skipped, job_world > 1);
    ck_assert_int_eq(report.bad_tensor, job_world > 1 ? 5 : -1);
    ck_assert_int_eq(report.bad_slot, -1);
    zopt_destroy(z);
}
END_TEST

/* ------------------------------------------------------------------ refusals ----------------- */

static void assert_refused(const zopt_options *options, zopt_status want, const char *text)
{
    zopt *z;
    ck_assert_int_eq(zopt_create(options, &z), want);
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
    ck_assert_ptr_null(z);
}

static zopt_options nccl_options(void)
{
    zopt_options options;
    zopt_options_init(&options);
    options.transport = "nccl";
    options.device = "cuda";
    options.deadline_ms = DEADLINE_MS;
    return options;
}

START_TEST(more_ranks_than_gpus_are_refused_and_auto_goes_another_way)
{
    zopt_options options = nccl_options();
    zopt *z;
    if (job_world == 1)
        return;
    int before = nccl_shim.n_begun;
    shim.n_gpus = job_world - 1;
    char who[64];
    snprintf(who, sizeof who, "ranks 0 and %d are both on GPU 0000:", job_world - 1);
    assert_refused(&options, ZOPT_ERR_UNSUPPORTED, who);
    assert_refused(&options, ZOPT_ERR_UNSUPPORTED, "transport \"ipc\"");
    ck_assert_int_eq(nccl_shim.n_begun, before);
    options.transport = "auto";
    ck_assert_int_eq(zopt_create(&options, &z), ZOPT_OK);
    ck_assert_str_ne(zopt_transport(z), "nccl");
    zopt_destroy(z);
    shim.n_gpus = N_GPUS;
}
END_TEST

START_TEST(what_nccl_does_not_do_is_refused)
{
    zopt_options options = nccl_options();
    options.device = "cpu";
    assert_refused(&options, ZOPT_ERR_UNSUPPORTED, "transport nccl is for device \"cuda\"");
    options = nccl_options();
    options.shared_params = 1;
    assert_refused(&options, ZOPT_ERR_UNSUPPORTED, "shared_params: transport nccl");
}
END_TEST

static void commit_groups(const char *transport, int ranks_per_node, const char *text)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    on_nccl(&problem, transport);
    problem.options.slots = 2 * job_world;
    problem.options.reduce_group = job_world;
    problem.options.ranks_per_node = ranks_per_node;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_ERR_UNSUPPORTED);
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
}

START_TEST(groups_are_not_summed_flat_in_silence)
{
    if (job_world == 1)
        return;
    commit_groups("nccl", 1, "does not sum groups before they travel");
    commit_groups("nccl-native", 0, "sums all ranks in an order of its own");
}
END_TEST

/* ------------------------------------------------------------------ a caller's --------------- */

static ncclComm_t make_communicator(int world, int rank, ncclUniqueId id)
{
    ncclComm_t comm;
    ncclResult_t state = ncclInProgress;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    cudaSetDevice(job_rank);
    (void)ncclCommInitRankConfig(&comm, world, id, rank, &config);
    while (state == ncclInProgress)
        (void)ncclCommGetAsyncError(comm, &state);
    return comm;
}

static void end_communicator(ncclComm_t comm)
{
    ncclResult_t state = ncclInProgress;
    (void)ncclCommFinalize(comm);
    while (state == ncclInProgress)
        (void)ncclCommGetAsyncError(comm, &state);
    (void)ncclCommDestroy(comm);
}

START_TEST(a_callers_communicator_is_split_and_left_alone)
{
    h_problem problem;
    ncclUniqueId id;
    (void)ncclGetUniqueId(&id);
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    ncclComm_t callers = make_communicator(job_world, job_rank, id);
    int before = nccl_shim.n_destroyed;
    h_uneven(&problem, ZOPT_BF16, 0);
    problem.options.nccl_comm = callers;
    compare_with_the_cpu(&problem, "a caller's communicator");
    ck_assert_int_eq(nccl_shim.n_destroyed - before, 2);
    end_communicator(callers); /* which has done nothing */
}
END_TEST

START_TEST(a_callers_communicator_of_other_ranks_is_refused)
{
    zopt_options options = nccl_options();
    ncclUniqueId id;
    if (job_world == 1)
        return;
    (void)ncclGetUniqueId(&id);
    ncclComm_t alone = make_communicator(1, 0, id);
    options.nccl_comm = alone;
    assert_refused(&options, ZOPT_ERR_ARGUMENT, "the number of ranks is 1 there, and ");
    options.nccl_comm = job_rank == 0 ? alone : NULL;
    assert_refused(&options, ZOPT_ERR_DISAGREE, "nccl_comm is ");
    end_communicator(alone);
    (void)ncclGetUniqueId(&id);
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    ncclComm_t turned = make_communicator(job_world, job_world - 1 - job_rank, id);
    options.nccl_comm = turned;
    assert_refused(&options, ZOPT_ERR_ARGUMENT, "this rank is ");
    end_communicator(turned);
}
END_TEST

/* ------------------------------------------------------------------ failures ----------------- */

START_TEST(rank_that_never_arrives_is_named)
{
    MPI_Comm pair;
    suite_failure failure = {""};
    MPI_Comm_split(MPI_COMM_WORLD, job_rank / 2, job_rank, &pair);
    zi_comm_config config = on_gpus;
    config.has_comm = 1;
    config.comm_f = (int)MPI_Comm_c2f(pair);
    int size, before = nccl_shim.n_aborted;
    MPI_Comm_size(pair, &size);
    if (size == 2) {
        comm_suite_hang(row("nccl"), &config, &failure);
        if (nccl_shim.n_aborted - before != 2)
            suite_fail(&failure, "%d communicators aborted", nccl_shim.n_aborted - before);
    }
    assert_all_passed(&failure);
}
END_TEST

START_TEST(transfers_out_of_order_are_refused)
{
    MPI_Comm self;
    suite_failure failure = {""};
    MPI_Comm_dup(MPI_COMM_SELF, &self);
    zi_comm_config config = on_gpus;
    config.has_comm = 1;
    config.comm_f = (int)MPI_Comm_c2f(self);
    comm_suite_order(row("nccl"), &config, &failure);
    assert_all_passed(&failure);
}
END_TEST

/* Steps before a failure: the last one has been replayed, and so has what fails. */
enum { N_REPLAYED = 3 };

/* The status of the first step that fails, of at most 3, with the library's own text. */
static zopt_status step_until_failure(const h_problem *problem, zopt *z, char text[256])
{
    zopt_status status = ZOPT_OK;
    for (int step = N_REPLAYED + 1; step <= N_REPLAYED + 3 && status == ZOPT_OK; step++)
        status = h_step(problem, z, step);
    snprintf(text, 256, "%s", zopt_last_error());
    return status;
}

/* All ranks meet at the end of each test, whatever happened in it: by assert_all_passed. */
static void begin_run(h_problem *problem, int deadline_ms, zopt **z, suite_failure *failure)
{
    h_uneven(problem, ZOPT_FP16, 0);
    on_nccl(problem, "nccl");
    problem->options.deadline_ms = deadline_ms;
    problem->options.slots = job_world;
    SUITE_OK(failure, h_create(problem, &problem->options, z));
    for (int step = 1; step <= N_REPLAYED; step++)
        SUITE_OK(failure, h_step(problem, *z, step));
    MPI_Barrier(MPI_COMM_WORLD); /* no rank fails while another is in the first steps */
}

static void end_by_failure(const h_problem *problem, zopt *z, zopt_status want, const char *word,
                           suite_failure *failure)
{
    char text[256];
    int before = nccl_shim.n_aborted;
    zopt_status status = step_until_failure(problem, z, text);
    SUITE_EXPECT(failure, status == want, "status %d: %s", (int)status, text);
    SUITE_EXPECT(failure, zopt_status_exit_code(status) == 75, "status %d", (int)status);
    SUITE_EXPECT(failure, strstr(text, word) != NULL, "%s", text);
    SUITE_EXPECT(failure, nccl_shim.n_aborted - before == 2, "%d communicators aborted",
                 nccl_shim.n_aborted - before);
}

/* Rank 0's NCCL meets an error while a step runs, and then the others meet rank 0's abort: nobody
 * waits for the deadline. _i: when. */
START_TEST(errors_of_nccl_end_the_job_with_75_on_every_rank)
{
    h_problem problem;
    suite_failure failure = {""};
    zopt *z = NULL;
    begin_run(&problem, DEADLINE_MS, &z, &failure);
    nccl_shim.fail = job_rank == 0 ? 1 + 7 * _i : 0;
    if (failure.text[0] == '\0')
        end_by_failure(&problem, z, ZOPT_ERR_PEER, "NCCL: ", &failure);
    zopt_destroy(z);
    assert_all_passed(&failure);
}
END_TEST

/* All but rank 0 compute for ever. */
START_TEST(a_silent_rank_is_given_up_at_the_deadline)
{
    h_problem problem;
    suite_failure failure = {""};
    zopt *z = NULL;
    if (job_world == 1)
        return;
    begin_run(&problem, 2000, &z, &failure);
    if (failure.text[0] == '\0' && job_rank == 0)
        end_by_failure(&problem, z, ZOPT_ERR_TIMEOUT,
                       job_world == 2 ? " of rank 1" : " of ranks 1, ", &failure);
    if (job_rank > 0)
        usleep(3000 * 1000);
    zopt_destroy(z);
    assert_all_passed(&failure);
}
END_TEST

START_TEST(an_old_nccl_is_refused)
{
    zopt_options options = nccl_options();
    assert_refused(&options, ZOPT_ERR_UNSUPPORTED, "NCCL 2.13.4 is too old: 2.14.0");
}
END_TEST

/* ------------------------------------------------------------------ running ------------------ */

static void add_tests(TCase *tests)
{
    tcase_add_test(tests, nccl_does_what_a_transport_must);
    tcase_add_test(tests, sums_are_enqueued_where_kernels_are);
    tcase_add_loop_test(tests, every_optimizer_gives_the_cpus_bits, 0, (int)zi_n_optims);
    tcase_add_test(tests, groups_of_slots_give_the_cpus_bits);
    tcase_add_loop_test(tests, steps_are_replayed_to_the_same_bits, 0, 2);
    tcase_add_loop_test(tests, what_one_rank_cannot_record_no_rank_replays, 0, 2);
    tcase_add_test(tests, overflows_are_found_as_on_the_cpu);
    tcase_add_test(tests, native_sums_are_near_and_labelled);
    tcase_add_test(tests, native_overflows_are_found_without_their_slot);
    tcase_add_test(tests, more_ranks_than_gpus_are_refused_and_auto_goes_another_way);
    tcase_add_test(tests, what_nccl_does_not_do_is_refused);
    tcase_add_test(tests, groups_are_not_summed_flat_in_silence);
    tcase_add_test(tests, a_callers_communicator_is_split_and_left_alone);
    tcase_add_test(tests, a_callers_communicator_of_other_ranks_is_refused);
}

static void add_breaking_tests(TCase *tests)
{
    tcase_add_test(tests, transfers_out_of_order_are_refused);
    tcase_add_test(tests, rank_that_never_arrives_is_named);
    tcase_add_loop_test(tests, errors_of_nccl_end_the_job_with_75_on_every_rank, 0, 3);
    tcase_add_test(tests, a_silent_rank_is_given_up_at_the_deadline);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &job_world);
    shim.n_gpus = N_GPUS;
    for (size_t i = 0; i < zi_n_devices; i++)
        on_gpus.device = zi_devices[i]->on_host ? on_gpus.device : zi_devices[i];
    Suite *suite = suite_create("nccl");
    TCase *tests = tcase_create("nccl");
    tcase_set_timeout(tests, 120);
    if (strcmp(mode, "broken") == 0)
        add_breaking_tests(tests);
    else if (strcmp(mode, "old") == 0)
        tcase_add_test(tests, an_old_nccl_is_refused);
    else
        add_tests(tests);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, job_rank == 0 ? CK_NORMAL : CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (failed)
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
    return 0;
}
