/* The object of transports nccl and nccl-native: nccl.c makes it, nccl_library.c finds NCCL,
 * nccl_seat.c the ranks, nccl_probe.c tries it out, nccl_register.c and nccl_window.c tell it of
 * memory, nccl_wait.c waits and aborts, nccl_transfer.c moves slices, and nccl_sum.c sums of them
 * where nodes add up first, over the same communicator; nccl_nodes.c is for transport ipc. Ranks
 * meet over MPI, which keeps the small collectives and the messages; slices go from GPU to GPU, on
 * streams beside the comm's queue, and events order the two: the host waits for neither.
 *
 * A recorded step has the sums and the gathers in it, these on their stream beside the updates.
 * NCCL keeps what graphs need of a communicator until they are destroyed, and waits for that when
 * one ends or is aborted: they go first.
 *
 * Waits of the host poll: up to the deadline, and looking at what NCCL says of its peers. Whatever
 * ends one aborts NCCL's communicators, so that nothing on the GPU waits any longer. */
#ifndef ZI_COMM_NCCL_H
#define ZI_COMM_NCCL_H

#include <nccl.h>

#include "comm/mpi_internal.h"
#include "device/cuda_queue.h"

/* What is called of NCCL. The least version is that of communicators that do not block. */
#define ZI_NCCL_NEEDED(X) \
    X(GetVersion)         \
    X(GetUniqueId)        \
    X(GetErrorString)     \
    X(GetLastError)       \
    X(CommInitRankConfig) \
    X(CommGetAsyncError)  \
    X(CommFinalize)       \
    X(CommDestroy)        \
    X(CommAbort)          \
    X(CommCount)          \
    X(CommUserRank)       \
    X(CommCuDevice)       \
    X(GroupStart)         \
    X(GroupEnd)           \
    X(Send)               \
    X(Recv)               \
    X(AllGather)          \
    X(AllReduce)          \
    X(ReduceScatter)
enum { ZI_NCCL_LEAST = NCCL_VERSION(2, 14, 0), ZI_NCCL_WINDOWS = NCCL_VERSION(2, 28, 0) };

typedef struct zi_nccl_calls {
#define ZI_NCCL_FIELD(name) __typeof__(nccl##name) *name;
    ZI_NCCL_NEEDED(ZI_NCCL_FIELD)
    ZI_NCCL_FIELD(CommSplit)    /* NULL before 2.18 */
    ZI_NCCL_FIELD(CommRegister) /* both NULL before 2.19 */
    ZI_NCCL_FIELD(CommDeregister)
    ZI_NCCL_FIELD(MemAlloc) /* the same */
    ZI_NCCL_FIELD(MemFree)
#undef ZI_NCCL_FIELD
    /* Of newer NCCLs than the header may be of, all NULL before 2.28. A window is a pointer; what a
     * device communicator is made of differs from version to version, see nccl_window.c. */
    ncclResult_t (*CommWindowRegister)(ncclComm_t comm, void *memory, size_t bytes, void **window,
                                       int flags);
    ncclResult_t (*CommWindowDeregister)(ncclComm_t comm, void *window);
    ncclResult_t (*AlltoAll)(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                             ncclComm_t comm, cudaStream_t stream);
    ncclResult_t (*DevCommCreate)(ncclComm_t comm, const void *requirements, void *out);
    ncclResult_t (*DevCommDestroy)(ncclComm_t comm, const void *made);
} zi_nccl_calls;

/* nccl_library.c: the process's NCCL if it has one, else libnccl.so.2, or the file that
 * ZOPT_NCCL_LIBRARY names. Nothing of it is linked. */
const char *zi_nccl_missing(void); /* NULL: it is there */
const zi_nccl_calls *zi_nccl(void);
/* 1: the process had it before zopt asked. */
int zi_nccl_was_loaded(void);
int zi_nccl_version(void);
/* 2.14.3 as 21403; before 2.9 as 2804. */
const char *zi_nccl_version_text(int version, char text[32]);
void zi_nccl_describe(void (*row)(void *arg, const char *kind, const char *name, int usable,
                                  const char *note),
                      void *arg);

/* Gradients and parameters have a communicator and a stream each, so that the first buckets of
 * parameters are there while the last are on their way, and gradients do not queue behind them. */
