/* Streams of the shim, and its launcher: what is enqueued is kept, and runs in order once the
 * stream is waited for, or an event behind it. Next: run.c. */
#include "stream.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "memory.h"
#include "trace.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* Whoever runs or fills a stream, of this thread's or, behind an event, of another's. */
static pthread_mutex_t machine;
static _Thread_local int n_locked;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int n_launches, n_waits, n_graph_launches;

/* The legacy default stream, and that of the thread, of whom there is one here. */
static struct shim_stream default_stream = {.last = &default_stream.first};
static struct shim_stream thread_stream = {.next = &default_stream, .last = &thread_stream.first};
struct shim_stream *shim_streams = &thread_stream;

cudaStream_t shim_real(cudaStream_t stream)
{
    return stream == NULL                  ? &default_stream
           : stream == cudaStreamPerThread ? &thread_stream
                                           : stream;
}

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

void shim_step_aside(void)
{
    int n = n_locked;
    for (int i = 0; i < n; i++)
        shim_unlock();
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    for (int i = 0; i < n; i++)
        shim_lock();
}

static int read_count(const int *count)
{
    pthread_mutex_lock(&mutex);
    int n = *count;
    pthread_mutex_unlock(&mutex);
    return n;
}

static void add_one(int *count)
{
    pthread_mutex_lock(&mutex);
    ++*count;
    pthread_mutex_unlock(&mutex);
}

void shim_count_wait(void)
{
    add_one(&n_waits);
}

void shim_count_graph_launch(void)
{
    add_one(&n_graph_launches);
}

int shim_n_launches(void)
{
    return read_count(&n_launches);
}

int shim_n_waits(void)
{
    return read_count(&n_waits);
}

int shim_n_graph_launches(void)
{
    return read_count(&n_graph_launches);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    if (*stream == NULL)
        return cudaErrorMemoryAllocation;
    (*stream)->last = &(*stream)->first;
    shim_lock();
    (*stream)->next = shim_streams;
    shim_streams = *stream;
    shim_unlock();
    return cudaSuccess;
}

shim_work *shim_new_work(shim_work_kind kind, size_t n_bytes)
{
    shim_work *w = calloc(1, sizeof *w + n_bytes);
    if (w == NULL)
        abort();
    w->kind = kind;
    return w;
}

cudaError_t shim_add(cudaStream_t stream, shim_work *w)
{
    stream = shim_real(stream);
    shim_lock();
    cudaError_t error = stream->error;
    if (stream->capture != NULL) {
        error = shim_record(stream, w);
    } else {
        *stream->last = w;
        stream->last = &w->next;
        if (shim.eager)
            shim_run_stream(stream, NULL);
        error = stream->error;
    }
    shim_unlock();
    return error;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    if (value != 0 || !shim_is_device(dst))
        return cudaErrorInvalidValue;
    shim_work *w = shim_new_work(SHIM_ZERO, 0);
    w->dst = dst;
    w->n_bytes = bytes;
    return shim_add(stream, w);
}

/* Pageable memory of the host is read at once, as CUDA does. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind;
    shim_note((shim_call){.name = __func__, .stream = stream, .dst = dst, .src = src});
    int stays = shim_is_device(src) || shim_is_locked(src);
    shim_work *w = shim_new_work(SHIM_COPY, stays ? 0 : bytes);
    w->dst = dst;
    w->n_bytes = bytes;
    if (stays)
        w->src = src;
    else
        memcpy(w->bytes, src, bytes);
    return shim_add(stream, w);
}

void shim_launched(cudaStream_t stream, int n_kernels)
{
    pthread_mutex_lock(&mutex);
    for (; n_kernels > 0; n_kernels--) {
        n_launches++;
        if (shim.fail_at_launch > 0 && --shim.fail_at_launch == 0)
            shim_real(stream)->error = cudaErrorIllegalAddress; /* comes out of the next wait */
    }
    pthread_mutex_unlock(&mutex);
}

cudaError_t zi_cuda_launch_kernel(cudaStream_t stream, const zi_cuda_launch *launch)
{
    shim_check_addresses(launch);
    shim_work *w = shim_new_work(SHIM_KERNEL, 0);
    w->launch = *launch;
    if (shim_real(stream)->capture != NULL)
        return shim_add(stream, w);
    (void)shim_add(stream, w);
    shim_launched(stream, 1);
    return cudaSuccess;
}

cudaError_t shim_launch(cudaStream_t stream, void (*function)(const void *argument),
                        const void *argument, size_t bytes)
{
    shim_work *w = shim_new_work(SHIM_FUNCTION, bytes);
    w->function = function;
    memcpy(w->bytes, argument, bytes);
    return shim_add(stream, w);
}

void shim_enqueue(cudaStream_t stream, int (*ready)(const void *arg), int (*call)(void *arg),
                  void *arg)
{
    shim_work *w = shim_new_work(SHIM_CALL, 0);
    w->ready = ready;
    w->call = call;
    w->arg = arg;
    (void)shim_add(stream, w);
}

/* As for events: what is asked for gets on. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    stream = shim_real(stream);
    if (stream->capture != NULL)
        return stream->capture->error = cudaErrorStreamCaptureUnsupported;
    shim_lock();
    cudaError_t error = stream->first != NULL ? cudaErrorNotReady : stream->error;
    if (shim_has_calls())
        shim_push();
    else
        shim_advance(stream, NULL);
    shim_unlock();
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    stream = shim_real(stream);
    shim_count_wait();
    shim_lock();
    if (stream->capture != NULL)
        stream->capture->error = cudaErrorStreamCaptureInvalidated;
    shim_run_stream(stream, NULL);
    shim_unlock();
    return stream->error;
}

/* Returns at once, as CUDA's does: what waits for others stays, until they ask for it. */
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    shim_lock();
    shim_advance(stream, NULL);
    if (stream->first != NULL) {
        shim_unlock();
        return cudaSuccess;
    }
    struct shim_stream **link = &shim_streams;
    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    shim_unlock();
    free(stream);
    return cudaSuccess;
}
