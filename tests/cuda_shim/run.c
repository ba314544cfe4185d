/* How the work of the shim's streams runs: in order, once somebody waits for it or asks about it.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "memory.h"
#include "stream.h"

int shim_has_calls(void)
{
    for (const struct shim_stream *stream = shim_streams; stream != NULL; stream = stream->next)
        for (const shim_work *w = stream->first; w != NULL; w = w->next)
            if (w->kind == SHIM_CALL)
                return 1;
    return 0;
}

static void reach(const shim_work *w)
{
    if (w->event != NULL)
        w->event->signal->n_reached = w->nth;
    w->mark->is_reached = 1;
    w->mark->ms = zi_now_ms();
    w->mark->error = w->mark->stream->error;
}

/* 0: it is not done, and runs again. */
static int run(const shim_work *w)
{
    if (w->kind == SHIM_COPY)
        memcpy(w->dst, w->src != NULL ? w->src : w->bytes, w->n_bytes);
    else if (w->kind == SHIM_ZERO)
        memset(w->dst, 0, w->n_bytes);
    else if (w->kind == SHIM_KERNEL)
        shim_run_kernel(&w->launch);
    else if (w->kind == SHIM_FUNCTION)
        w->function(w->bytes);
    else if (w->kind == SHIM_RECORD)
        reach(w);
    else if (w->kind == SHIM_CALL)
        return w->call(w->arg);
    else if (w->mark != NULL)
        shim_run_to_mark(w->mark);
    else if (w->event->is_foreign && !shim_has_reached(w->event, w->nth))
        shim_run_to_foreign(w->event, w->nth);
    return 1;
}

/* 0: it stays the first. */
static int run_first(cudaStream_t stream)
{
    shim_work *w = stream->first;
    if (shim.stuck || ((stream->error == cudaSuccess || w->kind == SHIM_RECORD) && !run(w)))
        return 0;
    stream->first = w->next;
    if (stream->first == NULL)
        stream->last = &stream->first;
    shim_drop(w->mark);
    free(w);
    return 1;
}

/* 1: its first work waits for nobody. */
static int can_go_on(cudaStream_t stream)
{
    const shim_work *w = stream->first;
    if (w == NULL || stream->is_running || shim.stuck)
        return 0;
    if (w->kind == SHIM_CALL)
        return w->ready(w->arg);
    return w->kind != SHIM_AWAIT ||
           (w->mark != NULL ? w->mark->is_reached : shim_has_reached(w->event, w->nth));
}

void shim_push(void)
{
    int moved = 1;
    shim_lock();
    while (moved) {
        moved = 0;
        for (struct shim_stream *stream = shim_streams; stream != NULL; stream = stream->next) {
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
    const shim_work *w = stream->first;
    if (w->kind != SHIM_AWAIT)
        return;
    if (w->mark != NULL && !w->mark->is_reached)
        shim_advance(w->mark->stream, &(shim_target){.mark = w->mark});
    else if (w->mark == NULL && w->event->is_foreign && !shim_has_reached(w->event, w->nth))
        shim_signal_want(w->event->signal, w->nth);
}

static int has_come_to(const shim_target *to)
{
    return to != NULL && ((to->mark != NULL && to->mark->is_reached) ||
                          (to->event != NULL && shim_has_reached(to->event, to->nth)));
}

/* 1: its first work can run now. */
static int gets_on(cudaStream_t stream, const shim_target *to)
{
    if (stream->first == NULL || has_come_to(to))
        return 0;
    ask(stream);
    return can_go_on(stream);
}

void shim_advance(cudaStream_t stream, const shim_target *to)
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

void shim_run_stream(cudaStream_t stream, const shim_target *to)
{
    if (stream == NULL)
        return;
    while (stream->is_running)
        shim_step_aside();
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
