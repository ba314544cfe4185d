/* What the transports share among themselves, on top of comm.h: the checks that every call makes
 * (comm.c), and the list of the symmetric memory that a comm has handed out (symmetric.c). For
 * src/comm only. */
#ifndef ZI_COMM_COMMON_H
#define ZI_COMM_COMMON_H

#include "base/status.h"
#include "comm/comm.h"

extern const zi_comm_ops zi_comm_self, zi_comm_threads, zi_comm_shm, zi_comm_ipc, zi_comm_mpi;
extern const zi_comm_ops zi_comm_nccl, zi_comm_nccl_native;

/* nccl_nodes.c. Let NCCL be the carrier of transport ipc over nodes (shm.h), where the config wants
 * it and, unless it insists, where it can be had. Collective; of a plan: counted. Errors, the same
 * on all ranks: ERR_UNSUPPORTED. */
struct zi_shm;
zopt_status zi_nccl_carry(struct zi_shm *s, const zi_comm_config *config);

/* ERR_COMM on a broken or a planning comm. */
zopt_status zi_check_connected(const zi_comm *comm, const char *call);

/* Transfers of a kind are begun in order: ordinal must be `next`. Breaks the comm otherwise. */
zopt_status zi_check_next(zi_comm *comm, const char *call, uint64_t next, uint64_t ordinal);

/* Only a transfer that was begun can be waited for: ordinal < n_begun. Breaks the comm otherwise.
 */
zopt_status zi_check_begun(zi_comm *comm, const char *call, uint64_t n_begun, uint64_t ordinal);

/* The rules of zi_message. Breaks the comm otherwise. */
zopt_status zi_check_messages(zi_comm *comm, const zi_message *messages, size_t n);

/* Symmetric memory that is not the heap's: the first two, or the last two. */
typedef struct zi_symmetric_source {
    /* Collective. peer[node.size]: where the `bytes` zeroed bytes of each rank of the node lie;
     * shared: the same for all. All ranks of the world get it or none. */
    zopt_status (*map)(zi_comm *comm, size_t bytes, int shared, void **peer);
    void (*unmap)(const zi_comm *comm, size_t bytes, void **peer);
    /* This rank's alone, zeroed on comm->queue. */
    zopt_status (*alloc)(zi_comm *comm, zi_category category, size_t bytes, void **out);
    void (*free)(zi_comm *comm, void *memory);
} zi_symmetric_source;

/* What a device gave out for symmetric memory, as its free takes it. */
typedef struct zi_heap {
    const zi_device_ops *device;
    zi_category category;
    void *memory; /* NULL: none */
    size_t bytes;
} zi_heap;

/* What the last zi_symmetric_alloc got for this rank. */
zi_heap zi_symmetric_heap(const zi_comm *comm);

/* Uncounted. queue: NULL where its owner is gone. */
void zi_heap_free(const zi_heap *heap, zi_queue *queue);

/* Where the share of n bytes begins of a rank of this node; it ends where the next one's does. */
size_t zi_share(const zi_comm *comm, int rank, size_t n);

/* Allocate and agree that all ranks could; on failure nothing is left. Shared memory from the heap
 * is rank 0's, the others' base is NULL until the transport fills it in. peer[] holds n_peers
 * entries, for the transport or its source to fill in; 0: peer is NULL. */
zopt_status zi_symmetric_alloc(zi_comm *comm, zi_category category, size_t bytes, int n_peers,
                               zi_symmetric *out);

/* Uncount `memory` and free it, unless `keep`: then somebody else frees it, or nobody ever. */
void zi_symmetric_free(zi_comm *comm, zi_category category, zi_symmetric *memory, int keep);

/* The same for all that is left. */
void zi_symmetric_free_all(zi_comm *comm, int keep);

#endif
