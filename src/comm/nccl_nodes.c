/* NCCL between the nodes of transport ipc: the jobs of nodes.c, from GPU to GPU. Gradients' slices,
 * or sums of a group's (nodes_sum.c), go to ranks of other nodes alone, and parameters to those of
 * this rank's place there, who forward them. Sends and receives name their ranks, so one
 * communicator of all ranks does for all of a kind; within a node NCCL connects nobody.
 *
 * Jobs are posted in one order on all ranks: a job whose sums are not made yet, or that NCCL's own
 * threads have not taken, keeps those behind it back. So what a queue of the GPU waits for may need
 * this host, and every wait of it, for GPUs too, pushes the jobs. A job runs on its kind's stream,
 * behind what comm->queue had to do when it was enqueued; what takes the place of slices that are
 * still to be sent passes through staging. */
#include <stdlib.h>

#include "base/status.h"
#include "comm/fence.h"
#include "comm/nccl.h"
#include "comm/shm.h"
#include "device/cuda.h"

typedef struct queued_job {
    zi_mpi_job job;
    zi_event *behind; /* what comm->queue had to do */
} queued_job;

typedef struct zi_nccl_nodes {
    zi_nccl_comm *n;
    queued_job *ring;
    size_t capacity;
    uint64_t queued, finished;         /* jobs */
    uint64_t n_queued[ZI_N_JOB_KINDS]; /* and by kind */
    uint64_t n_finished[ZI_N_JOB_KINDS];
    enum { WAITING, BEGUN, CALLED } stage; /* of the first */
    int is_pushing;
} zi_nccl_nodes;

static const int lane_of[ZI_N_JOB_KINDS] = {
    [ZI_JOB_EXCHANGE] = ZI_NCCL_GRADS, [ZI_JOB_GATHER] = ZI_NCCL_PARAMS};
static const char *const call_of[ZI_N_JOB_KINDS] = {
    [ZI_JOB_EXCHANGE] = "an exchange of gradients", [ZI_JOB_GATHER] = "a gather of parameters"};

/* With what the comm is doing. */
static zi_nccl_nodes *nccl_of(zi_shm *s)
{
    const zi_comm *comm = &s->base.base;
    zi_comm *base = &s->nccl->n->base;
    base->device = comm->device;
    base->queue = comm->queue;
    base->deadline_ms = comm->deadline_ms;
    base->step = comm->step;
    base->phase = comm->phase;
    base->bucket = comm->bucket;
    return s->nccl;
}

static zi_nccl_lane *lane_for(const zi_nccl_nodes *c, const zi_mpi_job *job)
{
    return &c->n->lane[lane_of[job->kind]];
}

/* ------------------------------------------------------------------ one job ------------------ */

static char *slice_at(const zi_mpi_job *job, int rank)
{
    return (char *)job->memory.base + job->transfer.offset_bytes +
           (size_t)rank * job->transfer.slice_bytes;
}

/* Ranks of other nodes, one after the other. */
static size_t staging_at(const zi_comm *comm, const zi_mpi_job *job, int rank)
{
    int far = rank < comm->node.base ? rank : rank - comm->node.size;
    return (size_t)far * job->transfer.slice_bytes;
}

/* 1: what comes takes the place of what goes. */
static int swaps(const zi_comm *comm, const zi_mpi_job *job)
{
    return job->kind == ZI_JOB_EXCHANGE && job->group == 0 &&
           comm->rank < job->transfer.n_contributors;
}

static ncclResult_t post_pair(zi_shm *s, const zi_mpi_job *job, int mine, int other)
{
    const zi_comm *comm = &s->base.base;
    const zi_nccl_comm *n = s->nccl->n;
    const zi_nccl_lane *lane = lane_for(s->nccl, job);
    int peer = job->route.ranks.base + other * job->route.ranks.stride;
    int from = zi_engine_leaves_from(s->meeting, job, other);
    int to = zi_engine_arrives_at(s->meeting, job, other);
    ncclResult_t rc = ncclSuccess;
    if (from >= 0)
        rc = n->nccl->Send(job->group > 0 ? s->sums.made + zi_engine_sum_at(job, mine, other)
                                          : slice_at(job, from),
                           job->bytes, ncclInt8, peer, lane->comm, lane->queue->stream);
    if (to >= 0 && rc == ncclSuccess)
        rc = n->nccl->Recv(swaps(comm, job) ? n->staging + staging_at(comm, job, to)
                                            : slice_at(job, to),
                           job->bytes, ncclInt8, peer, lane->comm, lane->queue->stream);
    return rc;
}

