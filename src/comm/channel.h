/* What ranks that address each other's memory share: a channel counts what each rank has done, and
 * a rank waits until its peers have done as much. Each rank writes its own block alone, which its
 * peers read; a transport lays the blocks where all see them. channel_transfer.c makes transfers of
 * the counts; threads.c and shm.c are the transports. */
#ifndef ZI_COMM_CHANNEL_H
#define ZI_COMM_CHANNEL_H

#include <stdatomic.h>

#include "comm/common.h"

/* What a rank has done so often; every wait is for peers' counts. */
typedef enum zi_counter {
    ZI_EXPOSED,
    ZI_CONSUMED,
    ZI_OPENED,
    ZI_PUBLISHED,
    ZI_FORWARDED, /* where there are several nodes: slices of other nodes' owners are there */
    ZI_SUMMED,    /* and a group's slices for them have been summed */
    ZI_CALLED,    /* pieces of small collectives */
    ZI_N_COUNTERS
} zi_counter;

enum { ZI_CACHE_LINE = 64, ZI_CALL_BYTES = 32 << 10 };

/* A small collective, as its rank calls it. */
typedef struct zi_call {
    int operation, variant; /* variant: root or reduction */
    uint64_t bytes;
} zi_call;

/* One rank's block. A multiple of a cache line; all zero to begin with. */
typedef struct zi_channel_rank {
    struct {
        _Alignas(ZI_CACHE_LINE) _Atomic uint64_t value;
    } count[ZI_N_COUNTERS];
    _Alignas(ZI_CACHE_LINE) _Atomic int left;
    _Atomic int gave_up; /* 0, or 1 + the rank whose failure this one met first */
    /* The collectives of odd and of even number: a rank that fills one side has seen all peers
     * past the call that used it before. */
    zi_call call[2];
    _Alignas(ZI_CACHE_LINE) char data[2][ZI_CALL_BYTES];
} zi_channel_rank;

typedef struct zi_channel_comm zi_channel_comm;
typedef struct zi_fences zi_fences; /* fence.h */
typedef struct zi_fence_handles zi_fence_handles;

/* What a wait is for: that ranks below n have counted to the target, or what a message needs. */
typedef struct zi_awaited {
    /* The first rank >= from that has not done it; world: none. */
    int (*missing)(const zi_channel_comm *k, const struct zi_awaited *what, int from);
    const char *text; /* a plural */
    zi_counter which;
    uint64_t target;
    int n;
    const zi_message *message;
} zi_awaited;

/* Ranks first..end-1. */
typedef struct zi_range {
    int first, end;
} zi_range;

/* The begin of the object of such a transport. A channel is for the ranks of a node, base.node. */
struct zi_channel_comm {
    zi_comm base;
    void **block;     /* [node.size] the zi_channel_rank of each; NULL: a plan */
    unsigned n_spins; /* tests of a condition before a wait gives its core away */
    /* How to wait where more than counts must be looked after; NULL: zi_channel_poll. */
    zopt_status (*await)(zi_channel_comm *k, const zi_awaited *what);
    /* Where memory is a device's: [node.size] events of each rank, n_fences of a kind (0: none). */
    zi_fences *fences;
    size_t n_fences;
    zi_fence_handles **handles; /* [node.size]; NULL: all ranks are in one process */
    /* Whose events this rank's queue, or the caller's, awaits: of each kind those of transfer n - 1
     * last. */
    struct {
        uint64_t n;
        zi_range of;
    } awaits[ZI_N_COUNTERS];
    zi_guard guard; /* of that queue */
    /* 1: what is on it may wait for what hosts enqueue only while they wait. */
    int gpu_needs_host;
};

/* Join a channel of base.node.size blocks as base.rank. */
void zi_channel_join(zi_channel_comm *k, void **block);

/* Tell the peers that this rank is gone, and whether it gave up. */
void zi_channel_leave(zi_channel_comm *k);
/* Behind leave: 1: all ranks of the node have left, none of them after a failure. 0: not before the
 * deadline. */
int zi_channel_all_left(zi_channel_comm *k);

/* This rank's own count. */
uint64_t zi_channel_count(const zi_channel_comm *k, zi_counter which);

/* Count one up for this rank: what it stored before is visible to whoever sees the count. */
void zi_channel_advance(zi_channel_comm *k, zi_counter which);

/* The first of ranks from..n-1 of the node that has not counted to the target; world: none. */
int zi_channel_missing(const zi_channel_comm *k, zi_counter which, uint64_t target, int from,
                       int n);

/* That the ranks of the node below n have counted to the target. */
zi_awaited zi_channel_counts(zi_counter which, uint64_t target, int n);

/* Wait until no rank is missing; a failure of any rank ends it with ERR_PEER. */
zopt_status zi_channel_wait_for(zi_channel_comm *k, const zi_awaited *what);

/* The same, whatever else must be looked after. */
zopt_status zi_channel_poll(zi_channel_comm *k, const zi_awaited *what);

/* 1: each rank of the node below n has counted to the target. */
int zi_channel_reached(const zi_channel_comm *k, zi_counter which, uint64_t target, int n);

/* ERR_PEER where a rank has failed, or has left without what is awaited of it (NULL: nothing). */
zopt_status zi_channel_check(zi_channel_comm *k, const zi_awaited *what);

/* Wait until each rank of the node below n has counted to the target. A failure of any rank ends
 * the wait with ERR_PEER. */
zopt_status zi_channel_wait(zi_channel_comm *k, zi_counter which, uint64_t target, int n);

/* Pass on a status; tell the peers if it is an error. */
zopt_status zi_channel_checked(zi_channel_comm *k, zopt_status status);

/* The small collectives of zi_comm_ops, of the node's ranks. */
zopt_status zi_channel_all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv);
zopt_status zi_channel_all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n);
zopt_status zi_channel_broadcast(zi_comm *comm, int root, void *buffer, size_t bytes);

/* And its transfers (channel_transfer.c), on symmetric memory with peers: of the node's ranks. */
zopt_status zi_channel_reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes);
zopt_status zi_channel_expose(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_channel_expose_test(zi_comm *comm, const zi_transfer *transfer, int *ready);
zopt_status zi_channel_expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source);
zopt_status zi_channel_consumed(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_channel_reuse_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind);
zopt_status zi_channel_open(zi_comm *comm);
zopt_status zi_channel_dest_wait(zi_comm *comm, const zi_transfer *transfer, void **dest,
                                 int *n_dests);
zopt_status zi_channel_publish(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_channel_publish_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind);
zopt_status zi_channel_progress(zi_comm *comm, int *idle);

/* The rows of a zi_comm_ops that every such transport has alike; not exchange. */
#define ZI_CHANNEL_OPS                                                                             \
    .peer_memory = 1, .device_waits = 1, .reserve = zi_channel_reserve,                            \
    .all_gather = zi_channel_all_gather, .all_reduce = zi_channel_all_reduce,                      \
    .broadcast = zi_channel_broadcast, .expose = zi_channel_expose,                                \
    .expose_test = zi_channel_expose_test, .expose_wait = zi_channel_expose_wait,                  \
    .consumed = zi_channel_consumed, .reuse_wait = zi_channel_reuse_wait, .open = zi_channel_open, \
    .dest_wait = zi_channel_dest_wait, .publish = zi_channel_publish,                              \
    .publish_wait = zi_channel_publish_wait, .progress = zi_channel_progress

#endif
