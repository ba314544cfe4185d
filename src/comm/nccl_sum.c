/* Sums of a group's gradients, made on its GPUs before they travel (reduce_group, where it divides
 * the ranks of a node), as nodes_sum.c makes them on hosts: one FP32 slice for each group and owner
 * leaves the node in place of a slice for each rank. Two exchanges, with sums between them, all on
 * the lane's stream:
 *
 * 1. Within the node. Each rank gets its own slices, and from the others of its group those for the
 *    owners that it sums for: the ranks of other nodes that have its place in their groups. Such a
 *    group's part of staging, a slice for each rank, takes the slices that its own group has for
 *    the owner.
 * 2. Between nodes. Ranks of equal place send each other the sums, which take the place of the
 *    sending group's slices.
 *
 * One communicator carries both: sends and receives name their ranks, and ncclAllGather finds the
 * nodes by itself, so that nothing needs ncclCommSplit.
 *
 * The staging stays until the next transfer: before that, and before the sums are used, the host
 * looks at how many blocks of them are not finite, and then says so. */
#include "comm/nccl.h"
#include "device/cuda.h"

static int group_of(const zi_comm *comm, int rank)
{
    return rank - rank % comm->reduce_group;
}

/* The owner in the group of rank `first` that this rank sums for, and gets a sum from. */
static int owner_in(const zi_comm *comm, int first)
{
    return first + comm->rank % comm->reduce_group;
}

/* From that group on, the first that is on another node; world or more: none. */
static int far_from(const zi_comm *comm, int group)
{
    return zi_is_near(comm, group) ? comm->node.base + comm->node.size : group;
}

static int next_far(const zi_comm *comm, int group)
{
    return far_from(comm, group + comm->reduce_group);
}

static int n_owners(const zi_comm *comm)
{
    return (comm->world - comm->node.size) / comm->reduce_group;
}

/* Owners' sums lie one after the other, by their groups. */
static size_t index_of(const zi_comm *comm, int group)
{
    int before = group > comm->node.base ? group - comm->node.size : group;
    return (size_t)(before / comm->reduce_group);
}

static size_t sum_bytes(const zi_transfer *transfer)
{
    return transfer->slice_bytes / zopt_dtype_bytes(transfer->dtype) * sizeof(float);
}

static char *sum_at(const zi_nccl_comm *n, const zi_transfer *transfer, int group)
{
    return n->sums.made + index_of(&n->base, group) * sum_bytes(transfer);
}

static int64_t *n_bad_of(const zi_nccl_comm *n)
{
    return (int64_t *)(void *)(n->sums.made + (size_t)n_owners(&n->base) * n->sums.max_sum_bytes);
}

/* ------------------------------------------------------------------ set-up ------------------- */

zopt_status zi_nccl_reserve_sums(zi_nccl_comm *n, size_t max_slice_bytes)
{
    zi_comm *comm = &n->base;
    zi_nccl_sums *s = &n->sums;
    int group = comm->reduce_group;
    if (group <= 1 || s->node_size == 0 || s->node_size == comm->world || s->node_size % group != 0)
        return ZOPT_OK;
    comm->sums_travel = 1;
    comm->node = (zi_ranks){comm->rank - comm->rank % s->node_size, 1, s->node_size};
    size_t n_bad_bytes = (size_t)n_owners(comm) * sizeof(int64_t);
    s->max_sum_bytes = max_slice_bytes * sizeof(float) / sizeof(uint16_t); /* of 16-bit slices */
    s->bytes = (size_t)n_owners(comm) * s->max_sum_bytes + n_bad_bytes;
    ZI_TRY(comm->device->alloc(comm->queue, comm->mem, ZI_MEM_STAGING, s->bytes, &s->made));
    ZI_TRY(
        comm->device->alloc_host(comm->queue, comm->mem, ZI_MEM_STAGING, n_bad_bytes, &s->n_bad));
    return comm->planned ? ZOPT_OK : comm->device->event_create(comm->queue, &s->summed);
}

void zi_nccl_unreserve_sums(zi_nccl_comm *n)
{
    zi_comm *comm = &n->base;
    zi_nccl_sums *s = &n->sums;
    if (!comm->sums_travel)
        return;
    comm->device->free_host(comm->queue, comm->mem, ZI_MEM_STAGING, s->n_bad,
                            (size_t)n_owners(comm) * sizeof(int64_t));
    comm->device->free(comm->queue, comm->mem, ZI_MEM_STAGING, s->made, s->bytes);
    if (!comm->planned)
        comm->device->event_destroy(s->summed);
}

