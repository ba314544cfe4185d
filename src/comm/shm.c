/* Transport shm: the ranks of an MPI world that share a node put parameters, gradients and the
 * blocks of a channel into shared memory (shm_memory.c), and are then like threads: transfers move
 * no byte, ranks wait for each other's counts (channel.c). They meet over MPI, which is left with
 * the messages of checkpoints once each rank has the others' blocks. */
#include "comm/shm.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/channel.h"
#include "comm/mpi_internal.h"

typedef struct shm_comm {
    zi_channel_comm base;
    zi_mpi *meeting;
    size_t table_bytes;
    void *block[]; /* [world] every rank's block of the channel */
} shm_comm;

/* ------------------------------------------------------------------ who shares a node -------- */

/* Equal on ranks of one node alone; zero behind each text. */
typedef struct node {
    char host[64], kernel[64], processes[64];
    int declared; /* node number where comm.ranks_per_node says so */
} node;

/* One kernel may run several process namespaces, whose ranks cannot open each other's files. */
static node describe_node(const zi_comm *comm, const zi_comm_config *config)
{
    node n = {0};
    gethostname(n.host, sizeof n.host - 1);
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file != NULL && fgets(n.kernel, sizeof n.kernel, file) == NULL)
        n.kernel[0] = '\0';
    if (file != NULL)
        fclose(file);
    if (readlink("/proc/self/ns/pid", n.processes, sizeof n.processes - 1) < 0)
        n.processes[0] = '\0';
    if (config->ranks_per_node > 0)
        n.declared = comm->rank / config->ranks_per_node;
    return n;
}

/* Errors, the same on all ranks: ERR_UNSUPPORTED names the first rank that is elsewhere. */
static zopt_status check_one_node(zi_comm *meeting, const zi_comm_config *config)
{
    node mine = describe_node(meeting, config), first = mine, other = mine;
    char declared[64] = "";
    ZI_TRY(meeting->ops->broadcast(meeting, 0, &first, sizeof first));
    int64_t who = memcmp(&mine, &first, sizeof mine) == 0 ? INT64_MAX : meeting->rank;
    ZI_TRY(meeting->ops->all_reduce(meeting, ZI_MIN, &who, 1));
    if (who == INT64_MAX)
        return ZOPT_OK;
    ZI_TRY(meeting->ops->broadcast(meeting, (int)who, &other, sizeof other));
    if (other.declared != first.declared)
        snprintf(declared, sizeof declared, ", node %d by ranks_per_node %d", other.declared,
                 config->ranks_per_node);
    return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                   "transport shm needs all ranks on one node: rank 0 is on '%s', rank %d on "
                   "'%s'%s%s; use transport \"mpi\"",
                   first.host, (int)who, other.host, declared,
                   declared[0] == '\0' && strcmp(first.host, other.host) == 0
                       ? ", in another process namespace"
                       : "");
}

/* ------------------------------------------------------------------ life --------------------- */

/* A plan knows of no hosts: one node, unless ranks_per_node says that there are more. */
static int plans_several_nodes(const zi_comm_config *config)
{
    return config->ranks_per_node > 0 && config->ranks_per_node < config->plan_world;
}

static int wanted(const zi_comm_config *config)
{
    return zi_mpi_wanted(config) && !plans_several_nodes(config);
}

static const zi_symmetric_source shared_memory = {.map = zi_shared_map, .unmap = zi_shared_unmap};

/* Never waits: peers keep what they have mapped. */
static void destroy(zi_comm *comm)
{
    shm_comm *s = (shm_comm *)comm;
    if (s == NULL)
        return;
    zi_symmetric_free_all(comm, 0);
    if (s->base.block != NULL) {
        zi_channel_leave(&s->base);
        zi_shared_unmap(comm, sizeof(zi_channel_rank), s->block);
    }
    s->meeting->base.broken |= comm->broken; /* its end must not wait for a peer that is lost */
    zi_comm_mpi.destroy(&s->meeting->base);
    zi_mem_uncount(comm->mem, ZI_MEM_STAGING, sizeof(zi_channel_rank));
    zi_mem_free_table(comm->mem, s, s->table_bytes);
}

static zopt_status build(zi_mpi *meeting, const zi_comm_config *config, zi_mem *mem, shm_comm **out)
{
    zi_comm *via = &meeting->base;
    shm_comm *s;
    size_t table_bytes = sizeof *s + (size_t)via->world * sizeof s->block[0];
    if (!via->planned)
        ZI_TRY(check_one_node(via, config));
    zopt_status status = zi_comm_agree(via, zi_mem_table(mem, table_bytes, &s));
    if (status == ZOPT_OK && !via->planned)
        status = zi_shared_map(via, sizeof(zi_channel_rank), 0, s->block);
    if (status != ZOPT_OK) {
        zi_mem_free_table(mem, s, table_bytes);
        return status;
    }
    zi_mem_count(mem, ZI_MEM_STAGING, sizeof(zi_channel_rank));
    zi_comm_init(&s->base.base, &zi_comm_shm, config, mem);
    s->base.base.rank = via->rank;
    s->base.base.world = via->world;
    s->base.base.source = &shared_memory;
    if (!via->planned)
        zi_channel_join(&s->base, s->block);
    s->meeting = meeting;
    meeting->calls_roll = 0; /* a rank that waits in the channel would not answer */
    s->table_bytes = table_bytes;
    *out = s;
    return ZOPT_OK;
}

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    zi_mpi *meeting;
    shm_comm *s;
    *out = NULL;
    if (plans_several_nodes(config))
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "transport shm: %d ranks are no one node of %d",
                       config->plan_world, config->ranks_per_node);
    ZI_TRY(zi_mpi_connect(&zi_comm_shm, config, mem, &meeting));
    zopt_status status = build(meeting, config, mem, &s);
    if (status == ZOPT_OK)
        *out = &s->base.base;
    else
        zi_comm_mpi.destroy(&meeting->base);
    return status;
}

static zopt_status alloc_symmetric(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out)
{
    return zi_symmetric_alloc(comm, category, bytes, comm->world, out);
}

static void free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory)
{
    zi_symmetric_free(comm, category, memory, 0);
}

static zopt_status exchange(zi_comm *comm, const zi_message *messages, size_t n)
{
    shm_comm *s = (shm_comm *)comm;
    zi_comm *via = &s->meeting->base;
    ZI_TRY(zi_check_connected(comm, "exchange"));
    via->deadline_ms = comm->deadline_ms;
    via->step = comm->step;
    via->phase = comm->phase;
    via->bucket = comm->bucket;
    return zi_channel_checked(&s->base, via->ops->exchange(via, messages, n));
}

const zi_comm_ops zi_comm_shm = {
    .name = "shm",
    .help = "an MPI world on one node, whose ranks read and write each other's memory",
    .missing = zi_mpi_missing,
    .wanted = wanted,
    .otherwise = &zi_comm_mpi,
    .create = create,
    .destroy = destroy,
    .alloc_symmetric = alloc_symmetric,
    .free_symmetric = free_symmetric,
    .exchange = exchange,
    ZI_CHANNEL_OPS,
};
