/* How bytes get from rank to rank. A transport is a row of zi_comms. It offers small collectives on
 * host memory, and the two movements of the step, bucket by bucket:
 *
 *   gradients   expose -> expose_test -> expose_wait (table of sources) -> consumed -> reuse_wait
 *   parameters  open -> dest_wait (table of destinations) -> publish -> publish_wait
 *
 * and, for checkpoints, plain messages between pairs of ranks.
 *
 * Where peers' memory is addressable the tables point into it and no byte moves here; elsewhere
 * slices are exchanged in place and parameters gathered. Every rank makes the same calls with the
 * same ordinals in the same order; those ending in _wait block, up to the deadline, the others do
 * not. A wait drives all queued transfers, whatever it waits for. On a device expose_wait and
 * dest_wait are for its queue: what is enqueued behind them finds all there. reuse_wait and
 * publish_wait are for the caller: the device is done too, or, where the row does not say that it
 * waits for the device, is once its queue has been waited for. With a queue of the device's
 * (`behind`, else NULL) what is enqueued there from here on comes behind that, in place of the
 * host, which waits for no more than its peers' hosts and messages.
 *
 * Errors of every call: ERR_TIMEOUT past the deadline, ERR_PEER where a peer gave up, ERR_COMM.
 * After one of them the transport is broken: only destroy may follow. While a step is recorded that
 * is put off until record_agree. */
#ifndef ZI_COMM_COMM_H
#define ZI_COMM_COMM_H

#include "base/mem.h"
#include "device/device.h"

typedef struct zi_comm zi_comm;

/* Who carries what transport ipc has between nodes: NCCL if it can be had, or one of the two. */
typedef enum zi_between {
    ZI_BETWEEN_AUTO,
    ZI_BETWEEN_MPI,
    ZI_BETWEEN_NCCL,
    ZI_N_BETWEEN
} zi_between;

/* Whether NCCL's memory is symmetric windows, and copy engines move what it does not sum. */
typedef enum zi_windows {
    ZI_WINDOWS_OFF,
    ZI_WINDOWS_ON,
    ZI_WINDOWS_COPY_ENGINES,
    ZI_N_WINDOWS
} zi_windows;

/* The options' words for them. */
extern const char *const zi_between_words[ZI_N_BETWEEN], *const zi_windows_words[ZI_N_WINDOWS];

typedef struct zi_comm_config {
    int has_comm, comm_f; /* as in zopt_options */
    zopt_threads *threads;
    int threads_rank;
    int deadline_ms;
    void (*on_hang)(void *arg, const char *text);
    void *on_hang_arg;
    int plan_world, plan_rank;         /* plan_world > 0: connect to nobody */
    int ranks_per_node, shared_params; /* as in zopt_options */
    /* 1: a second thread calls expose_test and progress, never beside others. */
    int progress_thread;
    const zi_device_ops *device; /* where symmetric memory will live; NULL: on the host */
    void *nccl_comm;             /* as in zopt_options */
    zi_between between_nodes;
    zi_windows nccl_windows;
} zi_comm_config;

/* Ranks base, base + stride, ..., `size` of them. */
typedef struct zi_ranks {
    int base, stride, size;
} zi_ranks;

/* A buffer that every rank has, of equal size. */
typedef struct zi_symmetric {
    void *base; /* this rank's */
    size_t bytes;
    void **peer; /* [world] those of this rank's node, the others NULL; NULL: none is addressable */
    int shared;  /* 1: a node's are one buffer; each rank of it counts its share */
    void *host;  /* where messages leave from and arrive: base, or as much beside a device's */
} zi_symmetric;

/* One bucket of one exchange of gradients or of parameters. */
typedef struct zi_transfer {
    uint64_t ordinal; /* counts the transfers of its kind from 0 */
    const zi_symmetric *memory;
    size_t offset_bytes; /* of the bucket in memory; slice i follows at i * slice_bytes */
    size_t slice_bytes;
    int n_contributors; /* gradients: ranks 0..n-1 have written theirs */
    zopt_dtype dtype;   /* gradients */
} zi_transfer;

