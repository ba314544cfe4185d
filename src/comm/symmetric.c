/* The list of the symmetric memory that a comm has handed out: a device's, or, where ranks share
 * it, that of the transport's own source; what of it is counted, and the host memory that messages
 * of a device's leave from. Next: channel.c or mpi_transfer.c, which move what lies there. */
#include <stddef.h>

#include "comm/common.h"

typedef struct zi_symmetric_node {
    struct zi_symmetric_node *next;
    size_t node_bytes, counted_bytes, room_bytes;
    zi_category category;
    zi_symmetric memory;
    void *peer[];
} zi_symmetric_node;

size_t zi_share(const zi_comm *comm, int rank, size_t n)
{
    size_t size = (size_t)comm->node.size, i = (size_t)(rank - comm->node.base);
    return n / size * i + n % size * i / size;
}

/* Host memory: where a rank's part begins in its memory of room_bytes and bytes: each one's
 * elsewhere, and other than the rank's own arrays. */
static size_t begin(const zi_symmetric_node *node, int rank)
{
    unsigned index = ZI_N_CATEGORIES + 2 * (unsigned)rank + (node->category == ZI_MEM_PARAMS);
    return node->room_bytes > 0 ? zi_stagger(index, node->memory.bytes) : 0;
}

static void count(const zi_device_ops *device, zi_mem *mem, zi_category category, size_t bytes)
{
    (device->on_host ? zi_mem_count : zi_mem_count_device)(mem, category, bytes);
}

static void uncount(const zi_device_ops *device, zi_mem *mem, zi_category category, size_t bytes)
{
    (device->on_host ? zi_mem_uncount : zi_mem_uncount_device)(mem, category, bytes);
}

static int is_mapped(const zi_comm *comm)
{
    return comm->source != NULL && comm->source->map != NULL;
}

/* The device's, unless the comm has a source of its own. */
static zopt_status symmetric_base(zi_comm *comm, zi_symmetric_node *node)
{
    zi_symmetric *memory = &node->memory;
    int is_mine = !is_mapped(comm) && (!memory->shared || comm->rank == 0);
    if (comm->planned || memory->bytes == 0 || !is_mine)
        return ZOPT_OK;
    zi_mem uncounted = *comm->mem; /* symmetric_add counts */
    size_t bytes = node->room_bytes + memory->bytes;
    void *begun;
    ZI_TRY(comm->source != NULL
               ? comm->source->alloc(comm, node->category, bytes, &begun)
               : comm->device->alloc(comm->queue, &uncounted, node->category, bytes, &begun));
    memory->base = (char *)begun + begin(node, comm->rank);
    return comm->device->wait(comm->queue); /* zeroed, before other queues write it */
}

/* Messages leave from the host. */
static int has_host(const zi_comm *comm, const zi_symmetric *memory)
{
    int all_near = memory->peer != NULL && comm->node.size == comm->world;
    return !all_near && !comm->device->on_host && !comm->ops->device_direct;
}

/* Page-locked, so that the device copies without stopping the host. It counts as what it is: bytes
 * in transit. */
static zopt_status symmetric_host(const zi_comm *comm, zi_symmetric *memory)
{
    memory->host = memory->base;
    if (!has_host(comm, memory))
        return ZOPT_OK;
    return comm->device->alloc_host(comm->queue, comm->mem, ZI_MEM_STAGING, memory->bytes,
                                    &memory->host);
}

static zi_heap heap_of(const zi_comm *comm, const zi_symmetric_node *node)
{
    zi_heap heap = {comm->device, node->category, node->memory.base, node->room_bytes};
    heap.bytes += node->memory.bytes;
    if (heap.memory != NULL)
        heap.memory = (char *)heap.memory - begin(node, comm->rank);
    return heap;
}

void zi_heap_free(const zi_heap *heap, zi_queue *queue)
{
    zi_mem uncounted = {0};
    count(heap->device, &uncounted, heap->category, heap->bytes);
    heap->device->free(queue, &uncounted, heap->category, heap->memory, heap->bytes);
}

/* What symmetric_host got. */
static void free_host(zi_comm *comm, const zi_symmetric *memory)
{
    if (has_host(comm, memory))
        comm->device->free_host(comm->queue, comm->mem, ZI_MEM_STAGING, memory->host,
                                memory->bytes);
}

/* What symmetric_base got. */
static void free_base(zi_comm *comm, const zi_symmetric_node *node)
{
    const zi_heap heap = heap_of(comm, node);
    if (comm->source != NULL && comm->source->free != NULL && heap.memory != NULL)
        comm->source->free(comm, heap.memory);
    else if (comm->source == NULL || is_mapped(comm))
        zi_heap_free(&heap, comm->queue);
}

