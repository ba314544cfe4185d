/* Transport ipc: ranks of an MPI world on GPUs reach the device memory of all on their node through
 * handles of whole arrays (device.h), so that sums, updates and stores of parameters are one pass,
 * over NVLink or on a GPU that they share. Where they meet, what their hosts tell each other, and
 * what goes to other nodes is transport shm's (shm.c, nodes.c), or NCCL's (nccl_nodes.c); events
 * between processes keep their queues in order (fence.c). This file has the memory and the life of
 * the object, which begins with a trial: each rank opens an array of every other's on its node. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "comm/fence.h"
#include "comm/shm.h"

/* A rank's block in the memory that hosts share. */
typedef struct ipc_block {
    zi_channel_rank channel;
    zi_fence_handles fences;
} ipc_block;

/* An array of this rank's that peers may have open. It must outlive that. */
typedef struct lent {
    struct lent *next;
    void *array;
    size_t bytes;
} lent;

typedef struct zi_ipc {
    size_t table_bytes;
    lent *lent;
    zi_fences *fences;          /* [node.size] */
    zi_handle *handle;          /* [node.size] of each rank's last array */
    zi_fence_handles **handles; /* [node.size] of each rank's events */
} zi_ipc;

static zi_ipc *ipc_of(const zi_comm *comm)
{
    return ((const zi_shm *)comm)->ipc;
}

/* ------------------------------------------------------------------ memory ------------------- */

static size_t whole_units(const zi_device_ops *device, size_t bytes)
{
    return (bytes + device->share_unit - 1) / device->share_unit * device->share_unit;
}

/* zi_symmetric_alloc counts what was asked for. */
static zopt_status lend(zi_comm *comm, size_t bytes, void **array, zi_handle *handle)
{
    const zi_device_ops *device = comm->device;
    zi_mem uncounted = {0};
    lent *l = calloc(1, sizeof *l);
    if (l == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a table of shared arrays");
    l->bytes = whole_units(device, bytes);
    zopt_status status = device->alloc(comm->queue, &uncounted, ZI_MEM_PARAMS, l->bytes, &l->array);
    if (status != ZOPT_OK) {
        free(l);
        return status;
    }
    l->next = ipc_of(comm)->lent;
    ipc_of(comm)->lent = l;
    *array = l->array;
    ZI_TRY(device->wait(comm->queue)); /* zeroed, before other queues write it */
    return device->share(comm->queue, l->array, handle);
}

/* Peers have closed what they had open. */
static void take_back(zi_comm *comm)
{
    zi_ipc *ipc = ipc_of(comm);
    while (ipc->lent != NULL) {
        lent *l = ipc->lent;
        const zi_heap heap = {comm->device, ZI_MEM_PARAMS, l->array, l->bytes};
        ipc->lent = l->next;
        zi_heap_free(&heap, comm->queue);
        free(l);
    }
}

static void unmap(const zi_comm *comm, size_t bytes, void **peer)
{
    int n = comm->node.size, shared = n > 1 && peer[1] == peer[0];
    (void)bytes;
    for (int r = 0; r < n; r++) {
        int is_mine = r == comm->local_rank || (shared && r > 0);
        if (peer[r] != NULL && !is_mine)
            comm->device->leave(comm->queue, peer[r]);
        peer[r] = NULL;
    }
}

static zopt_status map(zi_comm *comm, size_t bytes, int shared, void **peer)
{
    zi_ipc *ipc = ipc_of(comm);
    zi_handle mine = {{0}};
    int own = comm->local_rank, n = shared ? 1 : comm->node.size;
    memset(peer, 0, (size_t)comm->node.size * sizeof *peer);
    zopt_status status = ZOPT_OK;
    if (own < n)
        status = lend(comm, bytes, &peer[own], &mine);
    ZI_TRY(zi_comm_agree(comm, status));
    ZI_TRY(zi_channel_all_gather(comm, &mine, sizeof mine, ipc->handle));
    for (int r = 0; r < n && status == ZOPT_OK; r++)
        if (r != own)
            status = comm->device->reach(comm->queue, &ipc->handle[r], &peer[r]);
    for (int r = 1; r < comm->node.size && shared; r++)
        peer[r] = peer[0];
    status = zi_comm_agree(comm, status);
    if (status != ZOPT_OK)
        unmap(comm, bytes, peer);
    return status;
}

static const zi_symmetric_source device_memory = {.map = map, .unmap = unmap};

/* ------------------------------------------------------------------ trial -------------------- */

/* Errors, the same on all ranks: ERR_UNSUPPORTED. */
static zopt_status open_each_other(zi_comm *comm)
{
    void *peer[ZI_MAX_GROUP];
    if (comm->node.size > ZI_MAX_GROUP)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "%d ranks on one node, of %d at most", comm->node.size,
                       ZI_MAX_GROUP);
    zopt_status status = map(comm, 1, 0, peer);
    if (status == ZOPT_OK)
        unmap(comm, 1, peer);
    if (!comm->broken) { /* and when all have closed them: */
        ZI_TRY(zi_comm_agree(comm, ZOPT_OK));
        take_back(comm);
    }
    return status;
}

/* A plan does without a GPU. */
static zopt_status check_device(const zi_device_ops *device, int planned)
{
    if (device == NULL || device->share_unit == 0)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "transport ipc is for the memory of GPUs, device \"cuda\"; "
                       "the host's is for transport \"shm\"");
    const char *missing = planned ? NULL : device->missing();
    if (missing != NULL)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "transport ipc: device %s: %s", device->name, missing);
    return ZOPT_OK;
}

