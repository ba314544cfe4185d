/* Streams of the shim, its events, and its launcher: what is enqueued is kept, and runs in order
 * once the stream is waited for, or an event behind it. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ipc.h"
#include "kernels.h"
#include "memory.h"
#include "shim.h"
#include "trace.h"

typedef enum work_kind { COPY, ZERO, KERNEL, FUNCTION, RECORD, AWAIT, CALL } work_kind;

/* A record of an event: shared by the event, the work that reaches it and the work that waits for
 * it, since a later record of the event is none of theirs. */
typedef struct mark {
    struct shim_stream *stream;
    int n_holders;
    int is_reached;
    cudaError_t error; /* of the stream, when it was reached */
} mark;

struct shim_event {
    struct shim_stream *stream; /* that recorded it last */
    mark *last;                 /* NULL: never recorded, or foreign */
    shim_signal *signal;        /* its own, or on this process's board or another's */
    shim_signal own;
    int is_foreign;
    struct shim_graph *captured; /* it was recorded in this capture last; NULL: outside of any */
    const struct node *node;     /* that recorded it there */
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
    long nth;   /* of the event's records */
    mark *mark; /* the same, of an event of this process */
    int (*ready)(const void *arg);
    int (*call)(void *arg);
    void *arg;
    char bytes[];
} work;

struct shim_stream {
    struct shim_stream *next;
    work *first, **last;
    cudaError_t error;
    int is_running; /* on a thread that may have left the machine while it waits for others */
    struct shim_graph *capture; /* where work goes; NULL: none is under way */
    int branch;                 /* of the capture */
};

typedef enum node_kind { WORK, FORK, JOIN, OUTSIDE, FOREIGN } node_kind;

/* What a capture has taken: a piece of work, a fork or join, an event's record for those outside,
 * or somebody else's work, to be enqueued in place. */
typedef struct node {
    struct node *next;
    int branch;
    node_kind kind;
    work *work;
    struct shim_event *event;  /* OUTSIDE */
    const struct node *behind; /* JOIN */
    mark *mark;                /* FORK: of the launch under way */
    void (*again)(void *arg, cudaStream_t stream);
    void (*forget)(void *arg);
    void *arg;
} node;

enum { MAX_BRANCHES = 8 };

/* Shared by the graph and those that were instantiated from it. Branch 0 is the stream whose
 * capture it is, and where it is launched. */
struct shim_graph {
    node *first, **last;
    int n_holders, n_branches, n_kernels;
    struct shim_stream *stream[MAX_BRANCHES];
    const node *tail[MAX_BRANCHES];
    int is_joined[MAX_BRANCHES]; /* another awaits its tail */
    cudaError_t error;
};

