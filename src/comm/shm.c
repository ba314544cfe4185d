/* Transport shm: the ranks of an MPI world that share a node put parameters, gradients and the
 * blocks of a channel into shared memory (shm_memory.c), and are then like threads: transfers move
 * no byte, ranks wait for each other's counts (channel.c). They meet over MPI, which is left with
 * the messages of checkpoints once each rank has the others' blocks. This file finds the nodes and
 * has the life of the object; where there are several, nodes.c moves bytes between them. */
#include "comm/shm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------ who shares a node -------- */

/* Equal on ranks of one node alone; zero behind each text. */
typedef struct node {
    char host[64], kernel[64], processes[64];
    int declared; /* node number where comm.ranks_per_node says so */
} node;

/* Of which boot its kernel is. A machine that does not tell has "" on all ranks; a rank that cannot
 * look, for want of a descriptor, would pass for another machine. ERR_MEMORY. */
static zopt_status read_kernel(char *kernel, int bytes)
{
    const char *path = "/proc/sys/kernel/random/boot_id";
    FILE *file = fopen(path, "re");
    if (file == NULL && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
        return ZI_FAIL(ZOPT_ERR_MEMORY, "which ranks share a node: %s: %s", path, strerror(errno));
    if (file != NULL && fgets(kernel, bytes, file) == NULL)
        kernel[0] = '\0';
    if (file != NULL)
        fclose(file);
    return ZOPT_OK;
}

/* One kernel may run several process namespaces, whose ranks cannot open each other's files. */
static zopt_status describe_node(const zi_comm *comm, const zi_comm_config *config, node *out)
{
    node n = {0};
    gethostname(n.host, sizeof n.host - 1);
    ZI_TRY(read_kernel(n.kernel, sizeof n.kernel));
    if (readlink("/proc/self/ns/pid", n.processes, sizeof n.processes - 1) < 0)
        n.processes[0] = '\0';
    if (config->ranks_per_node > 0)
        n.declared = comm->rank / config->ranks_per_node;
    *out = n;
    return ZOPT_OK;
}

/* Behind the names of their hosts, which may be the same one's. */
static const char *where_else(const node *a, const node *b)
{
    return strcmp(a->host, b->host) == 0 ? ", in another process namespace" : "";
}

/* 1: this rank is on another node than the rank before it. Errors of this rank alone: ERR_CONFIG
 * where ranks_per_node says that it is not. */
static zopt_status begins_node(zi_comm *meeting, const zi_comm_config *config, const node *mine,
                               int *begins)
{
    node before = {0}, own = *mine;
    zi_message message[2];
    size_t n = 0;
    if (meeting->rank + 1 < meeting->world)
        message[n++] = (zi_message){.peer = meeting->rank + 1, .data = &own, .bytes = sizeof own};
    if (meeting->rank > 0)
        message[n++] = (zi_message){
            .peer = meeting->rank - 1, .receive = 1, .data = &before, .bytes = sizeof before};
    ZI_TRY(meeting->ops->exchange(meeting, message, n));
    *begins = meeting->rank == 0 || memcmp(mine, &before, sizeof before) != 0;
    if (*begins && meeting->rank > 0 && config->ranks_per_node > 0 &&
        mine->declared == before.declared)
        return ZI_FAIL(
            ZOPT_ERR_CONFIG,
            "ranks_per_node %d makes one node of ranks %d and %d, which share no memory: "
            "they are on '%s' and '%s'%s",
            config->ranks_per_node, meeting->rank - 1, meeting->rank, before.host, mine->host,
            where_else(&before, mine));
    return ZOPT_OK;
}

/* Ranks of the first node, and the first rank whose node is none for the transport. */
typedef struct found_nodes {
    int size, odd;
} found_nodes;

/* Never ZOPT_OK. */
static zopt_status refuse(zi_comm *meeting, const zi_shm_kind *kind, const zi_comm_config *config,
                          const node *mine, found_nodes found)
{
    const char *name = kind->row->name;
    node first = *mine, other = *mine;
    char declared[64] = "";
    ZI_TRY(meeting->ops->broadcast(meeting, 0, &first, sizeof first));
    ZI_TRY(meeting->ops->broadcast(meeting, found.odd, &other, sizeof other));
    if (config->ranks_per_node > 0)
        snprintf(declared, sizeof declared, ", by ranks_per_node %d", config->ranks_per_node);
    const char *elsewhere = declared[0] == '\0' ? where_else(&first, &other) : "";
    if (found.size == 1)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "transport %s needs ranks that share a node, next to each other: rank 0 is "
                       "alone on '%s', and rank %d on '%s'%s%s; use transport \"mpi\"",
                       name, first.host, found.odd, other.host, declared, elsewhere);
    return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                   "transport %s needs nodes of equally many ranks, next to each other: the first "
                   "%d are on '%s', and the node of rank %d on '%s' is not like that%s; use "
                   "transport \"mpi\"",
                   name, found.size, first.host, found.odd, other.host, declared);
}

