/* Between the shim's streams and other processes: how often an event was recorded and reached,
 * where others can see it, and a bell for a process whose work they wait for. */
#ifndef TESTS_CUDA_SHIM_IPC_H
#define TESTS_CUDA_SHIM_IPC_H

#include <cuda_runtime_api.h>
#include <stdatomic.h>

typedef struct shim_signal {
    _Atomic long n_recorded, n_reached;
    _Atomic long n_wanted; /* by other processes */
    _Atomic int n_open;    /* in other processes */
} shim_signal;

/* stream.c: whoever runs or fills a stream holds it. */
void shim_lock(void);
void shim_unlock(void);

/* A place on this process's board. Under the lock, as is destroy. */
shim_signal *shim_signal_create(struct shim_event *event);
void shim_signal_destroy(shim_signal *signal);

/* Of another process. */
shim_signal *shim_signal_open(const cudaIpcEventHandle_t *handle);
void shim_signal_close(shim_signal *signal);

void shim_signal_describe(const shim_signal *signal, cudaIpcEventHandle_t *handle);

/* Ask the process of a signal that was opened for the nth record; never waits. */
void shim_signal_want(shim_signal *signal, long nth);

/* event.c: run what is wanted of an event of this process. 1: its stream is in use, ask again.
 * Under the lock, which it may give away for a while. */
int shim_serve(struct shim_event *event, long nth);

#endif
