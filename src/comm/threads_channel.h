/* What the ranks of transport threads share: a channel counts what each rank has done, and a rank
 * waits until its peers have done as much. threads.c makes transfers of that. */
#ifndef ZI_COMM_THREADS_CHANNEL_H
#define ZI_COMM_THREADS_CHANNEL_H

#include <pthread.h>

#include "comm/common.h"

/* What a rank has done so often; every wait is for peers' counts. */
typedef enum zi_counter {
    ZI_EXPOSED,
    ZI_CONSUMED,
    ZI_OPENED,
    ZI_PUBLISHED,
    ZI_CALLED,   /* small collectives */
    ZI_RETURNED, /* from them */
    ZI_N_COUNTERS
} zi_counter;

typedef struct zi_channel_rank {
    uint64_t count[ZI_N_COUNTERS];
    int left;
    /* The small collective that it is in. */
    const char *operation;
    int variant; /* root or reduction */
    size_t bytes;
    const void *data; /* readable under the mutex while nobody has failed */
    /* What it sends and nobody has taken yet; data is readable as above. */
    zi_message outbox[ZI_MAX_MESSAGES];
    size_t n_outbox;
} zi_channel_rank;

typedef struct zi_channel {
    struct zi_channel *next;
    uint64_t index; /* in the world's channels */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int n_ranks, n_left;
    int failed_rank;                   /* the first that gave up; -1: none */
    struct zi_channel_buffer *buffers; /* all ranks' symmetric memory */
    zi_channel_rank rank[];
} zi_channel;

typedef struct zi_threads_comm {
    zi_comm base;
    zopt_threads *threads;
    zi_channel *channel; /* NULL: a plan */
} zi_threads_comm;

/* NULL: no memory. */
zi_channel *zi_channel_create(int n_ranks, uint64_t index);
void zi_channel_destroy(zi_channel *channel);

/* Make the channel the owner of `base`, which zi_channel_destroy frees. Errors: ERR_MEMORY. */
zopt_status zi_channel_keep(zi_channel *channel, void *base);

/* This rank's own count. */
uint64_t zi_channel_count(const zi_threads_comm *t, zi_counter which);

/* Count one up for this rank. */
void zi_channel_advance(zi_threads_comm *t, zi_counter which);

/* What a wait is for: that ranks 0..n-1 have counted to the target, or what a message needs. */
typedef struct zi_awaited {
    /* The first rank >= from that has not done it; n_ranks: none. Under the mutex. */
    int (*missing)(const zi_threads_comm *t, const struct zi_awaited *what, int from);
    const char *text; /* a plural */
    zi_counter which;
    uint64_t target;
    int n;
    const zi_message *message;
} zi_awaited;

/* Wait, the mutex held, until no rank is missing; a failure of any rank ends it with ERR_PEER. */
zopt_status zi_channel_wait_for(zi_threads_comm *t, const zi_awaited *what);

/* Wait until each of ranks 0..n-1 has counted to the target. A failure of any rank ends the wait
 * with ERR_PEER. */
zopt_status zi_channel_wait(zi_threads_comm *t, zi_counter which, uint64_t target, int n);

/* Pass on a status; tell the peers if it is an error. */
zopt_status zi_channel_checked(zi_threads_comm *t, zopt_status status);

/* The small collectives of zi_comm_ops. */
zopt_status zi_channel_all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv);
zopt_status zi_channel_all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n);
zopt_status zi_channel_broadcast(zi_comm *comm, int root, void *buffer, size_t bytes);

/* threads_message.c */
zopt_status zi_channel_exchange(zi_comm *comm, const zi_message *messages, size_t n);

#endif
