/* Transport mpi: any MPI world, host memory. This file has the life of the object; small
 * collectives are in mpi_collective.c, slices move in mpi_transfer.c. Errors of MPI are returned on
 * the communicator's duplicate, never fatal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/mpi_internal.h"

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

zopt_status zi_mpi_finish(zi_mpi *m, MPI_Request *request, const char *what, const char *peer)
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

const char *zi_mpi_missing(void)
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

int zi_mpi_wanted(const zi_comm_config *config)
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
    const char *why = zi_mpi_missing();
    if (why != NULL)
        return ZI_FAIL(ZOPT_ERR_ORDER, "transport over MPI: %s", why);
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
        status = zi_mpi_finish(m, &request, "calls of zopt_create", "");
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
    int running = !comm->planned && zi_mpi_missing() == NULL;
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

/* Ranks that come with different transports, or with different ideas of what a node is, would go on
 * to wait for different things: the first collective of every transport over MPI compares them. The
 * greatest of x and of -x are those of one number only if all are equal. */
static zopt_status compare_rows(zi_mpi *m, const zi_comm_ops *ops, const zi_comm_config *config)
{
    int64_t row = 0;
    while (zi_comms[row] != ops)
        row++;
    int64_t nodes = config->ranks_per_node, shared = config->shared_params;
    int64_t most[] = {row, -row, nodes, -nodes, shared, -shared};
    ZI_TRY(zi_mpi_all_reduce(&m->base, ZI_MAX, most, sizeof most / sizeof most[0]));
    if (most[0] == -most[1] && most[2] == -most[3] && most[4] == -most[5])
        return ZOPT_OK;
    return ZI_FAIL(
        ZOPT_ERR_DISAGREE,
        "rank %d comes with transport %s, ranks_per_node %d, shared_params %d, and others "
        "differ: set them alike on all ranks",
        m->base.rank, ops->name, config->ranks_per_node, config->shared_params);
}

static zopt_status meet(zi_mpi *m, MPI_Comm parent, const zi_comm_ops *ops,
                        const zi_comm_config *config)
{
    void *bounce;
    if (parent != MPI_COMM_NULL) {
        ZI_MPI_TRY(m, MPI_Comm_rank, parent, &m->base.rank);
        ZI_MPI_TRY(m, MPI_Comm_size, parent, &m->base.world);
    }
    zi_engine_init(m);
    size_t bounce_bytes = bounce_size(m->base.world);
    ZI_TRY(zi_mem_array(m->base.mem, ZI_MEM_STAGING, bounce_bytes, &bounce));
    m->bounce = bounce;
    m->bounce_bytes = bounce_bytes;
    if (parent == MPI_COMM_NULL)
        return ZOPT_OK;
    ZI_TRY(duplicate(m, parent));
    return compare_rows(m, ops, config);
}

zopt_status zi_mpi_connect(const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem,
                           zi_mpi **out)
{
    zi_mpi *m;
    MPI_Comm parent = MPI_COMM_NULL;
    *out = NULL;
    if (config->plan_world == 0) {
        ZI_TRY(start_mpi());
        ZI_TRY(parent_of(config, &parent));
    }
    ZI_TRY(zi_mem_table(mem, sizeof *m, &m));
    zi_comm_init(&m->base, &zi_comm_mpi, config, mem);
    m->comm = MPI_COMM_NULL;
    zopt_status status = meet(m, parent, ops, config);
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
    if (config->shared_params) {
        destroy(&m->base);
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "shared_params: transport mpi keeps a buffer for each "
                                             "rank; ask for transport \"shm\", on one node");
    }
    *out = &m->base;
    return ZOPT_OK;
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
    .expose_wait = zi_mpi_expose_wait,
    .consumed = zi_mpi_consumed,
    .reuse_wait = zi_mpi_reuse_wait,
    .open = zi_mpi_open,
    .dest_wait = zi_mpi_dest_wait,
    .publish = zi_mpi_publish,
    .publish_wait = zi_mpi_publish_wait,
    .progress = zi_mpi_progress,
};
