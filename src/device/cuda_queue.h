/* A queue of the CUDA device: a stream, and what has failed on it; and its events. cuda_share.c
 * shows arrays and events to other processes, cuda.c has the rest of the device. */
#ifndef ZI_DEVICE_CUDA_QUEUE_H
#define ZI_DEVICE_CUDA_QUEUE_H

#include <cuda_runtime_api.h>

#include "device/device.h"

struct zi_queue {
    int ordinal; /* of the GPU */
    int n_processors;
    int is_idle;    /* 1: nothing was enqueued since the last wait */
    int is_adopted; /* 1: the stream is somebody else's */
    cudaStream_t stream;
    cudaError_t error;  /* the first */
    const char *failed; /* what it came out of */
    zi_guard *guard;
    zopt_status lost; /* what the guard met, for good */
    char lost_text[256];
    int is_stuck; /* 1: and its work does not end */
};

struct zi_event {
    int ordinal; /* of the GPU */
    cudaEvent_t event;
    /* Of the queue that it was recorded on, by then: it is not in its stream. Another thread's
     * queue may await the event while it is recorded anew. */
    _Atomic(cudaError_t) error;
    _Atomic(const char *) failed;
    _Atomic(zi_guard *) guard; /* of that queue */
};

/* Errors: ERR_FAILURE with CUDA's words. */
zopt_status zi_cuda_check(cudaError_t error, int ordinal, const char *call);
/* Something was enqueued, by a call that returned this. */
void zi_cuda_note(zi_queue *q, cudaError_t error, const char *call);
/* Make the queue's GPU current. 1: go on. Nothing is enqueued behind a failure. */
int zi_cuda_enter(zi_queue *q);

/* Wait for what was enqueued. 0: it does not end, and memory that it uses must stay. */
int zi_cuda_settle(zi_queue *q);

/* Of zi_device_ops: */
void zi_cuda_guard(zi_queue *q, zi_guard *guard);
zopt_status zi_cuda_adopt(const zi_queue *q, void *stream, zi_queue **out);
zopt_status zi_cuda_wait(zi_queue *q);
zopt_status zi_cuda_event_create(zi_queue *q, zi_event **out);
zopt_status zi_cuda_event_share(zi_queue *q, zi_event **out, zi_handle *handle);
zopt_status zi_cuda_event_reach(zi_queue *q, const zi_handle *handle, zi_event **out);
zopt_status zi_cuda_event_timed(zi_queue *q, zi_event **out);
zopt_status zi_cuda_event_ms(const zi_event *from, const zi_event *to, double *ms);
void zi_cuda_event_destroy(zi_event *event);
void zi_cuda_event_record(zi_queue *q, zi_event *event);
void zi_cuda_event_await(zi_queue *q, const zi_event *event);
zopt_status zi_cuda_event_query(const zi_event *event, int *done);
zopt_status zi_cuda_event_wait(const zi_event *event);
zopt_status zi_cuda_share(zi_queue *q, void *array, zi_handle *handle);
zopt_status zi_cuda_reach(zi_queue *q, const zi_handle *handle, void **array);
void zi_cuda_leave(zi_queue *q, void *array);

#endif
