/* Streams of the shim, its events, and its launcher: what is enqueued is kept, and runs in order
 * once the stream is waited for, or an event behind it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ipc.h"
#include "kernels.h"
#include "memory.h"
#include "shim.h"
#include "trace.h"

typedef enum work_kind { COPY, ZERO, KERNEL, FUNCTION, RECORD, AWAIT } work_kind;

struct shim_event {
    struct shim_stream *stream; /* that recorded it last */
    shim_signal *signal;        /* its own, or on this process's board or another's */
    shim_signal own;
    int is_foreign;
};

typedef struct work {
    struct work *next;
    work_kind kind;
    void *dst;
    const void *src;                        /* NULL: `bytes` follow */
    void (*function)(const void *argument); /* of `bytes` */
    size_t n_bytes;
    zi_cuda_launch launch;
    struct shim_event *event;
    long nth; /* of the event's records */
    char bytes[];
} work;

struct shim_stream {
    work *first, **last;
    cudaError_t error;
    int is_running; /* on a thread that may have left the machine while it waits for others */
};

const shim_machine shim_healthy = {
    .n_gpus = 1, .driver_version = 13000, .capability_major = 9, .memory_bytes = (size_t)1 << 32};
shim_machine shim = {
    .n_gpus = 1, .driver_version = 13000, .capability_major = 9, .memory_bytes = (size_t)1 << 32};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* Whoever runs or fills a stream, of this thread's or, behind an event, of another's. */
static pthread_mutex_t machine;
static _Thread_local int n_locked;
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

void shim_lock(void)
{
    pthread_once(&once, make_machine);
    pthread_mutex_lock(&machine);
    n_locked++;
}

void shim_unlock(void)
{
    n_locked--;
    pthread_mutex_unlock(&machine);
}