/* Gradients that ranks of a node have summed for a rank of another, and found not to be finite. */
typedef struct zi_bad_sum {
    uint64_t ordinal;
    int owner;                /* whose slice it is */
    int first, n_sources;     /* of contributors first, first + 1, ... */
    const zi_source *sources; /* their slices, until the call returns */
} zi_bad_sum;

/* One message between this rank and another. */
typedef struct zi_message {
    int peer;
    int receive;  /* 1: from peer into data; 0: to peer, and data is only read */
    void *data;   /* host memory; no two of a call overlap */
    size_t bytes; /* 1 to ZI_MAX_MESSAGE_BYTES, the same on both sides */
} zi_message;

enum { ZI_MAX_MESSAGES = 4, ZI_MAX_MESSAGE_BYTES = 1 << 30 };

typedef enum zi_reduce_op { ZI_SUM, ZI_MIN, ZI_MAX } zi_reduce_op;

typedef struct zi_comm_ops {
    const char *name;
    const char *help;
    int peer_memory;   /* 1: tables point into peers' memory */
    int device_memory; /* 1: symmetric memory may be a device's, not only the host's */
    int device_direct; /* 1: which needs no host memory beside it */
    int has_carriers;  /* 1: between_nodes is for it */
    int has_windows;   /* 1: nccl_windows is */
    int device_waits;  /* 1: reuse_wait and publish_wait wait for the device, and for no more of it
                          than the transfer */
    int bits_vary;     /* 1: sums depend on the number of ranks */
    /* 1: each transfer of a bucket finds the same tables, and what publish and sum_enqueue enqueue
     * can be recorded with the kernels around it, see zi_recording. */
    int replayable;
    const char *(*missing)(void); /* NULL where usable in this process, else why not */
    int (*wanted)(const zi_comm_config *config); /* 1: "auto" takes this row if none before it */
    /* What "auto" takes where create says ERR_UNSUPPORTED, on all ranks alike; NULL: nothing. */
    const struct zi_comm_ops *otherwise;
    /* What it is made of, row by row as in zopt_inventory; NULL: no more than `help` says. */
    void (*describe)(void (*row)(void *arg, const char *kind, const char *name, int usable,
                                 const char *note),
                     void *arg);

    /* Collective. On a planning config: rank and world, and the memory of a real one counted, but
     * connected to nobody; only alloc_symmetric, reserve and what frees may be called. */
    zopt_status (*create)(const zi_comm_config *config, zi_mem *mem, zi_comm **out);
    /* Unless the transport is broken, waits until no transfer touches this rank's memory. After a
     * failure, memory that peers or MPI may still touch is leaked. */
    void (*destroy)(zi_comm *comm);

    /* Once, before the first transfer: at most n_transfers, gradients and parameters together, are
     * ever begun and unfinished, and no slice is larger than max_slice_bytes. Where steps are
     * recorded n_transfers is twice what a step publishes. Allocates what queues
     * them and what bytes in transit need, counted, on a planning comm too. */
    zopt_status (*reserve)(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes);

    /* The device's, zeroed, 64-byte aligned, counted in the comm's mem; parameters are shared where
     * the config says so. Collective: all ranks get it or none. Freed by destroy at the latest.
     * free_symmetric is no collective; it waits for this rank's own transfers, and memory that
     * peers may still touch outlives it. */
    zopt_status (*alloc_symmetric)(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out);
    void (*free_symmetric)(zi_comm *comm, zi_category category, zi_symmetric *memory);

    /* Small collectives, blocking. recv holds world * bytes and does not overlap send. Each waits
     * for the values it needs and for no more: an all_reduce of one is a barrier. */
    zopt_status (*all_gather)(zi_comm *comm, const void *send, size_t bytes, void *recv);
    zopt_status (*all_reduce)(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n);
    zopt_status (*broadcast)(zi_comm *comm, int root, void *buffer, size_t bytes);

    /* Enqueue on comm->queue the sum over all ranks of values in the device's memory. NULL: this
     * transport cannot, and a step waits for its sums. */
    zopt_status (*sum_enqueue)(zi_comm *comm, int64_t *values, size_t n);

    /* Send and receive these messages, n <= ZI_MAX_MESSAGES of them, all on their way at once.
     * Blocks until this rank's are done. Not a collective: only ranks with messages call. Those of
     * a pair in one direction are matched in order. Deadlock is the caller's to avoid: a call must
     * not need one that its peer makes later. Where it fails, memory of receives may still be
     * written to until the process ends. */
    zopt_status (*exchange)(zi_comm *comm, const zi_message *messages, size_t n);

    /* This rank's part of the bucket is written (or it is no contributor). */
    zopt_status (*expose)(zi_comm *comm, const zi_transfer *transfer);
    /* *ready = 1 where expose_wait would find all there. Never waits; drives queued transfers. */
    zopt_status (*expose_test)(zi_comm *comm, const zi_transfer *transfer, int *ready);
    /* Wait for slice `rank` of every contributor; source[i], i < n_contributors, is where rank i's
     * is readable until consumed; or where zi_comes_summed, the FP32 sum of its group's; or where
     * comes_reduced, source[0] is the sum of all. Work on comm->queue finds them, the host need
     * not yet where the memory is a device's. */
    zopt_status (*expose_wait)(zi_comm *comm, const zi_transfer *transfer, const void **source);
    /* This rank is done reading them. */
    zopt_status (*consumed)(zi_comm *comm, const zi_transfer *transfer);
    /* Wait until this rank's part of the transfer may be overwritten. */
    zopt_status (*reuse_wait)(zi_comm *comm, uint64_t ordinal, zi_queue *behind);

    /* This rank's parameters may be overwritten from now on. Once a step. */
    zopt_status (*open)(zi_comm *comm);
    /* Wait until all whose memory it is have opened as often as this rank; dest[i] is where slice
     * `rank` of the bucket goes, *n_dests of them: the memory of every rank of this one's node, the
     * one that they share, or this rank's own. */
    zopt_status (*dest_wait)(zi_comm *comm, const zi_transfer *transfer, void **dest, int *n_dests);
    /* Slice `rank` of the bucket is stored in all of them. */
    zopt_status (*publish)(zi_comm *comm, const zi_transfer *transfer);
    /* Wait until all slices of the transfer are in this rank's memory. */
    zopt_status (*publish_wait)(zi_comm *comm, uint64_t ordinal, zi_queue *behind);
    /* What was published while recording ends before what comes next on comm->queue, which has its
     * errors. NULL: it is nothing. */
    void (*record_end)(zi_comm *comm);
    /* Once the recording has ended, and is dropped where it failed: one status for all ranks, as of
     * zi_comm_agree. Where the transport failed on any of them it is broken on all. NULL:
     * zi_comm_agree, for a transport that cannot. */
    zopt_status (*record_agree)(zi_comm *comm, zopt_status mine);

    /* Push queued transfers on; never waits. *idle = 1: none is left. */
    zopt_status (*progress)(zi_comm *comm, int *idle);
} zi_comm_ops;

