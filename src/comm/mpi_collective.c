/* The small collectives of transport mpi: nonblocking ones, polled up to the deadline while
 * transfers go on. They send and receive memory of the object, so that one that is given up never
 * writes into its caller's. */
#include <string.h>

#include "comm/mpi_internal.h"

#ifdef ZI_VERIFY_COMM
enum { VERIFY = 1 };
#else
enum { VERIFY = 0 };
#endif

typedef enum operation { ALL_GATHER, ALL_REDUCE, BROADCAST } operation;

static const struct {
    const char *name, *awaited;
} operations[] = {
    [ALL_GATHER] = {"all_gather", "values for all_gather"},
    [ALL_REDUCE] = {"all_reduce", "values for all_reduce"},
    [BROADCAST] = {"broadcast", "values for broadcast"},
};

/* Compare what all ranks are about to do: MPI itself takes different sizes for memory to corrupt.
 * The greatest of x and of -x are those of one number only if all are equal. */
static zopt_status begin(zi_mpi *m, operation op, int variant, size_t bytes)
{
    enum { N = 4 };
    int64_t mine[(size_t)2 * N];
    MPI_Request request;
    ZI_TRY(zi_check_connected(&m->base, operations[op].name));
    m->sequence++;
    if (!VERIFY)
        return ZOPT_OK;
    const int64_t values[N] = {(int64_t)m->sequence, op, variant, (int64_t)bytes};
    for (size_t i = 0; i < N; i++) {
        mine[2 * i] = values[i];
        mine[2 * i + 1] = -values[i];
    }
    int64_t *all = (int64_t *)(void *)m->bounce;
    memcpy(all, mine, sizeof mine);
    ZI_MPI_TRY(m, MPI_Iallreduce, MPI_IN_PLACE, all, 2 * N, MPI_INT64_T, MPI_MAX, m->comm,
               &request);
    ZI_TRY(zi_mpi_finish(m, &request, operations[op].awaited, -1));
    for (size_t i = 0; i < N; i++) {
        if (all[2 * i] == -all[2 * i + 1])
            continue;
        m->base.broken = 1;
        return ZI_FAIL(
            ZOPT_ERR_COMM, "collective %llu: rank %d calls %s(%d) of %zu bytes, and others differ",
            (unsigned long long)m->sequence, m->base.rank, operations[op].name, variant, bytes);
    }
    return ZOPT_OK;
}

/* bounce: this rank's part, then every rank's. */
zopt_status zi_mpi_all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv)
{
    zi_mpi *m = (zi_mpi *)comm;
    size_t world = (size_t)comm->world, most = m->bounce_bytes / (world + 1);
    ZI_TRY(begin(m, ALL_GATHER, 0, bytes));
    for (size_t offset = 0, n = 0; offset < bytes; offset += n) {
        MPI_Request request;
        n = bytes - offset < most ? bytes - offset : most;
        memcpy(m->bounce, (const char *)send + offset, n);
        ZI_MPI_TRY(m, MPI_Iallgather, m->bounce, (int)n, MPI_BYTE, m->bounce + n, (int)n, MPI_BYTE,
                   m->comm, &request);
        ZI_TRY(zi_mpi_finish(m, &request, operations[ALL_GATHER].awaited, -1));
        for (size_t r = 0; r < world; r++)
            memcpy((char *)recv + r * bytes + offset, m->bounce + (r + 1) * n, n);
    }
    return ZOPT_OK;
}