struct shim_graph_exec {
    struct shim_graph *graph;
    struct shim_stream *stream[MAX_BRANCHES];
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
static struct shim_stream *streams;
static int n_launches, n_waits, n_graph_launches;
static _Thread_local int current;

/* The legacy default stream, and that of the thread, of whom there is one here. */
static struct shim_stream default_stream = {.last = &default_stream.first};
static struct shim_stream thread_stream = {.last = &thread_stream.first};

static cudaStream_t real(cudaStream_t stream)
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

static int read_count(const int *count)
{
    pthread_mutex_lock(&mutex);
    int n = *count;
    pthread_mutex_unlock(&mutex);
    return n;
}

static void count(int *n, int more)
{
    pthread_mutex_lock(&mutex);
    *n += more;
    pthread_mutex_unlock(&mutex);
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
    shim_lock();
    (*stream)->next = streams;
    streams = *stream;
    shim_unlock();
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

/* What run_stream stops at; NULL: the end. */
typedef struct target {
    const mark *mark;
    const struct shim_event *event; /* reached for the nth time */
    long nth;
} target;

static void run_stream(cudaStream_t stream, const target *to);
static void advance(cudaStream_t stream, const target *to);

static node *take(cudaStream_t stream, node_kind kind)
{
    struct shim_graph *graph = stream->capture;
    node *n = calloc(1, sizeof *n);
    if (n == NULL)
        abort();
    n->kind = kind;
    n->branch = stream->branch;
    *graph->last = n;
    graph->last = &n->next;
    graph->tail[n->branch] = n;
    graph->is_joined[n->branch] = 0;
    if (shim.fail_capture)
        graph->error = cudaErrorStreamCaptureUnsupported;
    return n;
}

/* A capture takes kernels, and copies of memory that stays. */
static cudaError_t record(cudaStream_t stream, work *w)
{
    int fits = w->kind == ZERO || w->kind == KERNEL || (w->kind == COPY && w->src != NULL);
    take(stream, WORK)->work = w;
    stream->capture->n_kernels += w->kind == KERNEL;
    if (!fits)
        stream->capture->error = cudaErrorStreamCaptureUnsupported;
    return fits ? cudaSuccess : stream->capture->error;
}

static cudaError_t enqueue(cudaStream_t stream, work *w)
{
    stream = real(stream);
    shim_lock();
    cudaError_t error = stream->error;
    if (stream->capture != NULL) {
        error = record(stream, w);
    } else {
        *stream->last = w;
        stream->last = &w->next;
        if (shim.eager)
            run_stream(stream, NULL);
        error = stream->error;
    }
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

static void launched(cudaStream_t stream, int n_kernels)
{
    pthread_mutex_lock(&mutex);
    for (; n_kernels > 0; n_kernels--) {
        n_launches++;
        if (shim.fail_at_launch > 0 && --shim.fail_at_launch == 0)
            real(stream)->error = cudaErrorIllegalAddress; /* comes out of the next wait */
    }
    pthread_mutex_unlock(&mutex);
}

cudaError_t zi_cuda_launch_kernel(cudaStream_t stream, const zi_cuda_launch *launch)
{
    shim_check_addresses(launch);
    work *w = new_work(KERNEL, 0);
    w->launch = *launch;
    if (real(stream)->capture != NULL)
        return enqueue(stream, w);
    (void)enqueue(stream, w);
    launched(stream, 1);
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

void shim_enqueue(cudaStream_t stream, int (*ready)(const void *arg), int (*call)(void *arg),
                  void *arg)
{
    work *w = new_work(CALL, 0);
    w->ready = ready;
    w->call = call;
    w->arg = arg;
    (void)enqueue(stream, w);
}

/* ------------------------------------------------------------------ events ------------------- */

static int has_reached(const struct shim_event *event, long nth)
{
    return event->signal->n_reached >= nth;
}

static int is_pending(const struct shim_event *event)
{
    if (event->is_foreign)
        return !has_reached(event, event->signal->n_recorded);
    return event->last != NULL && !event->last->is_reached;
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

static mark *hold(mark *m)
{
    if (m != NULL)
        m->n_holders++;
    return m;
}

static void drop(mark *m)
{
    if (m != NULL && --m->n_holders == 0)
        free(m);
}

static mark *new_mark(cudaStream_t stream)
{
    mark *m = calloc(1, sizeof *m);
    if (m == NULL)
        abort();
    m->stream = real(stream);
    return hold(m);
}

/* event: NULL where the mark is all that counts. */
static cudaError_t enqueue_mark(cudaStream_t stream, work_kind kind, mark *m, cudaEvent_t event)
{
    work *w = new_work(kind, 0);
    w->mark = hold(m);
    w->event = event;
    if (event != NULL)
        w->nth = kind == RECORD ? ++event->signal->n_recorded : event->signal->n_recorded;
    return enqueue(stream, w);
}

static cudaError_t record_event(cudaEvent_t event, cudaStream_t stream)
{
    drop(event->last);
    event->last = new_mark(stream);
    event->stream = real(stream);
    return enqueue_mark(stream, RECORD, event->last, event);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    shim_note((shim_call){.name = __func__, .stream = stream, .event = event});
    if (event->is_foreign) /* CUDA can; nothing here does */
        return cudaErrorInvalidResourceHandle;
    shim_lock();
    event->captured = real(stream)->capture;
    if (event->captured != NULL)
        event->node = take(real(stream), FORK);
    cudaError_t error = event->captured != NULL ? cudaSuccess : record_event(event, stream);
    shim_unlock();
    return error;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
    if (flags != cudaEventRecordExternal || real(stream)->capture == NULL || event->is_foreign)
        return cudaErrorInvalidValue;
    shim_lock();
    take(real(stream), OUTSIDE)->event = event;
    event->captured = NULL;
    shim_unlock();
    return cudaSuccess;
}

/* The most recent record; an event that was never recorded holds nothing up, as in CUDA. */
/* A stream that awaits an event of a capture becomes part of it. */
static cudaError_t join_capture(cudaStream_t stream, cudaEvent_t event)
{
    struct shim_graph *graph = event->captured;
    if (stream->capture == NULL && graph->n_branches < MAX_BRANCHES) {
        stream->capture = graph;
        stream->branch = graph->n_branches++;
        graph->stream[stream->branch] = stream;
    }
    if (stream->capture != graph)
        return cudaErrorStreamCaptureIsolation;
    take(stream, JOIN)->behind = event->node;
    int from = event->node->branch;
    graph->is_joined[from] = graph->tail[from] == event->node;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    cudaError_t error = cudaErrorStreamCaptureIsolation;
    shim_note((shim_call){.name = __func__, .stream = stream, .event = event});
    shim_lock();
    if (event->captured != NULL)
        error = join_capture(real(stream), event);
    else if (real(stream)->capture == NULL)
        error = enqueue_mark(stream, AWAIT, event->last, event);
    else
        real(stream)->capture->error = error;
    shim_unlock();
    return error;
}

static void run_to_mark(const mark *m)
{
    const target to = {.mark = m};
    if (m != NULL && !m->is_reached)
        run_stream(m->stream, &to);
}

/* Until the other process's event is reached for the nth time. */
static void run_to_foreign(struct shim_event *event, long nth)
{
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
    int in_use = event->stream->is_running || shim.stuck;
    const target to = {.event = event, .nth = nth};
    if (!in_use)
        run_stream(event->stream, &to);
    return in_use;
}

static cudaError_t error_of(const struct shim_event *event)
{
    return event->last != NULL ? event->last->error : cudaSuccess;
}

/* 1: some stream has work that waits for other processes by itself. */
static int has_calls(void)
{
    for (const struct shim_stream *stream = streams; stream != NULL; stream = stream->next)
        for (const work *w = stream->first; w != NULL; w = w->next)
            if (w->kind == CALL)
                return 1;
    return 0;
}

/* Time passes: what is not done when it is asked for is done the next time. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    shim_lock();
    if (event->captured != NULL) {
        cudaError_t error = event->captured->error = cudaErrorCapturedEvent;
        shim_unlock();
        return error;
    }
    int pending = is_pending(event);
    if (pending && event->is_foreign)
        shim_signal_want(event->signal, event->signal->n_recorded);
    else if (pending && has_calls())
        shim_push(); /* a question does not wait */
    else if (pending)
        advance(event->last->stream, &(target){.mark = event->last});
    cudaError_t error = pending ? cudaErrorNotReady : error_of(event);
    shim_unlock();
    return error;
}

static cudaError_t wait_for(cudaEvent_t event)
{
    shim_lock();
    if (event->is_foreign && is_pending(event))
        run_to_foreign(event, event->signal->n_recorded);
    run_to_mark(event->last);
    cudaError_t error = error_of(event);
    shim_unlock();
    return error;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    shim_note((shim_call){.name = __func__, .event = event});
    count(&n_waits, 1);
    return wait_for(event);
}

/* Returns at once, as CUDA's does: work that holds it runs first, or it stays as long as that. */
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    cudaError_t error = cudaSuccess;
    event->captured = NULL; /* that capture has ended, and its graph may be gone */
    if (event->is_foreign)
        shim_signal_close(event->signal);
    else if (cudaEventQuery(event) == cudaErrorNotReady &&
             (error = cudaEventQuery(event)) == cudaErrorNotReady)
        return cudaSuccess;
    if (event->signal != &event->own && !event->is_foreign) {
        shim_lock();
        shim_signal_destroy(event->signal);
        shim_unlock();
    }
    shim_lock();
    drop(event->last);
    shim_unlock();
    free(event);
    return error;
}

/* ------------------------------------------------------------------ graphs ------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    (void)mode;
    struct shim_graph *graph = calloc(1, sizeof *graph);
    stream = real(stream);
    if (graph == NULL || stream->capture != NULL)
        abort();
    graph->last = &graph->first;
    graph->n_holders = graph->n_branches = 1;
    shim_lock();
    graph->stream[0] = stream;
    stream->capture = graph;
    stream->branch = 0;
    shim_unlock();
    return cudaSuccess;
}

static void release(struct shim_graph *graph)
{
    if (--graph->n_holders > 0)
        return;
    for (node *n = graph->first, *next; n != NULL; n = next) {
        next = n->next;
        if (n->forget != NULL)
            n->forget(n->arg);
        free(n->work);
        free(n);
    }
    free(graph);
}

/* Events of the capture are of no use any more. CUDA keeps them as they are; nothing here asks. */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    shim_lock();
    *graph = real(stream)->capture;
    for (int i = 0; i < (*graph)->n_branches; i++) {
        (*graph)->stream[i]->capture = NULL;
        if (i > 0 && !(*graph)->is_joined[i] && (*graph)->error == cudaSuccess)
            (*graph)->error = cudaErrorStreamCaptureUnjoined;
    }
    cudaError_t error = (*graph)->error;
    shim_unlock();
    if (error != cudaSuccess) {
        release(*graph);
        *graph = NULL;
    }
    return error;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    *status =
        real(stream)->capture != NULL ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

int shim_capture(cudaStream_t stream, void (*again)(void *arg, cudaStream_t stream),
                 void (*forget)(void *arg), void *arg)
{
    if (real(stream)->capture == NULL)
        return 0;
    shim_lock();
    node *n = take(real(stream), FOREIGN);
    n->again = again;
    n->forget = forget;
    n->arg = arg;
    shim_unlock();
    return 1;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    *exec = calloc(1, sizeof **exec);
    if (*exec == NULL)
        abort();
    (*exec)->graph = graph;
    graph->n_holders++;
    for (int i = 1; i < graph->n_branches; i++)
        cudaStreamCreateWithFlags(&(*exec)->stream[i], cudaStreamNonBlocking);
    return cudaSuccess;
}

static void enqueue_work(const node *n, cudaStream_t stream)
{
    work *same = new_work(n->work->kind, 0);
    *same = *n->work;
    (void)enqueue(stream, same);
}

static void enqueue_node(node *n, cudaStream_t stream)
{
    if (n->kind == WORK)
        enqueue_work(n, stream);
    else if (n->kind == FORK)
        (void)enqueue_mark(stream, RECORD, n->mark = new_mark(stream), NULL);
    else if (n->kind == JOIN)
        (void)enqueue_mark(stream, AWAIT, n->behind->mark, NULL);
    else if (n->kind == OUTSIDE)
        (void)record_event(n->event, stream);
    else
        n->again(n->arg, stream);
}

/* All that it is made of is enqueued anew, each branch on a stream of its own: only what is joined
 * is in order. */
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    shim_lock();
    exec->stream[0] = stream;
    for (node *n = exec->graph->first; n != NULL; n = n->next)
        enqueue_node(n, exec->stream[n->branch]);
    for (node *n = exec->graph->first; n != NULL; n = n->next) {
        drop(n->mark);
        n->mark = NULL;
    }
    shim_unlock();
    count(&n_graph_launches, 1);
    launched(stream, exec->graph->n_kernels);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    release(graph);
    return cudaSuccess;
}

/* What runs goes on: on streams that stay. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    for (int i = 1; i < exec->graph->n_branches; i++)
        if (exec->stream[i]->first == NULL)
            cudaStreamDestroy(exec->stream[i]);
    release(exec->graph);
    free(exec);
    return cudaSuccess;
}

/* ------------------------------------------------------------------ run ---------------------- */

static void reach(const work *w)
{
    if (w->event != NULL)
        w->event->signal->n_reached = w->nth;
    w->mark->is_reached = 1;
    w->mark->error = w->mark->stream->error;
}

/* 0: it is not done, and runs again. */
static int run(const work *w)
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
        reach(w);
    else if (w->kind == CALL)
        return w->call(w->arg);
    else if (w->mark != NULL)
        run_to_mark(w->mark);
    else if (w->event->is_foreign && !has_reached(w->event, w->nth))
        run_to_foreign(w->event, w->nth);
    return 1;
}

/* 0: it stays the first. */
static int run_first(cudaStream_t stream)
{
    work *w = stream->first;
    if (shim.stuck || ((stream->error == cudaSuccess || w->kind == RECORD) && !run(w)))
        return 0;
    stream->first = w->next;
    if (stream->first == NULL)
        stream->last = &stream->first;
    drop(w->mark);
    free(w);
    return 1;
}

/* 1: its first work waits for nobody. */
static int can_go_on(cudaStream_t stream)
{
    const work *w = stream->first;
    if (w == NULL || stream->is_running || shim.stuck)
        return 0;
    if (w->kind == CALL)
        return w->ready(w->arg);
    return w->kind != AWAIT ||
           (w->mark != NULL ? w->mark->is_reached : has_reached(w->event, w->nth));
}

void shim_push(void)
{
    int moved = 1;
    shim_lock();
    while (moved) {
        moved = 0;
        for (struct shim_stream *stream = streams; stream != NULL; stream = stream->next) {
            if (!can_go_on(stream))
                continue;
            shim_enter();
            while (can_go_on(stream) && run_first(stream))
                moved = 1;
            shim_leave();
        }
    }
    shim_unlock();
}

/* Have what the first work waits for go on. */
static void ask(cudaStream_t stream)
{
    const work *w = stream->first;
    if (w->kind != AWAIT)
        return;
    if (w->mark != NULL && !w->mark->is_reached)
        advance(w->mark->stream, &(target){.mark = w->mark});
    else if (w->mark == NULL && w->event->is_foreign && !has_reached(w->event, w->nth))
        shim_signal_want(w->event->signal, w->nth);
}

static int has_come_to(const target *to)
{
    return to != NULL && ((to->mark != NULL && to->mark->is_reached) ||
                          (to->event != NULL && has_reached(to->event, to->nth)));
}

/* 1: its first work can run now. */
static int gets_on(cudaStream_t stream, const target *to)
{
    if (stream->first == NULL || has_come_to(to))
        return 0;
    ask(stream);
    return can_go_on(stream);
}

/* As far as it goes without a wait for others. */
static void advance(cudaStream_t stream, const target *to)
{
    if (stream == NULL || stream->is_running)
        return;
    if (!gets_on(stream, to))
        return;
    shim_enter();
    while (gets_on(stream, to) && run_first(stream))
        ;
    shim_leave();
}

static void run_stream(cudaStream_t stream, const target *to)
{
    if (stream == NULL)
        return;
    while (stream->is_running)
        step_aside();
    stream->is_running = 1;
    shim_enter();
    while (stream->first != NULL && !has_come_to(to))
        if (!run_first(stream)) {
            shim_push();
            sched_yield();
        }
    shim_leave();
    stream->is_running = 0;
}

/* As for events: what is asked for gets on. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    stream = real(stream);
    if (stream->capture != NULL)
        return stream->capture->error = cudaErrorStreamCaptureUnsupported;
    shim_lock();
    cudaError_t error = stream->first != NULL ? cudaErrorNotReady : stream->error;
    if (has_calls())
        shim_push();
    else
        advance(stream, NULL);
    shim_unlock();
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    stream = real(stream);
    count(&n_waits, 1);
    shim_lock();
    if (stream->capture != NULL)
        stream->capture->error = cudaErrorStreamCaptureInvalidated;
    run_stream(stream, NULL);
    shim_unlock();
    return stream->error;
}

/* Returns at once, as CUDA's does: what waits for others stays, until they ask for it. */
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    shim_lock();
    advance(stream, NULL);
    if (stream->first != NULL) {
        shim_unlock();
        return cudaSuccess;
    }
    struct shim_stream **link = &streams;
    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    shim_unlock();
    free(stream);
    return cudaSuccess;
}