/* A step as a recording (a graph of comm->queue's work), on all ranks or none. While it is recorded
 * expose_wait and sum_enqueue leave out waits, which have been enqueued before, and publish counts
 * nothing. Of a step that has been launched as a graph, publish only counts. */
typedef enum zi_recording { ZI_LIVE, ZI_RECORDING, ZI_REPLAYED } zi_recording;

/* What every transport's object begins with. */
struct zi_comm {
    const zi_comm_ops *ops;
    int rank, world; /* rank -1: not known yet */
    int local_rank;  /* among the ranks of this node, as far as is known */
    /* Whose memory this rank addresses, or whose slices come one by one where others' sums travel;
     * over messages, itself. */
    zi_ranks node;
    zi_mem *mem;
    /* Where symmetric memory lives: the host until its owner says otherwise, before the first. What
     * a rank does to it is ordered by the queue: a transfer begins behind what was enqueued. */
    const zi_device_ops *device;
    zi_queue *queue;
    int deadline_ms;
    void (*on_hang)(void *arg, const char *text);
    void *on_hang_arg;
    int planned;         /* 1: connected to nobody */
    int shared_params;   /* as in the config */
    int broken;          /* 1: a call has failed; only destroy may follow */
    uint64_t bytes_sent; /* to other ranks, so far; by transfers */
    /* Ranks k*n..k*n+n-1 may be summed before their gradients travel: set before reserve, 0 or 1:
     * none. Whether they are: set by reserve. */
    int reduce_group, sums_travel;
    /* 1: gradients come as one sum of all contributors', in their own dtype and the transport's
     * order. */
    int comes_reduced;
    void (*on_bad_sum)(void *arg, const zi_bad_sum *bad); /* may be called by whatever progresses */
    void *on_bad_sum_arg;
    zi_recording recording;
    /* NULL, or called before the transport calls off its work: graphs that it is in must go. */
    void (*on_abort)(void *arg);
    void *on_abort_arg;
    /* What the caller is doing, for the text of a hang. */
    uint64_t step;
    const char *phase;
    int bucket;                               /* -1: none */
    struct zi_symmetric_node *symmetric;      /* what alloc_symmetric has handed out */
    const struct zi_symmetric_source *source; /* where it comes from; NULL: the heap */
};

