/* Transports shm and ipc over several nodes: shared memory, or each other's GPU memory, within a
 * node, and messages between them, so that a byte crosses once what several ranks of a node read.
 *
 * Gradients: the engine of mpi_transfer.c exchanges with ranks of other nodes alone. Rank p's slice
 * for this rank takes the place of this one's for p, as in transport mpi (or a group's sum takes
 * that of its slices: nodes_sum.c); of its own node this rank reads the peers' memory. A part may
 * be overwritten once all of the node have counted ZI_CONSUMED and this rank's own exchange is
 * done.
 *
 * Parameters: owners store into every memory of their node. A gather among the ranks of equal place
 * on their nodes brings each slice to a node once; who receives it copies it to the node's other
 * memories, to none where it is shared, and counts a ZI_FORWARDED. It may copy because it has
 * waited for its own destinations, and so for the whole node's ZI_OPENED, before it published.
 *
 * Who carries the jobs is one of two. MPI: a GPU's slices pass through as much page-locked memory
 * of the host as it has memory for them (zi_symmetric.host) on their way to other nodes and from
 * there, as in transport mpi. NCCL, between GPUs: they go from one's memory to the other's
 * (nccl_nodes.c). What arrives is copied on to the node's other memories by the GPU: events stand
 * behind ZI_FORWARDED as behind the other counts (fence.h). What leaves over MPI, and sums, are
 * waited for on the host, before MPI or a peer's count says that they are there.
 *
 * Every wait drives the jobs (mpi_wait.c), also one for a count in shared memory: a peer may need
 * what is queued here. Small collectives and messages are those of transport mpi. */
#include "comm/fence.h"
#include "comm/shm.h"

/* ------------------------------------------------------------------ waiting ------------------ */

typedef struct node_wait {
    zi_mpi_wait base;
    zi_channel_comm *k;
    const zi_awaited *counts;
} node_wait;

static zopt_status test_counts(zi_mpi *m, zi_mpi_wait *wait, int *done)
{
    node_wait *w = (node_wait *)wait;
    ZI_TRY(zi_engine_progress(m));
    wait->peer = w->counts->missing(w->k, w->counts, 0);
    *done = wait->peer == w->k->base.world;
    return *done ? ZOPT_OK : zi_channel_check(w->k, w->counts);
}

static zopt_status await(zi_channel_comm *k, const zi_awaited *what)
{
    node_wait wait = {
        .base = {.test = test_counts, .what = what->text, .peer = -1}, .k = k, .counts = what};
    return zi_channel_checked(k, zi_mpi_await(zi_shm_meeting(&k->base), &wait.base));
}

static zopt_status await_job(zi_comm *comm, zi_mpi_job_kind kind, uint64_t ordinal,
                             zi_queue *behind)
{
    zi_shm *s = (zi_shm *)comm;
    return zi_channel_checked(&s->base, s->carrier->wait(s, kind, ordinal, behind));
}

/* ------------------------------------------------------------------ messages ----------------- */

static zopt_status engine_reserve(zi_shm *s, size_t n_transfers, size_t max_slice_bytes)
{
    return zi_mpi_reserve(&zi_shm_meeting(&s->base.base)->base, n_transfers, max_slice_bytes);
}

static zopt_status engine_progress(zi_shm *s, int *idle)
{
    return zi_mpi_progress(&zi_shm_meeting(&s->base.base)->base, idle);
}

static zopt_status engine_enqueue(zi_shm *s, const char *call, const zi_mpi_job *job)
{
    return zi_engine_enqueue(zi_shm_meeting(&s->base.base), call, job);
}

static zopt_status engine_test(zi_shm *s, zi_mpi_job_kind kind, uint64_t ordinal, int *done)
{
    int idle;
    ZI_TRY(engine_progress(s, &idle));
    *done = s->meeting->engine.n_finished[kind] > ordinal;
    return ZOPT_OK;
}

/* What has come is, or is on comm->queue on its way to, where it belongs. */
static zopt_status engine_wait(zi_shm *s, zi_mpi_job_kind kind, uint64_t ordinal, zi_queue *behind)
{
    (void)behind;
    return zi_engine_wait(zi_shm_meeting(&s->base.base), kind, ordinal);
}

