/* Transport ipc under mpirun with 2 to 4 processes: all that a transport must do, on GPUs (on one,
 * which the ranks share, or on several), and what it refuses. The suite enqueues its reads and
 * writes, so that a fence that is missing gives wrong bytes. */
#include <stdlib.h>

#include "comm_world.h"
#include "on_devices.h"

static const zi_device_ops *gpu;
static const zi_comm_ops *ipc;

START_TEST(whole_world_does_what_a_transport_must)
{
    suite_failure failure = {""};
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .device = gpu};
    comm_suite_run(ipc, &config, &failure);
    assert_all_passed(&failure);
}
END_TEST

/* _i: ranks in the first part. */
START_TEST(part_of_the_world_does_what_a_transport_must)
{
    if (_i < world_size())
        run_split(ipc, gpu, _i, comm_suite_run);
}
END_TEST

/* _i: ranks of a node; the job is several such nodes. */
START_TEST(nodes_do_what_a_transport_must)
{
    suite_failure failure = {""};
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .device = gpu, .ranks_per_node = _i};
    if (world_size() % _i == 0 && _i < world_size())
        comm_suite_run(ipc, &config, &failure);
    assert_all_passed(&failure);
}
END_TEST

static void connect_as(const char *name, const zi_comm_config *config, const char *want,
                       suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    int64_t ranks = 1;
    SUITE_OK(failure, zi_comm_connect(name, config, &mem, &comm));
    SUITE_EXPECT(failure, strcmp(comm->ops->name, want) == 0, "transport %s, not %s",
                 comm->ops->name, want);
    SUITE_OK(failure, comm->ops->all_reduce(comm, ZI_SUM, &ranks, 1));
    SUITE_EXPECT(failure, ranks == comm->world, "%d ranks met", (int)ranks);
    comm->ops->destroy(comm);
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
}

static void refuse(const zi_comm_config *config, const char *text, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zopt_status status = zi_comm_connect("ipc", config, &mem, &comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_UNSUPPORTED && comm == NULL, "status %d", (int)status);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), text) != NULL, "'%s' is not in: %s", text,
                 zopt_last_error());
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
}

START_TEST(auto_is_ipc_for_the_gpus_of_nodes_of_several_ranks)
{
    suite_failure failure = {""};
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .device = gpu};
    connect_as("auto", &config, "ipc", &failure);
    config.ranks_per_node = world_size();
    connect_as("auto", &config, "ipc", &failure);
    for (int n = 1; n < world_size(); n++) {
        config.ranks_per_node = n;
        connect_as("auto", &config, n > 1 && world_size() % n == 0 ? "ipc" : "mpi", &failure);
    }
    config = (zi_comm_config){.deadline_ms = DEADLINE_MS};
    connect_as("auto", &config, "shm", &failure);
    assert_all_passed(&failure);
}
END_TEST

START_TEST(lonely_or_unequal_nodes_are_refused_with_their_hosts)
{
    suite_failure failure = {""};
    int n = world_size() - 1;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .device = gpu, .ranks_per_node = n};
    char text[64];
    snprintf(text, sizeof text, ", by ranks_per_node %d; use transport \"mpi\"", n);
    refuse(&config, text, &failure);
    snprintf(text, sizeof text, "rank %d on '", n);
    refuse(&config, text, &failure);
    refuse(&config,
           n == 1 ? "transport ipc needs ranks that share a node, next to each other: rank 0 is"
                  : "transport ipc needs nodes of equally many ranks, next to each other",
           &failure);
    config = (zi_comm_config){.plan_world = n + 1, .ranks_per_node = n, .device = gpu};
    refuse(&config, "transport ipc", &failure);
    assert_all_passed(&failure);
}
END_TEST

/* On one rank alone, too. */
START_TEST(host_memory_is_refused_on_all_ranks)
{
    int rank;
    suite_failure failure = {""};
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    refuse(&config, "transport ipc is for the memory of GPUs", &failure);
    config.device = rank == 1 ? zi_devices[0] : gpu;
    refuse(&config, rank == 1 ? "transport ipc is for" : "rank 1: transport ipc is for", &failure);
    assert_all_passed(&failure);
}
END_TEST

static void hang_in_pairs(const zi_comm_ops *ops, const zi_comm_config *config,
                          suite_failure *failure)
{
    if (!is_pair(config))
        return;
    comm_suite_hang(ops, config, failure);
    comm_suite_message_missing(ops, config, failure);
    comm_suite_message_size(ops, config, failure);
}

START_TEST(rank_that_never_arrives_is_named)
{
    run_split(ipc, gpu, 2, hang_in_pairs);
}
END_TEST

START_TEST(transfers_out_of_order_are_refused)
{
    run_split(ipc, gpu, 1, comm_suite_order);
}
END_TEST

static int run_tests(void)
{
    int rank;
    Suite *suite = suite_create("comm_ipc");
    TCase *tests = tcase_create("comm_ipc");
    suite_add_tcase(suite, tests);
    tcase_add_test(tests, whole_world_does_what_a_transport_must);
    tcase_add_loop_test(tests, part_of_the_world_does_what_a_transport_must, 1, 4);
    tcase_add_loop_test(tests, nodes_do_what_a_transport_must, 2, 4);
    tcase_add_test(tests, auto_is_ipc_for_the_gpus_of_nodes_of_several_ranks);
    tcase_add_test(tests, lonely_or_unequal_nodes_are_refused_with_their_hosts);
    tcase_add_test(tests, host_memory_is_refused_on_all_ranks);
    tcase_add_test(tests, transfers_out_of_order_are_refused);
    tcase_add_test(tests, rank_that_never_arrives_is_named);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    srunner_run_all(runner, rank == 0 ? CK_NORMAL : CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0;
    MPI_Init(&argc, &argv);
    ipc = comm_row("ipc");
    gpu = zi_device_row("cuda");
    if (gpu->missing() == NULL || gpu_is_required())
        failed = run_tests();
    else
        tell_skip(gpu);
    MPI_Finalize();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
