/* Transports without launcher: the choice among them, self, and threads with 1 to 5 ranks. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm_suite.h"
#include "on_devices.h"

enum { MAX_RANKS = 5, DEADLINE_MS = 60000 };

static const zi_comm_ops *row(const char *name)
{
    for (size_t i = 0; i < zi_n_comms; i++) {
        if (strcmp(zi_comms[i]->name, name) == 0)
            return zi_comms[i];
    }
    ck_abort_msg("no transport %s", name);
    return NULL;
}

/* ------------------------------------------------------------------ ranks are threads ------- */

typedef void rank_function(const zi_comm_ops *ops, const zi_comm_config *config,
                           suite_failure *failure);

typedef struct rank {
    zi_comm_config config;
    rank_function *function;
    suite_failure failure;
    pthread_t thread;
} rank;

static void *run_rank(void *arg)
{
    rank *r = arg;
    r->function(row("threads"), &r->config, &r->failure);
    return NULL;
}

static void run_threads_on(const zi_device_ops *device, int n_ranks, rank_function *function)
{
    rank ranks[MAX_RANKS] = {0};
    zopt_threads *threads;
    ck_assert_int_eq(zopt_threads_create(n_ranks, &threads), ZOPT_OK);
    for (int i = 0; i < n_ranks; i++) {
        ranks[i].function = function;
        ranks[i].config = (zi_comm_config){
            .threads = threads, .threads_rank = i, .deadline_ms = DEADLINE_MS, .device = device};
        ck_assert_int_eq(pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]), 0);
    }
    for (int i = 0; i < n_ranks; i++)
        pthread_join(ranks[i].thread, NULL);
    zopt_threads_destroy(threads);
    for (int i = 0; i < n_ranks; i++)
        ck_assert_msg(ranks[i].failure.text[0] == '\0', "rank %d of %d: %s", i, n_ranks,
                      ranks[i].failure.text);
}

static void run_threads(int n_ranks, rank_function *function)
{
    run_threads_on(NULL, n_ranks, function);
}

START_TEST(threads_do_what_a_transport_must)
{
    run_threads(_i, comm_suite_run);
}
END_TEST

/* Of one GPU, or of several that reach each other. */
START_TEST(threads_on_devices_do_what_a_transport_must)
{
    for (size_t d = 0; d < zi_n_devices; d++)
        if (!zi_devices[d]->on_host && device_is_here(zi_devices[d])) {
            run_threads_on(zi_devices[d], _i, comm_suite_run);
            run_threads_on(zi_devices[d], _i, comm_suite_hang);
        }
}
END_TEST

START_TEST(self_does_what_a_transport_must)
{
    suite_failure failure = {""};
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    comm_suite_run(row("self"), &config, &failure);
    comm_suite_order(row("self"), &config, &failure);
    ck_assert_str_eq(failure.text, "");
}
END_TEST

START_TEST(transfers_out_of_order_are_refused)
{
    run_threads(1, comm_suite_order);
}
END_TEST

START_TEST(rank_that_never_arrives_is_named_and_peers_are_told)
{
    run_threads(_i, comm_suite_hang);
}
END_TEST

START_TEST(message_that_is_not_sent_is_a_hang)
{
    run_threads(_i, comm_suite_message_missing);
}
END_TEST

START_TEST(message_of_another_size_is_refused)
{
    run_threads(_i, comm_suite_message_size);
}
END_TEST

/* ------------------------------------------------------------------ collectives that differ - */

static void call_differently(const zi_comm_ops *ops, const zi_comm_config *config,
                             suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    char buffer[64] = "";
    int64_t value = 0;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    zopt_status status = comm->rank == 2 ? ops->broadcast(comm, 1, buffer, 8)
                                         : ops->all_reduce(comm, ZI_MIN, &value, 1);
    SUITE_EXPECT(failure, status == ZOPT_ERR_COMM, "status %d", (int)status);
    SUITE_EXPECT(failure,
                 strcmp(zopt_last_error(), "collective 1: rank 0 calls all_reduce(1) of 8 bytes, "
                                           "rank 2 broadcast(1) of 8") == 0,
                 "%s", zopt_last_error());
    ops->destroy(comm);
}

START_TEST(mismatched_collectives_name_both_ranks)
{
    run_threads(4, call_differently);
}
END_TEST

static void leave_early(const zi_comm_ops *ops, const zi_comm_config *config,
                        suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    int64_t value = 0;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    SUITE_OK(failure, ops->all_reduce(comm, ZI_SUM, &value, 1));
    if (comm->rank != 1) {
        zopt_status status = ops->all_reduce(comm, ZI_SUM, &value, 1);
        SUITE_EXPECT(failure, status == ZOPT_ERR_PEER, "status %d", (int)status);
    }
    ops->destroy(comm);
    /* The world is still good for a new channel. */
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    SUITE_OK(failure, ops->all_reduce(comm, ZI_SUM, &value, 1));
    ops->destroy(comm);
}

