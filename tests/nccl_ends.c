/* Transport nccl: what is refused, a caller's communicator, and how failures end, in steps that are
 * replayed too. */
#include <unistd.h>

#include "nccl_runs.h"

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

START_TEST(native_sums_have_no_groups)
{
    h_problem problem;
    zopt *z;
    if (job_world == 1)
        return;
    h_uneven(&problem, ZOPT_FP16, 0);
    on_nccl(&problem, "nccl-native");
    problem.options.slots = 2 * job_world;
    problem.options.reduce_group = job_world;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_ERR_UNSUPPORTED);
    ck_assert_msg(strstr(zopt_last_error(), "sums all ranks in an order of its own") != NULL, "%s",
                  zopt_last_error());
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
        comm_suite_hang(nccl_row("nccl"), &config, &failure);
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
    comm_suite_order(nccl_row("nccl"), &config, &failure);
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

/* The last rank dies, and then the others' NCCL meets an error, of whatever kind. _i: which. */
START_TEST(whatever_nccl_says_after_a_peer_has_died_ends_the_job_with_75)
{
    static const ncclResult_t errors[] = {ncclUnhandledCudaError, ncclSystemError,
                                          ncclInternalError, ncclRemoteError};
    h_problem problem;
    suite_failure failure = {""};
    zopt *z = NULL;
    int dies = job_rank == job_world - 1;
    begin_run(&problem, DEADLINE_MS, &z, &failure);
    nccl_shim.fail = dies;
    if (dies && failure.text[0] == '\0')
        end_by_failure(&problem, z, ZOPT_ERR_PEER, "NCCL: ", &failure);
    MPI_Barrier(MPI_COMM_WORLD);
    nccl_shim.fail = !dies;
    nccl_shim.fail_as = errors[_i];
    if (!dies && failure.text[0] == '\0')
        end_by_failure(&problem, z, ZOPT_ERR_PEER, "NCCL: ", &failure);
    nccl_shim.fail = 0;
    nccl_shim.fail_as = ncclSuccess;
    zopt_destroy(z);
    assert_all_passed(&failure);
}
END_TEST

/* While all peers live: who starts this again will meet it again. */
START_TEST(what_cuda_refuses_a_rank_ends_it_with_1)
{
    h_problem problem;
    suite_failure failure = {""};
    char text[256];
    zopt *z = NULL;
    begin_run(&problem, DEADLINE_MS, &z, &failure);
    nccl_shim.fail = job_rank == 0;
    nccl_shim.fail_as = ncclUnhandledCudaError;
    if (failure.text[0] == '\0') {
        zopt_status status = step_until_failure(&problem, z, text);
        if (zopt_status_exit_code(status) != (job_rank == 0 ? 1 : 75))
            suite_fail(&failure, "status %d: %s", (int)status, text);
    }
    nccl_shim.fail = 0;
    nccl_shim.fail_as = ncclSuccess;
    zopt_destroy(z);
    assert_all_passed(&failure);
}
END_TEST

/* A call that is recorded, how NCCL refuses it, and what comes of it. */
typedef struct refused_call {
    int nth, at_once;
    ncclResult_t error;
    const char *name;
    zopt_status status;
} refused_call;

static void record_until_failure(const h_problem *problem, zopt *z, const refused_call *call,
                                 suite_failure *failure)
{
    char who[64], text[256];
    const void *param;
    SUITE_OK(failure, h_step(problem, z, 1));
    nccl_shim.fail_captured = job_rank == job_world - 1 ? call->nth : 0;
    nccl_shim.fails_at_once = call->at_once;
    nccl_shim.fail_with = call->error;
    zopt_status status = h_step(problem, z, 2);
    snprintf(text, sizeof text, "%s", zopt_last_error());
    snprintf(who, sizeof who, "rank %d: %s: NCCL: ", job_world - 1, call->name);
    SUITE_EXPECT(failure, status == call->status, "status %d: %s", (int)status, text);
    SUITE_EXPECT(failure, strstr(text, who) != NULL, "%s", text);
    SUITE_EXPECT(failure, zopt_param_acquire(z, 0, &param) == ZOPT_ERR_ORDER, "%s",
                 zopt_last_error());
    SUITE_EXPECT(failure, zopt_step(z) == ZOPT_ERR_ORDER, "%s", zopt_last_error());
    SUITE_EXPECT(failure, nccl_shim.n_graphs == 0, "%d calls in graphs", nccl_shim.n_graphs);
}

/* The last rank's NCCL refuses a call while its step is recorded. Every rank's step fails alike,
 * none waits for the deadline, and no graph is left. */
START_TEST(calls_that_fail_while_they_are_recorded_end_the_job_on_every_rank)
{
    static const refused_call calls[] = {
        {1, 0, ncclSystemError, "ncclAllReduce", ZOPT_ERR_PEER},
        {2, 1, ncclInternalError, "ncclAllReduce", ZOPT_ERR_PEER},
        {3, 0, ncclUnhandledCudaError, "ncclAllGather", ZOPT_ERR_COMM},
        {5, 1, ncclSystemError, "ncclAllGather", ZOPT_ERR_PEER},
    };
    h_problem problem;
    suite_failure failure = {""};
    zopt *z = NULL;
    h_uneven(&problem, ZOPT_FP16, 0);
    on_nccl(&problem, "nccl");
    problem.options.cuda_graph = _i % 2 ? 1 : -1;
    problem.options.slots = job_world;
    problem.options.bucket_elems = 700;
    int n_launches = shim_n_graph_launches(), n_aborted = nccl_shim.n_aborted;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    record_until_failure(&problem, z, &calls[_i], &failure);
    zopt_destroy(z);
    assert_all_passed(&failure);
    ck_assert_int_eq(shim_n_graph_launches(), n_launches);
    ck_assert_int_eq(nccl_shim.n_aborted - n_aborted, 2);
}
END_TEST

/* All but rank 0 compute for ever: past the deadline, and the second that it calls the roll. */
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
        usleep(4000 * 1000);
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

void add_refusals(TCase *tests)
{
    tcase_add_test(tests, more_ranks_than_gpus_are_refused_and_auto_goes_another_way);
    tcase_add_test(tests, what_nccl_does_not_do_is_refused);
    tcase_add_test(tests, native_sums_have_no_groups);
    tcase_add_test(tests, a_callers_communicator_is_split_and_left_alone);
    tcase_add_test(tests, a_callers_communicator_of_other_ranks_is_refused);
}

void add_breaking_tests(TCase *tests)
{
    tcase_add_test(tests, transfers_out_of_order_are_refused);
    tcase_add_test(tests, rank_that_never_arrives_is_named);
    tcase_add_loop_test(tests, errors_of_nccl_end_the_job_with_75_on_every_rank, 0, 3);
    tcase_add_loop_test(tests, whatever_nccl_says_after_a_peer_has_died_ends_the_job_with_75, 0, 4);
    tcase_add_test(tests, what_cuda_refuses_a_rank_ends_it_with_1);
    tcase_add_loop_test(tests, calls_that_fail_while_they_are_recorded_end_the_job_on_every_rank, 0,
                        4);
    tcase_add_test(tests, a_silent_rank_is_given_up_at_the_deadline);
}

void add_old(TCase *tests)
{
    tcase_add_test(tests, an_old_nccl_is_refused);
}