static zopt_status engine_drain(zi_shm *s)
{
    return zi_engine_drain(zi_shm_meeting(&s->base.base));
}

const zi_carrier zi_engine_carrier = {
    .reserve = engine_reserve,
    .progress = engine_progress,
    .enqueue = engine_enqueue,
    .test = engine_test,
    .wait = engine_wait,
    .drain = engine_drain,
};

/* ------------------------------------------------------------------ life --------------------- */

static int n_nodes(const zi_comm *comm)
{
    return comm->world / comm->node.size;
}

/* What came from the owners on other nodes that have this rank's place, to all memories here. */
zopt_status zi_nodes_forward(zi_comm *comm, zi_queue *queue, const zi_mpi_job *job)
{
    const zi_symmetric *memory = &job->memory;
    if (job->kind != ZI_JOB_GATHER)
        return ZOPT_OK;
    for (int owner = comm->local_rank; owner < comm->world; owner += comm->node.size) {
        size_t bytes = job->transfer.slice_bytes;
        size_t at = job->transfer.offset_bytes + (size_t)owner * bytes;
        for (int i = 0; i < comm->node.size && owner != comm->rank && !memory->shared; i++)
            if (i != comm->local_rank)
                comm->device->copy(queue, (char *)memory->peer[comm->node.base + i] + at,
                                   (char *)memory->base + at, bytes);
    }
    ZI_TRY(zi_fence_set((zi_channel_comm *)comm, queue, ZI_FORWARDED, job->transfer.ordinal));
    zi_channel_advance((zi_channel_comm *)comm, ZI_FORWARDED);
    return ZOPT_OK;
}

static zopt_status forward(zi_comm *comm, const zi_mpi_job *job)
{
    return zi_nodes_forward(comm, comm->queue, job);
}

void zi_nodes_join(zi_shm *s)
{
    s->meeting->user.landed = forward;
    s->meeting->user.make_sums = zi_nodes_make_sums;
    s->base.await = await;
}

static zopt_status reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes)
{
    zi_shm *s = (zi_shm *)comm;
    ZI_TRY(zi_channel_reserve(comm, n_transfers, max_slice_bytes));
    ZI_TRY(s->carrier->reserve(s, n_transfers, max_slice_bytes));
    return zi_nodes_reserve_sums(comm, max_slice_bytes);
}

/* ------------------------------------------------------------------ small collectives -------- */

static zopt_status all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv)
{
    ZI_TRY(zi_check_connected(comm, "all_gather"));
    return zi_channel_checked((zi_channel_comm *)comm,
                              zi_mpi_all_gather(&zi_shm_meeting(comm)->base, send, bytes, recv));
}

static zopt_status all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n)
{
    ZI_TRY(zi_check_connected(comm, "all_reduce"));
    return zi_channel_checked((zi_channel_comm *)comm,
                              zi_mpi_all_reduce(&zi_shm_meeting(comm)->base, op, values, n));
}

static zopt_status broadcast(zi_comm *comm, int root, void *buffer, size_t bytes)
{
    ZI_TRY(zi_check_connected(comm, "broadcast"));
    return zi_channel_checked((zi_channel_comm *)comm,
                              zi_mpi_broadcast(&zi_shm_meeting(comm)->base, root, buffer, bytes));
}

/* ------------------------------------------------------------------ transfers ---------------- */

static zopt_status enqueue(zi_comm *comm, const char *call, const zi_mpi_job *job)
{
    zi_shm *s = (zi_shm *)comm;
    return zi_channel_checked(&s->base, s->carrier->enqueue(s, call, job));
}

static zopt_status expose(zi_comm *comm, const zi_transfer *transfer)
{
    const zi_mpi_job job = zi_nodes_exchange_job(comm, transfer);
    uint64_t sent = comm->bytes_sent + zi_nodes_sent_bytes(comm, &job);
    ZI_TRY(zi_channel_expose(comm, transfer));
    comm->bytes_sent = sent;
    return enqueue(comm, "expose", &job);
}