START_TEST(rank_that_leaves_early_fails_its_peers_at_once)
{
    run_threads(3, leave_early);
}
END_TEST

static void join_or_not(const zi_comm_ops *ops, const zi_comm_config *config,
                        suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    if (config->threads_rank == 1)
        return;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    comm->deadline_ms = 100;
    zopt_status status = ops->all_gather(comm, "", 0, NULL);
    SUITE_EXPECT(failure, status == ZOPT_ERR_TIMEOUT, "status %d", (int)status);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), "of rank 1 have not arrived"), "%s",
                 zopt_last_error());
    ops->destroy(comm);
}

START_TEST(rank_that_never_joins_leaves_nothing_behind)
{
    run_threads(2, join_or_not);
}
END_TEST

START_TEST(threads_config_is_checked)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zopt_threads *threads;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    ck_assert_int_eq(row("threads")->create(&config, &mem, &comm), ZOPT_ERR_ARGUMENT);
    ck_assert_ptr_null(comm);
    ck_assert_int_eq(zopt_threads_create(0, &threads), ZOPT_ERR_ARGUMENT);
    ck_assert_ptr_null(threads);
    ck_assert_int_eq(zopt_threads_create(2, &threads), ZOPT_OK);
    config.threads = threads;
    for (config.threads_rank = -1; config.threads_rank <= 2; config.threads_rank += 3)
        ck_assert_int_eq(row("threads")->create(&config, &mem, &comm), ZOPT_ERR_ARGUMENT);
    zopt_threads_destroy(threads);
    ck_assert_uint_eq(mem.total_peak_bytes, 0);
}
END_TEST

/* ------------------------------------------------------------------ the choice --------------- */

static const char *const launch_variables[] = {
    "RANK",         "WORLD_SIZE",           "OMPI_COMM_WORLD_SIZE", "PMI_SIZE",  "PMI_RANK",
    "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_NPROCS",         "PMIX_RANK", "SLURM_PROCID",
};

static void forget_launcher(void)
{
    for (size_t i = 0; i < sizeof launch_variables / sizeof launch_variables[0]; i++)
        unsetenv(launch_variables[i]);
}

static int have_mpi(void)
{
    return row("mpi")->missing() == NULL;
}

START_TEST(auto_follows_what_is_given)
{
    zopt_threads *threads;
    const zi_comm_ops *ops;
    zi_comm_config config = {0};
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), ZOPT_OK);
    ck_assert_ptr_eq(ops, row("self"));

    ck_assert_int_eq(zopt_threads_create(2, &threads), ZOPT_OK);
    config.threads = threads;
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), ZOPT_OK);
    ck_assert_ptr_eq(ops, row("threads"));
    zopt_threads_destroy(threads);

    /* A plan never looks at the launcher. */
    setenv("WORLD_SIZE", "4", 1);
    config = (zi_comm_config){.plan_world = 1};
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), ZOPT_OK);
    ck_assert_ptr_eq(ops, row("self"));
    config.plan_world = 3;
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), ZOPT_OK);
    ck_assert_ptr_eq(ops, row(have_mpi() ? "shm" : "threads"));
    config.ranks_per_node = 2;
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), ZOPT_OK);
    ck_assert_ptr_eq(ops, row(have_mpi() ? "mpi" : "threads"));
    config.plan_world = 4;
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), ZOPT_OK);
    ck_assert_ptr_eq(ops, row(have_mpi() ? "shm" : "threads"));
}
END_TEST

static const struct {
    const char *name, *value;
    zopt_status status;
} launches[] = {
    {"WORLD_SIZE", "4", ZOPT_ERR_LAUNCH},   {"WORLD_SIZE", "1", ZOPT_OK},
    {"RANK", "2", ZOPT_ERR_LAUNCH},         {"RANK", "0", ZOPT_OK},
    {"SLURM_NTASKS", "8", ZOPT_ERR_LAUNCH}, {"SLURM_PROCID", "1", ZOPT_ERR_LAUNCH},
    {"SLURM_NTASKS", "1", ZOPT_OK},         {"WORLD_SIZE", "", ZOPT_OK},
};

START_TEST(lonely_launch_is_refused_with_a_hint)
{
    const zi_comm_ops *ops;
    zi_comm_config config = {0};
    setenv(launches[_i].name, launches[_i].value, 1);
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), launches[_i].status);
    ck_assert_int_eq(zi_comm_check_alone(), launches[_i].status);
    if (launches[_i].status != ZOPT_OK) {
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), launches[_i].name));
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), "mpirun -n"));
    }
    ck_assert_int_eq(zi_comm_find("self", &config, &ops), ZOPT_OK);
}
END_TEST