/* Between the two calls that make a group; NCCL keeps the first failure for its end. */
static ncclResult_t post(zi_shm *s, const zi_mpi_job *job)
{
    const zi_nccl_calls *nccl = s->nccl->n->nccl;
    int size = job->route.ranks.size, mine = zi_engine_index(s->meeting, job);
    ncclResult_t posted = ncclSuccess, rc = nccl->GroupStart();
    if (rc != ncclSuccess)
        return rc;
    for (int i = 1; i < size && posted == ncclSuccess; i++)
        posted = post_pair(s, job, mine, (mine + i) % size);
    rc = nccl->GroupEnd();
    return posted != ncclSuccess ? posted : rc;
}

/* Ranks first..end-1, those of other nodes on one side of this. */
static void land_run(zi_shm *s, const zi_mpi_job *job, int first, int end)
{
    const zi_comm *comm = &s->base.base;
    end = end < job->transfer.n_contributors ? end : job->transfer.n_contributors;
    if (first < end)
        comm->device->copy(lane_for(s->nccl, job)->queue, slice_at(job, first),
                           s->nccl->n->staging + staging_at(comm, job, first),
                           (size_t)(end - first) * job->transfer.slice_bytes);
}

/* All has been posted. */
static zopt_status land(zi_shm *s, const zi_mpi_job *job)
{
    zi_comm *comm = &s->base.base;
    zi_nccl_nodes *c = s->nccl;
    zi_queue *queue = lane_for(c, job)->queue;
    if (swaps(comm, job)) {
        land_run(s, job, 0, comm->node.base);
        land_run(s, job, comm->node.base + comm->node.size, comm->world);
    }
    comm->device->event_record(queue,
                               zi_nccl_done(c->n, lane_of[job->kind], job->transfer.ordinal));
    return job->kind == ZI_JOB_GATHER ? zi_nodes_forward(comm, queue, job) : ZOPT_OK;
}

/* From stage to stage; *done = 1: it is on the stream. Never waits. */
static zopt_status advance(zi_shm *s, const queued_job *first, int *done)
{
    zi_comm *comm = &s->base.base;
    zi_nccl_nodes *c = s->nccl;
    zi_nccl_lane *lane = lane_for(c, &first->job);
    const char *call = call_of[first->job.kind];
    int missing = -1;
    if (c->stage == WAITING)
        comm->device->event_await(lane->queue, first->behind);
    c->stage = c->stage == WAITING ? BEGUN : c->stage;
    if (c->stage == BEGUN) {
        if (first->job.group > 0)
            ZI_TRY(zi_nodes_make_sums(comm, &first->job, &missing));
        if (missing >= 0)
            return ZOPT_OK;
        zi_cuda_enter(lane->queue);
        ncclResult_t rc = post(s, &first->job);
        zi_cuda_note(lane->queue, cudaSuccess, "ncclGroupEnd");
        c->stage = CALLED;
        if (rc != ncclSuccess && rc != ncclInProgress)
            return zi_nccl_finish(c->n, lane, call, rc);
    }
    ZI_TRY(zi_nccl_checked(c->n, zi_nccl_test(c->n, lane, call, done)));
    return *done ? land(s, &first->job) : ZOPT_OK;
}

static zopt_status push_all(zi_shm *s)
{
    zi_nccl_nodes *c = s->nccl;
    for (int done = 1; done && c->finished < c->queued;) {
        const queued_job *first = &c->ring[c->finished % c->capacity];
        done = 0;
        ZI_TRY(advance(s, first, &done));
        if (!done)
            return ZOPT_OK;
        c->stage = WAITING;
        c->n_finished[first->job.kind]++;
        c->finished++;
    }
    return ZOPT_OK;
}

