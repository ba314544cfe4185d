/* Transport mpi: any MPI world, host memory. This file has the life of the object; MPI itself is
 * started and ended in mpi_process.c, waits are in mpi_wait.c, small collectives in
 * mpi_collective.c, and slices move in mpi_transfer.c. Errors of MPI are returned on the
 * communicator's duplicate, never fatal. */
#include <string.h>

#include "comm/mpi_internal.h"

/* ------------------------------------------------------------------ errors ------------------- */

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

/* ------------------------------------------------------------------ life --------------------- */

static zopt_status duplicate(zi_mpi *m, MPI_Comm parent)
{
    MPI_Request request;
    MPI_Errhandler handler = zi_mpi_hush(parent);
    zopt_status status =
        zi_mpi_check(m, "MPI_Comm_idup", MPI_Comm_idup(parent, &m->comm, &request));
    if (status == ZOPT_OK)
        status = zi_mpi_finish(m, &request, "calls of zopt_create", -1);
    zi_mpi_unhush(parent, handler);
    ZI_TRY(status);
    ZI_MPI_TRY(m, MPI_Comm_set_errhandler, m->comm, MPI_ERRORS_RETURN);
    m->calls_roll = 1;
    return ZOPT_OK;
}

/* A verification, or a number from each rank, at a time at least. */
enum { BOUNCE_BYTES = 64 << 10, BOUNCE_MIN = 64 };

static size_t bounce_size(int world)
{
    size_t least = (size_t)(world + 1) * BOUNCE_MIN;
    return least > BOUNCE_BYTES ? least : BOUNCE_BYTES;
}

static zopt_status take_bounce(zi_mpi *m)
{
    void *bounce;
    size_t bytes = bounce_size(m->base.world);
    m->bounce = (char *)m->little;
    m->bounce_bytes = sizeof m->little;
    ZI_TRY(zi_mem_array(m->base.mem, ZI_MEM_STAGING, bytes, &bounce));
    m->bounce = bounce;
    m->bounce_bytes = bytes;
    return ZOPT_OK;
}

/* Those of them that are counted. */
static size_t taken_bytes(const zi_mpi *m)
{
    return m->bounce == (const char *)m->little ? 0 : m->bounce_bytes;
}

/* After a failure MPI may still write into what this object owns, and into the object itself: all
 * of it is leaked, and MPI, if it is ours, is never finalized, which would wait for the peers that
 * did not arrive. */
static void leak(zi_mpi *m)
{
    zi_engine_cancel(m);
    zi_mpi_abandon();
    zi_symmetric_free_all(&m->base, 1);
    zi_mem_uncount(m->base.mem, ZI_MEM_STAGING, taken_bytes(m) + m->engine.staging_bytes);
    zi_mem_uncount(m->base.mem, ZI_MEM_TABLES, sizeof(zi_mpi));
}

static void disconnect(zi_mpi *m)
{
    if (!m->base.broken && zi_engine_drain(m) == ZOPT_OK && m->comm != MPI_COMM_NULL) {
        m->base.phase = "end";
        zi_watchdog_arm(&m->watchdog, "MPI_Comm_free", 0);
        MPI_Comm_free(&m->comm);
        (void)zi_mpi_returned(m, "MPI_Comm_free");
    }
    zi_mpi_left(m);
}

static void destroy(zi_comm *comm)
{
    zi_mpi *m = (zi_mpi *)comm;
    if (m == NULL)
        return;
    int running = !comm->planned && zi_mpi_missing() == NULL;
    if (running)
        disconnect(m);
    zi_watchdog_stop(&m->watchdog);
    zi_mem_free_table(comm->mem, m->engine.ring, m->engine.capacity * sizeof(zi_mpi_job));
    if (running && comm->broken) {
        leak(m);
        return;
    }
    zi_symmetric_free_all(comm, 0);
    zi_mem_free_array(comm->mem, ZI_MEM_STAGING, m->engine.staging, m->engine.staging_bytes);
    if (taken_bytes(m) > 0)
        zi_mem_free_array(comm->mem, ZI_MEM_STAGING, m->bounce, m->bounce_bytes);
    zi_mem_free_table(comm->mem, m, sizeof(zi_mpi));
}

/* Ranks that come with different transports, or with different ideas of what a node is, would go on
 * to wait for different things: the first collective of every transport over MPI compares them. The
 * greatest of x and of -x are those of one number only if all are equal. */
