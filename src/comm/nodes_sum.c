/* Sums of a group's gradients, made on its node before they travel (reduce_group, where it divides
 * the ranks of a node): one FP32 slice for each group and owner in place of a slice for each rank.
 *
 * Ranks of equal place in their groups meet: the one of a group whose place is the owner's reads
 * the slices of all of its group in shared memory, sums them in slot order, and sends. What comes
 * takes the place of the sending group's slices in this rank's memory, once all of this rank's
 * group have counted ZI_SUMMED: they read it before. */
#include <fenv.h>
#include <string.h>

#include "comm/shm.h"

static int first_of_group(const zi_comm *comm, int rank)
{
    return rank - rank % comm->reduce_group;
}

/* What this rank sums: the slices that contributors of its group have for an owner. */
static void sum_slices(zi_comm *comm, const zi_mpi_job *job, int owner, float *sum)
{
    zi_source source[ZI_MAX_GROUP];
    const zi_transfer *transfer = &job->transfer;
    int first = first_of_group(comm, comm->rank), n = transfer->n_contributors - first;
    n = n < job->group ? n : job->group;
    for (int i = 0; i < n; i++)
        source[i] = (zi_source){(const char *)job->memory.peer[first + i] + transfer->offset_bytes +
                                    (size_t)owner * transfer->slice_bytes,
                                transfer->dtype};
    const zi_job sums = {.n_elems = job->bytes / sizeof *sum, .source = source, .n_sources = n};
    int64_t n_bad = 0;
    memset(sum, 0, job->bytes);
    comm->device->accumulate(comm->queue, &sums, sum, &n_bad);
    const zi_bad_sum bad = {transfer->ordinal, owner, first, n, source};
    if (n_bad > 0 && comm->on_bad_sum != NULL)
        comm->on_bad_sum(comm->on_bad_sum_arg, &bad);
}

/* Progress is made in calls that keep the caller's floating-point environment: sums must not. */
static void sum_all(zi_comm *comm, const zi_mpi_job *job)
{
    const zi_mpi_engine *e = &((zi_shm *)comm)->meeting->engine;
    const zi_ranks *ranks = &job->route.ranks;
    int mine = (comm->rank - ranks->base) / ranks->stride;
    fenv_t callers;
    if (first_of_group(comm, comm->rank) >= job->transfer.n_contributors)
        return;
    fegetenv(&callers);
    fesetenv(FE_DFL_ENV);
    for (int i = 0; i < ranks->size; i++)
        if (i / job->route.apart != mine / job->route.apart)
            sum_slices(comm, job, ranks->base + i * ranks->stride,
                       (float *)(void *)(e->sums + zi_engine_sum_at(job, mine, i)));
    fesetenv(&callers);
}

int zi_nodes_make_sums(zi_comm *comm, const zi_mpi_job *job)
{
    zi_shm *s = (zi_shm *)comm;
    int first = first_of_group(comm, comm->rank), end = first + job->group;
    uint64_t exposed = job->transfer.ordinal + 1, summed = s->n_sum_jobs + 1;
    if (zi_channel_count(&s->base, ZI_SUMMED) < summed) {
        int missing = zi_channel_missing(&s->base, ZI_EXPOSED, exposed, first, end);
        if (missing < comm->world)
            return missing;
        sum_all(comm, job);
        zi_channel_advance(&s->base, ZI_SUMMED);
    }
    int missing = zi_channel_missing(&s->base, ZI_SUMMED, summed, first, end);
    if (missing < comm->world)
        return missing;
    s->n_sum_jobs++;
    return -1;
}

/* Owners for which this rank sums. */
static int n_owners(const zi_comm *comm)
{
    return (comm->world - comm->node.size) / comm->reduce_group;
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

zopt_status zi_nodes_reserve_sums(zi_comm *comm, size_t max_slice_bytes)
{
    zi_mpi_engine *e = &((zi_shm *)comm)->meeting->engine;
    int group = comm->reduce_group;
    if (group <= 1 || group > ZI_MAX_GROUP || comm->node.size % group != 0)
        return ZOPT_OK;
    comm->sums_travel = 1;
    size_t most = max_slice_bytes * sizeof(float) / sizeof(uint16_t); /* of 16-bit slices */
    size_t bytes = (size_t)n_owners(comm) * most;
    ZI_TRY(zi_mem_array(comm->mem, ZI_MEM_STAGING, bytes, &e->sums));
    e->sums_bytes = bytes;
    return ZOPT_OK;
}