/* On a queue of its own: the comm's is its owner's to open. */
static zopt_status try_out(zi_comm *comm, const zi_device_ops *device)
{
    const zi_device_ops *host = comm->device;
    ZI_TRY(zi_comm_agree(comm, device->open(comm->local_rank, &comm->queue)));
    comm->device = device;
    zopt_status status = open_each_other(comm);
    if (status == ZOPT_ERR_UNSUPPORTED)
        status = ZI_FAIL(status, "transport ipc: %s; use transport \"nccl\" or \"mpi\"",
                         zopt_last_error());
    device->close(comm->queue);
    comm->device = host;
    comm->queue = NULL;
    return status;
}

/* ------------------------------------------------------------------ life --------------------- */

/* Of this build: the same on all ranks. What this machine cannot do they tell each other. */
static const char *missing(void)
{
    size_t i = 0;
    while (i < zi_n_devices && zi_devices[i]->share_unit == 0)
        i++;
    return i < zi_n_devices ? zi_mpi_missing() : "built without CUDA";
}

static int wanted(const zi_comm_config *config)
{
    return config->device != NULL && config->device->share_unit > 0 && zi_shm_wanted(config);
}

/* Peers may await this rank's events and read its memory until they have left too. After a failure,
 * or where one does not leave, all of it is leaked. */
void zi_ipc_destroy(zi_comm *comm)
{
    zi_shm *s = (zi_shm *)comm;
    if (s == NULL)
        return;
    zi_ipc *ipc = s->ipc;
    zi_shm_drain(comm);
    if (!comm->planned && !comm->broken)
        (void)zi_channel_checked(&s->base, comm->device->wait(comm->queue));
    if (s->carrier->leave != NULL)
        s->carrier->leave(s);
    zi_nodes_free_sums(comm);
    zi_symmetric_free_all(comm, comm->broken);
    if (ipc != NULL && !comm->planned) {
        for (int r = 0; r < comm->node.size && !comm->broken; r++)
            if (r != comm->local_rank)
                zi_fences_destroy(&ipc->fences[r]);
        zi_channel_leave(&s->base);
        if (!comm->broken && zi_channel_all_left(&s->base)) {
            zi_fences_destroy(&ipc->fences[comm->local_rank]);
            take_back(comm);
        }
    }
    if (ipc != NULL)
        zi_mem_free_table(comm->mem, ipc, ipc->table_bytes);
    zi_shm_destroy(comm);
}

static zopt_status equip(zi_shm *s)
{
    zi_comm *comm = &s->base.base;
    size_t n = (size_t)comm->node.size;
    size_t rank_bytes = sizeof(zi_fences) + sizeof(zi_handle) + sizeof(zi_fence_handles *);
    size_t bytes = sizeof *s->ipc + n * rank_bytes;
    ZI_TRY(zi_mem_table(comm->mem, bytes, &s->ipc));
    s->ipc->table_bytes = bytes;
    s->ipc->fences = (zi_fences *)(s->ipc + 1);
    s->ipc->handle = (zi_handle *)(s->ipc->fences + n);
    s->ipc->handles = (zi_fence_handles **)(void *)(s->ipc->handle + n);
    for (size_t r = 0; r < n && !comm->planned; r++)
        s->ipc->handles[r] = &((ipc_block *)s->block[r])->fences;
    s->base.fences = s->ipc->fences;
    s->base.handles = s->ipc->handles;
    comm->source = &device_memory;
    return ZOPT_OK;
}

static const zi_shm_kind ipc = {
    .row = &zi_comm_ipc, .nodes_row = &zi_comm_ipc_nodes, .block_bytes = sizeof(ipc_block)};

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    ZI_TRY(zi_shm_create(&ipc, config, mem, out));
    zi_comm *comm = *out;
    zopt_status status = zi_comm_agree(comm, check_device(config->device, comm->planned));
    if (status == ZOPT_OK)
        status = zi_comm_agree(comm, equip((zi_shm *)comm));
    if (status == ZOPT_OK && !comm->planned)
        status = try_out(comm, config->device);
    if (status == ZOPT_OK && comm->node.size < comm->world)
        status = zi_nccl_carry((zi_shm *)comm, config);
    if (status == ZOPT_OK)
        return ZOPT_OK;
    zi_ipc_destroy(comm);
    *out = NULL;
    return status;
}

/* Peers may still have it: it lives until all have left. */
void zi_ipc_free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory)
{
    zi_shm *s = (zi_shm *)comm;
    zi_shm_drain(comm);
    if (s->carrier->forget != NULL)
        s->carrier->forget(s, memory);
    zi_symmetric_free(comm, category, memory, comm->broken);
}

const zi_comm_ops zi_comm_ipc = {
    .name = "ipc",
    .help = "an MPI world, whose ranks on one node reach each other's GPU memory",
    .device_memory = 1,
    .has_carriers = 1,
    .missing = missing,
    .wanted = wanted,
    .otherwise = &zi_comm_mpi,
    .create = create,
    .destroy = zi_ipc_destroy,
    .alloc_symmetric = zi_shm_alloc_symmetric,
    .free_symmetric = zi_ipc_free_symmetric,
    .exchange = zi_shm_exchange,
    ZI_CHANNEL_OPS,
};
