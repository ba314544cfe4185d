/* Streams of the shim, its events, and its launcher: what is enqueued is kept, and runs in order
 * once the stream is waited for, or an event behind it. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "memory.h"
#include "shim.h"

typedef enum work_kind { COPY, ZERO, KERNEL, RECORD, AWAIT } work_kind;

/* Both ends of an event: how often it was recorded, and how often that has been reached. */
struct shim_event {
    struct shim_stream *stream; /* that recorded it last */
    long n_recorded, n_reached;
};

typedef struct work {
    struct work *next;
    work_kind kind;
    void *dst;
    const void *src; /* NULL: `bytes` follow */
    size_t n_bytes;
    zi_cuda_launch launch;
    struct shim_event *event;
    long nth; /* of the event's records */
    char bytes[];
} work;

struct shim_stream {
    work *first, **last;
    cudaError_t error;
};

const shim_machine shim_healthy = {
    .n_gpus = 1, .driver_version = 13000, .capability_major = 9, .memory_bytes = (size_t)1 << 32};
shim_machine shim = {
    .n_gpus = 1, .driver_version = 13000, .capability_major = 9, .memory_bytes = (size_t)1 << 32};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* Whoever runs or fills a stream, of this thread's or, behind an event, of another's. */
static pthread_mutex_t machine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int n_launches;
static _Thread_local int current;

static void make_machine(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&machine, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

static void lock_machine(void)
{
    pthread_once(&once, make_machine);
    pthread_mutex_lock(&machine);
}

int shim_n_launches(void)
{
    pthread_mutex_lock(&mutex);
    int n = n_launches;
    pthread_mutex_unlock(&mutex);
    return n;
}

/* ------------------------------------------------------------------ the machine -------------- */

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation     ? "out of memory"
           : error == cudaErrorIllegalAddress     ? "an illegal memory access was encountered"
           : error == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient"
                                                  : "unknown error";
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = shim.n_gpus;
    if (shim.driver_version < 13000)
        return cudaErrorInsufficientDriver;
    return shim.n_gpus > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = shim.driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= shim.n_gpus)
        return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    (void)device;
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? shim.capability_major : 3;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    *can = device != peer;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    (void)peer, (void)flags;
    return cudaSuccess;
}

/* ------------------------------------------------------------------ streams ------------------ */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    if (*stream == NULL)
        return cudaErrorMemoryAllocation;
    (*stream)->last = &(*stream)->first;
    return cudaSuccess;
}

static work *new_work(work_kind kind, size_t n_bytes)
{
    work *w = calloc(1, sizeof *w + n_bytes);
    if (w == NULL)
        abort();
    w->kind = kind;
    return w;
}

static cudaError_t enqueue(cudaStream_t stream, work *w)
{
    lock_machine();
    *stream->last = w;
    stream->last = &w->next;
    cudaError_t error = stream->error;
    pthread_mutex_unlock(&machine);
    return error;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    if (value != 0 || !shim_is_device(dst))
        return cudaErrorInvalidValue;
    work *w = new_work(ZERO, 0);
    w->dst = dst;
    w->n_bytes = bytes;
    return enqueue(stream, w);
}

/* Pageable memory of the host is read at once, as CUDA does. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind;
    int stays = shim_is_device(src) || shim_is_locked(src);
    work *w = new_work(COPY, stays ? 0 : bytes);
    w->dst = dst;
    w->n_bytes = bytes;
    if (stays)
        w->src = src;
    else
        memcpy(w->bytes, src, bytes);
    return enqueue(stream, w);
}

cudaError_t zi_cuda_launch_kernel(cudaStream_t stream, const zi_cuda_launch *launch)
{
    shim_check_addresses(launch);
    work *w = new_work(KERNEL, 0);
    w->launch = *launch;
    (void)enqueue(stream, w);
    pthread_mutex_lock(&mutex);
    n_launches++;
    if (shim.fail_at_launch > 0 && --shim.fail_at_launch == 0)
        stream->error = cudaErrorIllegalAddress; /* comes out of the next wait */
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}

/* ------------------------------------------------------------------ events ------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    *event = calloc(1, sizeof **event);
    return *event == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    work *w = new_work(RECORD, 0);
    lock_machine();
    event->stream = stream;
    w->event = event;
    w->nth = ++event->n_recorded;
    cudaError_t error = enqueue(stream, w);
    pthread_mutex_unlock(&machine);
    return error;
}

/* An event that was never recorded holds nothing up, as in CUDA. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    work *w = new_work(AWAIT, 0);
    lock_machine();
    w->event = event;
    w->nth = event->n_recorded;
    cudaError_t error = enqueue(stream, w);
    pthread_mutex_unlock(&machine);
    return error;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    lock_machine();
    cudaError_t error = event->n_reached < event->n_recorded ? cudaErrorNotReady : cudaSuccess;
    pthread_mutex_unlock(&machine);
    return error;
}

static void run_stream(cudaStream_t stream, const struct shim_event *event, long nth);

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error = cudaSuccess;
    lock_machine();
    if (event->n_reached < event->n_recorded) {
        run_stream(event->stream, event, event->n_recorded);
        error = event->stream->error;
    }
    pthread_mutex_unlock(&machine);
    return error;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    cudaError_t error = cudaEventSynchronize(event); /* work that holds it runs first */
    free(event);
    return error;
}

/* ------------------------------------------------------------------ run ---------------------- */

static void run(const work *w)
{
    if (w->kind == COPY)
        memcpy(w->dst, w->src != NULL ? w->src : w->bytes, w->n_bytes);
    else if (w->kind == ZERO)
        memset(w->dst, 0, w->n_bytes);
    else if (w->kind == KERNEL)
        shim_run_kernel(&w->launch);
    else if (w->kind == RECORD)
        w->event->n_reached = w->nth;
    else
        run_stream(w->event->stream, w->event, w->nth);
}

/* Up to where the event is reached for the nth time; NULL: all. */
static void run_stream(cudaStream_t stream, const struct shim_event *event, long nth)
{
    shim_enter();
    while (stream != NULL && stream->first != NULL && (event == NULL || event->n_reached < nth)) {
        work *w = stream->first;
        stream->first = w->next;
        if (stream->first == NULL)
            stream->last = &stream->first;
        if (stream->error == cudaSuccess || w->kind == RECORD)
            run(w);
        free(w);
    }
    shim_leave();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    lock_machine();
    run_stream(stream, NULL, 0);
    pthread_mutex_unlock(&machine);
    return stream->error;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaStreamSynchronize(stream);
    free(stream);
    return cudaSuccess;
}
