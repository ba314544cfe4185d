/* Slices from GPU to GPU. In an exchange slice p of this rank's bucket goes to rank p, and rank p's
 * slice for this rank takes its place, as in transport mpi, so that kernels sum them in slot order:
 * the bits of every other transport. Slices that would be received over what is still to be sent
 * pass through staging. nccl-native lets NCCL sum on the way instead.
 *
 * A transfer runs on its lane's stream, behind what comm->queue had to do when it began; what
 * follows it on comm->queue runs behind its event. The lanes' kernels may run at once; since
 * all ranks make the same calls in the same order, they are enqueued in one order too. */
#include "comm/nccl.h"

/* ------------------------------------------------------------------ set-up ------------------- */

static zopt_status equip_lane(zi_nccl_comm *n, zi_nccl_lane *lane)
{
    const zi_device_ops *device = n->base.device;
    ZI_TRY(zi_mem_table(n->base.mem, n->capacity * sizeof(zi_event *), &lane->done));
    if (n->base.planned)
        return ZOPT_OK;
    ZI_TRY(device->event_create(n->base.queue, &lane->behind));
    for (size_t i = 0; i < n->capacity; i++)
        ZI_TRY(device->event_create(lane->queue, &lane->done[i]));
    return ZOPT_OK;
}

/* Ranks agree before what is registered together. */
static zopt_status alloc_staging(zi_nccl_comm *n, size_t bytes)
{
    zi_comm *comm = &n->base;
    void *staging = NULL;
    if (n->windows == ZI_WINDOWS_OFF || comm->planned || bytes == 0)
        return comm->device->alloc(comm->queue, comm->mem, ZI_MEM_STAGING, bytes, &n->staging);
    ZI_TRY(zi_comm_agree(comm, zi_nccl_alloc(comm, ZI_MEM_STAGING, bytes, &staging)));
    n->staging = staging;
    zi_mem_count_device(comm->mem, ZI_MEM_STAGING, bytes);
    return ZOPT_OK;
}

/* What its lane still does, the lane knows. Peers may be writing to windows, after a failure. */
static void free_staging(zi_nccl_comm *n)
{
    zi_comm *comm = &n->base;
    if (n->windows == ZI_WINDOWS_OFF || n->staging == NULL) {
        comm->device->free(n->lane[ZI_NCCL_GRADS].queue, comm->mem, ZI_MEM_STAGING, n->staging,
                           n->staging_bytes);
        return;
    }
    if (!comm->broken)
        zi_nccl_free(comm, n->staging);
    zi_mem_uncount_device(comm->mem, ZI_MEM_STAGING, n->staging_bytes);
}

zopt_status zi_nccl_equip(zi_nccl_comm *n, size_t n_transfers, size_t staging_bytes)
{
    n->capacity = (n_transfers + 1) / 2;
    for (int i = 0; i < ZI_N_NCCL_LANES; i++)
        ZI_TRY(equip_lane(n, &n->lane[i]));
    ZI_TRY(alloc_staging(n, staging_bytes));
    n->staging_bytes = staging_bytes;
    return zi_nccl_register(n, ZI_NCCL_GRADS, n->staging, staging_bytes);
}

zopt_status zi_nccl_reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    if (n->capacity > 0)
        return ZI_FAIL(ZOPT_ERR_ORDER, "transport nccl: transfers are reserved already");
    ZI_TRY(zi_nccl_reserve_sums(n, max_slice_bytes));
    zi_nccl_guard(n, comm->queue);
    int is_staged = comm->world > 1 && !comm->comes_reduced;
    return zi_nccl_equip(n, n_transfers, is_staged ? (size_t)comm->world * max_slice_bytes : 0);
}

void zi_nccl_unreserve(zi_nccl_comm *n)
{
    zi_comm *comm = &n->base;
    if (n->capacity == 0)
        return;
    free_staging(n);
    zi_nccl_unreserve_sums(n);
    for (int i = 0; i < ZI_N_NCCL_LANES; i++) {
        zi_nccl_lane *lane = &n->lane[i];
        for (size_t e = 0; lane->done != NULL && e < n->capacity && !comm->planned; e++)
            comm->device->event_destroy(lane->done[e]);
        if (!comm->planned)
            comm->device->event_destroy(lane->behind);
        if (lane->done != NULL)
            zi_mem_free_table(comm->mem, lane->done, n->capacity * sizeof(zi_event *));
    }
}

/* ------------------------------------------------------------------ one transfer ------------- */

