/* Part of comm_suite.h's: small collectives, messages, agreement. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "comm_suite_parts.h"

/* ------------------------------------------------------------------ small collectives ------- */

static void all_gather_orders_by_rank(zi_comm *comm, suite_failure *failure)
{
    static const size_t sizes[] = {0, 1, 8, 1000, 65536, 150001};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t bytes = sizes[i], world = (size_t)comm->world;
        unsigned char *send = malloc(bytes + 1), *recv = malloc(world * bytes + 1);
        for (size_t j = 0; j < bytes; j++)
            send[j] = (unsigned char)(j * 7 + (size_t)comm->rank * 31 + i);
        recv[world * bytes] = 0xa5;
        zopt_status status = comm->ops->all_gather(comm, send, bytes, recv);
        size_t n_wrong = recv[world * bytes] != 0xa5;
        for (size_t r = 0; r < world; r++)
            for (size_t j = 0; j < bytes; j++)
                n_wrong += recv[r * bytes + j] != (unsigned char)(j * 7 + r * 31 + i);
        free(send);
        free(recv);
        SUITE_OK(failure, status);
        SUITE_EXPECT(failure, n_wrong == 0, "all_gather of %zu bytes: %zu wrong", bytes, n_wrong);
    }
}

static void all_reduce_is_exact(zi_comm *comm, suite_failure *failure)
{
    static const size_t sizes[] = {0, 1, 21, 1000, 20000};
    int64_t world = comm->world;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (int op = ZI_SUM; op <= ZI_MAX; op++) {
            size_t n = sizes[i], n_wrong = 0;
            int64_t *values = calloc(n + 1, sizeof *values);
            for (size_t j = 0; j < n; j++)
                values[j] = ((int64_t)j - 5) * 1000000007 + comm->rank * 3 - 4;
            zopt_status status = comm->ops->all_reduce(comm, (zi_reduce_op)op, values, n);
            for (size_t j = 0; j < n; j++) {
                int64_t least = ((int64_t)j - 5) * 1000000007 - 4;
                int64_t want[] = {[ZI_SUM] = world * least + 3 * world * (world - 1) / 2,
                                  [ZI_MIN] = least,
                                  [ZI_MAX] = least + 3 * (world - 1)};
                n_wrong += values[j] != want[op];
            }
            free(values);
            SUITE_OK(failure, status);
            SUITE_EXPECT(failure, n_wrong == 0, "all_reduce %d of %zu: %zu wrong", op, n, n_wrong);
        }
    }
}

static void broadcast_reaches_all_from_any_root(zi_comm *comm, suite_failure *failure)
{
    static const size_t sizes[] = {0, 1, 4096, 65537, 300000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (int root = 0; root < comm->world; root++) {
            size_t bytes = sizes[i], n_wrong = 0;
            unsigned char *buffer = malloc(bytes + 1);
            for (size_t j = 0; j < bytes; j++)
                buffer[j] = (unsigned char)(j * 5 + (size_t)comm->rank * 17);
            zopt_status status = comm->ops->broadcast(comm, root, buffer, bytes);
            for (size_t j = 0; j < bytes; j++)
                n_wrong += buffer[j] != (unsigned char)(j * 5 + (size_t)root * 17);
            free(buffer);
            SUITE_OK(failure, status);
            SUITE_EXPECT(failure, n_wrong == 0, "broadcast of %zu bytes from %d: %zu wrong", bytes,
                         root, n_wrong);
        }
    }
}

/* ------------------------------------------------------------------ messages ---------------- */

/* Two messages to the rank `step` on and two from the rank `step` back, of different sizes: those
 * of a pair stay in order. */
static void shift_by(zi_comm *comm, int step, size_t bytes, suite_failure *failure)
{
    int world = comm->world, to = (comm->rank + step) % world;
    int from = (comm->rank - step + world) % world;
    size_t total = 2 * bytes + 1;
    unsigned char *send = malloc(total), *recv = calloc(1, total), *want = malloc(total);
    suite_pattern(send, total, 0, (uint64_t)comm->rank);
    suite_pattern(want, total, 0, (uint64_t)from);
    const zi_message messages[] = {
        {.peer = to, .data = send, .bytes = bytes},
        {.peer = from, .receive = 1, .data = recv, .bytes = bytes},
        {.peer = from, .receive = 1, .data = recv + bytes, .bytes = bytes + 1},
        {.peer = to, .data = send + bytes, .bytes = bytes + 1},
    };
    zopt_status status = comm->ops->exchange(comm, messages, COUNT(messages));
    int same = memcmp(recv, want, total) == 0;
    free(send);
    free(recv);
    free(want);
    SUITE_OK(failure, status);
    SUITE_EXPECT(failure, same, "messages of %zu bytes from rank %d are wrong", bytes, from);
}

