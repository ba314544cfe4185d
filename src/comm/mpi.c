/* Transport mpi: any MPI world, host memory. This file has the life of the object and the small
 * collectives, nonblocking ones polled up to the deadline; slices move in mpi_transfer.c. Errors
 * of MPI are returned on the communicator's duplicate, never fatal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/mpi_internal.h"

#ifdef ZI_VERIFY_COMM
enum { VERIFY = 1 };
#else
enum { VERIFY = 0 };
#endif

/* MPI is one for the process, and so is who started it. */
static enum { NOT_OURS, OURS, ABANDONED } mpi_state;

/* ------------------------------------------------------------------ errors and waits --------- */

zopt_status zi_mpi_check(zi_mpi *m, const char *call, int rc)
{
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length;
    if (rc == MPI_SUCCESS)
        return ZOPT_OK;
    m->base.broken = 1;
    MPI_Error_string(rc, text, &length);
    return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: %s: %s", m->base.rank, call, text);
}

/* Poll one request up to the deadline while transfers go on. */
static zopt_status finish(zi_mpi *m, MPI_Request *request, const char *what, const char *peer)
{
    zi_wait wait;
    zi_wait_begin(&wait, &m->base);
    for (;;) {
        int done = 0;
        ZI_MPI_TRY(m, MPI_Test, request, &done, MPI_STATUS_IGNORE);
        if (done)
            return ZOPT_OK;
        ZI_TRY(zi_engine_progress(m));
        if (zi_wait_pause(&wait))
            return zi_wait_hang(&m->base, what, peer);
    }
}

/* ------------------------------------------------------------------ life --------------------- */

static const char *missing(void)
{
    int finalized = 0;
    MPI_Finalized(&finalized);
    return finalized ? "MPI has been finalized in this process" : NULL;
}

/* Did a launcher start this process with peers? Launchers that tell the number of processes say so
 * before MPI runs; the others at least number them. */
static int launched(void)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    if (size == NULL)
        size = getenv("PMI_SIZE");
    if (size != NULL)
        return strtol(size, NULL, 10) > 1;
    return getenv("PMI_RANK") != NULL || getenv("PMIX_RANK") != NULL;
}

static int wanted(const zi_comm_config *config)
{
    int running = 0;
    if (config->plan_world > 0)
        return config->plan_world > 1;
    MPI_Initialized(&running);
    return config->has_comm || running || launched();
}

static zopt_status start_mpi(void)
{
    int running = 0, provided;
    const char *why = missing();
    if (why != NULL)
        return ZI_FAIL(ZOPT_ERR_ORDER, "transport mpi: %s", why);
    MPI_Initialized(&running);
    if (running)
        return ZOPT_OK;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return ZI_FAIL(ZOPT_ERR_COMM, "MPI_Init_thread failed");
    mpi_state = OURS;
    return ZOPT_OK;
}

void zopt_finalize(void)
{
    int finalized = 0;
    if (mpi_state != OURS)
        return;
    MPI_Finalized(&finalized);
    if (!finalized)
        MPI_Finalize();
    mpi_state = NOT_OURS;
}

/* Let errors on a communicator of somebody else's be returned to this file; then as it was. */
static MPI_Errhandler hush(MPI_Comm comm)
{
    MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
    MPI_Comm_get_errhandler(comm, &handler);
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    return handler;
}

static void unhush(MPI_Comm comm, MPI_Errhandler handler)
{
    MPI_Comm_set_errhandler(comm, handler);
    MPI_Errhandler_free(&handler);
}

