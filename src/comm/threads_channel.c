/* A channel of transport threads: counts under one mutex and one condition, waits with a deadline,
 * and the small collectives, which are two such waits around a copy. A rank that fails, or leaves
 * while others still need it, is reported to them at once. */
#include "comm/threads_channel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const awaited[ZI_N_COUNTERS] = {
    [ZI_EXPOSED] = "gradients",
    [ZI_CONSUMED] = "releases of gradients",
    [ZI_OPENED] = "releases of parameters",
    [ZI_PUBLISHED] = "parameters",
    [ZI_CALLED] = "values for a collective",
    [ZI_RETURNED] = "receipts of a collective",
};

typedef struct zi_channel_buffer {
    struct zi_channel_buffer *next;
    void *base;
} zi_channel_buffer;

zi_channel *zi_channel_create(int n_ranks, uint64_t index)
{
    zi_channel *c = calloc(1, sizeof *c + (size_t)n_ranks * sizeof c->rank[0]);
    if (c == NULL)
        return NULL;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&c->mutex, NULL);
    c->index = index;
    c->n_ranks = n_ranks;
    c->failed_rank = -1;
    return c;
}

void zi_channel_destroy(zi_channel *c)
{
    while (c->buffers != NULL) {
        zi_channel_buffer *b = c->buffers;
        c->buffers = b->next;
        free(b->base);
        free(b);
    }
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}

zopt_status zi_channel_keep(zi_channel *c, void *base)
{
    zi_channel_buffer *b = malloc(sizeof *b);
    if (b == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a table of shared buffers");
    b->base = base;
    pthread_mutex_lock(&c->mutex);
    b->next = c->buffers;
    c->buffers = b;
    pthread_mutex_unlock(&c->mutex);
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ waiting ------------------ */

/* Mark the comm broken and wake the peers. The mutex is held. */
static void give_up(zi_threads_comm *t)
{
    zi_channel *c = t->channel;
    t->base.broken = 1;
    if (c->failed_rank < 0)
        c->failed_rank = t->base.rank;
    pthread_cond_broadcast(&c->changed);
}

static zopt_status peer_failed(zi_threads_comm *t, int rank)
{
    if (t->channel->failed_rank < 0)
        t->channel->failed_rank = rank;
    give_up(t);
    return ZI_FAIL(ZOPT_ERR_PEER, "rank %d gave up", rank);
}

/* The first of ranks from..n-1 whose count is below the target. */
static int count_missing(const zi_threads_comm *t, const zi_awaited *what, int from)
{
    while (from < what->n && t->channel->rank[from].count[what->which] >= what->target)
        from++;
    return from < what->n ? from : t->channel->n_ranks;
}

/* Leaves the mutex while it calls on_hang. */
static zopt_status hang(zi_threads_comm *t, const zi_awaited *what)
{
    zi_channel *c = t->channel;
    char list[128] = "";
    size_t used = 0;
    for (int r = what->missing(t, what, 0); r < c->n_ranks; r = what->missing(t, what, r + 1)) {
        if (used + 16 > sizeof list) {
            snprintf(list + used, sizeof list - used, ", ...");
            break;
        }
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%d", used ? ", " : "", r);
    }
    give_up(t);
    pthread_mutex_unlock(&c->mutex);
    zopt_status status = zi_wait_hang(&t->base, what->text, list);
    pthread_mutex_lock(&c->mutex);
    return status;
}

zopt_status zi_channel_wait_for(zi_threads_comm *t, const zi_awaited *what)
{
    zi_channel *c = t->channel;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += t->base.deadline_ms / 1000;
    until.tv_nsec += t->base.deadline_ms % 1000 * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;

    for (int expired = 0;;) {
        int missing = what->missing(t, what, 0);
        if (missing == c->n_ranks)
            return ZOPT_OK;
        if (c->failed_rank >= 0)
            return peer_failed(t, c->failed_rank);
        for (int r = missing; r < c->n_ranks; r = what->missing(t, what, r + 1)) {
            if (c->rank[r].left)
                return peer_failed(t, r);
        }
        if (expired)
            return hang(t, what);
        expired = pthread_cond_timedwait(&c->changed, &c->mutex, &until) != 0;
    }
}

static zi_awaited count_of(zi_counter which, uint64_t target, int n)
{
    return (zi_awaited){count_missing, awaited[which], which, target, n, NULL};
}

/* Count one up for this rank. The mutex is held. */
static void advance(zi_threads_comm *t, zi_counter which)
{
    t->channel->rank[t->base.rank].count[which]++;
    pthread_cond_broadcast(&t->channel->changed);
}

uint64_t zi_channel_count(const zi_threads_comm *t, zi_counter which)
{
    /* Unlocked: only its own thread writes it. */
    return t->channel->rank[t->base.rank].count[which];
}

void zi_channel_advance(zi_threads_comm *t, zi_counter which)
{
    pthread_mutex_lock(&t->channel->mutex);
    advance(t, which);
    pthread_mutex_unlock(&t->channel->mutex);
}

zopt_status zi_channel_wait(zi_threads_comm *t, zi_counter which, uint64_t target, int n)
{
    zi_awaited what = count_of(which, target, n);
    pthread_mutex_lock(&t->channel->mutex);
    zopt_status status = zi_channel_wait_for(t, &what);
    pthread_mutex_unlock(&t->channel->mutex);
    return status;
}

zopt_status zi_channel_checked(zi_threads_comm *t, zopt_status status)
{
    if (status != ZOPT_OK && t->channel != NULL) {
        pthread_mutex_lock(&t->channel->mutex);
        give_up(t);
        pthread_mutex_unlock(&t->channel->mutex);
    }
    return status;
}

/* ------------------------------------------------------------------ small collectives -------- */

/* One collective: all ranks call with data to read, each runs `take` under the mutex, nobody
 * returns before all have. Under the mutex, because data is the caller's and a rank that fails
 * takes it back. */
typedef struct collective {
    const char *operation;
    int variant;
    size_t bytes;
    const void *data;
    void (*take)(const zi_channel *c, const struct collective *call, void *out);
    void *out;
} collective;

static zopt_status compare_calls(zi_threads_comm *t)
{
    const zi_channel *c = t->channel;
    const zi_channel_rank *a = &c->rank[0];
    for (int r = 1; r < c->n_ranks; r++) {
        const zi_channel_rank *b = &c->rank[r];
        if (strcmp(a->operation, b->operation) == 0 && a->variant == b->variant &&
            a->bytes == b->bytes)
            continue;
        give_up(t);
        return ZI_FAIL(ZOPT_ERR_COMM,
                       "collective %llu: rank 0 calls %s(%d) of %zu bytes, rank %d %s(%d) of %zu",
                       (unsigned long long)a->count[ZI_CALLED], a->operation, a->variant, a->bytes,
                       r, b->operation, b->variant, b->bytes);
    }
    return ZOPT_OK;
}

static zopt_status run_locked(zi_threads_comm *t, const collective *call)
{
    zi_channel *c = t->channel;
    zi_channel_rank *self = &c->rank[t->base.rank];
    self->operation = call->operation;
    self->variant = call->variant;
    self->bytes = call->bytes;
    self->data = call->data;
    advance(t, ZI_CALLED);
    uint64_t sequence = self->count[ZI_CALLED];
    zi_awaited calls = count_of(ZI_CALLED, sequence, c->n_ranks);
    zi_awaited returns = count_of(ZI_RETURNED, sequence, c->n_ranks);
    zopt_status status = zi_channel_wait_for(t, &calls);
    if (count_missing(t, &calls, 0) == c->n_ranks)
        ZI_TRY(compare_calls(t));
    ZI_TRY(status);
    if (c->failed_rank >= 0) /* and its data may be gone */
        return peer_failed(t, c->failed_rank);
    call->take(c, call, call->out);
    advance(t, ZI_RETURNED);
    return zi_channel_wait_for(t, &returns);
}

static zopt_status run(zi_comm *comm, const collective *call)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_check_connected(comm, call->operation));
    pthread_mutex_lock(&t->channel->mutex);
    zopt_status status = run_locked(t, call);
    pthread_mutex_unlock(&t->channel->mutex);
    return status;
}

