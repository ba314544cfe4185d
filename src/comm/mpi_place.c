/* Where in a bucket slices and sums leave from and arrive, and their ways between a device's memory
 * and the host's, which messages need. Next: mpi_transfer.c moves them. */
#include "comm/mpi_internal.h"

char *zi_engine_bucket(const zi_mpi_job *job)
{
    return (char *)job->memory.host + job->transfer.offset_bytes;
}

/* In the device's memory; NULL where that is the host's. */
static char *device_of(const zi_mpi_job *job)
{
    return job->memory.host != job->memory.base
               ? (char *)job->memory.base + job->transfer.offset_bytes
               : NULL;
}

/* This rank's index in the route. */
int zi_engine_index(const zi_mpi *m, const zi_mpi_job *job)
{
    return (m->base.rank - job->route.ranks.base) / job->route.ranks.stride;
}

static int meets(const zi_mpi *m, const zi_mpi_job *job, int other)
{
    return other / job->route.apart != zi_engine_index(m, job) / job->route.apart;
}

/* A sum is a group's: it is sent, and has its place, as its first rank's slice is. */
static int sender_of(const zi_mpi_job *job, int rank)
{
    return job->group > 0 ? rank - rank % job->group : rank;
}

/* Whose place in the bucket what goes to the rank with that index leaves from, and what comes from
 * it arrives at; -1: nothing does. A sum leaves from elsewhere. */
int zi_engine_leaves_from(const zi_mpi *m, const zi_mpi_job *job, int other)
{
    const zi_ranks *ranks = &job->route.ranks;
    int sender = sender_of(job, m->base.rank);
    if (!meets(m, job, other) || sender >= job->transfer.n_contributors)
        return -1;
    return job->kind == ZI_JOB_EXCHANGE ? ranks->base + other * ranks->stride : sender;
}

int zi_engine_arrives_at(const zi_mpi *m, const zi_mpi_job *job, int other)
{
    const zi_ranks *ranks = &job->route.ranks;
    int sender = sender_of(job, ranks->base + other * ranks->stride);
    return meets(m, job, other) && sender < job->transfer.n_contributors ? sender : -1;
}

size_t zi_engine_sum_at(const zi_mpi_job *job, int mine, int other)
{
    int apart = job->route.apart;
    return (size_t)(other < mine ? other : other - apart) * job->bytes;
}

/* Between host and device, what `place` says of each rank that is met; neighbours in one copy. */
static void copy_places(zi_mpi *m, const zi_mpi_job *job, char *dst, const char *src,
                        int (*place)(const zi_mpi *m, const zi_mpi_job *job, int other))
{
    size_t begin = 0, end = 0;
    for (int i = 0; i < job->route.ranks.size; i++) {
        int at = place(m, job, i);
        size_t first = (size_t)at * job->transfer.slice_bytes;
        if (at < 0 || first + job->bytes == end) /* it is copied once for all */
            continue;
        if (first != end) {
            m->base.device->copy(m->base.queue, dst + begin, src + begin, end - begin);
            begin = first;
        }
        end = first + job->bytes;
    }
    m->base.device->copy(m->base.queue, dst + begin, src + begin, end - begin);
}

/* What has arrived, from the host to where kernels read it. */
zopt_status zi_engine_land(zi_mpi *m, const zi_mpi_job *job)
{
    if (device_of(job) != NULL)
        copy_places(m, job, device_of(job), zi_engine_bucket(job), zi_engine_arrives_at);
    return m->user.landed != NULL ? m->user.landed(m->user.comm, job) : ZOPT_OK;
}

/* This rank's own, from the device to where messages leave from: slices of a gradient, its own of
 * the parameters. Sums are made there when their turn comes. */
zopt_status zi_engine_take_off(zi_mpi *m, const zi_mpi_job *job)
{
    if (device_of(job) == NULL || job->group > 0)
        return ZOPT_OK;
    copy_places(m, job, zi_engine_bucket(job), device_of(job), zi_engine_leaves_from);
    return m->base.device->wait(m->base.queue);
}