static zopt_status parent_of(const zi_comm_config *config, MPI_Comm *parent)
{
    int is_inter = 0, world_size = 0;
    *parent = config->has_comm ? MPI_Comm_f2c((MPI_Fint)config->comm_f) : MPI_COMM_WORLD;
    /* An error on what is no communicator is raised on the world. */
    MPI_Errhandler handler = hush(MPI_COMM_WORLD);
    int rc = *parent == MPI_COMM_NULL ? MPI_ERR_COMM : MPI_Comm_test_inter(*parent, &is_inter);
    unhush(MPI_COMM_WORLD, handler);
    if (rc != MPI_SUCCESS || is_inter)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "comm_f %d is no %scommunicator", config->comm_f,
                       is_inter ? "intra-" : "");
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    return world_size == 1 ? zi_comm_check_alone() : ZOPT_OK;
}

static zopt_status duplicate(zi_mpi *m, MPI_Comm parent)
{
    MPI_Request request;
    MPI_Errhandler handler = hush(parent);
    zopt_status status =
        zi_mpi_check(m, "MPI_Comm_idup", MPI_Comm_idup(parent, &m->comm, &request));
    if (status == ZOPT_OK)
        status = finish(m, &request, "calls of zopt_create", "");
    unhush(parent, handler);
    ZI_TRY(status);
    ZI_MPI_TRY(m, MPI_Comm_set_errhandler, m->comm, MPI_ERRORS_RETURN);
    return ZOPT_OK;
}

/* A verification, or a number from each rank, at a time at least. */
enum { BOUNCE_BYTES = 64 << 10, BOUNCE_MIN = 64 };

static size_t bounce_size(int world)
{
    size_t least = (size_t)(world + 1) * BOUNCE_MIN;
    return least > BOUNCE_BYTES ? least : BOUNCE_BYTES;
}

/* After a failure MPI may still write into what this object owns, and into the object itself: all
 * of it is leaked, and MPI, if it is ours, is never finalized, which would wait for the peers that
 * did not arrive. */
static void leak(zi_mpi *m)
{
    zi_engine_cancel(m);
    if (mpi_state == OURS)
        mpi_state = ABANDONED;
    zi_symmetric_free_all(&m->base, 1);
    zi_mem_uncount(m->base.mem, ZI_MEM_STAGING, m->bounce_bytes + m->engine.staging_bytes);
    zi_mem_uncount(m->base.mem, ZI_MEM_TABLES, sizeof(zi_mpi));
}

static void destroy(zi_comm *comm)
{
    zi_mpi *m = (zi_mpi *)comm;
    if (m == NULL)
        return;
    int running = !comm->planned && missing() == NULL;
    if (running && !comm->broken && zi_engine_drain(m) == ZOPT_OK && m->comm != MPI_COMM_NULL)
        MPI_Comm_free(&m->comm);
    zi_mem_free_table(comm->mem, m->engine.ring, m->engine.capacity * sizeof(zi_mpi_job));
    if (running && comm->broken) {
        leak(m);
        return;
    }
    zi_symmetric_free_all(comm, 0);
    zi_mem_free_array(comm->mem, ZI_MEM_STAGING, m->engine.staging, m->engine.staging_bytes);
    zi_mem_free_array(comm->mem, ZI_MEM_STAGING, m->bounce, m->bounce_bytes);
    zi_mem_free_table(comm->mem, m, sizeof(zi_mpi));
}

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    void *memory, *bounce;
    MPI_Comm parent = MPI_COMM_NULL;
    zopt_status status;
    *out = NULL;
    if (config->plan_world == 0) {
        ZI_TRY(start_mpi());
        ZI_TRY(parent_of(config, &parent));
    }
    ZI_TRY(zi_mem_table(mem, sizeof(zi_mpi), &memory));
    zi_mpi *m = memory;
    zi_comm_init(&m->base, &zi_comm_mpi, config, mem);
    m->comm = MPI_COMM_NULL;
    if (parent != MPI_COMM_NULL) {
        ZI_TRY_GOTO(zi_mpi_check(m, "MPI_Comm_rank", MPI_Comm_rank(parent, &m->base.rank)), fail);
        ZI_TRY_GOTO(zi_mpi_check(m, "MPI_Comm_size", MPI_Comm_size(parent, &m->base.world)), fail);
    }
    zi_engine_init(m);
    size_t bounce_bytes = bounce_size(m->base.world);
    ZI_TRY_GOTO(zi_mem_array(mem, ZI_MEM_STAGING, bounce_bytes, &bounce), fail);
    m->bounce = bounce;
    m->bounce_bytes = bounce_bytes;
    if (parent != MPI_COMM_NULL)
        ZI_TRY_GOTO(duplicate(m, parent), fail);
    *out = &m->base;
    return ZOPT_OK;
