/* The table of transports, the choice among them, and what all of them share: order checks, the
 * list of symmetric memory, and agreement on a status. How bytes move is in self.c, threads.c,
 * shm.c, nodes.c, ipc.c and mpi.c. */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/common.h"

/* In the order in which "auto" asks them. */
const zi_comm_ops *const zi_comms[] = {&zi_comm_threads, &zi_comm_shm,         &zi_comm_ipc,
                                       &zi_comm_nccl,    &zi_comm_nccl_native, &zi_comm_mpi,
                                       &zi_comm_self};
const size_t zi_n_comms = sizeof zi_comms / sizeof zi_comms[0];

#if !defined(ZI_HAVE_MPI) || !defined(ZI_HAVE_NCCL)
static int never_wanted(const zi_comm_config *config)
{
    (void)config;
    return 0;
}
#endif

#ifndef ZI_HAVE_NCCL
static const char *built_without_nccl(void)
{
    return "built without NCCL (ZOPT_NCCL; it needs CUDA and MPI too)";
}

const zi_comm_ops zi_comm_nccl = {
    .name = "nccl",
    .help = "GPUs of an MPI world, one for each rank",
    .missing = built_without_nccl,
    .wanted = never_wanted,
};

const zi_comm_ops zi_comm_nccl_native = {
    .name = "nccl-native",
    .help = "the same, not bit-invariant",
    .missing = built_without_nccl,
    .wanted = never_wanted,
};
#endif

#ifndef ZI_HAVE_MPI
static const char *built_without(void)
{
    return "built without MPI (ZOPT_MPI=OFF)";
}

const zi_comm_ops zi_comm_mpi = {
    .name = "mpi",
    .help = "any MPI world",
    .missing = built_without,
    .wanted = never_wanted,
};

const zi_comm_ops zi_comm_shm = {
    .name = "shm",
    .help = "an MPI world on one node",
    .missing = built_without,
    .wanted = never_wanted,
};

const zi_comm_ops zi_comm_ipc = {
    .name = "ipc",
    .help = "an MPI world on GPUs",
    .missing = built_without,
    .wanted = never_wanted,
};

void zopt_finalize(void)
{
}
#endif

/* What launchers tell their processes; a greater value means that there are others. A whole Slurm
 * job's variables say nothing about a step, or a job of mpirun, inside it. */
static const struct {
    const char *name;
    long alone;
    int whole_job;
} launch_variables[] = {
    {"WORLD_SIZE", 1, 0},   {"RANK", 0, 0},         {"OMPI_COMM_WORLD_SIZE", 1, 0},
    {"PMI_SIZE", 1, 0},     {"SLURM_PROCID", 0, 1}, {"SLURM_STEP_NUM_TASKS", 1, 1},
    {"SLURM_NTASKS", 1, 1},
};

/* 1: mpirun or a Slurm step has said how many processes there are. */
static int has_closer_launcher(const char *name)
{
    if (getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMI_SIZE") != NULL)
        return 1;
    return getenv("SLURM_STEP_NUM_TASKS") != NULL && strcmp(name, "SLURM_STEP_NUM_TASKS") != 0;
}

zopt_status zi_comm_check_alone(void)
{
    for (size_t i = 0; i < sizeof launch_variables / sizeof launch_variables[0]; i++) {
        const char *name = launch_variables[i].name;
        const char *text = getenv(name);
        if (launch_variables[i].whole_job && has_closer_launcher(name))
            continue;
        if (text != NULL && strtol(text, NULL, 10) > launch_variables[i].alone)
            return ZI_FAIL(
                ZOPT_ERR_LAUNCH,
                "%s=%s says that this process is one of several, but it would run alone: "
                "start it with mpirun -n N or srun --mpi=pmix, of the MPI that zopt is "
                "built with; or unset %s, or ask for transport \"self\"",
                name, text, name);
    }
    return ZOPT_OK;
}

/* NULL where the row can be used. A plan needs it in this build, but not on this machine. */
static const char *why_not(const zi_comm_ops *ops, const zi_comm_config *config)
{
    return config->plan_world > 0 && ops->create != NULL ? NULL : ops->missing();
}

static zopt_status find_auto(const zi_comm_config *config, const zi_comm_ops **out)
{
    /* Where nobody wants it, it is a plan for several ranks in a build without MPI. */
    const zi_comm_ops *found = &zi_comm_threads;
    for (size_t i = 0; i < zi_n_comms; i++) {
        int can = config->device == NULL || zi_comms[i]->device_memory;
        if (can && zi_comms[i]->wanted(config) && why_not(zi_comms[i], config) == NULL) {
            found = zi_comms[i];
            break;
        }
    }
    if (found == &zi_comm_self && config->plan_world == 0)
        ZI_TRY(zi_comm_check_alone());
    *out = found;
    return ZOPT_OK;
}

zopt_status zi_comm_find(const char *name, const zi_comm_config *config, const zi_comm_ops **out)
{
    const char *names[sizeof zi_comms / sizeof zi_comms[0]];
    *out = NULL;
    if (strcmp(name, "auto") == 0)
        return find_auto(config, out);
    for (size_t i = 0; i < zi_n_comms; i++) {
        names[i] = zi_comms[i]->name;
        if (strcmp(name, names[i]) != 0)
            continue;
        const char *missing = why_not(zi_comms[i], config);
        if (missing != NULL)
            return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "transport %s: %s", name, missing);
        *out = zi_comms[i];
        return ZOPT_OK;
    }
    const char *nearest = zi_nearest(name, names, zi_n_comms, sizeof names[0]);
    return ZI_FAIL(ZOPT_ERR_CONFIG, "transport \"%s\" is not known%s%s%s", name,
                   nearest ? "; did you mean \"" : "", nearest ? nearest : "",
                   nearest ? "\"?" : "");
}

