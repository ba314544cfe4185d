/* Transfers between ranks that address each other's memory move no byte: the tables point into it,
 * ranks count what they have done, and wait for each other's counts (channel.c). Where memory is a
 * device's, events stand behind the counts (fence.c): waits for what the queue will touch order the
 * queue, and those for what the caller will touch order the caller's, or wait for the device. */
#include "comm/channel.h"
#include "comm/fence.h"

zopt_status zi_channel_reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes)
{
    (void)max_slice_bytes;
    if (comm->planned || comm->device->on_host)
        return ZOPT_OK;
    return zi_fences_create((zi_channel_comm *)comm, n_transfers);
}

/* Slice `rank` of the bucket in the memory of rank `of`. */
static char *slice_of(const zi_comm *comm, const zi_transfer *transfer, int of)
{
    return (char *)transfer->memory->peer[of] + transfer->offset_bytes +
           (size_t)comm->rank * transfer->slice_bytes;
}

/* Transfers are begun in order: count this one, if it is the next. What is on the queue comes
 * before what peers do that see the count. */
static zopt_status count_next(zi_comm *comm, const char *call, zi_counter which, uint64_t ordinal)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    ZI_TRY(zi_check_connected(comm, call));
    ZI_TRY(zi_channel_checked(k, zi_check_next(comm, call, zi_channel_count(k, which), ordinal)));
    ZI_TRY(zi_channel_checked(k, zi_fence_set(k, comm->queue, which, ordinal)));
    zi_channel_advance(k, which);
    return ZOPT_OK;
}

/* Wait until the node's ranks below n have counted transfer `ordinal`, which this one has begun. */
static zopt_status wait_begun(zi_comm *comm, const char *call, zi_counter begun, zi_counter which,
                              uint64_t ordinal, int n)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    ZI_TRY(zi_check_connected(comm, call));
    ZI_TRY(zi_channel_checked(k, zi_check_begun(comm, call, zi_channel_count(k, begun), ordinal)));
    return zi_channel_wait(k, which, ordinal + 1, n);
}

/* Bytes count as sent by the rank whose memory the others read. */
zopt_status zi_channel_expose(zi_comm *comm, const zi_transfer *transfer)
{
    ZI_TRY(count_next(comm, "expose", ZI_EXPOSED, transfer->ordinal));
    if (comm->rank < transfer->n_contributors)
        comm->bytes_sent += (uint64_t)(comm->world - 1) * transfer->slice_bytes;
    return ZOPT_OK;
}

zopt_status zi_channel_expose_test(zi_comm *comm, const zi_transfer *transfer, int *ready)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    uint64_t ordinal = transfer->ordinal;
    ZI_TRY(zi_check_connected(comm, "expose_test"));
    ZI_TRY(zi_channel_checked(
        k, zi_check_begun(comm, "expose_test", zi_channel_count(k, ZI_EXPOSED), ordinal)));
    *ready = zi_channel_reached(k, ZI_EXPOSED, ordinal + 1, transfer->n_contributors);
    return ZOPT_OK;
}

zopt_status zi_channel_expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source)
{
    ZI_TRY(wait_begun(comm, "expose_wait", ZI_EXPOSED, ZI_EXPOSED, transfer->ordinal,
                      transfer->n_contributors));
    ZI_TRY(zi_fence_await((zi_channel_comm *)comm, comm->queue, ZI_EXPOSED, transfer->ordinal,
                          (zi_range){0, transfer->n_contributors}));
    int end = comm->node.base + comm->node.size;
    for (int i = comm->node.base; i < end && i < transfer->n_contributors; i++)
        source[i] = slice_of(comm, transfer, i);
    return ZOPT_OK;
}

zopt_status zi_channel_consumed(zi_comm *comm, const zi_transfer *transfer)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "consumed"));
    ZI_TRY(zi_channel_checked(
        k, zi_check_begun(comm, "consumed", zi_channel_count(k, ZI_EXPOSED), transfer->ordinal)));
    return count_next(comm, "consumed", ZI_CONSUMED, transfer->ordinal);
}

zopt_status zi_channel_reuse_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    ZI_TRY(wait_begun(comm, "reuse_wait", ZI_CONSUMED, ZI_CONSUMED, ordinal, comm->world));
    return zi_fence_wait((zi_channel_comm *)comm, ZI_CONSUMED, ordinal, behind);
}

zopt_status zi_channel_open(zi_comm *comm)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "open"));
    return count_next(comm, "open", ZI_OPENED, zi_channel_count(k, ZI_OPENED));
}

/* As often as this rank has. The queue awaits it once. */
static zopt_status wait_opened(zi_channel_comm *k)
{
    uint64_t n = zi_channel_count(k, ZI_OPENED);
    ZI_TRY(zi_channel_wait(k, ZI_OPENED, n, k->base.world));
    if (n <= k->awaits[ZI_OPENED].n)
        return ZOPT_OK;
    return zi_fence_await(k, k->base.queue, ZI_OPENED, n - 1, (zi_range){0, k->base.world});
}

zopt_status zi_channel_dest_wait(zi_comm *comm, const zi_transfer *transfer, void **dest,
                                 int *n_dests)
{
    ZI_TRY(zi_check_connected(comm, "dest_wait"));
    ZI_TRY(wait_opened((zi_channel_comm *)comm));
    *n_dests = transfer->memory->shared ? 1 : comm->node.size;
    for (int i = 0; i < *n_dests; i++)
        dest[i] = slice_of(comm, transfer, comm->node.base + i);
    return ZOPT_OK;
}

zopt_status zi_channel_publish(zi_comm *comm, const zi_transfer *transfer)
{
    ZI_TRY(count_next(comm, "publish", ZI_PUBLISHED, transfer->ordinal));
    if (!transfer->memory->shared)
        comm->bytes_sent += (uint64_t)(comm->world - 1) * transfer->slice_bytes;
    return ZOPT_OK;
}

zopt_status zi_channel_publish_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    ZI_TRY(wait_begun(comm, "publish_wait", ZI_PUBLISHED, ZI_PUBLISHED, ordinal, comm->world));
    return zi_fence_wait((zi_channel_comm *)comm, ZI_PUBLISHED, ordinal, behind);
}

/* What peers do needs nothing from this rank. */
zopt_status zi_channel_progress(zi_comm *comm, int *idle)
{
    *idle = 1;
    return zi_check_connected(comm, "progress");
}