extern const zi_comm_ops *const zi_comms[];
extern const size_t zi_n_comms;

/* The row of that name; "auto" as zopt_options says, the first row that is wanted. Refuses an
 * "auto" launch in which every process would run alone. Errors: ERR_CONFIG with the nearest name,
 * ERR_UNSUPPORTED, ERR_LAUNCH. */
zopt_status zi_comm_find(const char *name, const zi_comm_config *config, const zi_comm_ops **out);

/* Find the row and create its comm; for "auto" go on to `otherwise`. Errors: of both. */
zopt_status zi_comm_connect(const char *name, const zi_comm_config *config, zi_mem *mem,
                            zi_comm **out);

/* For a world of one: refuse it where RANK, WORLD_SIZE, SLURM_* or the like say that the launcher
 * meant more. Errors: ERR_LAUNCH with a hint. */
zopt_status zi_comm_check_alone(void);

/* Fill in the common part: of a plan if the config is one, else rank 0 of 1. */
void zi_comm_init(zi_comm *comm, const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem);

int zi_is_near(const zi_comm *comm, int rank); /* on this rank's node */

/* 1: of the group of that contributor this rank gets the sum in FP32, from +0.0f on in slot order,
 * in place of slices. Sums travel where they are fewer bytes. */
int zi_comes_summed(const zi_comm *comm, zopt_dtype dtype, int rank);

/* Where this rank stands once that is known, in a world of nodes of node_size ranks each. */
void zi_comm_seat(zi_comm *comm, int rank, int world, int node_size);

/* One status for all ranks: the worst of theirs. Collective, but on a planning comm. A rank with an
 * error of its own keeps its text, the others get "rank R: <R's text>". A rank that only saw a peer
 * fail (ERR_PEER) is never the worst while another knows why. Texts are cut to ZI_AGREE_TEXT. */
enum { ZI_AGREE_TEXT = 256 };
zopt_status zi_comm_agree(zi_comm *comm, zopt_status mine);

/* A wait with a deadline: begin, then pause between tests of the condition. */
typedef struct zi_wait {
    double until_ms;
    unsigned n_spins;  /* pauses left that keep the core; 0 unless the caller sets it */
    unsigned n_pauses; /* set it to 0 when something moved: first pauses are short */
} zi_wait;

void zi_wait_begin(zi_wait *wait, const zi_comm *comm);

/* Give the core to somebody else for a moment, 50 us or so at most; a spin is shorter and keeps it.
 * 1: the deadline has passed. */
int zi_wait_pause(zi_wait *wait);

/* 1: nothing has moved for so long that pauses are sleeps. */
int zi_wait_is_long(const zi_wait *wait);

/* A list of ranks for an error's text: "0, 2", and ", ..." where it grows long. */
typedef struct zi_rank_text {
    char text[128];
} zi_rank_text;

void zi_rank_list(zi_rank_text *list, int rank);

/* "rank R waited D s in step S, phase P, bucket B: " and `what`. */
enum { ZI_WAIT_TEXT = 512 };
void zi_wait_text(const zi_comm *comm, const char *what, char text[ZI_WAIT_TEXT]);

/* The deadline has passed: tell on_hang step, phase, bucket, `what` has not arrived (a plural) and
 * of which ranks (a list, "0, 2"; "": unknown), mark the comm broken and fail with ERR_TIMEOUT. */
zopt_status zi_wait_hang(zi_comm *comm, const char *what, const char *missing_ranks);

#endif
