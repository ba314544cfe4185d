/* Transports mpi and shm, under mpirun with 1 to 6 processes, of which smaller worlds are made too.
 * Without fork, which is not safe under MPI. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "comm_world.h"

enum { SLICE = 1024 };

static const zi_comm_ops *mpi, *shm;

/* _i: the transport, of these two. */
static const zi_comm_ops *row(int i)
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

START_TEST(transfers_out_of_order_are_refused)
{
    run_split(row(_i), NULL, 1, comm_suite_order);
}
END_TEST

/* ------------------------------------------------------------------ nodes -------------------- */

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

/* The last rank has no descriptor left, and so cannot tell where it runs: no reason to go by
 * messages unasked, or to take it for a rank of another node. */
START_TEST(rank_without_descriptors_is_an_error_on_all_ranks)
{
    enum { MOST = 1024 };
    suite_failure failure = {""};
    zi_mem mem = {0};
    zi_comm *comm;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    int rank, taken[MOST], n = 0;
    struct rlimit before;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    getrlimit(RLIMIT_NOFILE, &before);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){MOST, before.rlim_max});
    while (rank == world_size() - 1 && (taken[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        n++;
    zopt_status status = zi_comm_connect(_i == 0 ? "auto" : "shm", &config, &mem, &comm);
    while (n > 0)
        close(taken[--n]);
    setrlimit(RLIMIT_NOFILE, &before);
    SUITE_EXPECT(&failure, status == ZOPT_ERR_MEMORY && comm == NULL, "status %d", (int)status);
    SUITE_EXPECT(&failure, strstr(zopt_last_error(), "Too many open files") != NULL, "text: %s",
                 zopt_last_error());
    SUITE_EXPECT(&failure, mem.total_bytes == 0, "bytes still counted");
    assert_all_passed(&failure);
}
END_TEST

/* Where the library's memory comes from: the n_left-th call from now on gets none; 0: all do. */
static long n_left, n_allocations;

void *aligned_alloc(size_t alignment, size_t bytes)
{
    void *memory = NULL;
    n_allocations++;
    if (n_left > 0 && --n_left == 0)
        return NULL;
    return posix_memalign(&memory, alignment, bytes) == 0 ? memory : NULL;
}

static void come_without_memory(const zi_comm_ops *ops, long nth, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    n_allocations = 0;
    n_left = rank == world_size() - 1 ? nth : 0;
    zopt_status status = zi_comm_connect(ops->name, &config, &mem, &comm);
    n_left = 0;
    SUITE_EXPECT(failure, status == (nth > 0 ? ZOPT_ERR_MEMORY : ZOPT_OK), "%s, %ld: status %d: %s",
                 ops->name, nth, (int)status, zopt_last_error());
    if (status == ZOPT_OK)
        ops->destroy(comm);
    else
        SUITE_EXPECT(failure, comm == NULL && strstr(zopt_last_error(), "no memory") != NULL,
                     "text: %s", zopt_last_error());
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
}

/* But for the first of all, without which a rank has nothing to meet the others with. */
START_TEST(rank_without_memory_is_an_error_on_all_ranks)
{
    suite_failure failure = {""};
    come_without_memory(row(_i), 0, &failure);
    long n = n_allocations;
    MPI_Bcast(&n, 1, MPI_LONG, world_size() - 1, MPI_COMM_WORLD);
    SUITE_EXPECT(&failure, n >= 2, "%ld allocations", n);
    for (long nth = 2; nth <= n; nth++)
        come_without_memory(row(_i), nth, &failure);
    assert_all_passed(&failure);
}
END_TEST

static void create_elsewhere(suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    zopt_status status = mpi->create(&config, &mem, &comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_UNSUPPORTED && comm == NULL, "status %d", (int)status);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), "MPI_THREAD_SERIALIZED") != NULL, "text: %s",
                 zopt_last_error());
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
}

static void *thread_main(void *failure)
{
    create_elsewhere(failure);
    return NULL;
}

/* MPI was started for one thread alone. Nobody is waited for. */
START_TEST(another_thread_than_the_one_mpi_runs_for_is_refused)
{
    suite_failure failure = {""};
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, thread_main, &failure), 0);
    pthread_join(thread, NULL);
    assert_all_passed(&failure);
}
END_TEST

