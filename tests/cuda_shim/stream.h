/* What the shim's streams are made of: work in a row, the marks that events leave in it, and what a
 * capture takes. stream.c enqueues, run.c runs, event.c records and awaits, graph.c captures and
 * launches. */
#ifndef TESTS_CUDA_SHIM_STREAM_H
#define TESTS_CUDA_SHIM_STREAM_H

#include "ipc.h"
#include "kernels.h"
#include "shim.h"

typedef enum shim_work_kind {
    SHIM_COPY,
    SHIM_ZERO,
    SHIM_KERNEL,
    SHIM_FUNCTION,
    SHIM_RECORD,
    SHIM_AWAIT,
    SHIM_CALL
} shim_work_kind;

/* A record of an event: shared by the event, the work that reaches it and the work that waits for
 * it, since a later record of the event is none of theirs. */
typedef struct shim_mark {
    struct shim_stream *stream;
    int n_holders;
    int is_reached;
    cudaError_t error; /* of the stream, when it was reached */
    double ms;         /* when it was, on the host's clock */
} shim_mark;

struct shim_event {
    struct shim_stream *stream; /* that recorded it last */
    shim_mark *last;            /* NULL: never recorded, or foreign */
    shim_signal *signal;        /* its own, or on this process's board or another's */
    shim_signal own;
    int is_foreign;
    int is_timed;
    struct shim_graph *captured;  /* it was recorded in this capture last; NULL: outside of any */
    const struct shim_node *node; /* that recorded it there */
};

typedef struct shim_work {
    struct shim_work *next;
    shim_work_kind kind;
    void *dst;
    const void *src;                        /* NULL: `bytes` follow */
    void (*function)(const void *argument); /* of `bytes` */
    size_t n_bytes;
    zi_cuda_launch launch;
    struct shim_event *event;
    long nth;        /* of the event's records */
    shim_mark *mark; /* the same, of an event of this process */
    int (*ready)(const void *arg);
    int (*call)(void *arg);
    void *arg;
    char bytes[];
} shim_work;

struct shim_stream {
    struct shim_stream *next;
    shim_work *first, **last;
    cudaError_t error;
    int is_running; /* on a thread that may have left the machine while it waits for others */
    struct shim_graph *capture; /* where work goes; NULL: none is under way */
    int branch;                 /* of the capture */
};

typedef enum shim_node_kind {
    SHIM_WORK,
    SHIM_FORK,
    SHIM_JOIN,
    SHIM_OUTSIDE,
    SHIM_FOREIGN
} shim_node_kind;

/* What a capture has taken: a piece of work, a fork or join, an event's record for those outside,
 * or somebody else's work, to be enqueued in place. */
typedef struct shim_node {
    struct shim_node *next;
    int branch;
    shim_node_kind kind;
    shim_work *work;
    struct shim_event *event;       /* SHIM_OUTSIDE */
    const struct shim_node *behind; /* SHIM_JOIN */
    shim_mark *mark;                /* SHIM_FORK: of the launch under way */
    void (*again)(void *arg, cudaStream_t stream);
    void (*forget)(void *arg);
    void *arg;
} shim_node;

enum { SHIM_MAX_BRANCHES = 8 };

/* Shared by the graph and those that were instantiated from it. Branch 0 is the stream whose
 * capture it is, and where it is launched. */
struct shim_graph {
    shim_node *first, **last;
    int n_holders, n_branches, n_kernels;
    struct shim_stream *stream[SHIM_MAX_BRANCHES];
    const shim_node *tail[SHIM_MAX_BRANCHES];
    int is_joined[SHIM_MAX_BRANCHES]; /* another awaits its tail */
    cudaError_t error;
};

/* ---- stream.c: under the lock, all but shim_real ---- */

extern struct shim_stream *shim_streams; /* all of them */

/* NULL and cudaStreamPerThread are streams of the process's own. */
cudaStream_t shim_real(cudaStream_t stream);

/* Let others have the machine for a moment, however often it is locked. */
void shim_step_aside(void);

/* Work of this kind with room for so many bytes; shim_add puts it at the stream's end, or, while
 * one is under way, at the capture's. Errors: what the stream has met. */
shim_work *shim_new_work(shim_work_kind kind, size_t n_bytes);
cudaError_t shim_add(cudaStream_t stream, shim_work *w);

/* The host waits; kernels and a graph were launched. */
void shim_count_wait(void);
void shim_launched(cudaStream_t stream, int n_kernels);
void shim_count_graph_launch(void);

/* ---- run.c ---- */

/* What shim_run_stream stops at; NULL: the end. */
typedef struct shim_target {
    const shim_mark *mark;
    const struct shim_event *event; /* reached for the nth time */
    long nth;
} shim_target;
void shim_run_stream(cudaStream_t stream, const shim_target *to);
/* As far as it goes without a wait for others. */
void shim_advance(cudaStream_t stream, const shim_target *to);

/* 1: some stream has work that waits for other processes by itself. */
int shim_has_calls(void);

/* ---- event.c ---- */

shim_mark *shim_new_mark(cudaStream_t stream); /* held */
void shim_drop(shim_mark *m);
/* event: NULL where the mark is all that counts. */
cudaError_t shim_add_mark(cudaStream_t stream, shim_work_kind kind, shim_mark *m,
                          cudaEvent_t event);
cudaError_t shim_record_event(cudaEvent_t event, cudaStream_t stream);
int shim_has_reached(const struct shim_event *event, long nth);
void shim_run_to_mark(const shim_mark *m);
/* Until the other process's event is reached for the nth time. */
void shim_run_to_foreign(struct shim_event *event, long nth);

/* ---- graph.c: of the capture under way on the stream ---- */

shim_node *shim_take(cudaStream_t stream, shim_node_kind kind);
cudaError_t shim_record(cudaStream_t stream, shim_work *w);
/* A stream that awaits an event of a capture becomes part of it. */
cudaError_t shim_join(cudaStream_t stream, cudaEvent_t event);

#endif