fail:
    destroy(&m->base);
    return status;
}

static zopt_status alloc_symmetric(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out)
{
    return zi_symmetric_alloc(comm, category, bytes, 0, out);
}

/* Queued transfers may still touch it. A drain that fails has broken the comm: leak. */
static void free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory)
{
    if (!comm->planned && !comm->broken && missing() == NULL)
        (void)zi_engine_drain((zi_mpi *)comm);
    zi_symmetric_free(comm, category, memory, comm->broken);
}

/* ------------------------------------------------------------------ small collectives -------- */

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
    ZI_TRY(finish(m, &request, operations[op].awaited, ""));
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
static zopt_status all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv)
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
        ZI_TRY(finish(m, &request, operations[ALL_GATHER].awaited, ""));
        for (size_t r = 0; r < world; r++)
            memcpy((char *)recv + r * bytes + offset, m->bounce + (r + 1) * n, n);
    }
    return ZOPT_OK;
}

static zopt_status all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n)
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
        ZI_TRY(finish(m, &request, operations[ALL_REDUCE].awaited, ""));
        memcpy(values + done, m->bounce, n_now * sizeof *values);
    }
    return ZOPT_OK;
}

/* What a broadcast's message begins with: a rank that is out of step must not take it for another.
 */
typedef struct broadcast_head {
    uint64_t sequence, offset, bytes;
} broadcast_head;

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
    char peer[16];
    while (bit < world && (v & bit) == 0)
        bit <<= 1;
    if (v != 0) {
        int from = (v - bit + root) % world;
        snprintf(peer, sizeof peer, "%d", from);
        ZI_MPI_TRY(m, MPI_Irecv, m->bounce, n, MPI_BYTE, from, ZI_TAG_BROADCAST, m->comm, &request);
        ZI_TRY(finish(m, &request, operations[BROADCAST].awaited, peer));
        ZI_TRY(check_head(m, head, from));
    }
    for (bit >>= 1; bit > 0; bit >>= 1) {
        if (v + bit >= world)
            continue;
        int to = (v + bit + root) % world;
        snprintf(peer, sizeof peer, "%d", to);
        ZI_MPI_TRY(m, MPI_Isend, m->bounce, n, MPI_BYTE, to, ZI_TAG_BROADCAST, m->comm, &request);
        ZI_TRY(finish(m, &request, "receipts of a broadcast", peer));
    }
    return ZOPT_OK;
}

static zopt_status broadcast(zi_comm *comm, int root, void *buffer, size_t bytes)
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

const zi_comm_ops zi_comm_mpi = {
    .name = "mpi",
    .help = "any MPI world, by messages from host memory",
    .peer_memory = 0,
    .missing = missing,
    .wanted = wanted,
    .create = create,
    .destroy = destroy,
    .reserve = zi_mpi_reserve,
    .alloc_symmetric = alloc_symmetric,
    .free_symmetric = free_symmetric,
    .all_gather = all_gather,
    .all_reduce = all_reduce,
    .broadcast = broadcast,
    .exchange = zi_mpi_exchange,
    .expose = zi_mpi_expose,
    .expose_wait = zi_mpi_expose_wait,
    .consumed = zi_mpi_consumed,
    .reuse_wait = zi_mpi_reuse_wait,
    .open = zi_mpi_open,
    .dest_wait = zi_mpi_dest_wait,
    .publish = zi_mpi_publish,
    .publish_wait = zi_mpi_publish_wait,
    .progress = zi_mpi_progress,
};