/* A job that looks for what is not finite waits, and is not pushed on by that. */
static zopt_status push(zi_shm *s)
{
    zi_nccl_nodes *c = nccl_of(s);
    if (c->is_pushing || c->n->base.broken)
        return ZOPT_OK;
    c->is_pushing = 1;
    zopt_status status = push_all(s);
    c->is_pushing = 0;
    return status;
}

/* In every wait. */
static zopt_status check(zi_comm *comm)
{
    zi_shm *s = (zi_shm *)comm;
    ZI_TRY(zi_channel_check(&s->base, NULL));
    ZI_TRY(zi_nccl_checked(s->nccl->n, zi_nccl_check_peers(&s->nccl->n->base)));
    return push(s);
}

/* ------------------------------------------------------------------ operations --------------- */

static zopt_status reserve(zi_shm *s, size_t n_transfers, size_t max_slice_bytes)
{
    zi_comm *comm = &s->base.base;
    zi_nccl_nodes *c = nccl_of(s);
    ZI_TRY(zi_mem_table(comm->mem, n_transfers * sizeof *c->ring, &c->ring));
    c->capacity = n_transfers;
    for (size_t i = 0; i < n_transfers && !comm->planned; i++)
        ZI_TRY(comm->device->event_create(comm->queue, &c->ring[i].behind));
    for (int i = 0; i < ZI_N_NCCL_LANES && !comm->planned; i++)
        comm->device->guard(c->n->lane[i].queue, &s->base.guard);
    s->sums.queue = c->n->lane[ZI_NCCL_GRADS].queue;
    return zi_nccl_equip(c->n, n_transfers,
                         (size_t)(comm->world - comm->node.size) * max_slice_bytes);
}

static zopt_status enqueue(zi_shm *s, const char *call, const zi_mpi_job *job)
{
    zi_comm *comm = &s->base.base;
    zi_nccl_nodes *c = nccl_of(s);
    ZI_TRY(zi_check_next(comm, call, c->n_queued[job->kind], job->transfer.ordinal));
    if (c->queued - c->finished >= c->capacity)
        return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: %s of transfer %llu, but only %zu were reserved",
                       comm->rank, call, (unsigned long long)job->transfer.ordinal, c->capacity);
    queued_job *next = &c->ring[c->queued % c->capacity];
    next->job = *job;
    comm->device->event_record(comm->queue, next->behind);
    c->n_queued[job->kind]++;
    c->queued++;
    return push(s);
}

typedef struct job_wait {
    zi_mpi_wait base;
    const uint64_t *count;
    uint64_t target;
} job_wait;

static zopt_status test_count(zi_mpi *m, zi_mpi_wait *wait, int *done)
{
    const job_wait *w = (const job_wait *)wait;
    ZI_TRY(push((zi_shm *)m->user.comm));
    *done = *w->count >= w->target;
    return ZOPT_OK;
}

/* Until *count, of jobs on their streams, reaches the target. */
static zopt_status await_count(zi_shm *s, const uint64_t *count, uint64_t target)
{
    job_wait wait = {.base = {.test = test_count, .what = "sums of gradients", .peer = -1},
                     .count = count,
                     .target = target};
    return zi_mpi_await(zi_shm_meeting(&s->base.base), &wait.base);
}

static zopt_status wait_for(zi_shm *s, zi_mpi_job_kind kind, uint64_t ordinal, zi_queue *behind)
{
    const zi_device_ops *device = s->base.base.device;
    zi_nccl_nodes *c = nccl_of(s);
    const zi_event *done = zi_nccl_done(c->n, lane_of[kind], ordinal);
    ZI_TRY(await_count(s, &c->n_finished[kind], ordinal + 1));
    if (behind == NULL)
        return device->event_wait(done);
    device->event_await(behind, done);
    return ZOPT_OK;
}