static char *slice_at(const zi_transfer *transfer, int rank)
{
    return (char *)transfer->memory->base + transfer->offset_bytes +
           (size_t)rank * transfer->slice_bytes;
}

zi_event *zi_nccl_done(const zi_nccl_comm *n, int lane, uint64_t ordinal)
{
    return n->lane[lane].done[ordinal % n->capacity];
}

/* 1: the slices that come take the place of slices that go. */
static int swaps(const zi_comm *comm, const zi_transfer *transfer)
{
    return comm->rank < transfer->n_contributors;
}

/* Between the two calls that make a group. NCCL keeps the first failure for the group's end. */
static ncclResult_t post_slices(zi_nccl_comm *n, const zi_transfer *transfer)
{
    const zi_comm *comm = &n->base;
    const zi_nccl_lane *lane = &n->lane[ZI_NCCL_GRADS];
    size_t bytes = transfer->slice_bytes;
    ncclResult_t rc = ncclSuccess;
    for (int i = 1; i < comm->world && rc == ncclSuccess; i++) {
        int peer = (comm->rank + i) % comm->world;
        char *place = slice_at(transfer, peer);
        char *to = swaps(comm, transfer) ? n->staging + (size_t)peer * bytes : place;
        if (comm->rank < transfer->n_contributors)
            rc = n->nccl->Send(place, bytes, ncclInt8, peer, lane->comm, lane->queue->stream);
        if (peer < transfer->n_contributors && rc == ncclSuccess)
            rc = n->nccl->Recv(to, bytes, ncclInt8, peer, lane->comm, lane->queue->stream);
    }
    return rc;
}

static ncclResult_t post_group(zi_nccl_comm *n, const zi_transfer *transfer)
{
    ncclResult_t rc = n->nccl->GroupStart();
    if (rc != ncclSuccess)
        return rc;
    ncclResult_t posted = post_slices(n, transfer);
    rc = n->nccl->GroupEnd();
    return posted != ncclSuccess ? posted : rc;
}

/* Where copy engines may do it: from one window to another, this rank's own slice too. */
static ncclResult_t post_all_to_all(zi_nccl_comm *n, const zi_transfer *transfer)
{
    const zi_nccl_lane *lane = &n->lane[ZI_NCCL_GRADS];
    return n->nccl->AlltoAll(slice_at(transfer, 0), n->staging, transfer->slice_bytes, ncclInt8,
                             lane->comm, lane->queue->stream);
}

static void land(zi_nccl_comm *n, const zi_transfer *transfer, int first, int end)
{
    size_t at = (size_t)first * transfer->slice_bytes;
    if (first < end)
        n->base.device->copy(n->lane[ZI_NCCL_GRADS].queue, slice_at(transfer, first),
                             n->staging + at, (size_t)end * transfer->slice_bytes - at);
}

static zopt_status exchange(zi_nccl_comm *n, const zi_transfer *transfer)
{
    if (n->base.world == 1)
        return ZOPT_OK;
    if (zi_nccl_sums_travel(&n->base, transfer->dtype))
        return zi_nccl_exchange_sums(n, transfer);
    int is_collective = n->windows != ZI_WINDOWS_OFF && transfer->n_contributors == n->base.world;
    ncclResult_t rc = is_collective ? post_all_to_all(n, transfer) : post_group(n, transfer);
    ZI_TRY(zi_nccl_finish(n, &n->lane[ZI_NCCL_GRADS], "an exchange of gradients", rc));
    if (!swaps(&n->base, transfer))
        return ZOPT_OK;
    land(n, transfer, 0, n->base.rank);
    land(n, transfer, n->base.rank + 1, transfer->n_contributors);
    return ZOPT_OK;
}

static const ncclDataType_t nccl_dtypes[] = {
    [ZOPT_FP16] = ncclFloat16, [ZOPT_BF16] = ncclBfloat16, [ZOPT_FP32] = ncclFloat32};

/* In place. All ranks take part: who contributes nothing adds zeros. */
static zopt_status reduce_scatter(zi_nccl_comm *n, const zi_transfer *transfer)
{
    const zi_comm *comm = &n->base;
    zi_nccl_lane *lane = &n->lane[ZI_NCCL_GRADS];
    size_t n_elems = transfer->slice_bytes / zopt_dtype_bytes(transfer->dtype);
    if (comm->rank >= transfer->n_contributors)
        comm->device->zero(lane->queue, slice_at(transfer, 0),
                           (size_t)comm->world * transfer->slice_bytes);
    return zi_nccl_finish(n, lane, "ncclReduceScatter",
                          n->nccl->ReduceScatter(slice_at(transfer, 0),
                                                 slice_at(transfer, comm->rank), n_elems,
                                                 nccl_dtypes[transfer->dtype], ncclSum, lane->comm,
                                                 lane->queue->stream));
}