static zopt_status symmetric_add(zi_comm *comm, zi_category category, size_t bytes, int n_peers,
                                 zi_symmetric_node **out)
{
    size_t node_bytes = sizeof(zi_symmetric_node) + (size_t)n_peers * sizeof(void *);
    zi_symmetric_node *node;
    *out = NULL;
    ZI_TRY(zi_mem_table(comm->mem, node_bytes, &node));
    node->memory = (zi_symmetric){.bytes = bytes,
                                  .peer = n_peers ? node->peer : NULL,
                                  .shared = comm->shared_params && category == ZI_MEM_PARAMS};
    node->category = category;
    node->room_bytes = node->memory.shared || zi_stagger(1, bytes) == 0 || !comm->device->on_host
                           ? 0
                           : ZI_STAGGER_BYTES;
    zopt_status status = symmetric_base(comm, node);
    if (status == ZOPT_OK)
        status = symmetric_host(comm, &node->memory);
    if (status != ZOPT_OK) {
        free_base(comm, node);
        zi_mem_free_table(comm->mem, node, node_bytes);
        return status;
    }
    node->node_bytes = node_bytes;
    node->counted_bytes = bytes;
    if (node->memory.shared)
        node->counted_bytes =
            zi_share(comm, comm->rank + 1, bytes) - zi_share(comm, comm->rank, bytes);
    count(comm->device, comm->mem, category, node->counted_bytes);
    node->next = comm->symmetric;
    comm->symmetric = node;
    *out = node;
    return ZOPT_OK;
}

/* From where their memory begins to where their parts begin (1), or back (-1). */
static void move_peers(const zi_comm *comm, zi_symmetric_node *node, int direction)
{
    for (int r = comm->node.base; r < comm->node.base + comm->node.size; r++)
        node->peer[r] = (char *)node->peer[r] + direction * (ptrdiff_t)begin(node, r);
}

static void symmetric_remove(zi_comm *comm, zi_symmetric_node **link, int keep)
{
    zi_symmetric_node *node = *link;
    zi_symmetric *memory = &node->memory;
    *link = node->next;
    if (!keep && is_mapped(comm) && memory->base != NULL) {
        move_peers(comm, node, -1);
        comm->source->unmap(comm, node->room_bytes + memory->bytes, memory->peer + comm->node.base);
    } else if (!keep) {
        free_base(comm, node);
    }
    if (!keep)
        free_host(comm, memory);
    else if (has_host(comm, memory))
        zi_mem_uncount(comm->mem, ZI_MEM_STAGING, memory->bytes);
    uncount(comm->device, comm->mem, node->category, node->counted_bytes);
    zi_mem_free_table(comm->mem, node, node->node_bytes);
}

zopt_status zi_symmetric_alloc(zi_comm *comm, zi_category category, size_t bytes, int n_peers,
                               zi_symmetric *out)
{
    zi_symmetric_node *node;
    *out = (zi_symmetric){0};
    zopt_status status = zi_comm_agree(comm, symmetric_add(comm, category, bytes, n_peers, &node));
    if (node == NULL)
        return status;
    if (status == ZOPT_OK && is_mapped(comm) && !comm->planned && bytes > 0) {
        status = comm->source->map(comm, node->room_bytes + bytes, node->memory.shared,
                                   node->peer + comm->node.base);
        if (status == ZOPT_OK) {
            move_peers(comm, node, 1);
            node->memory.base = node->peer[comm->rank];
            if (!has_host(comm, &node->memory))
                node->memory.host = node->memory.base;
        }
    }
    if (status == ZOPT_OK)
        *out = node->memory;
    else
        symmetric_remove(comm, &comm->symmetric, 0);
    return status;
}

zi_heap zi_symmetric_heap(const zi_comm *comm)
{
    return heap_of(comm, comm->symmetric);
}

/* By the table of peers, where there is one: a base may have been filled in. */
static int same_memory(const zi_symmetric *a, const zi_symmetric *b)
{
    return a->peer == b->peer && a->bytes == b->bytes && (a->peer != NULL || a->base == b->base);
}

void zi_symmetric_free(zi_comm *comm, zi_category category, zi_symmetric *memory, int keep)
{
    zi_symmetric_node **link = &comm->symmetric;
    while (*link != NULL &&
           ((*link)->category != category || !same_memory(&(*link)->memory, memory)))
        link = &(*link)->next;
    if (*link != NULL)
        symmetric_remove(comm, link, keep);
    *memory = (zi_symmetric){0};
}

void zi_symmetric_free_all(zi_comm *comm, int keep)
{
    while (comm->symmetric != NULL)
        symmetric_remove(comm, &comm->symmetric, keep);
}
