/* One byte from each rank to each that it will send to, and one to all: connects both communicators
 * before a step needs them, whose calls do not wait for peers, and finds out at the start what the
 * network or the driver gets wrong. */
#include <stdlib.h>

#include "comm/nccl.h"
#include "device/cuda.h"

/* Three rows of `world` bytes: what is sent, what comes, and what is gathered. */
enum { SENT, CAME, GATHERED, N_ROWS };

static char *row_at(const zi_nccl_comm *n, char *memory, int row)
{
    return memory + (size_t)row * (size_t)n->base.world;
}

/* 1: they will send to each other on that lane. Between nodes parameters go to who has this rank's
 * place on its own. */
static int meets(const zi_nccl_comm *n, int which, int peer)
{
    int has_my_place = (peer - n->base.rank) % n->base.node.size == 0;
    return !zi_is_near(&n->base, peer) && (which == ZI_NCCL_GRADS || has_my_place);
}

static zopt_status exchange(zi_nccl_comm *n, int which, char *sent, char *came)
{
    zi_nccl_lane *lane = &n->lane[which];
    ncclResult_t posted = ncclSuccess, rc = n->nccl->GroupStart();
    for (int i = 1; i < n->base.world && rc == ncclSuccess && posted == ncclSuccess; i++) {
        int peer = (n->base.rank + i) % n->base.world;
        if (!meets(n, which, peer))
            continue;
        posted = n->nccl->Send(sent + peer, 1, ncclInt8, peer, lane->comm, lane->queue->stream);
        if (posted == ncclSuccess)
            posted = n->nccl->Recv(came + peer, 1, ncclInt8, peer, lane->comm, lane->queue->stream);
    }
    if (rc == ncclSuccess)
        rc = n->nccl->GroupEnd();
    rc = posted != ncclSuccess ? posted : rc;
    zi_cuda_note(lane->queue, cudaSuccess, "ncclGroupEnd");
    return zi_nccl_finish(n, lane, "the first exchange", rc);
}

static zopt_status gather(zi_nccl_comm *n, char *memory)
{
    zi_nccl_lane *lane = &n->lane[ZI_NCCL_PARAMS];
    char *row = row_at(n, memory, GATHERED);
    ncclResult_t rc =
        n->nccl->AllGather(row + n->base.rank, row, 1, ncclInt8, lane->comm, lane->queue->stream);
    zi_cuda_note(lane->queue, cudaSuccess, "ncclAllGather");
    return zi_nccl_finish(n, lane, "the first ncclAllGather", rc);
}

static zopt_status check(const zi_nccl_comm *n, char *host)
{
    for (int r = 0; r < n->base.world; r++)
        if ((meets(n, ZI_NCCL_GRADS, r) && row_at(n, host, CAME)[r] != (char)r) ||
            (meets(n, ZI_NCCL_PARAMS, r) && row_at(n, host, GATHERED)[r] != (char)r))
            return ZI_FAIL(ZOPT_ERR_COMM,
                           "rank %d: NCCL does not bring what rank %d sends: NCCL_DEBUG=INFO "
                           "tells over what it goes",
                           n->base.rank, r);
    return ZOPT_OK;
}

/* host, memory: N_ROWS * world bytes. */
static zopt_status try_out(zi_nccl_comm *n, char *host, char *memory)
{
    const zi_device_ops *device = &zi_device_cuda;
    zi_queue *first = n->lane[ZI_NCCL_GRADS].queue, *second = n->lane[ZI_NCCL_PARAMS].queue;
    size_t bytes = N_ROWS * (size_t)n->base.world;
    for (int r = 0; r < n->base.world; r++) {
        row_at(n, host, SENT)[r] = (char)n->base.rank;
        row_at(n, host, CAME)[r] = row_at(n, host, GATHERED)[r] = (char)~r;
    }
    row_at(n, host, GATHERED)[n->base.rank] = (char)n->base.rank;
    device->copy(first, memory, host, bytes);
    ZI_TRY(device->wait(first));
    ZI_TRY(exchange(n, ZI_NCCL_GRADS, row_at(n, memory, SENT), row_at(n, memory, CAME)));
    ZI_TRY(n->between_nodes
               ? exchange(n, ZI_NCCL_PARAMS, row_at(n, memory, SENT), row_at(n, memory, GATHERED))
               : gather(n, memory));
    ZI_TRY(device->wait(second));
    device->copy(first, host, memory, bytes);
    ZI_TRY(device->wait(first));
    return check(n, host);
}

zopt_status zi_nccl_probe(zi_nccl_comm *n)
{
    zi_queue *queue = n->lane[ZI_NCCL_GRADS].queue;
    zi_mem uncounted = {0};
    size_t bytes = N_ROWS * (size_t)n->base.world;
    char *memory = NULL, *host = malloc(bytes);
    if (host == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %zu bytes", bytes);
    zopt_status status = zi_device_cuda.alloc(queue, &uncounted, ZI_MEM_STAGING, bytes, &memory);
    if (status == ZOPT_OK)
        status = try_out(n, host, memory);
    zi_device_cuda.free(queue, &uncounted, ZI_MEM_STAGING, memory, bytes);
    free(host);
    return status;
}