zopt_status zi_mpi_all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n)
{
    const MPI_Op ops[] = {[ZI_SUM] = MPI_SUM, [ZI_MIN] = MPI_MIN, [ZI_MAX] = MPI_MAX};
    zi_mpi *m = (zi_mpi *)comm;
    size_t most = m->bounce_bytes / sizeof *values;
    ZI_TRY(begin(m, ALL_REDUCE, (int)op, n * sizeof *values));
    for (size_t done = 0, n_now = 0; done < n; done += n_now) {
        MPI_Request request;
        n_now = n - done < most ? n - done : most;
        memcpy(m->bounce, values + done, n_now * sizeof *values);
        ZI_MPI_TRY(m, MPI_Iallreduce, MPI_IN_PLACE, m->bounce, (int)n_now, MPI_INT64_T, ops[op],
                   m->comm, &request);
        ZI_TRY(zi_mpi_finish(m, &request, operations[ALL_REDUCE].awaited, -1));
        memcpy(values + done, m->bounce, n_now * sizeof *values);
    }
    return ZOPT_OK;
}

/* What a broadcast's message begins with: a rank that is out of step must not take it for another.
 */
typedef struct broadcast_head {
    uint64_t sequence, offset, bytes;
} broadcast_head;

/* Pieces are cut alike on all ranks, so what zi_comm_agree sends must be one. */
_Static_assert(sizeof(broadcast_head) + ZI_AGREE_TEXT <= ZI_MPI_LITTLE * sizeof(int64_t),
               "a rank without a bounce agrees too");

static zopt_status check_head(zi_mpi *m, const broadcast_head *want, int from)
{
    if (memcmp(m->bounce, want, sizeof *want) == 0)
        return ZOPT_OK;
    m->base.broken = 1;
    return ZI_FAIL(
        ZOPT_ERR_COMM,
        "collective %llu: rank %d awaits a broadcast of %llu bytes, rank %d is in another",
        (unsigned long long)m->sequence, m->base.rank, (unsigned long long)want->bytes, from);
}

/* Down a binomial tree rooted at `root`: rank v (counted from the root) hears from v without its
 * lowest bit, and tells v + 2^i for all 2^i below that bit, the farthest first. bounce: a head and
 * its piece, n bytes in all. */
static zopt_status broadcast_piece(zi_mpi *m, int root, const broadcast_head *head, int n)
{
    int world = m->base.world, v = (m->base.rank - root + world) % world, bit = 1;
    MPI_Request request;
    while (bit < world && (v & bit) == 0)
        bit <<= 1;
    if (v != 0) {
        int from = (v - bit + root) % world;
        ZI_MPI_TRY(m, MPI_Irecv, m->bounce, n, MPI_BYTE, from, ZI_TAG_BROADCAST, m->comm, &request);
        ZI_TRY(zi_mpi_finish(m, &request, operations[BROADCAST].awaited, from));
        ZI_TRY(check_head(m, head, from));
    }
    for (bit >>= 1; bit > 0; bit >>= 1) {
        if (v + bit >= world)
            continue;
        int to = (v + bit + root) % world;
        ZI_MPI_TRY(m, MPI_Isend, m->bounce, n, MPI_BYTE, to, ZI_TAG_BROADCAST, m->comm, &request);
        ZI_TRY(zi_mpi_finish(m, &request, "receipts of a broadcast", to));
    }
    return ZOPT_OK;
}

zopt_status zi_mpi_broadcast(zi_comm *comm, int root, void *buffer, size_t bytes)
{
    zi_mpi *m = (zi_mpi *)comm;
    broadcast_head head;
    size_t most = m->bounce_bytes - sizeof head;
    char *piece = m->bounce + sizeof head;
    ZI_TRY(begin(m, BROADCAST, root, bytes));
    for (size_t offset = 0, n = 0; offset < bytes; offset += n) {
        n = bytes - offset < most ? bytes - offset : most;
        head = (broadcast_head){.sequence = m->sequence, .offset = offset, .bytes = bytes};
        if (comm->rank == root) {
            memcpy(m->bounce, &head, sizeof head);
            memcpy(piece, (char *)buffer + offset, n);
        }
        ZI_TRY(broadcast_piece(m, root, &head, (int)(sizeof head + n)));
        memcpy((char *)buffer + offset, piece, n);
    }
    return ZOPT_OK;
}
