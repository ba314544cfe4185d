/* See fence.h. Another process's event is opened when it is first awaited: by then the count that
 * made it known has made its handle visible too. */
#include "comm/fence.h"

#include <stddef.h>

static zi_fences *fences_of(const zi_channel_comm *k, int rank)
{
    return &k->fences[rank - k->base.node.base];
}

static zi_event **event_at(const zi_channel_comm *k, int rank, zi_counter which, uint64_t ordinal)
{
    return &fences_of(k, rank)->event[which][ordinal % k->n_fences];
}

/* ------------------------------------------------------------------ the guard ---------------- */

/* A query that fails says no more: the event is as done as it will be. */
static int is_done(const zi_channel_comm *k, int rank, zi_counter which, uint64_t ordinal)
{
    int done = 0;
    zi_event *event = *event_at(k, rank, which, ordinal);
    return k->base.device->event_query(event, &done) != ZOPT_OK || done;
}

/* 1: this rank's queue, or the caller's, awaits an event of that one's that has not come. */
static int is_late(const zi_channel_comm *k, int rank)
{
    for (int which = 0; which < ZI_N_FENCES; which++) {
        uint64_t n = k->awaits[which].n;
        zi_range of = k->awaits[which].of;
        int is_awaited = n > 0 && rank >= of.first && rank < of.end;
        if (is_awaited && !is_done(k, rank, (zi_counter)which, n - 1))
            return 1;
    }
    return 0;
}

static int first_late(const zi_channel_comm *k, int from)
{
    int base = k->base.node.base, end = base + k->base.node.size;
    for (int r = from > base ? from : base; r < end; r++)
        if (r != k->base.rank && is_late(k, r))
            return r;
    return k->base.world;
}

typedef struct gpu_wait {
    zi_awaited base;
    int (*is_done)(const void *what);
    const void *what;
} gpu_wait;

/* Where no peer is late it is this rank's own GPU. */
static int unfinished(const zi_channel_comm *k, const zi_awaited *awaited, int from)
{
    const gpu_wait *w = (const gpu_wait *)awaited;
    int world = k->base.world, late;
    if (w->is_done(w->what))
        return world;
    late = first_late(k, from);
    if (late < world || first_late(k, 0) < world)
        return late;
    return from <= k->base.rank ? k->base.rank : world;
}

/* Behind a failure only what needs no peer still ends, and soon. */
enum { GRACE_MS = 1000 };

static zopt_status wait_behind_failure(const zi_channel_comm *k, const gpu_wait *w)
{
    zi_wait wait;
    zi_wait_begin(&wait, &k->base);
    if (k->base.deadline_ms > GRACE_MS)
        wait.until_ms += GRACE_MS - k->base.deadline_ms;
    while (!w->is_done(w->what))
        if (zi_wait_pause(&wait))
            return ZI_FAIL(ZOPT_ERR_PEER, "rank %d: work on its GPU waits for a rank that gave up",
                           k->base.rank);
    return ZOPT_OK;
}

/* The peers' hosts have counted already: as a rule nothing but GPUs need go on. */
static zopt_status wait_for_gpu(zi_guard *guard, int (*is_finished)(const void *what),
                                const void *what)
{
    zi_channel_comm *k =
        (zi_channel_comm *)(void *)((char *)guard - offsetof(zi_channel_comm, guard));
    const gpu_wait wait = {.base = {.missing = unfinished, .text = "results of GPUs"},
                           .is_done = is_finished,
                           .what = what};
    if (k->base.broken)
        return wait_behind_failure(k, &wait);
    return k->gpu_needs_host ? zi_channel_wait_for(k, &wait.base) : zi_channel_poll(k, &wait.base);
}

/* ------------------------------------------------------------------ life --------------------- */

zopt_status zi_fences_create(zi_channel_comm *k, size_t n_transfers)
{
    const zi_device_ops *device = k->base.device;
    zi_fences *own = fences_of(k, k->base.rank);
    zi_fence_handles *handles =
        k->handles != NULL ? k->handles[k->base.rank - k->base.node.base] : NULL;
    size_t depth = n_transfers / 2 + 1; /* 2 at least: a step opens once, and the next may follow */
    k->n_fences = depth < 2 ? 2 : depth < ZI_FENCE_DEPTH ? depth : ZI_FENCE_DEPTH;
    own->device = device;
    k->guard = (zi_guard){.wait = wait_for_gpu};
    device->guard(k->base.queue, &k->guard);
    int n_kinds = k->base.node.size < k->base.world ? ZI_N_FENCES : ZI_FORWARDED;
    for (int which = 0; which < n_kinds; which++)
        for (uint64_t i = 0; i < k->n_fences; i++) {
            zi_event **event = &own->event[which][i];
            ZI_TRY(handles != NULL
                       ? device->event_share(k->base.queue, event, &handles->event[which][i])
                       : device->event_create(k->base.queue, event));
        }
    return ZOPT_OK;
}

