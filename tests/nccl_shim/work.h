/* What the files of this NCCL share: nccl.c has the life of communicators, work.c their work on
 * streams, collective.c what collectives are made of. */
#ifndef TESTS_NCCL_WORK_H
#define TESTS_NCCL_WORK_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nccl.h"

enum { MAX_RANKS = 8, MAX_WINDOWS = 64, RING_BYTES = 1 << 16, MAX_OPS = 8 * MAX_RANKS };

#define MUST(condition)                                                                \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "nccl shim, %s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                   \
        }                                                                              \
    } while (0)

typedef struct ring {
    _Alignas(64) _Atomic uint64_t written;
    _Alignas(64) _Atomic uint64_t read;
    char data[RING_BYTES];
} ring;

typedef struct shared {
    _Atomic int n_joined, n_finalized;
    _Atomic int is_dead[MAX_RANKS];
    char gpu[MAX_RANKS][16];
    _Atomic uint64_t window_bytes[MAX_WINDOWS]; /* and which of all windows it is */
    ring ring[MAX_RANKS][MAX_RANKS];            /* from, to */
} shared;

/* What a message begins with. */
typedef struct head {
    uint64_t is_plain; /* 1: of ncclSend; 0: of a collective */
    uint64_t nth;      /* of the pair's, or of the communicator's collectives */
    uint64_t bytes;
    uint64_t place; /* of a collective between windows: what all ranks must have alike */
} head;

typedef struct op {
    char *data; /* of a receive; a send only reads */
    size_t bytes, done;
    int peer, receive, has_head;
    head head;
} op;

typedef struct work {
    struct ncclComm *comm;
    cudaStream_t stream;
    uint64_t nth;
    op op[MAX_OPS];
    int n_ops;
    /* Behind all of them; NULL: nothing. */
    void (*finish)(const struct work *w);
    const char *send;
    char *receive, *arrived; /* arrived: what came from each rank, `bytes` each */
    size_t bytes;
    uint64_t place; /* of the head */
    ncclDataType_t dtype;
} work;

typedef struct window {
    struct window *next;
    char *data;
    size_t bytes;
} window;

struct ncclComm {
    shared *all;
    char name[sizeof((ncclUniqueId *)NULL)->internal];
    int rank, world, device;
    int in_progress; /* 1: joining; 2: first work; 3: finalizing */
    int is_aborted;
    ncclResult_t error;
    uint64_t n_posted, n_done, n_collectives;
    uint64_t n_plain[2][MAX_RANKS]; /* sent, received; by peer */
    work *first;  /* that waits for its connections, or, in a capture, for NCCL's threads */
    int n_graphs; /* work of it that graphs keep */
    cudaStream_t captured; /* the last stream whose capture took work of it */
    int n_registered;      /* buffers */
    window *windows;
    uint64_t n_windows_ever;
    int n_splits;
};

/* window.c: what a collective on a communicator with windows sends and receives must lie in them.
 * Where in its window, for all ranks to have alike; 0 where the communicator has none. */
uint64_t window_place(ncclComm_t comm, const void *data, size_t bytes);

size_t work_bytes_of(ncclDataType_t dtype);
work *work_new(ncclComm_t comm, cudaStream_t stream);
/* A message of it. */
void work_add(work *w, int receive, int peer, const void *data, size_t bytes);
/* The end of a call. */
ncclResult_t work_submit(work *w);
/* 1: that capture has not ended: an abort would wait for it for ever. */
int work_is_captured(ncclComm_t comm);
/* Enqueue it, or let the capture of its stream have it. */
void work_post(work *w);

#endif