START_TEST(launcher_means_mpi_unless_it_started_one_process)
{
    const zi_comm_ops *ops;
    zi_comm_config config = {0};
    if (!have_mpi()) {
        printf("SKIP: built without MPI\n");
        return;
    }
    setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), ZOPT_OK);
    ck_assert_ptr_eq(ops, row("shm")); /* which leaves several nodes to mpi */
    ck_assert_ptr_eq(ops->otherwise, row("mpi"));
    setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
    setenv("PMIX_RANK", "0", 1);
    ck_assert_int_eq(zi_comm_find("auto", &config, &ops), ZOPT_OK);
    ck_assert_ptr_eq(ops, row("self"));
}
END_TEST

START_TEST(unknown_transport_names_the_nearest)
{
    const zi_comm_ops *ops;
    zi_comm_config config = {0};
    ck_assert_int_eq(zi_comm_find("thread", &config, &ops), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "did you mean \"threads\""));
    ck_assert_ptr_null(ops);
    ck_assert_int_eq(zi_comm_find("carrier pigeon", &config, &ops), ZOPT_ERR_CONFIG);
    ck_assert_ptr_null(strstr(zopt_last_error(), "did you mean"));
}
END_TEST

START_TEST(plan_of_ipc_needs_a_device_that_shares)
{
    zi_mem mem = {.dry = 1};
    zi_comm *comm;
    const zi_comm_config config = {.plan_world = 3, .plan_rank = 1};
    if (row("ipc")->missing() != NULL)
        return; /* without MPI it is refused by that */
    ck_assert_int_eq(zi_comm_connect("ipc", &config, &mem, &comm), ZOPT_ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "is for the memory of GPUs"));
    ck_assert_uint_eq(mem.total_bytes, 0);
}
END_TEST

START_TEST(plan_has_no_peers_to_talk_to)
{
    int64_t value = 0;
    for (size_t i = 0; i < zi_n_comms; i++) {
        zi_mem mem = {.dry = 1};
        zi_comm *comm;
        zi_comm_config config = {.plan_world = 3, .plan_rank = 1};
        int is_ipc = strcmp(zi_comms[i]->name, "ipc") == 0;
        config.device = is_ipc || zi_comms[i]->device_direct ? zi_device_row("cuda") : NULL;
        if (zi_comms[i]->missing() != NULL || (is_ipc && config.device->share_unit == 0))
            continue;
        zopt_status status = zi_comms[i]->create(&config, &mem, &comm);
        if (zi_comms[i] == row("self")) {
            ck_assert_int_eq(status, ZOPT_ERR_CONFIG);
            continue;
        }
        ck_assert_int_eq(status, ZOPT_OK);
        ck_assert_int_eq(comm->ops->all_reduce(comm, ZI_SUM, &value, 1), ZOPT_ERR_COMM);
        ck_assert_int_eq(zi_comm_agree(comm, ZOPT_ERR_DATA), ZOPT_ERR_DATA);
        ck_assert_int_eq(zi_comm_agree(comm, ZOPT_OK), ZOPT_OK);
        comm->ops->destroy(comm);
        ck_assert_uint_eq(mem.total_bytes, 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("comm");
    TCase *tests = tcase_create("comm");
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 300);
    tcase_add_checked_fixture(tests, forget_launcher, forget_launcher);
    tcase_add_test(tests, self_does_what_a_transport_must);
    tcase_add_loop_test(tests, threads_do_what_a_transport_must, 1, MAX_RANKS + 1);
    tcase_add_loop_test(tests, threads_on_devices_do_what_a_transport_must, 2, 4);
    tcase_add_test(tests, transfers_out_of_order_are_refused);
    tcase_add_loop_test(tests, rank_that_never_arrives_is_named_and_peers_are_told, 2,
                        MAX_RANKS + 1);
    tcase_add_loop_test(tests, message_that_is_not_sent_is_a_hang, 2, MAX_RANKS + 1);
    tcase_add_loop_test(tests, message_of_another_size_is_refused, 2, MAX_RANKS + 1);
    tcase_add_test(tests, mismatched_collectives_name_both_ranks);
    tcase_add_test(tests, rank_that_leaves_early_fails_its_peers_at_once);
    tcase_add_test(tests, rank_that_never_joins_leaves_nothing_behind);
    tcase_add_test(tests, threads_config_is_checked);
    tcase_add_test(tests, auto_follows_what_is_given);
    tcase_add_loop_test(tests, lonely_launch_is_refused_with_a_hint, 0,
                        (int)(sizeof launches / sizeof launches[0]));
    tcase_add_test(tests, launcher_means_mpi_unless_it_started_one_process);
    tcase_add_test(tests, unknown_transport_names_the_nearest);
    tcase_add_test(tests, plan_of_ipc_needs_a_device_that_shares);
    tcase_add_test(tests, plan_has_no_peers_to_talk_to);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