static void ask_for_nodes_of(int ranks_per_node, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    char want[64];
    int world = world_size(), odd = ranks_per_node == 1 ? 1 : world - world % ranks_per_node;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .ranks_per_node = ranks_per_node};
    zopt_status status = zi_comm_connect("shm", &config, &mem, &comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_UNSUPPORTED && comm == NULL, "status %d", (int)status);
    snprintf(want, sizeof want, "rank %d on '", odd);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), want) != NULL, "text: %s", zopt_last_error());
    snprintf(want, sizeof want, "by ranks_per_node %d; use transport \"mpi\"", ranks_per_node);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), want) != NULL, "text: %s", zopt_last_error());
    config = (zi_comm_config){.plan_world = world, .ranks_per_node = ranks_per_node};
    status = zi_comm_connect("shm", &config, &mem, &comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_UNSUPPORTED, "a plan: status %d", (int)status);
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
}

START_TEST(shm_on_unequal_or_lonely_nodes_is_refused_with_the_host)
{
    suite_failure failure = {""};
    for (int n = 1; n < world_size(); n++)
        if (n == 1 || world_size() % n != 0)
            ask_for_nodes_of(n, &failure);
    assert_all_passed(&failure);
}
END_TEST

/* In the place of the C library's: NULL, or the machine that this rank pretends to be on. */
static const char *pretended;

int gethostname(char *name, size_t size)
{
    struct utsname real;
    if (pretended == NULL && uname(&real) != 0)
        return -1;
    snprintf(name, size, "%s", pretended != NULL ? pretended : real.nodename);
    return 0;
}

/* The last two ranks are on another machine than the others. */
static void span_machines(suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    char want[96];
    int world = world_size(), first = world - 2, rank;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .ranks_per_node = world};
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    pretended = rank < first ? "one" : "two";
    zopt_status status = zi_comm_connect("auto", &config, &mem, &comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_CONFIG && comm == NULL, "status %d", (int)status);
    snprintf(want, sizeof want, "one node of ranks %d and %d, which share no memory", first - 1,
             first);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), want) != NULL, "text: %s", zopt_last_error());
    SUITE_EXPECT(failure, strstr(zopt_last_error(), "on 'one' and 'two'") != NULL, "text: %s",
                 zopt_last_error());
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
    config.ranks_per_node = first == 2 ? 2 : 0;
    SUITE_OK(failure, zi_comm_connect("auto", &config, &mem, &comm));
    SUITE_EXPECT(failure, comm->node.size == (first == 2 ? 2 : 1), "nodes of %d", comm->node.size);
    comm->ops->destroy(comm);
    pretended = NULL;
}

START_TEST(nodes_that_span_machines_are_refused)
{
    suite_failure failure = {""};
    if (world_size() != 3 && world_size() != 4)
        return;
    span_machines(&failure);
    pretended = NULL;
    assert_all_passed(&failure);
}
END_TEST

static void come_differently(suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    int last, rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    last = rank == world_size() - 1;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    zopt_status status = zi_comm_connect(last ? "mpi" : "auto", &config, &mem, &comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_DISAGREE, "transports: status %d", (int)status);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), last ? "transport mpi" : "transport shm"), "%s",
                 zopt_last_error());
    config.ranks_per_node = last;
    status = zi_comm_connect("auto", &config, &mem, &comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_DISAGREE, "nodes: status %d", (int)status);
}

START_TEST(ranks_that_come_with_other_transports_are_refused)
{
    suite_failure failure = {""};
    if (world_size() == 1)
        return;
    come_differently(&failure);
    assert_all_passed(&failure);
}
END_TEST

START_TEST(mpi_shares_no_parameters)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS, .shared_params = 1};
    ck_assert_int_eq(zi_comm_connect("mpi", &config, &mem, &comm), ZOPT_ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "shared_params"));
    ck_assert_ptr_null(comm);
    ck_assert_uint_eq(mem.total_bytes, 0);
}
END_TEST

static int count_files(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    ck_assert_ptr_nonnull(dir);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static void hold_memory(const zi_comm_ops *ops, const zi_comm_config *config,
                        suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_symmetric memory;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    int before = count_files();
    for (int i = 0; i < 20; i++)
        SUITE_OK(failure, ops->alloc_symmetric(comm, ZI_MEM_GRADS, 5000, &memory));
    SUITE_EXPECT(failure, count_files() == before, "%d files, %d before", count_files(), before);
    ops->destroy(comm);
}

START_TEST(shared_memory_holds_no_files_open)
{
    run_split(shm, NULL, world_size(), hold_memory);
}
END_TEST

/* ------------------------------------------------------------------ launches ----------------- */

START_TEST(lonely_launch_is_refused)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_comm_config config = {.deadline_ms = DEADLINE_MS};
    if (world_size() > 1)
        return; /* nobody is alone here */
    setenv("WORLD_SIZE", "4", 1);
    ck_assert_int_eq(row(_i)->create(&config, &mem, &comm), ZOPT_ERR_LAUNCH);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "WORLD_SIZE=4"));
    unsetenv("WORLD_SIZE");
    ck_assert_ptr_null(comm);
    ck_assert_uint_eq(mem.total_bytes, 0);
}
END_TEST

