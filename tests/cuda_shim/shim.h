/* What a test tells the runtime of cuda_runtime_api.h to be, and asks it. */
#ifndef TESTS_CUDA_SHIM_H
#define TESTS_CUDA_SHIM_H

#include <cuda_runtime_api.h>
#include <stddef.h>

typedef struct shim_machine {
    int n_gpus;
    int first_gpu;        /* of the machine: CUDA_VISIBLE_DEVICES hides those before */
    int driver_version;   /* 0: no driver */
    int capability_major; /* of every GPU */
    size_t memory_bytes;  /* of the GPU */
    int fail_at_launch;   /* this many launches from now the stream breaks; 0: never */
    int no_peers;         /* 1: no GPU reads another's memory */
    int no_ipc;           /* 1: GPUs that cannot share with other processes */
    int no_opening;       /* 1: a container that does not let them */
    int no_locked;        /* 1: page-locked memory is used up */
    int eager;            /* 1: what is enqueued runs at once, not when it is waited for */
    int fail_capture;     /* 1: nothing can be captured */
    int stuck;            /* 1: nothing runs any more, of this process */
} shim_machine;

extern shim_machine shim;

/* What a test that is done with it sets back to: one GPU of compute capability 9. */
extern const shim_machine shim_healthy;

size_t shim_bytes_in_use(void);
/* Of any kernel, so far. */
int shim_n_launches(void);
/* Calls that made the host wait for a stream or an event; graphs that were launched. */
int shim_n_waits(void);
int shim_n_graph_launches(void);

/* A call that enqueued a copy or an event's record, or had the host or a stream wait for one. */
typedef struct shim_call {
    const char *name; /* "cudaMemcpyAsync", ... */
    const void *stream, *event, *dst, *src;
} shim_call;

/* Write down calls from now on, of all threads, as many as there is room for; 0: no more. */
void shim_trace(shim_call *calls, size_t room);
/* How many were made since. */
size_t shim_n_traced(void);

/* For libraries whose work waits for other processes: `call` runs in its place on the stream, again
 * and again until it returns 1, and only while ready(arg), which touches no device memory, says
 * that it can get on. Meanwhile all streams run, as on a GPU; shim_push runs them as far as they
 * go. */
#pragma GCC visibility push(default)
void shim_enqueue(cudaStream_t stream, int (*ready)(const void *arg), int (*call)(void *arg),
                  void *arg);
void shim_push(void);
/* 1: the stream is being captured, and each launch of the graph calls `again` with the stream that
 * stands for it, to enqueue what belongs there; `forget` comes when the graph is gone. 0: it is
 * not.
 */
int shim_capture(cudaStream_t stream, void (*again)(void *arg, cudaStream_t stream),
                 void (*forget)(void *arg), void *arg);
int shim_is_device(const void *address);
#pragma GCC visibility pop

#endif