enum { ZI_NCCL_GRADS, ZI_NCCL_PARAMS, ZI_N_NCCL_LANES };

typedef struct zi_nccl_lane {
    ncclComm_t comm;  /* NULL: none, or aborted */
    zi_queue *queue;  /* the stream beside the comm's */
    zi_event *behind; /* what a transfer waits for: what comm->queue had to do */
    /* [capacity] of transfer `ordinal` at ordinal % capacity: as many as a step has, so that those
     * of a recorded step stay its own. One that is recorded anew is of a later transfer on the same
     * stream: who waits for it waits for both. */
    zi_event **done;
    uint64_t n_begun;
} zi_nccl_lane;

/* Memory that a lane's communicator knows of. */
typedef struct zi_nccl_buffer {
    struct zi_nccl_buffer *next;
    const void *memory;
    int lane;
    void *handle; /* a window where the comm has windows; NULL: NCCL makes no use of it */
} zi_nccl_buffer;

/* Sums of groups of slots, where they travel between nodes. */
typedef struct zi_nccl_sums {
    int node_size;    /* ranks of every node, next to each other; 0: nodes are not like that */
    char *made;       /* the device's: sums, and how many blocks of each are not finite */
    int64_t *n_bad;   /* the host's, page-locked: the latter */
    zi_event *summed; /* behind which they are there */
    size_t bytes;     /* of made */
    size_t max_sum_bytes;
    zi_transfer of; /* the last transfer */
    int is_open;    /* 1: whose numbers nobody has looked at yet */
} zi_nccl_sums;

typedef struct zi_nccl_comm {
    zi_comm base;
    zi_mpi *meeting;
    const zi_nccl_calls *nccl;
    ncclComm_t callers; /* split, never used; NULL: none */
    zi_nccl_sums sums;
    zi_nccl_lane lane[ZI_N_NCCL_LANES];
    size_t capacity;
    uint64_t n_consumed;
    char *staging; /* one bucket of received slices: NCCL does not swap in place */
    size_t staging_bytes;
    zi_nccl_buffer *buffers;
    zi_windows windows;
    int between_nodes; /* 1: it carries what another transport has between nodes: nccl_nodes.c */
    zi_guard guard;
    int has_failed; /* 1: while a step was recorded; record_agree tells the others */
} zi_nccl_comm;

/* The meeting, with the comm's place for the text of a hang. */
zi_mpi *zi_nccl_meeting(zi_comm *comm);
/* nccl.c: an object on a meeting, with its communicators; of a plan: counted. Where another
 * transport is built on the meeting, for the ranks of other nodes alone. Collective. Errors, the
 * same on all ranks: ERR_UNSUPPORTED and what NCCL makes of it. */
zopt_status zi_nccl_join(zi_mpi *meeting, const zi_comm_ops *ops, const zi_comm_config *config,
                         zi_mem *mem, zi_nccl_comm **out);
/* Collective, unless it is broken. Waits for what the lanes do, and frees all but the meeting. */
void zi_nccl_leave(zi_nccl_comm *n);

/* nccl_wait.c */
/* Pass on a status; a failure breaks the comm and aborts NCCL's communicators, but while a step is
 * recorded: an abort would wait for the end of the capture. */
zopt_status zi_nccl_checked(zi_nccl_comm *n, zopt_status status);
zopt_status zi_nccl_record_agree(zi_comm *comm, zopt_status mine);
/* The end of a call of NCCL's that returned `rc`: of all that it has begun on the host. Errors:
 * ERR_PEER, ERR_COMM with NCCL's words, ERR_TIMEOUT. */
zopt_status zi_nccl_finish(zi_nccl_comm *n, const zi_nccl_lane *lane, const char *call,
                           ncclResult_t rc);
/* The same, and a failure breaks nothing. */
zopt_status zi_nccl_await(zi_nccl_comm *n, const zi_nccl_lane *lane, const char *call,
                          ncclResult_t rc);
/* The same without waiting: *done = 0 as long as the lane's last call is not through. */
zopt_status zi_nccl_test(zi_nccl_comm *n, const zi_nccl_lane *lane, const char *call, int *done);
/* Wait in the host's place for the queue from here on, or leave that to CUDA. */
void zi_nccl_guard(zi_nccl_comm *n, zi_queue *queue);
/* Of the meeting's waits: what NCCL says of its peers. */
zopt_status zi_nccl_check_peers(zi_comm *comm);
void zi_nccl_abort(zi_nccl_comm *n);