static zopt_status compare_rows(zi_mpi *m, const zi_comm_ops *ops, const zi_comm_config *config)
{
    enum { N = 5 };
    int64_t mine[N] = {0, config->ranks_per_node, config->shared_params, config->between_nodes,
                       config->nccl_windows};
    int64_t most[2 * N];
    while (zi_comms[mine[0]] != ops)
        mine[0]++;
    for (int i = 0; i < N; i++) {
        most[i] = mine[i];
        most[N + i] = -mine[i];
    }
    int differ = 0;
    ZI_TRY(zi_mpi_all_reduce(&m->base, ZI_MAX, most, sizeof most / sizeof most[0]));
    for (int i = 0; i < N; i++)
        differ |= most[i] != -most[N + i];
    if (!differ)
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_DISAGREE,
                   "rank %d comes with transport %s, ranks_per_node %d, shared_params %d, "
                   "between_nodes %s, nccl_windows %s, and others differ: set them alike on all "
                   "ranks",
                   m->base.rank, ops->name, config->ranks_per_node, config->shared_params,
                   zi_between_words[config->between_nodes], zi_windows_words[config->nccl_windows]);
}

/* Start MPI if nobody has, and learn who this is. *mine: that there is no watchdog, for the others
 * to hear. */
static zopt_status join(zi_mpi *m, const zi_comm_config *config, MPI_Comm *parent,
                        zopt_status *mine)
{
    m->base.rank = -1;
    m->base.phase = "start";
    *mine = zi_watchdog_start(&m->watchdog, &m->base);
    ZI_TRY(zi_mpi_start(m, config->progress_thread ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED));
    ZI_TRY(zi_mpi_parent(config, parent));
    ZI_MPI_TRY(m, MPI_Comm_rank, *parent, &m->base.rank);
    ZI_MPI_TRY(m, MPI_Comm_size, *parent, &m->base.world);
    return ZOPT_OK;
}

/* What a rank cannot have is an error on all of them, once they have a communicator: the others
 * would wait for it in vain. */
static zopt_status connect(zi_mpi *m, const zi_comm_ops *ops, const zi_comm_config *config)
{
    MPI_Comm parent = MPI_COMM_NULL;
    zopt_status mine = ZOPT_OK;
    if (!m->base.planned)
        ZI_TRY(join(m, config, &parent, &mine));
    zi_comm_seat(&m->base, m->base.rank, m->base.world, 1);
    m->base.local_rank = zi_mpi_local_rank();
    zi_engine_init(m);
    zopt_status bounce = take_bounce(m);
    mine = mine != ZOPT_OK ? mine : bounce;
    if (m->base.planned)
        return mine;
    ZI_TRY(duplicate(m, parent));
    ZI_TRY(zi_comm_agree(&m->base, mine));
    ZI_TRY(compare_rows(m, ops, config));
    m->base.phase = NULL;
    return ZOPT_OK;
}

zopt_status zi_mpi_connect(const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem,
                           zi_mpi **out)
{
    zi_mpi *m;
    *out = NULL;
    ZI_TRY(zi_mem_table(mem, sizeof *m, &m));
    zi_comm_init(&m->base, &zi_comm_mpi, config, mem);
    m->comm = MPI_COMM_NULL;
    zopt_status status = connect(m, ops, config);
    if (status == ZOPT_OK)
        *out = m;
    else
        destroy(&m->base);
    return status;
}

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    zi_mpi *m;
    *out = NULL;
    ZI_TRY(zi_mpi_connect(&zi_comm_mpi, config, mem, &m));
    zopt_status status = ZOPT_OK;
    if (config->shared_params)
        status = ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                         "shared_params: transport mpi keeps a buffer for "
                         "each rank; ask for transport \"shm\", on nodes of several ranks");
    else if (config->progress_thread && !m->base.planned)
        status = zi_mpi_check_threads(&m->base);
    status = zi_comm_agree(&m->base, status);
    if (status == ZOPT_OK)
        *out = &m->base;
    else
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
    if (!comm->planned && !comm->broken && zi_mpi_missing() == NULL)
        (void)zi_engine_drain((zi_mpi *)comm);
    zi_symmetric_free(comm, category, memory, comm->broken);
}

const zi_comm_ops zi_comm_mpi = {
    .name = "mpi",
    .help = "any MPI world, by messages from host memory",
    .peer_memory = 0,
    .device_memory = 1,
    .missing = zi_mpi_missing,
    .wanted = zi_mpi_wanted,
    .create = create,
    .destroy = destroy,
    .reserve = zi_mpi_reserve,
    .alloc_symmetric = alloc_symmetric,
    .free_symmetric = free_symmetric,
    .all_gather = zi_mpi_all_gather,
    .all_reduce = zi_mpi_all_reduce,
    .broadcast = zi_mpi_broadcast,
    .exchange = zi_mpi_exchange,
    .expose = zi_mpi_expose,
    .expose_test = zi_mpi_expose_test,
    .expose_wait = zi_mpi_expose_wait,
    .consumed = zi_mpi_consumed,
    .reuse_wait = zi_mpi_reuse_wait,
    .open = zi_mpi_open,
    .dest_wait = zi_mpi_dest_wait,
    .publish = zi_mpi_publish,
    .publish_wait = zi_mpi_publish_wait,
    .progress = zi_mpi_progress,
};
