/* Transports mpi and shm, under mpirun with 1 to 6 processes, of which smaller worlds are made too.
 * Without fork, which is not safe under MPI. Next: comm_mpi_refusals.c, comm_mpi_ends.c. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm_mpi.h"

const zi_comm_ops *mpi, *shm;

const zi_comm_ops *row(int i)
{
    return i == 0 ? mpi : shm;
}

START_TEST(whole_world_does_what_a_transport_must)
{
    suite_failure failure = {""};
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    comm_suite_run(row(_i), &config, &failure);
    assert_all_passed(&failure);
}
END_TEST

/* _i / 2: ranks in the first part. */
START_TEST(part_of_the_world_does_what_a_transport_must)
{
    run_split(row(_i % 2), NULL, _i / 2, comm_suite_run);
}
END_TEST

/* _i: ranks of a node; the job is several such nodes. */
START_TEST(nodes_do_what_a_transport_must)
{
    suite_failure failure = {""};
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .ranks_per_node = _i};
    if (world_size() % _i == 0 && _i < world_size())
        comm_suite_run(shm, &config, &failure);
    assert_all_passed(&failure);
}
END_TEST

static void connect_auto(int ranks_per_node, const zi_comm_ops *want, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .ranks_per_node = ranks_per_node};
    SUITE_OK(failure, zi_comm_connect("auto", &config, &mem, &comm));
    SUITE_EXPECT(failure, strcmp(comm->ops->name, want->name) == 0, "%d a node: transport %s",
                 ranks_per_node, comm->ops->name);
    int size = ranks_per_node > 0 ? ranks_per_node : comm->world;
    SUITE_EXPECT(failure, comm->node.size == (want == shm ? size : 1), "%d a node: %d",
                 ranks_per_node, comm->node.size);
    int64_t ranks = 1;
    SUITE_OK(failure, comm->ops->all_reduce(comm, ZI_SUM, &ranks, 1));
    SUITE_EXPECT(failure, ranks == comm->world, "%d ranks met", (int)ranks);
    comm->ops->destroy(comm);
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
}

START_TEST(auto_is_shm_where_nodes_have_equally_many_ranks)
{
    suite_failure failure = {""};
    connect_auto(0, shm, &failure);
    connect_auto(world_size(), shm, &failure);
    for (int n = 1; n < world_size(); n++)
        connect_auto(n, n > 1 && world_size() % n == 0 ? shm : mpi, &failure);
    assert_all_passed(&failure);
}
END_TEST

/* The first comm is made before anybody calls MPI_Init. */
static int start_by_zopt(void)
{
    zi_mem mem = {0};
    zi_comm *comm;
    int running = 1;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    MPI_Initialized(&running);
    if (running || mpi->create(&config, &mem, &comm) != ZOPT_OK) {
        fprintf(stderr, "zopt did not start MPI: %s\n", zopt_last_error());
        return 0;
    }
    mpi->destroy(comm);
    MPI_Initialized(&running);
    return running && mem.total_bytes == 0;
}

static int run_tests(void)
{
    Suite *suite = suite_create("comm_mpi");
    TCase *tests = tcase_create("comm_mpi");
    suite_add_tcase(suite, tests);
    tcase_add_loop_test(tests, whole_world_does_what_a_transport_must, 0, 2);
    tcase_add_loop_test(tests, part_of_the_world_does_what_a_transport_must, 2, 2 * world_size());
    tcase_add_loop_test(tests, nodes_do_what_a_transport_must, 2, 4);
    tcase_add_test(tests, auto_is_shm_where_nodes_have_equally_many_ranks);
    add_refusals(tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed;
}

/* These leave messages behind that nobody takes. */
static int run_breaking_tests(void)
{
    Suite *suite = suite_create("comm_mpi, broken");
    TCase *tests = tcase_create("broken");
    suite_add_tcase(suite, tests);
    add_breaking_tests(tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed;
}

/* zopt starts MPI, and so finishes it. */
static int main_tests(void)
{
    int finalized = 0;
    if (!start_by_zopt())
        return EXIT_FAILURE;
    int failed = run_tests();
    zopt_finalize();
    MPI_Finalized(&finalized);
    if (!finalized)
        fprintf(stderr, "zopt_finalize did not finish the MPI that zopt started\n");
    return failed == 0 && finalized ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Somebody else starts MPI, and zopt leaves it running. */
static int breaking_tests(int *argc, char ***argv)
{
    int finalized = 0;
    MPI_Init(argc, argv);
    int failed = run_breaking_tests();
    zopt_finalize();
    MPI_Finalized(&finalized);
    if (finalized)
        fprintf(stderr, "zopt_finalize finished an MPI that is not its own\n");
    else
        MPI_Finalize();
    return failed == 0 && !finalized ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* "broken" as argument: the tests that break transports. */
int main(int argc, char **argv)
{
    mpi = comm_row("mpi");
    shm = comm_row("shm");
    return argc > 1 && strcmp(argv[1], "broken") == 0 ? breaking_tests(&argc, &argv) : main_tests();
}