static zopt_status gather(zi_nccl_comm *n, const zi_transfer *transfer)
{
    zi_nccl_lane *lane = &n->lane[ZI_NCCL_PARAMS];
    return zi_nccl_finish(n, lane, "ncclAllGather",
                          n->nccl->AllGather(slice_at(transfer, n->base.rank),
                                             slice_at(transfer, 0), transfer->slice_bytes, ncclInt8,
                                             lane->comm, lane->queue->stream));
}

/* Enqueue a transfer by `move`. */
static zopt_status run(zi_nccl_comm *n, int which, const zi_transfer *transfer,
                       zopt_status (*move)(zi_nccl_comm *n, const zi_transfer *transfer))
{
    zi_comm *comm = &n->base;
    const zi_device_ops *device = comm->device;
    zi_nccl_lane *lane = &n->lane[which];
    device->event_record(comm->queue, lane->behind);
    device->event_await(lane->queue, lane->behind);
    zi_cuda_enter(lane->queue);
    ZI_TRY(move(n, transfer));
    (comm->recording == ZI_RECORDING ? device->capture_event : device->event_record)(
        lane->queue, zi_nccl_done(n, which, transfer->ordinal));
    return ZOPT_OK;
}

/* Count it, the lane's next. */
static zopt_status begin(zi_nccl_comm *n, const char *call, int which, const zi_transfer *transfer)
{
    zi_comm *comm = &n->base;
    ZI_TRY(zi_check_next(comm, call, n->lane[which].n_begun, transfer->ordinal));
    n->lane[which].n_begun++;
    if (which == ZI_NCCL_GRADS && zi_nccl_sums_travel(comm, transfer->dtype))
        comm->bytes_sent += zi_nccl_sent_bytes(comm, transfer);
    else if (comm->rank < transfer->n_contributors || comm->comes_reduced ||
             which == ZI_NCCL_PARAMS)
        comm->bytes_sent += (uint64_t)(comm->world - 1) * transfer->slice_bytes;
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ operations --------------- */

zopt_status zi_nccl_expose(zi_comm *comm, const zi_transfer *transfer)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "expose"));
    ZI_TRY(begin(n, "expose", ZI_NCCL_GRADS, transfer));
    return run(n, ZI_NCCL_GRADS, transfer, comm->comes_reduced ? reduce_scatter : exchange);
}

static zopt_status check_begun(zi_comm *comm, const char *call, int lane, uint64_t ordinal)
{
    ZI_TRY(zi_check_connected(comm, call));
    return zi_check_begun(comm, call, ((zi_nccl_comm *)comm)->lane[lane].n_begun, ordinal);
}

zopt_status zi_nccl_expose_test(zi_comm *comm, const zi_transfer *transfer, int *ready)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    ZI_TRY(check_begun(comm, "expose_test", ZI_NCCL_GRADS, transfer->ordinal));
    ZI_TRY(zi_nccl_checked(n, zi_nccl_check_peers(comm)));
    return comm->device->event_query(zi_nccl_done(n, ZI_NCCL_GRADS, transfer->ordinal), ready);
}

/* The queue waits, the host does not. */
zopt_status zi_nccl_expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    ZI_TRY(check_begun(comm, "expose_wait", ZI_NCCL_GRADS, transfer->ordinal));
    if (n->sums.of.ordinal == transfer->ordinal)
        ZI_TRY(zi_nccl_settle_sums(n));
    if (comm->recording == ZI_LIVE)
        comm->device->event_await(comm->queue, zi_nccl_done(n, ZI_NCCL_GRADS, transfer->ordinal));
    for (int i = 0; i < transfer->n_contributors && !comm->comes_reduced; i++)
        source[i] = slice_at(transfer, i);
    if (transfer->n_contributors > 0 && comm->comes_reduced)
        source[0] = slice_at(transfer, comm->rank);
    return ZOPT_OK;
}

/* Who reads is comm->queue, and what comes next in this rank's memory is enqueued behind it. */
zopt_status zi_nccl_consumed(zi_comm *comm, const zi_transfer *transfer)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    ZI_TRY(check_begun(comm, "consumed", ZI_NCCL_GRADS, transfer->ordinal));
    ZI_TRY(zi_check_next(comm, "consumed", n->n_consumed, transfer->ordinal));
    n->n_consumed++;
    return ZOPT_OK;
}