START_TEST(what_is_no_communicator_is_refused)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_comm_config config = {.has_comm = 1, .deadline_ms = DEADLINE_MS};
    config.comm_f = (int)MPI_Comm_c2f(MPI_COMM_NULL);
    ck_assert_int_eq(mpi->create(&config, &mem, &comm), ZOPT_ERR_ARGUMENT);
    config.comm_f = 123456;
    ck_assert_int_eq(mpi->create(&config, &mem, &comm), ZOPT_ERR_ARGUMENT);
    ck_assert_uint_eq(mem.total_bytes, 0);
}
END_TEST

static void queue_too_many(const zi_comm_ops *ops, const zi_comm_config *config,
                           suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_symmetric memory;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    SUITE_OK(failure, ops->alloc_symmetric(comm, ZI_MEM_PARAMS, 64, &memory));
    SUITE_OK(failure, ops->reserve(comm, 1, 8));
    if (comm->rank == 0 && comm->world == 2) { /* rank 1 publishes nothing */
        zi_transfer transfer = {.memory = &memory, .slice_bytes = 8};
        SUITE_OK(failure, ops->publish(comm, &transfer));
        transfer.ordinal = 1;
        zopt_status status = ops->publish(comm, &transfer);
        SUITE_EXPECT(failure, status == ZOPT_ERR_COMM, "status %d", (int)status);
        SUITE_EXPECT(failure, strstr(zopt_last_error(), "only 1 were reserved"), "%s",
                     zopt_last_error());
    }
    ops->destroy(comm);
}

START_TEST(more_transfers_than_reserved_are_refused)
{
    if (world_size() > 1)
        run_split(mpi, NULL, 2, queue_too_many);
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
    run_split(row(_i), NULL, 2, hang_in_pairs);
}
END_TEST

