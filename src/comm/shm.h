/* Memory that the ranks of one node share, and the object of transport shm, which is built on it:
 * of one node in shm.c, of several in nodes.c; and of transport ipc (ipc.c), which is the same but
 * for its memory, a GPU's: it keeps only what the hosts tell each other in what they share. No name
 * in any file system: nothing is left behind by a rank that is killed. */
#ifndef ZI_COMM_SHM_H
#define ZI_COMM_SHM_H

#include "comm/channel.h"
#include "comm/mpi_internal.h"

/* What transports over shared memory differ in. */
typedef struct zi_shm_kind {
    const zi_comm_ops *row;
    const zi_comm_ops *nodes_row; /* what the ops are where there are several nodes */
    size_t block_bytes;           /* of a rank; a zi_channel_rank comes first */
} zi_shm_kind;

typedef struct zi_shm zi_shm;

/* What goes between nodes: jobs in the order in which they are enqueued, which is one on all ranks.
 * A job's end is the host's where messages carry it, and else an event's on the device. */
typedef struct zi_carrier {
    /* As in zi_comm_ops. */
    zopt_status (*reserve)(zi_shm *s, size_t n_transfers, size_t max_slice_bytes);
    zopt_status (*progress)(zi_shm *s, int *idle);
    /* The next of its kind, behind what comm->queue had to do. */
    zopt_status (*enqueue)(zi_shm *s, const char *call, const zi_mpi_job *job);
    /* *done = 1: `wait` would not. Never waits; progress goes on. */
    zopt_status (*test)(zi_shm *s, zi_mpi_job_kind kind, uint64_t ordinal, int *done);
    /* Wait until it is done, or with a queue until what is enqueued there comes behind it. */
    zopt_status (*wait)(zi_shm *s, zi_mpi_job_kind kind, uint64_t ordinal, zi_queue *behind);
    /* Wait for all jobs. */
    zopt_status (*drain)(zi_shm *s);
    /* Symmetric memory that jobs will move, until it is freed. NULL: they need not know. */
    zopt_status (*know)(zi_shm *s, zi_category category, const zi_symmetric *memory);
    void (*forget)(zi_shm *s, const zi_symmetric *memory);
    /* The end, behind drain: collective, unless the comm is broken. NULL: there is none. */
    void (*leave)(zi_shm *s);
} zi_carrier;

/* Sums of a group's slices, one after the other, and the numbers of blocks that are not finite in
 * each; on a device the host has a copy of these, and of the sums where these leave from it. */
typedef struct zi_node_sums {
    uint64_t n_begun; /* exchanges of sums */
    char *made, *told;
    size_t bytes, told_bytes;
    zi_queue *queue; /* which makes them; NULL: the host */
    zi_event *done;
    int is_open; /* 1: enqueued, and not looked at yet */
} zi_node_sums;

struct zi_shm {
    zi_channel_comm base; /* among the ranks of the node */
    const zi_shm_kind *kind;
    zi_mpi *meeting;            /* of all ranks */
    struct zi_ipc *ipc;         /* of transport ipc, its own */
    const zi_carrier *carrier;  /* of what goes between nodes */
    struct zi_nccl_nodes *nccl; /* where NCCL is, its own */
    zi_node_sums sums;
    size_t table_bytes;
    void *block[]; /* [node.size] every rank's block */
};

/* shm.c. The MPI that the object is built on, with what this rank is doing. */
zi_mpi *zi_shm_meeting(zi_comm *comm);
/* As in zi_comm_ops; of a plan: its ranks make nodes of several. */
int zi_shm_wanted(const zi_comm_config *config);
/* As in zi_comm_ops, but for a kind: meet, find the nodes, share the blocks. */
zopt_status zi_shm_create(const zi_shm_kind *kind, const zi_comm_config *config, zi_mem *mem,
                          zi_comm **out);
/* Wait for all that is queued between nodes; a failure breaks the comm. */
void zi_shm_drain(zi_comm *comm);
void zi_shm_destroy(zi_comm *comm);
zopt_status zi_shm_alloc_symmetric(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out);
void zi_shm_free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory);
zopt_status zi_shm_exchange(zi_comm *comm, const zi_message *messages, size_t n);

/* ipc.c. As in zi_comm_ops. */
void zi_ipc_destroy(zi_comm *comm);
void zi_ipc_free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory);

/* nodes.c. What the comm's ops are where it has more nodes than one, and what its create does more.
 */
extern const zi_comm_ops zi_comm_shm_nodes, zi_comm_ipc_nodes, zi_comm_ipc_nccl;
extern const zi_carrier zi_engine_carrier;
void zi_nodes_join(zi_shm *s);
/* A job's slices have come, or will on the queue: enqueue those of parameters on their way to all
 * memories of the node, and count it. */
zopt_status zi_nodes_forward(zi_comm *comm, zi_queue *queue, const zi_mpi_job *job);

/* nodes_sum.c. Sums of more ranks than this do not travel. */
enum { ZI_MAX_GROUP = 256 };
/* The exchange of a transfer with other nodes, by slices or by sums. */
zi_mpi_job zi_nodes_exchange_job(zi_comm *comm, const zi_transfer *transfer);
/* What others read of this rank's memory for it, and what is sent. */
uint64_t zi_nodes_sent_bytes(const zi_comm *comm, const zi_mpi_job *job);
/* As in zi_mpi_user. */
zopt_status zi_nodes_make_sums(zi_comm *comm, const zi_mpi_job *job, int *missing);
/* Decides whether sums travel, and allocates them, counted. */
zopt_status zi_nodes_reserve_sums(zi_comm *comm, size_t max_slice_bytes);
void zi_nodes_free_sums(zi_comm *comm);

/* shm_memory.c. Collective over comm; each rank gives `bytes` zeroed bytes of its own, page
 * aligned, and peer[i] is where those of rank i of the node lie here. shared: each gives its share
 * of one run of bytes, which is all of peer[]. On failure all of peer[] is NULL. Errors, agreed by
 * all ranks of the world: ERR_MEMORY; ERR_UNSUPPORTED where the system does not let ranks open each
 * other's memory. */
zopt_status zi_shared_map(zi_comm *comm, size_t bytes, int shared, void **peer);

/* This rank's view alone: pages live as long as a rank has them mapped. NULL entries are fine. */
void zi_shared_unmap(const zi_comm *comm, size_t bytes, void **peer);

#endif
