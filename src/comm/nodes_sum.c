/* Sums of a group's gradients, made on its node before they travel (reduce_group, where it divides
 * the ranks of a node): one FP32 slice for each group and owner in place of a slice for each rank.
 *
 * Ranks of equal place in their groups meet: the one of a group whose place is the owner's reads
 * the slices of all of its group in shared memory, sums them in slot order, and sends. What comes
 * takes the place of the sending group's slices in this rank's memory, once all of this rank's
 * group have counted ZI_SUMMED: they read it before. Behind the sums, where they are made, are the
 * numbers of blocks in each that are not finite, which the host looks at before that; of a device's
 * an event says when it can. */
#include <fenv.h>

#include "comm/fence.h"
#include "comm/shm.h"

static int first_of_group(const zi_comm *comm, int rank)
{
    return rank - rank % comm->reduce_group;
}

/* Owners for which this rank sums. */
static int n_owners(const zi_comm *comm)
{
    return (comm->world - comm->node.size) / comm->reduce_group;
}

static float *sum_at(const zi_shm *s, const zi_mpi_job *job, int mine, int other)
{
    return (float *)(void *)(s->sums.made + zi_engine_sum_at(job, mine, other));
}

/* Behind all sums: of as many bytes where they are made as the largest have. */
static size_t n_bad_bytes(const zi_shm *s)
{
    return (size_t)n_owners(&s->base.base) * sizeof(int64_t);
}

static int64_t *made_n_bad(const zi_shm *s)
{
    return (int64_t *)(void *)(s->sums.made + s->sums.bytes - n_bad_bytes(s));
}

static int64_t *told_n_bad(const zi_shm *s)
{
    return (int64_t *)(void *)(s->sums.told + s->sums.told_bytes - n_bad_bytes(s));
}

/* What this rank sums for an owner: the slices that contributors of its group have. Their number.
 */
static int list_slices(const zi_comm *comm, const zi_mpi_job *job, int owner,
                       zi_source source[ZI_MAX_GROUP])
{
    const zi_transfer *transfer = &job->transfer;
    int first = first_of_group(comm, comm->rank), n = transfer->n_contributors - first;
    n = n < job->group ? n : job->group;
    for (int i = 0; i < n; i++)
        source[i] = (zi_source){(const char *)job->memory.peer[first + i] + transfer->offset_bytes +
                                    (size_t)owner * transfer->slice_bytes,
                                transfer->dtype};
    return n;
}

/* From zero on; *n_bad too. */
static void sum_slices(const zi_shm *s, const zi_mpi_job *job, int owner, float *sum,
                       int64_t *n_bad)
{
    const zi_comm *comm = &s->base.base;
    zi_source source[ZI_MAX_GROUP];
    int n = list_slices(comm, job, owner, source);
    const zi_job sums = {.n_elems = job->bytes / sizeof *sum, .source = source, .n_sources = n};
    comm->device->zero(s->sums.queue, sum, job->bytes);
    comm->device->accumulate(s->sums.queue, &sums, sum, n_bad);
}

static void tell_bad(const zi_comm *comm, const zi_mpi_job *job, int owner)
{
    zi_source source[ZI_MAX_GROUP];
    int n = list_slices(comm, job, owner, source);
    const zi_bad_sum bad = {job->transfer.ordinal, owner, first_of_group(comm, comm->rank), n,
                            source};
    if (comm->on_bad_sum != NULL)
        comm->on_bad_sum(comm->on_bad_sum_arg, &bad);
}

/* 1: the sum for the rank with that index in the job's route is made here. */
static int sums_for(const zi_shm *s, const zi_mpi_job *job, int other)
{
    return other / job->route.apart != zi_engine_index(s->meeting, job) / job->route.apart;
}

/* What was made on a device comes down as far as the host needs it. */
static void fetch_sums(const zi_shm *s, const zi_mpi_job *job)
{
    const zi_device_ops *device = s->base.base.device;
    if (device->on_host)
        return;
    if (s->sums.told_bytes == s->sums.bytes)
        device->copy(s->sums.queue, s->sums.told, s->sums.made,
                     (size_t)n_owners(&s->base.base) * job->bytes);
    device->copy(s->sums.queue, told_n_bad(s), made_n_bad(s), n_bad_bytes(s));
    device->event_record(s->sums.queue, s->sums.done);
}

