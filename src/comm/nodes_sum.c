/* Sums of a group's gradients, made on its node before they travel (reduce_group, where it divides
 * the ranks of a node): one FP32 slice for each group and owner in place of a slice for each rank.
 *
 * Ranks of equal place in their groups meet: the one of a group whose place is the owner's reads
 * the slices of all of its group in shared memory, sums them in slot order, and sends. What comes
 * takes the place of the sending group's slices in this rank's memory, once all of this rank's
 * group have counted ZI_SUMMED: they read it before. Behind the sums, where they are made, are the
 * numbers of blocks in each that are not finite. */
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

/* Memory of sums, as the engine sends them or where they are made. */
static float *sum_at(char *sums, const zi_mpi_job *job, int mine, int other)
{
    return (float *)(void *)(sums + zi_engine_sum_at(job, mine, other));
}

static int64_t *n_bad_at(const zi_shm *s, char *sums)
{
    return (int64_t *)(void *)(sums + (size_t)n_owners(&s->base.base) * s->max_sum_bytes);
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

/* From zero on, by what comm->queue has; *n_bad too. */
static void sum_slices(zi_comm *comm, const zi_mpi_job *job, int owner, float *sum, int64_t *n_bad)
{
    zi_source source[ZI_MAX_GROUP];
    int n = list_slices(comm, job, owner, source);
    const zi_job sums = {.n_elems = job->bytes / sizeof *sum, .source = source, .n_sources = n};
    comm->device->zero(comm->queue, sum, job->bytes);
    comm->device->accumulate(comm->queue, &sums, sum, n_bad);
}

static void tell_bad(zi_comm *comm, const zi_mpi_job *job, int owner)
{
    zi_source source[ZI_MAX_GROUP];
    int n = list_slices(comm, job, owner, source);
    const zi_bad_sum bad = {job->transfer.ordinal, owner, first_of_group(comm, comm->rank), n,
                            source};
    if (comm->on_bad_sum != NULL)
        comm->on_bad_sum(comm->on_bad_sum_arg, &bad);
}

/* What was made on a device comes down to where it is sent from. */
static zopt_status fetch_sums(zi_shm *s, const zi_mpi_job *job)
{
    zi_comm *comm = &s->base.base;
    char *sums = s->meeting->engine.sums;
    size_t n = (size_t)n_owners(comm);
    if (s->made == NULL)
        return ZOPT_OK;
    comm->device->copy(comm->queue, sums, s->made, n * job->bytes);
    comm->device->copy(comm->queue, n_bad_at(s, sums), n_bad_at(s, s->made), n * sizeof(int64_t));
    return comm->device->wait(comm->queue);
}

static zopt_status make_all(zi_shm *s, const zi_mpi_job *job)
{
    zi_comm *comm = &s->base.base;
    const zi_ranks *ranks = &job->route.ranks;
    char *sums = s->meeting->engine.sums, *made = s->made != NULL ? s->made : sums;
    int mine = zi_engine_index(s->meeting, job);
    int64_t *n_bad = n_bad_at(s, made);
    comm->device->zero(comm->queue, n_bad, (size_t)n_owners(comm) * sizeof *n_bad);
    for (int i = 0, k = 0; i < ranks->size; i++)
        if (i / job->route.apart != mine / job->route.apart)
            sum_slices(comm, job, ranks->base + i * ranks->stride, sum_at(made, job, mine, i),
                       &n_bad[k++]);
    ZI_TRY(fetch_sums(s, job));
    n_bad = n_bad_at(s, sums);
    for (int i = 0, k = 0; i < ranks->size; i++)
        if (i / job->route.apart != mine / job->route.apart && n_bad[k++] > 0)
            tell_bad(comm, job, ranks->base + i * ranks->stride);
    return ZOPT_OK;
}

/* Progress is made in calls that keep the caller's floating-point environment: sums must not. */
static zopt_status sum_all(zi_shm *s, const zi_mpi_job *job)
{
    const zi_comm *comm = &s->base.base;
    int first = first_of_group(comm, comm->rank);
    fenv_t callers;
    if (first >= job->transfer.n_contributors)
        return ZOPT_OK;
    ZI_TRY(zi_fence_await(&s->base, ZI_EXPOSED, job->transfer.ordinal, first, first + job->group));
    fegetenv(&callers);
    fesetenv(FE_DFL_ENV);
    zopt_status status = make_all(s, job);
    fesetenv(&callers);
    return status;
}

zopt_status zi_nodes_make_sums(zi_comm *comm, const zi_mpi_job *job, int *missing)
{
    zi_shm *s = (zi_shm *)comm;
    int first = first_of_group(comm, comm->rank), end = first + job->group, world = comm->world;
    uint64_t exposed = job->transfer.ordinal + 1, summed = s->n_sum_jobs + 1;
    if (zi_channel_count(&s->base, ZI_SUMMED) < summed) {
        *missing = zi_channel_missing(&s->base, ZI_EXPOSED, exposed, first, end);
        if (*missing < world)
            return ZOPT_OK;
        ZI_TRY(sum_all(s, job));
        zi_channel_advance(&s->base, ZI_SUMMED);
    }
    *missing = zi_channel_missing(&s->base, ZI_SUMMED, summed, first, end);
    if (*missing < world)
        return ZOPT_OK;
    s->n_sum_jobs++;
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

static size_t sums_bytes(const zi_shm *s)
{
    return (size_t)n_owners(&s->base.base) * (s->max_sum_bytes + sizeof(int64_t));
}

zopt_status zi_nodes_reserve_sums(zi_comm *comm, size_t max_slice_bytes)
{
    zi_shm *s = (zi_shm *)comm;
    zi_mpi_engine *e = &s->meeting->engine;
    if (!can_travel(comm))
        return ZOPT_OK;
    comm->sums_travel = 1;
    s->max_sum_bytes = max_slice_bytes * sizeof(float) / sizeof(uint16_t); /* of 16-bit slices */
    size_t bytes = sums_bytes(s);
    ZI_TRY(zi_mem_array(comm->mem, ZI_MEM_STAGING, bytes, &e->sums));
    e->sums_bytes = bytes;
    if (comm->device->on_host)
        return ZOPT_OK;
    return comm->device->alloc(comm->queue, comm->mem, ZI_MEM_STAGING, bytes, &s->made);
}

void zi_nodes_free_sums(zi_comm *comm)
{
    zi_shm *s = (zi_shm *)comm;
    if (comm->sums_travel && !comm->device->on_host)
        comm->device->free(comm->queue, comm->mem, ZI_MEM_STAGING, s->made, sums_bytes(s));
}
