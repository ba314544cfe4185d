/* Events of the shim: marks in a stream's work, and signals that other processes see. Who waits for
 * an event runs the stream up to its mark. */
#include <stdio.h>
#include <stdlib.h>

#include "stream.h"
#include "trace.h"

int shim_has_reached(const struct shim_event *event, long nth)
{
    return event->signal->n_reached >= nth;
}

static int is_pending(const struct shim_event *event)
{
    if (event->is_foreign)
        return !shim_has_reached(event, event->signal->n_recorded);
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
    (*event)->is_timed = !(flags & cudaEventDisableTiming);
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

static shim_mark *hold(shim_mark *m)
{
    if (m != NULL)
        m->n_holders++;
    return m;
}

void shim_drop(shim_mark *m)
{
    if (m != NULL && --m->n_holders == 0)
        free(m);
}

shim_mark *shim_new_mark(cudaStream_t stream)
{
    shim_mark *m = calloc(1, sizeof *m);
    if (m == NULL)
        abort();
    m->stream = shim_real(stream);
    return hold(m);
}

cudaError_t shim_add_mark(cudaStream_t stream, shim_work_kind kind, shim_mark *m, cudaEvent_t event)
{
    shim_work *w = shim_new_work(kind, 0);
    w->mark = hold(m);
    w->event = event;
    if (event != NULL)
        w->nth = kind == SHIM_RECORD ? ++event->signal->n_recorded : event->signal->n_recorded;
    return shim_add(stream, w);
}

cudaError_t shim_record_event(cudaEvent_t event, cudaStream_t stream)
{
    shim_drop(event->last);
    event->last = shim_new_mark(stream);
    event->stream = shim_real(stream);
    return shim_add_mark(stream, SHIM_RECORD, event->last, event);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    shim_note((shim_call){.name = __func__, .stream = stream, .event = event});
    if (event->is_foreign) /* CUDA can; nothing here does */
        return cudaErrorInvalidResourceHandle;
    shim_lock();
    event->captured = shim_real(stream)->capture;
    if (event->captured != NULL)
        event->node = shim_take(shim_real(stream), SHIM_FORK);
    cudaError_t error = event->captured != NULL ? cudaSuccess : shim_record_event(event, stream);
    shim_unlock();
    return error;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
    if (flags != cudaEventRecordExternal || shim_real(stream)->capture == NULL || event->is_foreign)
        return cudaErrorInvalidValue;
    shim_lock();
    shim_take(shim_real(stream), SHIM_OUTSIDE)->event = event;
    event->captured = NULL;
    shim_unlock();
    return cudaSuccess;
}

/* The most recent record; an event that was never recorded holds nothing up, as in CUDA. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    cudaError_t error = cudaErrorStreamCaptureIsolation;
    shim_note((shim_call){.name = __func__, .stream = stream, .event = event});
    shim_lock();
    if (event->captured != NULL)
        error = shim_join(shim_real(stream), event);
    else if (shim_real(stream)->capture == NULL)
        error = shim_add_mark(stream, SHIM_AWAIT, event->last, event);
    else
        shim_real(stream)->capture->error = error;
    shim_unlock();
    return error;
}

void shim_run_to_mark(const shim_mark *m)
{
    const shim_target to = {.mark = m};
    if (m != NULL && !m->is_reached)
        shim_run_stream(m->stream, &to);
}

void shim_run_to_foreign(struct shim_event *event, long nth)
{
    shim_signal_want(event->signal, nth);
    for (long n = 0; !shim_has_reached(event, nth); n++) {
        shim_step_aside();
        if (n > 1000000) {
            fprintf(stderr, "cuda shim: another process does not reach an event\n");
            abort();
        }
    }
}

int shim_serve(struct shim_event *event, long nth)
{
    int in_use = event->stream->is_running || shim.stuck;
    const shim_target to = {.event = event, .nth = nth};
    if (!in_use)
        shim_run_stream(event->stream, &to);
    return in_use;
}

static cudaError_t error_of(const struct shim_event *event)
{
    return event->last != NULL ? event->last->error : cudaSuccess;
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
    else if (pending && shim_has_calls())
        shim_push(); /* a question does not wait */
    else if (pending)
        shim_advance(event->last->stream, &(shim_target){.mark = event->last});
    cudaError_t error = pending ? cudaErrorNotReady : error_of(event);
    shim_unlock();
    return error;
}

static cudaError_t wait_for(cudaEvent_t event)
{
    shim_lock();
    if (event->is_foreign && is_pending(event))
        shim_run_to_foreign(event, event->signal->n_recorded);
    shim_run_to_mark(event->last);
    cudaError_t error = error_of(event);
    shim_unlock();
    return error;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    shim_note((shim_call){.name = __func__, .event = event});
    shim_count_wait();
    return wait_for(event);
}

/* As CUDA refuses: the most recent records, both reached. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    cudaError_t error = cudaSuccess;
    shim_lock();
    if (!from->is_timed || !to->is_timed || from->last == NULL || to->last == NULL)
        error = cudaErrorInvalidResourceHandle;
    else if (!from->last->is_reached || !to->last->is_reached)
        error = cudaErrorNotReady;
    else
        *ms = (float)(to->last->ms - from->last->ms);
    shim_unlock();
    return error;
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
    shim_drop(event->last);
    shim_unlock();
    free(event);
    return error;
}
