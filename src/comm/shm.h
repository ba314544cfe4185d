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

typedef struct zi_shm {
    zi_channel_comm base; /* among the ranks of the node */
    const zi_shm_kind *kind;
    zi_mpi *meeting;    /* of all ranks */
    struct zi_ipc *ipc; /* of transport ipc, its own */
    /* Several nodes, where sums travel: */
    uint64_t n_sum_jobs;  /* exchanges of sums that have begun */
    char *made;           /* on a device: where they are made */
    size_t max_sum_bytes; /* of one */
    size_t table_bytes;
    void *block[]; /* [node.size] every rank's block */
} zi_shm;

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
extern const zi_comm_ops zi_comm_shm_nodes, zi_comm_ipc_nodes;
void zi_nodes_join(zi_shm *s);

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