/* How many ranks each node has. Errors, of all ranks alike: ERR_UNSUPPORTED, ERR_CONFIG,
 * ERR_MEMORY. */
static zopt_status find_nodes(zi_comm *meeting, const zi_shm_kind *kind,
                              const zi_comm_config *config, int *size)
{
    node mine = {0};
    int begins = 0, world = meeting->world;
    ZI_TRY(zi_comm_agree(meeting, describe_node(meeting, config, &mine)));
    ZI_TRY(zi_comm_agree(meeting, begins_node(meeting, config, &mine, &begins)));
    int64_t second = begins && meeting->rank > 0 ? meeting->rank : world;
    ZI_TRY(meeting->ops->all_reduce(meeting, ZI_MIN, &second, 1));
    *size = (int)second;
    int is_odd = begins != (meeting->rank % *size == 0) || meeting->rank >= world - world % *size;
    int64_t odd = is_odd ? meeting->rank : world;
    ZI_TRY(meeting->ops->all_reduce(meeting, ZI_MIN, &odd, 1));
    if (*size < world && *size == 1)
        odd = *size;
    const found_nodes found = {*size, (int)odd};
    return odd == world ? ZOPT_OK : refuse(meeting, kind, config, &mine, found);
}

/* A plan knows of no hosts: one node, unless ranks_per_node says that there are more. 0: nodes that
 * shm is not for. */
static int planned_node_size(const zi_comm_config *config)
{
    int world = config->plan_world, size = config->ranks_per_node;
    if (size == 0 || size >= world)
        return world;
    return size > 1 && world % size == 0 ? size : 0;
}

/* ------------------------------------------------------------------ life --------------------- */

int zi_shm_wanted(const zi_comm_config *config)
{
    return zi_mpi_wanted(config) && (config->plan_world == 0 || planned_node_size(config) > 0);
}

zi_mpi *zi_shm_meeting(zi_comm *comm)
{
    zi_comm *via = &((zi_shm *)comm)->meeting->base;
    via->deadline_ms = comm->deadline_ms;
    via->step = comm->step;
    via->phase = comm->phase;
    via->bucket = comm->bucket;
    via->device = comm->device;
    via->queue = comm->queue;
    return (zi_mpi *)via;
}

static const zi_symmetric_source shared_memory = {.map = zi_shared_map, .unmap = zi_shared_unmap};

void zi_shm_drain(zi_comm *comm)
{
    zi_shm *s = (zi_shm *)comm;
    if (!comm->planned && !comm->broken && zi_mpi_missing() == NULL)
        (void)zi_channel_checked(&s->base, s->carrier->drain(s));
}

/* Peers keep what they have mapped: only messages are waited for, where there are any. What MPI may
 * still write to after a failure is leaked. */
void zi_shm_destroy(zi_comm *comm)
{
    zi_shm *s = (zi_shm *)comm;
    if (s == NULL)
        return;
    zi_shm_drain(comm);
    zi_mpi *via = zi_shm_meeting(comm);
    zi_nodes_free_sums(comm);
    zi_symmetric_free_all(comm, comm->broken && via->engine.capacity > 0);
    if (s->base.block != NULL) {
        zi_channel_leave(&s->base);
        zi_shared_unmap(comm, s->kind->block_bytes, s->block);
    }
    via->user = (zi_mpi_user){0};
    via->base.broken |= comm->broken; /* its end must not wait for a peer that is lost */
    zi_comm_mpi.destroy(&via->base);
    zi_mem_uncount(comm->mem, ZI_MEM_STAGING, s->kind->block_bytes);
    zi_mem_free_table(comm->mem, s, s->table_bytes);
}

/* A peer that has failed is not waited for until the deadline. */
static zopt_status check_peers(zi_comm *comm)
{
    return zi_channel_check((zi_channel_comm *)comm, NULL);
}