static void enqueue_sums(const zi_shm *s, const zi_mpi_job *job)
{
    const zi_ranks *ranks = &job->route.ranks;
    int mine = zi_engine_index(s->meeting, job);
    s->base.base.device->zero(s->sums.queue, made_n_bad(s), n_bad_bytes(s));
    for (int i = 0, k = 0; i < ranks->size; i++)
        if (sums_for(s, job, i))
            sum_slices(s, job, ranks->base + i * ranks->stride, sum_at(s, job, mine, i),
                       &made_n_bad(s)[k++]);
    fetch_sums(s, job);
}

static void tell_all_bad(const zi_shm *s, const zi_mpi_job *job)
{
    const zi_ranks *ranks = &job->route.ranks;
    for (int i = 0, k = 0; i < ranks->size; i++)
        if (sums_for(s, job, i) && told_n_bad(s)[k++] > 0)
            tell_bad(&s->base.base, job, ranks->base + i * ranks->stride);
}

/* Of this rank's group, once all of it have exposed; told of once they are made. A group without a
 * contributor has none, but what lands where its slices were may still be on its way up from where
 * messages arrive. */
static zopt_status advance_sums(zi_shm *s, const zi_mpi_job *job, int *done)
{
    const zi_comm *comm = &s->base.base;
    int first = first_of_group(comm, comm->rank);
    *done = 1;
    if (first >= job->transfer.n_contributors)
        return comm->ops->device_direct ? ZOPT_OK : comm->device->wait(s->sums.queue);
    if (!s->sums.is_open) {
        ZI_TRY(zi_fence_await(&s->base, s->sums.queue, ZI_EXPOSED, job->transfer.ordinal,
                              (zi_range){first, first + job->group}));
        enqueue_sums(s, job);
    }
    if (!comm->device->on_host)
        ZI_TRY(comm->device->event_query(s->sums.done, done));
    s->sums.is_open = !*done;
    if (*done)
        tell_all_bad(s, job);
    return ZOPT_OK;
}

/* Progress is made in calls that keep the caller's floating-point environment: sums must not. */
static zopt_status sum_all(zi_shm *s, const zi_mpi_job *job, int *done)
{
    fenv_t callers;
    fegetenv(&callers);
    fesetenv(FE_DFL_ENV);
    zopt_status status = advance_sums(s, job, done);
    fesetenv(&callers);
    return status;
}

zopt_status zi_nodes_make_sums(zi_comm *comm, const zi_mpi_job *job, int *missing)
{
    zi_shm *s = (zi_shm *)comm;
    int first = first_of_group(comm, comm->rank), end = first + job->group, world = comm->world;
    uint64_t exposed = job->transfer.ordinal + 1, summed = s->sums.n_begun + 1;
    if (zi_channel_count(&s->base, ZI_SUMMED) < summed) {
        *missing = zi_channel_missing(&s->base, ZI_EXPOSED, exposed, first, end);
        if (*missing < world)
            return ZOPT_OK;
        int done;
        ZI_TRY(sum_all(s, job, &done));
        *missing = comm->rank;
        if (!done)
            return ZOPT_OK;
        zi_channel_advance(&s->base, ZI_SUMMED);
    }
    *missing = zi_channel_missing(&s->base, ZI_SUMMED, summed, first, end);
    if (*missing < world)
        return ZOPT_OK;
    s->sums.n_begun++;
    *missing = -1;
    return ZOPT_OK;
}

zi_mpi_job zi_nodes_exchange_job(zi_comm *comm, const zi_transfer *transfer)
{
    zi_mpi_job job = zi_engine_job(((zi_shm *)comm)->meeting, ZI_JOB_EXCHANGE, transfer);
    int group = comm->reduce_group;
    job.route.apart = comm->node.size;
    if (!comm->sums_travel || (size_t)group * zopt_dtype_bytes(transfer->dtype) <= sizeof(float))
        return job;
    job.group = group;
    job.bytes = transfer->slice_bytes / zopt_dtype_bytes(transfer->dtype) * sizeof(float);
    job.route.ranks = (zi_ranks){comm->rank % group, group, comm->world / group};
    job.route.apart = comm->node.size / group;
    return job;
}