/* ------------------------------------------------------------------ what is not finite ------- */

/* The slices that this rank's group has for an owner of that group. Their number. */
static int list_slices(const zi_nccl_comm *n, const zi_transfer *transfer, int group,
                       zi_source source[ZI_CUDA_MAX_TABLE])
{
    const zi_comm *comm = &n->base;
    int n_slices = transfer->n_contributors - group_of(comm, comm->rank);
    n_slices = n_slices < comm->reduce_group ? n_slices : comm->reduce_group;
    for (int i = 0; i < n_slices; i++)
        source[i] =
            (zi_source){n->staging + (size_t)(group + i) * transfer->slice_bytes, transfer->dtype};
    return n_slices;
}

zopt_status zi_nccl_settle_sums(zi_nccl_comm *n)
{
    zi_comm *comm = &n->base;
    zi_nccl_sums *s = &n->sums;
    if (!s->is_open)
        return ZOPT_OK;
    s->is_open = 0;
    ZI_TRY(zi_nccl_checked(n, comm->device->event_wait(s->summed)));
    for (int g = far_from(comm, 0); g < comm->world; g = next_far(comm, g)) {
        zi_source source[ZI_CUDA_MAX_TABLE];
        const zi_bad_sum bad = {s->of.ordinal, owner_in(comm, g), group_of(comm, comm->rank),
                                list_slices(n, &s->of, g, source), source};
        if (s->n_bad[index_of(comm, g)] > 0)
            comm->on_bad_sum(comm->on_bad_sum_arg, &bad);
    }
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ one transfer ------------- */

static char *place_of(const zi_transfer *transfer, int rank)
{
    return (char *)transfer->memory->base + transfer->offset_bytes +
           (size_t)rank * transfer->slice_bytes;
}

static ncclResult_t send(const zi_nccl_comm *n, const void *from, size_t bytes, int peer)
{
    const zi_nccl_lane *lane = &n->lane[ZI_NCCL_GRADS];
    return n->nccl->Send(from, bytes, ncclInt8, peer, lane->comm, lane->queue->stream);
}

static ncclResult_t receive(const zi_nccl_comm *n, void *to, size_t bytes, int peer)
{
    const zi_nccl_lane *lane = &n->lane[ZI_NCCL_GRADS];
    return n->nccl->Recv(to, bytes, ncclInt8, peer, lane->comm, lane->queue->stream);
}

/* A rank of the node gets its slice, and one of the group those that it sums. */
static ncclResult_t send_near(zi_nccl_comm *n, const zi_transfer *transfer, int peer)
{
    const zi_comm *comm = &n->base;
    if (comm->rank >= transfer->n_contributors)
        return ncclSuccess;
    ncclResult_t rc = send(n, place_of(transfer, peer), transfer->slice_bytes, peer);
    if (group_of(comm, peer) != group_of(comm, comm->rank))
        return rc;
    for (int g = far_from(comm, 0); g < comm->world; g = next_far(comm, g))
        if (rc == ncclSuccess)
            rc = send(n, place_of(transfer, g + peer % comm->reduce_group), transfer->slice_bytes,
                      peer);
    return rc;
}

/* All to staging: what is sent is still there. */
static ncclResult_t receive_near(zi_nccl_comm *n, const zi_transfer *transfer, int peer)
{
    const zi_comm *comm = &n->base;
    size_t bytes = transfer->slice_bytes;
    if (peer >= transfer->n_contributors)
        return ncclSuccess;
    ncclResult_t rc = receive(n, n->staging + (size_t)peer * bytes, bytes, peer);
    if (group_of(comm, peer) != group_of(comm, comm->rank))
        return rc;
    for (int g = far_from(comm, 0); g < comm->world; g = next_far(comm, g))
        if (rc == ncclSuccess)
            rc = receive(n, n->staging + (size_t)(g + peer % comm->reduce_group) * bytes, bytes,
                         peer);
    return rc;
}

static ncclResult_t post_near(zi_nccl_comm *n, const zi_transfer *transfer)
{
    const zi_ranks *node = &n->base.node;
    ncclResult_t rc = ncclSuccess;
    for (int i = 1; i < node->size && rc == ncclSuccess; i++) {
        int peer = node->base + (n->base.rank - node->base + i) % node->size;
        rc = send_near(n, transfer, peer);
        if (rc == ncclSuccess)
            rc = receive_near(n, transfer, peer);
    }
    return rc;
}

static ncclResult_t post_far(zi_nccl_comm *n, const zi_transfer *transfer)
{
    const zi_comm *comm = &n->base;
    size_t bytes = sum_bytes(transfer);
    ncclResult_t rc = ncclSuccess;
    for (int g = far_from(comm, 0); g < comm->world; g = next_far(comm, g)) {
        int peer = owner_in(comm, g);
        if (group_of(comm, comm->rank) < transfer->n_contributors && rc == ncclSuccess)
            rc = send(n, sum_at(n, transfer, g), bytes, peer);
        if (g < transfer->n_contributors && rc == ncclSuccess)
            rc = receive(n, place_of(transfer, g), bytes, peer);
    }
    return rc;
}

/* One of NCCL's groups of calls. */
static zopt_status post(zi_nccl_comm *n, const zi_transfer *transfer,
                        ncclResult_t (*calls)(zi_nccl_comm *n, const zi_transfer *transfer))
{
    ncclResult_t rc = n->nccl->GroupStart();
    if (rc == ncclSuccess) {
        ncclResult_t posted = calls(n, transfer);
        rc = n->nccl->GroupEnd();
        rc = posted != ncclSuccess ? posted : rc;
    }
    return zi_nccl_finish(n, &n->lane[ZI_NCCL_GRADS], "an exchange of gradients", rc);
}

/* From staging to where kernels read them: the node's. Beside the others' in staging: its own that
 * this rank sums. */
static void place_slices(zi_nccl_comm *n, const zi_transfer *transfer)
{
    const zi_comm *comm = &n->base;
    zi_queue *queue = n->lane[ZI_NCCL_GRADS].queue;
    size_t bytes = transfer->slice_bytes;
    int end = comm->node.base + comm->node.size;
    for (int r = comm->node.base; r < end && r < transfer->n_contributors; r++)
        if (r != comm->rank)
            comm->device->copy(queue, place_of(transfer, r), n->staging + (size_t)r * bytes, bytes);
    for (int g = far_from(comm, 0); g < comm->world; g = next_far(comm, g)) {
        int owner = owner_in(comm, g);
        if (comm->rank < transfer->n_contributors)
            comm->device->copy(queue, n->staging + (size_t)owner * bytes, place_of(transfer, owner),
                               bytes);
    }
}

static void make_sums(zi_nccl_comm *n, const zi_transfer *transfer)
{
    const zi_comm *comm = &n->base;
    zi_queue *queue = n->lane[ZI_NCCL_GRADS].queue;
    int64_t *n_bad = n_bad_of(n);
    size_t n_bad_bytes = (size_t)n_owners(comm) * sizeof *n_bad;
    comm->device->zero(queue, n->sums.made, n->sums.bytes);
    for (int g = far_from(comm, 0); g < comm->world; g = next_far(comm, g)) {
        zi_source source[ZI_CUDA_MAX_TABLE];
        const zi_job job = {.n_elems = sum_bytes(transfer) / sizeof(float),
                            .source = source,
                            .n_sources = list_slices(n, transfer, g, source)};
        comm->device->accumulate(queue, &job, (float *)(void *)sum_at(n, transfer, g),
                                 &n_bad[index_of(comm, g)]);
    }
    comm->device->copy(queue, n->sums.n_bad, n_bad, n_bad_bytes);
    comm->device->event_record(queue, n->sums.summed);
}

zopt_status zi_nccl_exchange_sums(zi_nccl_comm *n, const zi_transfer *transfer)
{
    const zi_comm *comm = &n->base;
    int sums = group_of(comm, comm->rank) < transfer->n_contributors;
    ZI_TRY(zi_nccl_settle_sums(n));
    ZI_TRY(post(n, transfer, post_near));
    place_slices(n, transfer);
    if (sums)
        make_sums(n, transfer);
    n->sums.of = *transfer;
    n->sums.is_open = sums && comm->on_bad_sum != NULL;
    return post(n, transfer, post_far);
}

int zi_nccl_sums_travel(const zi_comm *comm, zopt_dtype dtype)
{
    return comm->sums_travel &&
           (size_t)comm->reduce_group * zopt_dtype_bytes(dtype) > sizeof(float);
}

/* As much as over shared memory: nodes_sum.c. */
uint64_t zi_nccl_sent_bytes(const zi_comm *comm, const zi_transfer *transfer)
{
    int contributes = comm->rank < transfer->n_contributors;
    uint64_t n_slices = (uint64_t)comm->world - 1, n_sums = (uint64_t)n_owners(comm);
    uint64_t sent = contributes ? (n_slices - n_sums) * transfer->slice_bytes : 0;
    if (group_of(comm, comm->rank) < transfer->n_contributors)
        sent += n_sums * sum_bytes(transfer);
    return sent;
}