/* nccl_probe.c: try both communicators out. Collective. */
zopt_status zi_nccl_probe(zi_nccl_comm *n);

/* nccl_seat.c: where ranks are. Collective. Errors, the same on all ranks: ERR_UNSUPPORTED where
 * two share a GPU. */
zopt_status zi_nccl_take_seats(zi_nccl_comm *n, const zi_comm_config *config);
int zi_nccl_declared_node_size(int ranks_per_node, int world);

/* nccl_window.c: symmetric windows, where they are asked for. */
/* Before the communicators are made: whether this NCCL has what is asked for; and the policy of
 * theirs. Errors: ERR_UNSUPPORTED. */
zopt_status zi_nccl_check_windows(const zi_nccl_comm *n);
void zi_nccl_set_policy(const zi_nccl_comm *n, ncclConfig_t *config);
/* Once they are: whether the GPUs have it. Collective. Errors: ERR_UNSUPPORTED on all ranks. */
zopt_status zi_nccl_try_windows(zi_nccl_comm *n);
/* Zeroed memory of the kind that the comm registers, uncounted. zi_nccl_free waits for comm->queue.
 */
zopt_status zi_nccl_alloc(zi_comm *comm, zi_category category, size_t bytes, void **out);
void zi_nccl_free(zi_comm *comm, void *memory);
/* Collective. Errors: ERR_UNSUPPORTED where it is none. */
zopt_status zi_nccl_open_window(zi_nccl_comm *n, int lane, void *memory, size_t bytes,
                                void **window);
extern const zi_symmetric_source zi_nccl_window_memory;

/* nccl_register.c: tell a lane's communicator of memory that it will send and receive, so that NCCL
 * may do without copies of its own where the machine lets it; and take it back, before it is freed
 * and before the communicator ends (of one that was aborted nothing is left). NULL: of all.
 * Registering is collective where windows are asked for. */
zopt_status zi_nccl_register(zi_nccl_comm *n, int lane, void *memory, size_t bytes);
void zi_nccl_deregister(zi_nccl_comm *n, const void *memory);

/* nccl_transfer.c. What each transfer needs, and staging. */
zopt_status zi_nccl_equip(zi_nccl_comm *n, size_t n_transfers, size_t staging_bytes);
/* The event behind the transfer's work. */
zi_event *zi_nccl_done(const zi_nccl_comm *n, int lane, uint64_t ordinal);
/* Of zi_comm_ops: */
zopt_status zi_nccl_reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes);
void zi_nccl_unreserve(zi_nccl_comm *n);
zopt_status zi_nccl_expose(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_nccl_expose_test(zi_comm *comm, const zi_transfer *transfer, int *ready);
zopt_status zi_nccl_expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source);
zopt_status zi_nccl_consumed(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_nccl_reuse_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind);
zopt_status zi_nccl_open(zi_comm *comm);
zopt_status zi_nccl_dest_wait(zi_comm *comm, const zi_transfer *transfer, void **dest,
                              int *n_dests);
zopt_status zi_nccl_publish(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_nccl_publish_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind);
void zi_nccl_record_end(zi_comm *comm);
zopt_status zi_nccl_progress(zi_comm *comm, int *idle);
/* nccl_sum.c */
/* Decide whether sums travel, and allocate what that needs. */
zopt_status zi_nccl_reserve_sums(zi_nccl_comm *n, size_t max_slice_bytes);
void zi_nccl_unreserve_sums(zi_nccl_comm *n);
int zi_nccl_sums_travel(const zi_comm *comm, zopt_dtype dtype);
/* Enqueue such a transfer on its lane. Waits for the sums of the one before. */
zopt_status zi_nccl_exchange_sums(zi_nccl_comm *n, const zi_transfer *transfer);
uint64_t zi_nccl_sent_bytes(const zi_comm *comm, const zi_transfer *transfer);
/* Wait for the sums of the last transfer, and call on_bad_sum with those that are not finite. */
zopt_status zi_nccl_settle_sums(zi_nccl_comm *n);

zopt_status zi_nccl_sum_enqueue(zi_comm *comm, int64_t *values, size_t n);

#endif
