/* Graphs of the shim: a capture takes what streams are given, in branches; a launch enqueues all of
 * it anew. */
#include <stdlib.h>

#include "stream.h"

struct shim_graph_exec {
    struct shim_graph *graph;
    struct shim_stream *stream[SHIM_MAX_BRANCHES];
};

shim_node *shim_take(cudaStream_t stream, shim_node_kind kind)
{
    struct shim_graph *graph = stream->capture;
    shim_node *n = calloc(1, sizeof *n);
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
cudaError_t shim_record(cudaStream_t stream, shim_work *w)
{
    int fits =
        w->kind == SHIM_ZERO || w->kind == SHIM_KERNEL || (w->kind == SHIM_COPY && w->src != NULL);
    shim_take(stream, SHIM_WORK)->work = w;
    stream->capture->n_kernels += w->kind == SHIM_KERNEL;
    if (!fits)
        stream->capture->error = cudaErrorStreamCaptureUnsupported;
    return fits ? cudaSuccess : stream->capture->error;
}

cudaError_t shim_join(cudaStream_t stream, cudaEvent_t event)
{
    struct shim_graph *graph = event->captured;
    if (stream->capture == NULL && graph->n_branches < SHIM_MAX_BRANCHES) {
        stream->capture = graph;
        stream->branch = graph->n_branches++;
        graph->stream[stream->branch] = stream;
    }
    if (stream->capture != graph)
        return cudaErrorStreamCaptureIsolation;
    shim_take(stream, SHIM_JOIN)->behind = event->node;
    int from = event->node->branch;
    graph->is_joined[from] = graph->tail[from] == event->node;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    (void)mode;
    struct shim_graph *graph = calloc(1, sizeof *graph);
    stream = shim_real(stream);
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
    for (shim_node *n = graph->first, *next; n != NULL; n = next) {
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
    *graph = shim_real(stream)->capture;
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
    *status = shim_real(stream)->capture != NULL ? cudaStreamCaptureStatusActive
                                                 : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

int shim_capture(cudaStream_t stream, void (*again)(void *arg, cudaStream_t stream),
                 void (*forget)(void *arg), void *arg)
{
    if (shim_real(stream)->capture == NULL)
        return 0;
    shim_lock();
    shim_node *n = shim_take(shim_real(stream), SHIM_FOREIGN);
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

static void enqueue_work(const shim_node *n, cudaStream_t stream)
{
    shim_work *same = shim_new_work(n->work->kind, 0);
    *same = *n->work;
    (void)shim_add(stream, same);
}

static void enqueue_node(shim_node *n, cudaStream_t stream)
{
    if (n->kind == SHIM_WORK)
        enqueue_work(n, stream);
    else if (n->kind == SHIM_FORK)
        (void)shim_add_mark(stream, SHIM_RECORD, n->mark = shim_new_mark(stream), NULL);
    else if (n->kind == SHIM_JOIN)
        (void)shim_add_mark(stream, SHIM_AWAIT, n->behind->mark, NULL);
    else if (n->kind == SHIM_OUTSIDE)
        (void)shim_record_event(n->event, stream);
    else
        n->again(n->arg, stream);
}

/* All that it is made of is enqueued anew, each branch on a stream of its own: only what is joined
 * is in order. */
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    shim_lock();
    exec->stream[0] = stream;
    for (shim_node *n = exec->graph->first; n != NULL; n = n->next)
        enqueue_node(n, exec->stream[n->branch]);
    for (shim_node *n = exec->graph->first; n != NULL; n = n->next) {
        shim_drop(n->mark);
        n->mark = NULL;
    }
    shim_unlock();
    shim_count_graph_launch();
    shim_launched(stream, exec->graph->n_kernels);
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