uint64_t zi_nodes_sent_bytes(const zi_comm *comm, const zi_mpi_job *job)
{
    const zi_transfer *transfer = &job->transfer;
    int contributes = comm->rank < transfer->n_contributors;
    uint64_t n_slices = (uint64_t)comm->world - 1;
    if (job->group == 0)
        return contributes ? n_slices * transfer->slice_bytes : 0;
    uint64_t n_sums = (uint64_t)n_owners(comm);
    uint64_t sent = contributes ? (n_slices - n_sums) * transfer->slice_bytes : 0;
    if (first_of_group(comm, comm->rank) < transfer->n_contributors)
        sent += n_sums * job->bytes;
    return sent;
}

/* Whether groups fall on nodes, and a kernel takes all slices of one. */
static int can_travel(const zi_comm *comm)
{
    int group = comm->reduce_group, most = comm->device->max_table;
    return group > 1 && group <= ZI_MAX_GROUP && (most == 0 || group <= most) &&
           comm->node.size % group == 0;
}

static zopt_status allocate(zi_shm *s)
{
    zi_comm *comm = &s->base.base;
    const zi_device_ops *device = comm->device;
    if (device->on_host) {
        ZI_TRY(zi_mem_array(comm->mem, ZI_MEM_STAGING, s->sums.bytes, &s->sums.made));
        s->sums.told = s->sums.made;
        return ZOPT_OK;
    }
    ZI_TRY(device->alloc(comm->queue, comm->mem, ZI_MEM_STAGING, s->sums.bytes, &s->sums.made));
    ZI_TRY(device->alloc_host(comm->queue, comm->mem, ZI_MEM_STAGING, s->sums.told_bytes,
                              &s->sums.told));
    return comm->planned ? ZOPT_OK : device->event_create(comm->queue, &s->sums.done);
}

zopt_status zi_nodes_reserve_sums(zi_comm *comm, size_t max_slice_bytes)
{
    zi_shm *s = (zi_shm *)comm;
    if (!can_travel(comm))
        return ZOPT_OK;
    comm->sums_travel = 1;
    size_t max_sum_bytes = max_slice_bytes * sizeof(float) / sizeof(uint16_t); /* of 16 bits */
    s->sums.bytes = (size_t)n_owners(comm) * max_sum_bytes + n_bad_bytes(s);
    s->sums.told_bytes = comm->ops->device_direct ? n_bad_bytes(s) : s->sums.bytes;
    if (s->sums.queue == NULL)
        s->sums.queue = comm->queue;
    ZI_TRY(allocate(s));
    s->meeting->engine.sums = s->sums.told;
    return ZOPT_OK;
}

/* After a failure MPI may still be sending what lies on the host, and NCCL what is on the GPU. */
void zi_nodes_free_sums(zi_comm *comm)
{
    zi_shm *s = (zi_shm *)comm;
    const zi_device_ops *device = comm->device;
    int is_left = comm->broken && s->sums.told != NULL;
    if (!comm->sums_travel)
        return;
    if (is_left)
        zi_mem_uncount(comm->mem, ZI_MEM_STAGING, s->sums.told_bytes);
    else if (device->on_host)
        zi_mem_free_array(comm->mem, ZI_MEM_STAGING, s->sums.told, s->sums.told_bytes);
    else
        device->free_host(comm->queue, comm->mem, ZI_MEM_STAGING, s->sums.told, s->sums.told_bytes);
    comm->sums_travel = 0;
    if (device->on_host)
        return;
    if (is_left && comm->ops->device_direct)
        zi_mem_uncount_device(comm->mem, ZI_MEM_STAGING, s->sums.bytes);
    else
        device->free(comm->queue, comm->mem, ZI_MEM_STAGING, s->sums.made, s->sums.bytes);
    if (s->sums.done != NULL)
        device->event_destroy(s->sums.done);
}