static zopt_status wait_done(zi_comm *comm, int lane, uint64_t ordinal, zi_queue *behind)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    zi_event *done = zi_nccl_done(n, lane, ordinal);
    if (behind == NULL)
        return zi_nccl_checked(n, comm->device->event_wait(done));
    comm->device->event_await(behind, done);
    return ZOPT_OK;
}

zopt_status zi_nccl_reuse_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    ZI_TRY(zi_check_connected(comm, "reuse_wait"));
    ZI_TRY(zi_check_begun(comm, "reuse_wait", ((zi_nccl_comm *)comm)->n_consumed, ordinal));
    return wait_done(comm, ZI_NCCL_GRADS, ordinal, behind);
}

/* The last gather may still be sending what the update is to overwrite. */
zopt_status zi_nccl_open(zi_comm *comm)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    uint64_t n_begun = n->lane[ZI_NCCL_PARAMS].n_begun;
    ZI_TRY(zi_check_connected(comm, "open"));
    if (n_begun > 0)
        comm->device->event_await(comm->queue, zi_nccl_done(n, ZI_NCCL_PARAMS, n_begun - 1));
    return ZOPT_OK;
}

zopt_status zi_nccl_dest_wait(zi_comm *comm, const zi_transfer *transfer, void **dest, int *n_dests)
{
    ZI_TRY(zi_check_connected(comm, "dest_wait"));
    dest[0] = slice_at(transfer, comm->rank);
    *n_dests = 1;
    return ZOPT_OK;
}

zopt_status zi_nccl_publish(zi_comm *comm, const zi_transfer *transfer)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "publish"));
    if (comm->recording != ZI_RECORDING)
        ZI_TRY(begin(n, "publish", ZI_NCCL_PARAMS, transfer));
    return comm->recording == ZI_REPLAYED ? ZOPT_OK : run(n, ZI_NCCL_PARAMS, transfer, gather);
}

/* What has failed on the stream while it was recorded has not run: it goes on as before. The comm's
 * queue has heard of it. */
void zi_nccl_record_end(zi_comm *comm)
{
    zi_nccl_lane *lane = &((zi_nccl_comm *)comm)->lane[ZI_NCCL_PARAMS];
    comm->device->event_record(lane->queue, lane->behind);
    comm->device->event_await(comm->queue, lane->behind);
    lane->queue->error = cudaSuccess;
}

/* A bucket's parameters are used while later ones are on their way. */
zopt_status zi_nccl_publish_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    ZI_TRY(check_begun(comm, "publish_wait", ZI_NCCL_PARAMS, ordinal));
    return wait_done(comm, ZI_NCCL_PARAMS, ordinal, behind);
}

/* The GPU needs no push; peers may have failed. */
zopt_status zi_nccl_progress(zi_comm *comm, int *idle)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "progress"));
    ZI_TRY(zi_nccl_checked(n, zi_nccl_check_peers(comm)));
    *idle = 1;
    for (int i = 0; i < ZI_N_NCCL_LANES; i++) {
        int done = 1;
        if (n->lane[i].n_begun > 0)
            ZI_TRY(comm->device->event_query(zi_nccl_done(n, i, n->lane[i].n_begun - 1), &done));
        *idle &= done;
    }
    return ZOPT_OK;
}

/* By the communicator of gradients: behind all that it has begun, and before what it begins. */
zopt_status zi_nccl_sum_enqueue(zi_comm *comm, int64_t *values, size_t n_values)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    zi_nccl_lane *lane = &n->lane[ZI_NCCL_GRADS];
    ZI_TRY(zi_check_connected(comm, "sum_enqueue"));
    if (lane->n_begun > 0 && comm->recording == ZI_LIVE)
        comm->device->event_await(comm->queue, zi_nccl_done(n, ZI_NCCL_GRADS, lane->n_begun - 1));
    if (!zi_cuda_enter(comm->queue))
        return zi_cuda_wait(comm->queue);
    ncclResult_t rc = n->nccl->AllReduce(values, values, n_values, ncclInt64, ncclSum, lane->comm,
                                         comm->queue->stream);
    zi_cuda_note(comm->queue, cudaSuccess, "ncclAllReduce");
    return zi_nccl_finish(n, lane, "ncclAllReduce", rc);
}