zopt_status zi_comm_connect(const char *name, const zi_comm_config *config, zi_mem *mem,
                            zi_comm **out)
{
    const zi_comm_ops *ops;
    *out = NULL;
    zopt_status status = zi_comm_find(name, config, &ops);
    if (ops == NULL)
        return status;
    status = ops->create(config, mem, out);
    if (status == ZOPT_ERR_UNSUPPORTED && ops->otherwise != NULL && strcmp(name, "auto") == 0)
        status = ops->otherwise->create(config, mem, out);
    return status;
}

void zi_comm_init(zi_comm *comm, const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem)
{
    comm->ops = ops;
    comm->mem = mem;
    comm->planned = config->plan_world > 0;
    comm->shared_params = config->shared_params;
    if (comm->planned)
        zi_comm_seat(comm, config->plan_rank, config->plan_world, config->plan_world);
    else
        zi_comm_seat(comm, 0, 1, 1);
    comm->deadline_ms = config->deadline_ms;
    comm->device = zi_devices[0];
    comm->on_hang = config->on_hang;
    comm->on_hang_arg = config->on_hang_arg;
    comm->bucket = -1;
}

void zi_comm_seat(zi_comm *comm, int rank, int world, int node_size)
{
    comm->rank = rank;
    comm->world = world;
    comm->local_rank = rank % node_size;
    comm->node = (zi_ranks){.base = rank - rank % node_size, .stride = 1, .size = node_size};
}

int zi_is_near(const zi_comm *comm, int rank)
{
    return rank >= comm->node.base && rank < comm->node.base + comm->node.size;
}

int zi_comes_summed(const zi_comm *comm, zopt_dtype dtype, int rank)
{
    return comm->sums_travel && !zi_is_near(comm, rank) &&
           (size_t)comm->reduce_group * zopt_dtype_bytes(dtype) > sizeof(float);
}

zopt_status zi_check_connected(const zi_comm *comm, const char *call)
{
    if (comm->broken)
        return ZI_FAIL(ZOPT_ERR_COMM, "%s: an earlier call of transport %s failed", call,
                       comm->ops->name);
    if (comm->planned)
        return ZI_FAIL(ZOPT_ERR_COMM, "%s: a plan has no peers", call);
    return ZOPT_OK;
}

zopt_status zi_check_next(zi_comm *comm, const char *call, uint64_t next, uint64_t ordinal)
{
    if (ordinal == next)
        return ZOPT_OK;
    comm->broken = 1;
    return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: %s of transfer %llu out of order, the next is %llu",
                   comm->rank, call, (unsigned long long)ordinal, (unsigned long long)next);
}

zopt_status zi_check_begun(zi_comm *comm, const char *call, uint64_t n_begun, uint64_t ordinal)
{
    if (ordinal < n_begun)
        return ZOPT_OK;
    comm->broken = 1;
    return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: %s of transfer %llu, but only %llu were begun",
                   comm->rank, call, (unsigned long long)ordinal, (unsigned long long)n_begun);
}