static zopt_status test(zi_shm *s, zi_mpi_job_kind kind, uint64_t ordinal, int *done)
{
    const zi_nccl_nodes *c = s->nccl;
    ZI_TRY(check(&s->base.base));
    *done = c->n_finished[kind] > ordinal;
    if (!*done)
        return ZOPT_OK;
    return s->base.base.device->event_query(zi_nccl_done(c->n, lane_of[kind], ordinal), done);
}

static zopt_status progress(zi_shm *s, int *idle)
{
    const zi_nccl_nodes *c = s->nccl;
    ZI_TRY(check(&s->base.base));
    *idle = c->finished == c->queued;
    for (int kind = 0; kind < ZI_N_JOB_KINDS && *idle; kind++)
        if (c->n_finished[kind] > 0)
            ZI_TRY(test(s, (zi_mpi_job_kind)kind, c->n_finished[kind] - 1, idle));
    return ZOPT_OK;
}

static zopt_status drain(zi_shm *s)
{
    zi_nccl_nodes *c = nccl_of(s);
    ZI_TRY(await_count(s, &c->finished, c->queued));
    for (int i = 0; i < ZI_N_NCCL_LANES; i++)
        ZI_TRY(zi_device_cuda.wait(c->n->lane[i].queue));
    return ZOPT_OK;
}

/* What another process lends is not NCCL's to register. */
static zopt_status know(zi_shm *s, zi_category category, const zi_symmetric *memory)
{
    int lane = category == ZI_MEM_PARAMS ? ZI_NCCL_PARAMS : ZI_NCCL_GRADS;
    if (memory->shared)
        return ZOPT_OK;
    return zi_nccl_register(nccl_of(s)->n, lane, memory->base, memory->bytes);
}

static void forget(zi_shm *s, const zi_symmetric *memory)
{
    if (memory->base != NULL)
        zi_nccl_deregister(nccl_of(s)->n, memory->base);
}

static void leave(zi_shm *s)
{
    zi_comm *comm = &s->base.base;
    zi_nccl_nodes *c = nccl_of(s);
    c->n->base.broken |= comm->broken;
    zi_nccl_leave(c->n);
    for (size_t i = 0; c->ring != NULL && i < c->capacity && !comm->planned; i++)
        comm->device->event_destroy(c->ring[i].behind);
    zi_mem_free_table(comm->mem, c->ring, c->capacity * sizeof *c->ring);
    zi_mem_free_table(comm->mem, c, sizeof *c);
    s->meeting->user.check = NULL;
    s->nccl = NULL;
    s->carrier = &zi_engine_carrier;
}

static const zi_carrier carrier = {
    .reserve = reserve,
    .progress = progress,
    .enqueue = enqueue,
    .test = test,
    .wait = wait_for,
    .drain = drain,
    .know = know,
    .forget = forget,
    .leave = leave,
};

zopt_status zi_nccl_carry(zi_shm *s, const zi_comm_config *config)
{
    zi_comm *comm = &s->base.base;
    zi_nccl_nodes *c = NULL;
    if (config->between_nodes == ZI_BETWEEN_MPI)
        return ZOPT_OK;
    zopt_status had = zi_comm_agree(comm, zi_mem_table(comm->mem, sizeof *c, &c));
    if (had != ZOPT_OK) {
        zi_mem_free_table(comm->mem, c, sizeof *c);
        return had;
    }
    zopt_status status = zi_nccl_join(s->meeting, &zi_comm_ipc_nccl, config, comm->mem, &c->n);
    if (status != ZOPT_OK) {
        zi_mem_free_table(comm->mem, c, sizeof *c);
        int may_do_without = config->between_nodes == ZI_BETWEEN_AUTO;
        return status == ZOPT_ERR_UNSUPPORTED && may_do_without ? ZOPT_OK : status;
    }
    comm->ops = &zi_comm_ipc_nccl;
    s->nccl = c;
    s->carrier = &carrier;
    s->base.gpu_needs_host = 1;
    s->meeting->user.check = check;
    return ZOPT_OK;
}