/* Both halves are asked, as the messages are driven by it. */
static zopt_status expose_test(zi_comm *comm, const zi_transfer *transfer, int *ready)
{
    zi_shm *s = (zi_shm *)comm;
    int near, far;
    ZI_TRY(zi_channel_expose_test(comm, transfer, &near));
    ZI_TRY(zi_channel_checked(&s->base,
                              s->carrier->test(s, ZI_JOB_EXCHANGE, transfer->ordinal, &far)));
    *ready = near && far;
    return ZOPT_OK;
}

static zopt_status expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source)
{
    ZI_TRY(zi_channel_expose_wait(comm, transfer, source));
    ZI_TRY(await_job(comm, ZI_JOB_EXCHANGE, transfer->ordinal, comm->queue));
    const char *bucket = (const char *)transfer->memory->base + transfer->offset_bytes;
    for (int i = 0; i < transfer->n_contributors; i++)
        if (!zi_is_near(comm, i))
            source[i] = bucket + (size_t)i * transfer->slice_bytes;
    return ZOPT_OK;
}

static zopt_status reuse_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    ZI_TRY(zi_channel_reuse_wait(comm, ordinal, behind));
    return await_job(comm, ZI_JOB_EXCHANGE, ordinal, behind);
}

static zopt_status publish(zi_comm *comm, const zi_transfer *transfer)
{
    ZI_TRY(zi_channel_publish(comm, transfer));
    if (transfer->memory->shared)
        comm->bytes_sent += (uint64_t)(n_nodes(comm) - 1) * transfer->slice_bytes;
    zi_mpi_job job = zi_engine_job(((zi_shm *)comm)->meeting, ZI_JOB_GATHER, transfer);
    job.route.ranks = (zi_ranks){comm->local_rank, comm->node.size, n_nodes(comm)};
    return enqueue(comm, "publish", &job);
}

static zopt_status publish_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    ZI_TRY(zi_channel_publish_wait(comm, ordinal, behind));
    ZI_TRY(zi_channel_wait(k, ZI_FORWARDED, ordinal + 1, comm->world));
    return zi_fence_wait(k, ZI_FORWARDED, ordinal, behind);
}

static zopt_status progress(zi_comm *comm, int *idle)
{
    zi_shm *s = (zi_shm *)comm;
    ZI_TRY(zi_check_connected(comm, "progress"));
    return zi_channel_checked(&s->base, s->carrier->progress(s, idle));
}

/* The rows of a zi_comm_ops that all have alike. */
#define NODES_OPS                                                                                  \
    .peer_memory = 1, .device_waits = 1, .reserve = reserve,                                       \
    .alloc_symmetric = zi_shm_alloc_symmetric, .all_gather = all_gather, .all_reduce = all_reduce, \
    .broadcast = broadcast, .exchange = zi_shm_exchange, .expose = expose,                         \
    .expose_test = expose_test, .expose_wait = expose_wait, .consumed = zi_channel_consumed,       \
    .reuse_wait = reuse_wait, .open = zi_channel_open, .dest_wait = zi_channel_dest_wait,          \
    .publish = publish, .publish_wait = publish_wait, .progress = progress

const zi_comm_ops zi_comm_shm_nodes = {
    .name = "shm",
    .help = "shared memory within nodes, messages between them",
    .missing = zi_mpi_missing,
    .destroy = zi_shm_destroy,
    .free_symmetric = zi_shm_free_symmetric,
    NODES_OPS,
};

const zi_comm_ops zi_comm_ipc_nodes = {
    .name = "ipc",
    .help = "each other's GPU memory within nodes, messages between them",
    .device_memory = 1,
    .has_carriers = 1,
    .missing = zi_mpi_missing,
    .destroy = zi_ipc_destroy,
    .free_symmetric = zi_ipc_free_symmetric,
    NODES_OPS,
};

const zi_comm_ops zi_comm_ipc_nccl = {
    .name = "ipc+nccl",
    .help = "each other's GPU memory within nodes, NCCL between them",
    .device_memory = 1,
    .device_direct = 1,
    .has_carriers = 1,
    .missing = zi_mpi_missing,
    .destroy = zi_ipc_destroy,
    .free_symmetric = zi_ipc_free_symmetric,
    NODES_OPS,
};
