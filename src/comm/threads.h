/* What the files of transport threads share: the world, and what one handle of each rank shares. */
#ifndef ZI_COMM_THREADS_H
#define ZI_COMM_THREADS_H

#include <pthread.h>

#include "comm/fence.h"

/* Symmetric memory that a rank has allocated and peers may touch. */
typedef struct zi_buffer {
    struct zi_buffer *next;
    zi_heap heap;
} zi_buffer;

/* What a rank sends and nobody has taken yet. */
typedef struct zi_outbox {
    zi_message message[ZI_MAX_MESSAGES];
    size_t n;
} zi_outbox;

/* What one handle of each rank shares. */
typedef struct zi_meeting {
    struct zi_meeting *next;
    uint64_t index; /* among the meetings of the world */
    int n_ranks, n_left;
    zi_buffer *buffers;
    zi_outbox *outbox; /* [world], under the mutex of the world */
    zi_fences *fences; /* [world] */
    zi_channel_rank *blocks;
    void *block[]; /* blocks + i */
} zi_meeting;

struct zopt_threads {
    pthread_mutex_t mutex;
    zi_meeting *meetings; /* those that not all ranks have left */
    int n_ranks;
    uint64_t n_joined[]; /* by each rank */
};

typedef struct zi_threads_comm {
    zi_channel_comm base;
    zopt_threads *threads;
    zi_meeting *meeting; /* NULL: a plan */
} zi_threads_comm;

/* threads_message.c, as in zi_comm_ops */
zopt_status zi_threads_exchange(zi_comm *comm, const zi_message *messages, size_t n);

#endif