void zi_fences_leave(zi_channel_comm *k)
{
    if (k->n_fences > 0)
        k->base.device->guard(k->base.queue, NULL);
}

void zi_fences_destroy(zi_fences *fences)
{
    for (int which = 0; which < ZI_N_FENCES; which++)
        for (int i = 0; i < ZI_FENCE_DEPTH; i++) {
            if (fences->event[which][i] != NULL)
                fences->device->event_destroy(fences->event[which][i]);
            fences->event[which][i] = NULL;
        }
}

/* ------------------------------------------------------------------ order -------------------- */

zopt_status zi_fence_set(zi_channel_comm *k, zi_queue *queue, zi_counter which, uint64_t ordinal)
{
    const zi_device_ops *device = k->base.device;
    if (k->n_fences == 0)
        return device->wait(queue);
    device->event_record(queue, *event_at(k, k->base.rank, which, ordinal));
    return ZOPT_OK;
}

static zopt_status reach(zi_channel_comm *k, int rank, zi_counter which, uint64_t ordinal)
{
    zi_fences *fences = fences_of(k, rank);
    uint64_t i = ordinal % k->n_fences;
    if (fences->event[which][i] != NULL)
        return ZOPT_OK;
    fences->device = k->base.device;
    return k->base.device->event_reach(k->base.queue,
                                       &k->handles[rank - k->base.node.base]->event[which][i],
                                       &fences->event[which][i]);
}

/* Ranks first..n-1 of the node. */
static zopt_status reach_all(zi_channel_comm *k, zi_counter which, uint64_t ordinal, int first,
                             int n)
{
    for (int r = first; r < n; r++)
        ZI_TRY(reach(k, r, which, ordinal));
    return ZOPT_OK;
}

/* Another queue than this rank's own awaits this rank, too. */
static zopt_status await_on(zi_channel_comm *k, zi_queue *queue, zi_counter which, uint64_t ordinal,
                            zi_range of)
{
    int base = k->base.node.base, end = base + k->base.node.size;
    of.first = of.first > base ? of.first : base;
    of.end = of.end < end ? of.end : end;
    ZI_TRY(zi_channel_checked(k, reach_all(k, which, ordinal, of.first, of.end)));
    k->awaits[which].n = ordinal + 1;
    k->awaits[which].of = of;
    for (int r = of.first; r < of.end; r++)
        if (r != k->base.rank || queue != k->base.queue)
            k->base.device->event_await(queue, *event_at(k, r, which, ordinal));
    return ZOPT_OK;
}

zopt_status zi_fence_await(zi_channel_comm *k, zi_queue *queue, zi_counter which, uint64_t ordinal,
                           zi_range of)
{
    return k->n_fences == 0 ? ZOPT_OK : await_on(k, queue, which, ordinal, of);
}

static int undone(const zi_channel_comm *k, const zi_awaited *what, int from)
{
    int end = k->base.node.base + k->base.node.size;
    from = from > k->base.node.base ? from : k->base.node.base;
    while (from < end && is_done(k, from, what->which, what->target - 1))
        from++;
    return from < end ? from : k->base.world;
}

zopt_status zi_fence_wait(zi_channel_comm *k, zi_counter which, uint64_t ordinal, zi_queue *behind)
{
    int base = k->base.node.base, end = base + k->base.node.size, done;
    if (k->n_fences == 0)
        return ZOPT_OK;
    if (behind != NULL)
        return await_on(k, behind, which, ordinal, (zi_range){base, end});
    ZI_TRY(zi_channel_checked(k, reach_all(k, which, ordinal, base, end)));
    zi_awaited what = zi_channel_counts(which, ordinal + 1, end);
    what.missing = undone;
    ZI_TRY(zi_channel_wait_for(k, &what));
    for (int r = base; r < end; r++)
        ZI_TRY(zi_channel_checked(
            k, k->base.device->event_query(*event_at(k, r, which, ordinal), &done)));
    return ZOPT_OK;
}