static void hang_in_collective(const zi_comm_ops *ops, const zi_comm_config *config,
                               suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    int64_t value = 1;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    if (comm->rank == 0 && comm->world > 1) {
        /* Others leave at once, which peers in shared memory see. */
        comm->deadline_ms = ops->peer_memory ? DEADLINE_MS : 200;
        zopt_status status = ops->all_reduce(comm, ZI_SUM, &value, 1);
        zopt_status want = ops->peer_memory ? ZOPT_ERR_PEER : ZOPT_ERR_TIMEOUT;
        SUITE_EXPECT(failure, status == want, "status %d", (int)status);
        zi_rank_text others = {""};
        for (int r = 1; r < comm->world; r++) /* none of them answers the roll */
            zi_rank_list(&others, r);
        char text[256] = " gave up";
        if (!ops->peer_memory)
            snprintf(text, sizeof text,
                     "rank 0 waited 0.2 s: values for all_reduce of rank%s %s have not arrived",
                     comm->world > 2 ? "s" : "", others.text);
        SUITE_EXPECT(failure, strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
        SUITE_EXPECT(failure, value == 1, "values were touched");
    }
    ops->destroy(comm);
}

START_TEST(collective_that_others_skip_fails)
{
    run_split(row(_i), NULL, world_size(), hang_in_collective);
}
END_TEST

/* Rank `missing` of two nodes of two stays away; it answers no roll, as it is not in a call of
 * zopt. Who waits for it across nodes names it, and its node's others are told at once or name it
 * too. */
static void wait_across_nodes(const zi_comm_config *config, int missing, int with_sums,
                              suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    const void *source[4];
    zi_symmetric memory;
    char want[64];
    int n_timeouts = 0;
    SUITE_OK(failure, shm->create(config, &mem, &comm));
    SUITE_OK(failure, comm->ops->alloc_symmetric(comm, ZI_MEM_GRADS, (size_t)4 * SLICE, &memory));
    comm->reduce_group = with_sums ? 2 : 1;
    SUITE_OK(failure, comm->ops->reserve(comm, 2, SLICE));
    SUITE_EXPECT(failure, comm->sums_travel == with_sums, "sums travel: %d", comm->sums_travel);
    comm->deadline_ms = 2000;
    zi_transfer transfer = {
        .memory = &memory, .slice_bytes = SLICE, .n_contributors = 4, .dtype = ZOPT_FP32};
    zopt_status status = ZOPT_OK;
    if (comm->rank != missing) {
        SUITE_OK(failure, comm->ops->expose(comm, &transfer));
        status = comm->ops->expose_wait(comm, &transfer, source);
    }
    int is_timeout = status == ZOPT_ERR_TIMEOUT;
    MPI_Allreduce(&is_timeout, &n_timeouts, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    snprintf(want, sizeof want, "gradients of rank %d have not arrived", missing);
    const char *text = is_timeout ? want : "gave up";
    if (comm->rank != missing) {
        SUITE_EXPECT(failure, is_timeout || status == ZOPT_ERR_PEER, "status %d", (int)status);
        SUITE_EXPECT(failure, strstr(zopt_last_error(), text), "%s", zopt_last_error());
    }
    SUITE_EXPECT(failure, n_timeouts > 0, "nobody named rank %d", missing);
    comm->ops->destroy(comm);
}

/* _i: who, and whether groups are summed. */
START_TEST(rank_that_never_arrives_is_named_on_every_node)
{
    int rank;
    MPI_Comm four;
    suite_failure failure = {""};
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (world_size() != 4)
        return;
    MPI_Comm_dup(MPI_COMM_WORLD, &four);
    zi_comm_config config = {.has_comm = 1,
                             .comm_f = (int)MPI_Comm_c2f(four),
                             .deadline_ms = DEADLINE_MS,
                             .ranks_per_node = 2};
    wait_across_nodes(&config, 1 + _i % 2, _i / 2, &failure);
    assert_all_passed(&failure);
}
END_TEST

/* Over MPI only where collectives are compared first (ZOPT_VERIFY_COMM): else it corrupts memory.
 */
#ifdef ZI_VERIFY_COMM
enum { FIRST_VERIFIED = 0 };
#else
enum { FIRST_VERIFIED = 1 };
#endif

static void call_differently(const zi_comm_ops *ops, const zi_comm_config *config,
                             suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    char buffer[64] = "";
    int64_t value = 0;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    if (comm->world > 1) {
        zopt_status status = comm->rank == 1 ? ops->broadcast(comm, 1, buffer, 8)
                                             : ops->all_reduce(comm, ZI_MIN, &value, 1);
        SUITE_EXPECT(failure, status == ZOPT_ERR_COMM, "status %d", (int)status);
        const char *name = comm->rank == 1 ? "broadcast(1) of 8" : "all_reduce(1) of 8";
        SUITE_EXPECT(failure, strstr(zopt_last_error(), name), "%s", zopt_last_error());
    }
    ops->destroy(comm);
}

START_TEST(mismatched_collectives_name_the_operation)
{
    run_split(row(_i), NULL, world_size(), call_differently);
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
    tcase_add_loop_test(tests, rank_without_descriptors_is_an_error_on_all_ranks, 0, 2);
    tcase_add_loop_test(tests, rank_without_memory_is_an_error_on_all_ranks, 0, 2);
    tcase_add_test(tests, shm_on_unequal_or_lonely_nodes_is_refused_with_the_host);
    tcase_add_test(tests, nodes_that_span_machines_are_refused);
    tcase_add_test(tests, ranks_that_come_with_other_transports_are_refused);
    tcase_add_test(tests, mpi_shares_no_parameters);
    tcase_add_test(tests, shared_memory_holds_no_files_open);
    tcase_add_loop_test(tests, lonely_launch_is_refused, 0, 2);
    tcase_add_test(tests, what_is_no_communicator_is_refused);
    tcase_add_test(tests, another_thread_than_the_one_mpi_runs_for_is_refused);
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
    tcase_add_loop_test(tests, transfers_out_of_order_are_refused, 0, 2);
    tcase_add_test(tests, more_transfers_than_reserved_are_refused);
    tcase_add_loop_test(tests, rank_that_never_arrives_is_named, 0, 2);
    tcase_add_loop_test(tests, collective_that_others_skip_fails, 0, 2);
    tcase_add_loop_test(tests, rank_that_never_arrives_is_named_on_every_node, 0, 4);
    tcase_add_loop_test(tests, mismatched_collectives_name_the_operation, FIRST_VERIFIED, 2);
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
