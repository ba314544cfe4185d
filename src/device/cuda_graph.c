/* See cuda_graph.h. Captures are thread-local: what other threads of the process do with CUDA
 * meanwhile is none of their business. */
#include "device/cuda_graph.h"

#include <stdlib.h>

#include "base/status.h"

struct zi_graph {
    int ordinal; /* of the GPU */
    cudaGraphExec_t exec;
};

zopt_status zi_cuda_capture_begin(zi_queue *q)
{
    if (!zi_cuda_enter(q))
        return zi_cuda_wait(q);
    cudaError_t error = cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal);
    if (error != cudaSuccess)
        cudaGetLastError(); /* it does not stick */
    return zi_cuda_check(error, q->ordinal, "cudaStreamBeginCapture");
}

/* What has failed while it was recorded has not run: the queue is as before. */
static zopt_status end(zi_queue *q, cudaGraph_t *graph)
{
    cudaError_t error = cudaStreamEndCapture(q->stream, graph);
    zopt_status status = zi_cuda_check(q->error, q->ordinal, q->failed);
    q->error = cudaSuccess;
    if (error != cudaSuccess || status != ZOPT_OK)
        cudaGetLastError();
    ZI_TRY(status);
    return zi_cuda_check(error, q->ordinal, "cudaStreamEndCapture");
}

static zopt_status instantiate(const zi_queue *q, cudaGraph_t graph, zi_graph **out)
{
    zi_graph *made = calloc(1, sizeof *made);
    if (made == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a graph");
    made->ordinal = q->ordinal;
    cudaError_t error = cudaGraphInstantiate(&made->exec, graph, 0);
    if (error == cudaSuccess) {
        *out = made;
        return ZOPT_OK;
    }
    free(made);
    cudaGetLastError();
    return zi_cuda_check(error, q->ordinal, "cudaGraphInstantiate");
}

zopt_status zi_cuda_capture_end(zi_queue *q, zi_graph **out)
{
    cudaGraph_t graph = NULL;
    *out = NULL;
    zopt_status status = end(q, &graph);
    if (status == ZOPT_OK)
        status = instantiate(q, graph, out);
    if (graph != NULL)
        cudaGraphDestroy(graph);
    return status;
}

void zi_cuda_capture_event(zi_queue *q, zi_event *event)
{
    event->guard = q->guard;
    if (zi_cuda_enter(q))
        zi_cuda_note(q, cudaEventRecordWithFlags(event->event, q->stream, cudaEventRecordExternal),
                     "cudaEventRecordWithFlags");
    event->failed = q->failed;
    event->error = q->error;
}

void zi_cuda_graph_launch(zi_queue *q, zi_graph *graph)
{
    if (zi_cuda_enter(q))
        zi_cuda_note(q, cudaGraphLaunch(graph->exec, q->stream), "cudaGraphLaunch");
}

void zi_cuda_graph_destroy(zi_graph *graph)
{
    if (graph != NULL)
        cudaGraphExecDestroy(graph->exec);
    free(graph);
}
