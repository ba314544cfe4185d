/* Transports mpi and shm: the ways in which they end. Part of test_comm_mpi. */
#include "comm_mpi.h"

enum { SLICE = 1024 };

START_TEST(transfers_out_of_order_are_refused)
{
    run_split(row(_i), NULL, 1, comm_suite_order);
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

void add_breaking_tests(TCase *tests)
{
    tcase_add_loop_test(tests, transfers_out_of_order_are_refused, 0, 2);
    tcase_add_test(tests, more_transfers_than_reserved_are_refused);
    tcase_add_loop_test(tests, rank_that_never_arrives_is_named, 0, 2);
    tcase_add_loop_test(tests, collective_that_others_skip_fails, 0, 2);
    tcase_add_loop_test(tests, rank_that_never_arrives_is_named_on_every_node, 0, 4);
    tcase_add_loop_test(tests, mismatched_collectives_name_the_operation, FIRST_VERIFIED, 2);
}