static void messages_arrive_in_the_order_of_their_pair(zi_comm *comm, suite_failure *failure)
{
    static const size_t sizes[] = {1, 4097, 3000000};
    SUITE_OK(failure, comm->ops->exchange(comm, NULL, 0));
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int step = 1; step < comm->world; step++)
            shift_by(comm, step, sizes[i], failure);
}

/* Rank 0 hands something to each in turn, and only those two call. */
static void messages_need_only_their_pair(zi_comm *comm, suite_failure *failure)
{
    for (int peer = 1; peer < comm->world; peer++) {
        int64_t value = comm->rank == 0 ? peer * 1001 : 0;
        const zi_message message = {.peer = comm->rank == 0 ? peer : 0,
                                    .receive = comm->rank != 0,
                                    .data = &value,
                                    .bytes = sizeof value};
        if (comm->rank == 0 || comm->rank == peer)
            SUITE_OK(failure, comm->ops->exchange(comm, &message, 1));
        if (comm->rank == peer)
            SUITE_EXPECT(failure, value == peer * 1001, "received %lld", (long long)value);
    }
}

/* ------------------------------------------------------------------ agreement --------------- */

static zopt_status own_failure(int rank, zopt_status status)
{
    return status == ZOPT_OK ? ZOPT_OK : ZI_FAIL(status, "own text of %d", rank);
}

/* Ranks fail as given, others do not; `chosen` is the rank whose status all must return. */
static void agree_on(zi_comm *comm, int rank_a, zopt_status a, int rank_b, zopt_status b,
                     int chosen, suite_failure *failure)
{
    char want[64];
    zopt_status mine = comm->rank == rank_a ? a : comm->rank == rank_b ? b : ZOPT_OK;
    zopt_status want_status = chosen == rank_a ? a : b;
    zopt_status got = zi_comm_agree(comm, own_failure(comm->rank, mine));
    SUITE_EXPECT(failure, got == want_status, "rank %d agrees on %d, not %d", comm->rank, (int)got,
                 (int)want_status);
    if (want_status == ZOPT_OK)
        return;
    if (mine != ZOPT_OK)
        snprintf(want, sizeof want, "own text of %d", comm->rank);
    else
        snprintf(want, sizeof want, "rank %d: own text of %d", chosen, chosen);
    SUITE_EXPECT(failure, strcmp(zopt_last_error(), want) == 0, "text \"%s\", not \"%s\"",
                 zopt_last_error(), want);
}

static void agreement_takes_the_worst_and_its_text(zi_comm *comm, suite_failure *failure)
{
    int last = comm->world - 1;
    agree_on(comm, 0, ZOPT_OK, last, ZOPT_OK, 0, failure);
    agree_on(comm, last, ZOPT_ERR_WRITE, -1, ZOPT_OK, last, failure);
    if (comm->world > 1) {
        agree_on(comm, 0, ZOPT_ERR_PEER, last, ZOPT_ERR_MEMORY, last, failure);
        agree_on(comm, 0, ZOPT_ERR_DATA, last, ZOPT_ERR_DATA, 0, failure);
        agree_on(comm, 0, ZOPT_ERR_PEER, -1, ZOPT_OK, 0, failure);
    }
    agree_on(comm, 0, ZOPT_OK, last, ZOPT_OK, 0, failure);
}

/* ------------------------------------------------------------------ running ----------------- */

static void (*const cases[])(zi_comm *, suite_failure *) = {
    all_gather_orders_by_rank,           all_reduce_is_exact,
    broadcast_reaches_all_from_any_root, messages_arrive_in_the_order_of_their_pair,
    messages_need_only_their_pair,       agreement_takes_the_worst_and_its_text,
};

void suite_run_small(zi_comm *comm, suite_failure *failure)
{
    for (size_t i = 0; i < COUNT(cases); i++)
        cases[i](comm, failure);
}
