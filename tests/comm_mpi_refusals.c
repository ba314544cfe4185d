/* Transports mpi and shm: what no comm is made of, on all ranks alike. Part of test_comm_mpi. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "comm_mpi.h"

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

void add_refusals(TCase *tests)
{
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
}