zopt_status zi_check_messages(zi_comm *comm, const zi_message *messages, size_t n)
{
    ZI_TRY(zi_check_connected(comm, "exchange"));
    int bad = n > ZI_MAX_MESSAGES;
    for (size_t i = 0; i < n && !bad; i++) {
        const zi_message *m = &messages[i];
        bad = m->peer < 0 || m->peer >= comm->world || m->peer == comm->rank || m->bytes == 0 ||
              m->bytes > ZI_MAX_MESSAGE_BYTES;
    }
    if (!bad)
        return ZOPT_OK;
    comm->broken = 1;
    return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: exchange of %zu messages that break its rules",
                   comm->rank, n);
}

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

/* The device's, unless the comm has a source of its own. */
static zopt_status symmetric_base(const zi_comm *comm, zi_symmetric_node *node)
{
    zi_symmetric *memory = &node->memory;
    int is_mine = comm->source == NULL && (!memory->shared || comm->rank == 0);
    if (comm->planned || memory->bytes == 0 || !is_mine)
        return ZOPT_OK;
    zi_mem uncounted = *comm->mem; /* symmetric_add counts */
    void *begun;
    ZI_TRY(comm->device->alloc(comm->queue, &uncounted, node->category,
                               node->room_bytes + memory->bytes, &begun));
    memory->base = (char *)begun + begin(node, comm->rank);
    return comm->device->wait(comm->queue); /* zeroed, before other queues write it */
}

/* Messages leave from the host. */
static int has_host(const zi_comm *comm, const zi_symmetric *memory)
{
    int all_near = memory->peer != NULL && comm->node.size == comm->world;
    return !all_near && !comm->device->on_host && !comm->ops->device_direct;
}

/* It counts as what it is: bytes in transit. */
static zopt_status symmetric_host(const zi_comm *comm, zi_symmetric *memory)
{
    memory->host = memory->base;
    if (!has_host(comm, memory))
        return ZOPT_OK;
    return zi_mem_array(comm->mem, ZI_MEM_STAGING, memory->bytes, &memory->host);
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
        zi_mem_free_array(comm->mem, ZI_MEM_STAGING, memory->host, memory->bytes);
}

/* What symmetric_base got. */
static void free_base(zi_comm *comm, const zi_symmetric_node *node)
{
    const zi_heap heap = heap_of(comm, node);
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
    if (!keep && comm->source != NULL && memory->base != NULL) {
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
    if (status == ZOPT_OK && comm->source != NULL && !comm->planned && bytes > 0) {
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

/* One number per rank, of which the greatest wins: how bad, then which rank, the lowest first.
 * ERR_PEER is an echo of another rank's failure, so it is the least bad. */
enum { RANK_BITS = 32, RANK_MASK = 0x7fffffff };

static int64_t badness(zopt_status status)
{
    return status == ZOPT_OK ? 0 : status == ZOPT_ERR_PEER ? 1 : 1 + (int64_t)status;
}

static zopt_status status_of(int64_t bad)
{
    return bad == 0 ? ZOPT_OK : bad == 1 ? ZOPT_ERR_PEER : (zopt_status)(bad - 1);
}

zopt_status zi_comm_agree(zi_comm *comm, zopt_status mine)
{
    char own[256] = "", text[256] = "";
    if (mine != ZOPT_OK)
        snprintf(own, sizeof own, "%s", zopt_last_error());
    if (comm->planned || (comm->broken && mine != ZOPT_OK))
        return mine;

    int64_t worst = badness(mine) * ((int64_t)1 << RANK_BITS) + (RANK_MASK - comm->rank);
    zopt_status status = comm->ops->all_reduce(comm, ZI_MAX, &worst, 1);
    if (status == ZOPT_OK) {
        status = status_of(worst >> RANK_BITS);
        int rank = RANK_MASK - (int)(worst & RANK_MASK);
        if (status == ZOPT_OK)
            return ZOPT_OK;
        memcpy(text, own, sizeof text);
        if (comm->ops->broadcast(comm, rank, text, sizeof text) != ZOPT_OK)
            snprintf(text, sizeof text, "%s", zopt_status_text(status));
        text[sizeof text - 1] = '\0';
        if (mine == ZOPT_OK)
            return ZI_FAIL(status, "rank %d: %s", rank, text);
    }
    if (mine == ZOPT_OK)
        return status;
    return ZI_FAIL(status, "%s", own);
}