/* Let others have it for a moment, however often it is locked. */
static void step_aside(void)
{
    int n = n_locked;
    for (int i = 0; i < n; i++)
        shim_unlock();
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    for (int i = 0; i < n; i++)
        shim_lock();
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
    return error == cudaErrorMemoryAllocation        ? "out of memory"
           : error == cudaErrorIllegalAddress        ? "an illegal memory access was encountered"
           : error == cudaErrorInsufficientDriver    ? "CUDA driver version is insufficient"
           : error == cudaErrorMapBufferObjectFailed ? "mapping of buffer object failed"
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
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? shim.capability_major
             : attribute == cudaDevAttrIpcEventSupport      ? !shim.no_ipc
                                                            : 3;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device)
{
    snprintf(id, (size_t)size, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *id)
{
    unsigned place = 0;
    if (sscanf(id, "0000:%2x:00.0", &place) != 1 || place < 1 || (int)place > shim.n_gpus)
        return cudaErrorInvalidDevice;
    *device = (int)place - 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    *can = device != peer && !shim.no_peers;
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

static void run_stream(cudaStream_t stream, const struct shim_event *event, long nth);

static cudaError_t enqueue(cudaStream_t stream, work *w)
{
    shim_lock();
    *stream->last = w;
    stream->last = &w->next;
    if (shim.eager)
        run_stream(stream, NULL, 0);
    cudaError_t error = stream->error;
    shim_unlock();
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
    shim_note((shim_call){.name = __func__, .stream = stream, .dst = dst, .src = src});
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

cudaError_t shim_launch(cudaStream_t stream, void (*function)(const void *argument),
                        const void *argument, size_t bytes)
{
    work *w = new_work(FUNCTION, bytes);
    w->function = function;
    memcpy(w->bytes, argument, bytes);
    return enqueue(stream, w);
}

/* ------------------------------------------------------------------ events ------------------- */

static int has_reached(const struct shim_event *event, long nth)
{
    return event->signal->n_reached >= nth;
}

static int is_pending(const struct shim_event *event)
{
    return !has_reached(event, event->signal->n_recorded);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    *event = calloc(1, sizeof **event);
    if (*event == NULL)
        return cudaErrorMemoryAllocation;
    int is_shared = (flags & cudaEventInterprocess) != 0;
    if (is_shared && !(flags & cudaEventDisableTiming))
        return cudaErrorInvalidValue;
    shim_lock();
    (*event)->signal = is_shared ? shim_signal_create(*event) : &(*event)->own;
    shim_unlock();
    return cudaSuccess;
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *handle, cudaEvent_t event)
{
    if (event->signal == &event->own || event->is_foreign)
        return cudaErrorInvalidResourceHandle;
    shim_signal_describe(event->signal, handle);
    return cudaSuccess;
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *event, cudaIpcEventHandle_t handle)
{
    shim_signal *signal = shim_signal_open(&handle);
    if (signal == NULL)
        return cudaErrorMapBufferObjectFailed;
    *event = calloc(1, sizeof **event);
    if (*event == NULL)
        return cudaErrorMemoryAllocation;
    (*event)->signal = signal;
    (*event)->is_foreign = 1;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    work *w = new_work(RECORD, 0);
    shim_note((shim_call){.name = __func__, .stream = stream, .event = event});
    if (event->is_foreign) /* CUDA can; nothing here does */
        return cudaErrorInvalidResourceHandle;
    shim_lock();
    event->stream = stream;
    w->event = event;
    w->nth = ++event->signal->n_recorded;
    cudaError_t error = enqueue(stream, w);
    shim_unlock();
    return error;
}

/* The most recent record; an event that was never recorded holds nothing up, as in CUDA. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    work *w = new_work(AWAIT, 0);
    shim_note((shim_call){.name = __func__, .stream = stream, .event = event});
    shim_lock();
    w->event = event;
    w->nth = event->signal->n_recorded;
    cudaError_t error = enqueue(stream, w);
    shim_unlock();
    return error;
}

/* Until the event is reached for the nth time, or its stream has failed. */
static void run_to(struct shim_event *event, long nth)
{
    if (has_reached(event, nth))
        return;
    if (!event->is_foreign) {
        run_stream(event->stream, event, nth);
        return;
    }
    shim_signal_want(event->signal, nth);
    for (long n = 0; !has_reached(event, nth); n++) {
        step_aside();
        if (n > 1000000) {
            fprintf(stderr, "cuda shim: another process does not reach an event\n");
            abort();
        }
    }
}

int shim_serve(struct shim_event *event, long nth)
{
    int in_use = event->stream->is_running;
    if (!in_use)
        run_stream(event->stream, event, nth);
    return in_use;
}

/* Time passes: what is not done when it is asked for is done the next time. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    shim_lock();
    int pending = is_pending(event);
    if (pending && event->is_foreign)
        shim_signal_want(event->signal, event->signal->n_recorded);
    else if (pending)
        run_to(event, event->signal->n_recorded);
    shim_unlock();
    return pending ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error = cudaSuccess;
    shim_note((shim_call){.name = __func__, .event = event});
    shim_lock();
    if (is_pending(event)) {
        run_to(event, event->signal->n_recorded);
        error = event->is_foreign ? cudaSuccess : event->stream->error;
    }
    shim_unlock();
    return error;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    cudaError_t error = cudaSuccess;
    if (event->is_foreign)
        shim_signal_close(event->signal);
    else
        error = cudaEventSynchronize(event); /* work that holds it runs first */
    if (event->signal != &event->own && !event->is_foreign) {
        shim_lock();
        shim_signal_destroy(event->signal);
        shim_unlock();
    }
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
    else if (w->kind == FUNCTION)
        w->function(w->bytes);
    else if (w->kind == RECORD)
        w->event->signal->n_reached = w->nth;
    else
        run_to(w->event, w->nth);
}

/* Up to where the event is reached for the nth time; NULL: all. */
static void run_stream(cudaStream_t stream, const struct shim_event *event, long nth)
{
    if (stream == NULL)
        return;
    while (stream->is_running)
        step_aside();
    stream->is_running = 1;
    shim_enter();
    while (stream->first != NULL && (event == NULL || !has_reached(event, nth))) {
        work *w = stream->first;
        stream->first = w->next;
        if (stream->first == NULL)
            stream->last = &stream->first;
        if (stream->error == cudaSuccess || w->kind == RECORD)
            run(w);
        free(w);
    }
    shim_leave();
    stream->is_running = 0;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    shim_lock();
    run_stream(stream, NULL, 0);
    shim_unlock();
    return stream->error;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaStreamSynchronize(stream);
    free(stream);
    return cudaSuccess;
}