static void take_all(const zi_channel *c, const collective *call, void *out)
{
    for (int r = 0; r < c->n_ranks && call->bytes > 0; r++)
        memcpy((char *)out + (size_t)r * call->bytes, c->rank[r].data, call->bytes);
}

zopt_status zi_channel_all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv)
{
    return run(comm, &(collective){"all_gather", 0, bytes, send, take_all, recv});
}

enum { REDUCE_CHUNK = 128 };

static int64_t reduce_one(zi_reduce_op op, int64_t a, int64_t b)
{
    switch (op) {
    case ZI_SUM:
        return (int64_t)((uint64_t)a + (uint64_t)b);
    case ZI_MIN:
        return a < b ? a : b;
    case ZI_MAX:
        return a > b ? a : b;
    }
    return 0;
}

static void take_reduced(const zi_channel *c, const collective *call, void *out)
{
    int64_t *sum = out;
    size_t n = call->bytes / sizeof(int64_t);
    if (n > REDUCE_CHUNK)
        n = REDUCE_CHUNK;
    memcpy(sum, c->rank[0].data, n * sizeof *sum);
    for (int r = 1; r < c->n_ranks; r++) {
        const int64_t *values = c->rank[r].data;
        for (size_t i = 0; i < n; i++)
            sum[i] = reduce_one((zi_reduce_op)call->variant, sum[i], values[i]);
    }
}

/* In place, so through a copy: peers read `values` until all have returned. */
zopt_status zi_channel_all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n)
{
    int64_t sum[REDUCE_CHUNK];
    while (n > 0) {
        size_t n_now = n < REDUCE_CHUNK ? n : REDUCE_CHUNK;
        ZI_TRY(run(comm, &(collective){"all_reduce", (int)op, n * sizeof *values, values,
                                       take_reduced, sum}));
        memcpy(values, sum, n_now * sizeof *values);
        values += n_now;
        n -= n_now;
    }
    return ZOPT_OK;
}

static void take_root(const zi_channel *c, const collective *call, void *out)
{
    const void *data = c->rank[call->variant].data;
    if (data != out && call->bytes > 0)
        memcpy(out, data, call->bytes);
}

zopt_status zi_channel_broadcast(zi_comm *comm, int root, void *buffer, size_t bytes)
{
    return run(comm, &(collective){"broadcast", root, bytes, buffer, take_root, buffer});
}