static void connect(zi_shm *s, zi_mpi *meeting)
{
    zi_comm *comm = &s->base.base;
    s->meeting = meeting;
    s->carrier = &zi_engine_carrier;
    comm->source = &shared_memory;
    if (comm->node.size < comm->world)
        zi_nodes_join(s);
    else
        meeting->calls_roll = 0; /* a rank that waits in the channel would not answer */
    if (comm->planned)
        return;
    zi_channel_join(&s->base, s->block);
    meeting->user.comm = comm;
    meeting->user.check = check_peers;
}

static zopt_status build(zi_mpi *meeting, const zi_shm_kind *kind, const zi_comm_config *config,
                         zi_mem *mem, zi_shm **out)
{
    zi_comm *via = &meeting->base;
    zi_shm *s;
    int size = planned_node_size(config);
    if (!via->planned)
        ZI_TRY(find_nodes(via, kind, config, &size));
    zi_comm_seat(via, via->rank, via->world, size);
    size_t table_bytes = sizeof *s + (size_t)size * sizeof s->block[0];
    zopt_status status = zi_comm_agree(via, zi_mem_table(mem, table_bytes, &s));
    if (status == ZOPT_OK && !via->planned)
        status = zi_shared_map(via, kind->block_bytes, 0, s->block);
    if (status != ZOPT_OK) {
        zi_mem_free_table(mem, s, table_bytes);
        return status;
    }
    zi_mem_count(mem, ZI_MEM_STAGING, kind->block_bytes);
    s->kind = kind;
    s->table_bytes = table_bytes;
    zi_comm_init(&s->base.base, size < via->world ? kind->nodes_row : kind->row, config, mem);
    zi_comm_seat(&s->base.base, via->rank, via->world, size);
    connect(s, meeting);
    *out = s;
    return ZOPT_OK;
}

zopt_status zi_shm_create(const zi_shm_kind *kind, const zi_comm_config *config, zi_mem *mem,
                          zi_comm **out)
{
    const char *name = kind->row->name;
    zi_mpi *meeting;
    zi_shm *s;
    *out = NULL;
    if (config->plan_world > 0 && planned_node_size(config) == 0)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "transport %s: %d ranks make no nodes of %d that share memory", name,
                       config->plan_world, config->ranks_per_node);
    ZI_TRY(zi_mpi_connect(kind->row, config, mem, &meeting));
    zopt_status status = build(meeting, kind, config, mem, &s);
    if (status != ZOPT_OK) {
        zi_comm_mpi.destroy(&meeting->base);
        return status;
    }
    zi_comm *comm = &s->base.base;
    if (comm->node.size < comm->world && !comm->planned)
        status =
            zi_comm_agree(comm, config->progress_thread ? zi_mpi_check_threads(comm) : ZOPT_OK);
    if (status == ZOPT_OK)
        *out = comm;
    else
        zi_shm_destroy(comm);
    return status;
}

static const zi_shm_kind host_memory = {
    .row = &zi_comm_shm, .nodes_row = &zi_comm_shm_nodes, .block_bytes = sizeof(zi_channel_rank)};

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    return zi_shm_create(&host_memory, config, mem, out);
}

zopt_status zi_shm_alloc_symmetric(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out)
{
    zi_shm *s = (zi_shm *)comm;
    ZI_TRY(zi_symmetric_alloc(comm, category, bytes, comm->world, out));
    return s->carrier->know != NULL ? s->carrier->know(s, category, out) : ZOPT_OK;
}

/* Queued transfers may still touch it. A drain that fails has broken the comm: leak. */
void zi_shm_free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory)
{
    zi_shm_drain(comm);
    zi_symmetric_free(comm, category, memory,
                      comm->broken && ((zi_shm *)comm)->meeting->engine.capacity > 0);
}

zopt_status zi_shm_exchange(zi_comm *comm, const zi_message *messages, size_t n)
{
    zi_shm *s = (zi_shm *)comm;
    ZI_TRY(zi_check_connected(comm, "exchange"));
    return zi_channel_checked(&s->base, zi_mpi_exchange(&zi_shm_meeting(comm)->base, messages, n));
}

const zi_comm_ops zi_comm_shm = {
    .name = "shm",
    .help = "an MPI world, whose ranks on one node read and write each other's memory",
    .missing = zi_mpi_missing,
    .wanted = zi_shm_wanted,
    .otherwise = &zi_comm_mpi,
    .create = create,
    .destroy = zi_shm_destroy,
    .alloc_symmetric = zi_shm_alloc_symmetric,
    .free_symmetric = zi_shm_free_symmetric,
    .exchange = zi_shm_exchange,
    ZI_CHANNEL_OPS,
};
