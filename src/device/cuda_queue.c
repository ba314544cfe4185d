/* See cuda_queue.h. Events carry no times unless they are asked for: those without are cheaper to
 * record and to wait for. */
#include "device/cuda_queue.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

zopt_status zi_cuda_check(cudaError_t error, int ordinal, const char *call)
{
    if (error == cudaSuccess)
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_FAILURE, "GPU %d: %s: %s", ordinal, call, cudaGetErrorString(error));
}

void zi_cuda_note(zi_queue *q, cudaError_t error, const char *call)
{
    q->is_idle = 0;
    if (error == cudaSuccess || q->error != cudaSuccess)
        return;
    q->error = error;
    q->failed = call;
}

int zi_cuda_enter(zi_queue *q)
{
    int current = -1;
    if (cudaGetDevice(&current) != cudaSuccess || current != q->ordinal)
        zi_cuda_note(q, cudaSetDevice(q->ordinal), "cudaSetDevice");
    return q->error == cudaSuccess && q->lost == ZOPT_OK;
}

/* Errors come out of CUDA's own wait. */
static int stream_is_done(const void *queue)
{
    return cudaStreamQuery(((const zi_queue *)queue)->stream) != cudaErrorNotReady;
}

static int event_is_done(const void *event)
{
    return cudaEventQuery(((const zi_event *)event)->event) != cudaErrorNotReady;
}

void zi_cuda_guard(zi_queue *q, zi_guard *guard)
{
    q->guard = guard;
}

/* 1: CUDA's wait may never end. */
static int is_lost(const zi_queue *q)
{
    return q->lost != ZOPT_OK && (q->is_stuck || q->guard == NULL || !q->guard->calls_off);
}

zopt_status zi_cuda_wait(zi_queue *q)
{
    zi_cuda_enter(q);
    if (!q->is_idle && q->guard != NULL && q->lost == ZOPT_OK) {
        q->lost = q->guard->wait(q->guard, stream_is_done, q);
        snprintf(q->lost_text, sizeof q->lost_text, "%s", q->lost ? zopt_last_error() : "");
        ZI_TRY(q->lost);
    }
    if (is_lost(q))
        return ZI_FAIL(q->lost, "%s", q->lost_text);
    if (!q->is_idle)
        zi_cuda_note(q, cudaStreamSynchronize(q->stream), "the work up to cudaStreamSynchronize");
    q->is_idle = 1;
    if (q->lost != ZOPT_OK)
        return ZI_FAIL(q->lost, "%s", q->lost_text);
    return zi_cuda_check(q->error, q->ordinal, q->failed);
}

int zi_cuda_settle(zi_queue *q)
{
    (void)zi_cuda_wait(q);
    if (!is_lost(q))
        return 1;
    if (!q->is_stuck)
        q->is_stuck = q->guard == NULL || q->guard->wait(q->guard, stream_is_done, q) != ZOPT_OK;
    return !q->is_stuck;
}

zopt_status zi_cuda_adopt(const zi_queue *q, void *stream, zi_queue **out)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a queue");
    **out = (zi_queue){.ordinal = q->ordinal,
                       .n_processors = q->n_processors,
                       .is_adopted = 1,
                       .stream = (cudaStream_t)stream};
    return ZOPT_OK;
}

static zopt_status create_event(zi_queue *q, unsigned flags, zi_event **out)
{
    *out = NULL;
    zi_event *event = calloc(1, sizeof *event);
    if (event == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for an event");
    event->ordinal = q->ordinal;
    zi_cuda_enter(q);
    zopt_status status = zi_cuda_check(cudaEventCreateWithFlags(&event->event, flags), q->ordinal,
                                       "cudaEventCreateWithFlags");
    if (status != ZOPT_OK)
        free(event);
    else
        *out = event;
    return status;
}

zopt_status zi_cuda_event_create(zi_queue *q, zi_event **out)
{
    return create_event(q, cudaEventDisableTiming, out);
}

zopt_status zi_cuda_event_timed(zi_queue *q, zi_event **out)
{
    return create_event(q, cudaEventDefault, out);
}

zopt_status zi_cuda_event_ms(const zi_event *from, const zi_event *to, double *ms)
{
    float elapsed = 0;
    cudaError_t error = cudaEventElapsedTime(&elapsed, from->event, to->event);
    if (error != cudaSuccess)
        cudaGetLastError(); /* it does not stick */
    *ms = elapsed;
    return zi_cuda_check(error, to->ordinal, "cudaEventElapsedTime");
}

void zi_cuda_event_destroy(zi_event *event)
{
    if (event != NULL)
        cudaEventDestroy(event->event);
    free(event);
}

void zi_cuda_event_record(zi_queue *q, zi_event *event)
{
    event->guard = q->guard;
    if (zi_cuda_enter(q))
        zi_cuda_note(q, cudaEventRecord(event->event, q->stream), "cudaEventRecord");
    event->failed = q->failed;
    event->error = q->error;
}

void zi_cuda_event_await(zi_queue *q, const zi_event *event)
{
    if (event->error != cudaSuccess)
        zi_cuda_note(q, event->error, event->failed);
    if (zi_cuda_enter(q))
        zi_cuda_note(q, cudaStreamWaitEvent(q->stream, event->event, 0), "cudaStreamWaitEvent");
}

zopt_status zi_cuda_event_query(const zi_event *event, int *done)
{
    *done = 0;
    ZI_TRY(zi_cuda_check(event->error, event->ordinal, event->failed));
    cudaError_t error = cudaEventQuery(event->event);
    *done = error == cudaSuccess;
    return error == cudaErrorNotReady
               ? ZOPT_OK
               : zi_cuda_check(error, event->ordinal, "the work up to cudaEventQuery");
}

zopt_status zi_cuda_event_wait(const zi_event *event)
{
    ZI_TRY(zi_cuda_check(event->error, event->ordinal, event->failed));
    if (event->guard != NULL)
        ZI_TRY(event->guard->wait(event->guard, event_is_done, event));
    return zi_cuda_check(cudaEventSynchronize(event->event), event->ordinal,
                         "the work up to cudaEventSynchronize");
}
