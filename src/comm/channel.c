/* A channel: counters that their rank stores with release and its peers load with acquire, waits
 * with a deadline, and the small collectives, which are such waits around a copy. A rank that
 * fails, or leaves while others still need it, is seen by them at once. No lock: a rank that is
 * killed leaves nothing locked. */
#include "comm/channel.h"
#include "comm/fence.h"

#include <string.h>
#include <unistd.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
               "counters between processes must need no lock");

static const char *const awaited[ZI_N_COUNTERS] = {
    [ZI_EXPOSED] = "gradients",
    [ZI_CONSUMED] = "releases of gradients",
    [ZI_OPENED] = "releases of parameters",
    [ZI_PUBLISHED] = "parameters",
    [ZI_FORWARDED] = "parameters of other nodes",
    [ZI_SUMMED] = "sums of gradients",
    [ZI_CALLED] = "values for a collective",
};

/* About 30 us: peers that have a core of their own are seldom later by more. */
enum { N_SPINS = 500 };

void zi_channel_join(zi_channel_comm *k, void **block)
{
    k->block = block;
    k->n_spins = k->base.node.size <= sysconf(_SC_NPROCESSORS_ONLN) ? N_SPINS : 0;
}

static zi_channel_rank *block_of(const zi_channel_comm *k, int rank)
{
    return k->block[rank - k->base.node.base];
}

static int end_of_node(const zi_channel_comm *k)
{
    return k->base.node.base + k->base.node.size;
}

/* ------------------------------------------------------------------ counting ----------------- */

static uint64_t count_of(const zi_channel_comm *k, int rank, zi_counter which)
{
    return atomic_load_explicit(&block_of(k, rank)->count[which].value, memory_order_acquire);
}

uint64_t zi_channel_count(const zi_channel_comm *k, zi_counter which)
{
    return count_of(k, k->base.rank, which);
}

void zi_channel_advance(zi_channel_comm *k, zi_counter which)
{
    atomic_store_explicit(&block_of(k, k->base.rank)->count[which].value,
                          zi_channel_count(k, which) + 1, memory_order_release);
}

/* ------------------------------------------------------------------ waiting ------------------ */

/* Mark the comm broken and tell the peers, once, that it was because of `rank`. */
static void give_up(zi_channel_comm *k, int rank)
{
    _Atomic int *gave_up = &block_of(k, k->base.rank)->gave_up;
    k->base.broken = 1;
    if (atomic_load_explicit(gave_up, memory_order_relaxed) == 0)
        atomic_store_explicit(gave_up, 1 + rank, memory_order_release);
}

void zi_channel_leave(zi_channel_comm *k)
{
    zi_fences_leave(k);
    if (k->base.broken)
        give_up(k, k->base.rank);
    atomic_store_explicit(&block_of(k, k->base.rank)->left, 1, memory_order_release);
}

/* The number of those that have; -1: one has failed. */
static int count_left(const zi_channel_comm *k)
{
    int n = 0;
    for (int r = k->base.node.base; r < end_of_node(k); r++) {
        if (atomic_load_explicit(&block_of(k, r)->gave_up, memory_order_acquire) > 0)
            return -1;
        n += atomic_load_explicit(&block_of(k, r)->left, memory_order_acquire);
    }
    return n;
}

int zi_channel_all_left(zi_channel_comm *k)
{
    zi_wait wait;
    int n, expired = 0;
    zi_wait_begin(&wait, &k->base);
    while ((n = count_left(k)) >= 0 && n < k->base.node.size && !expired)
        expired = zi_wait_pause(&wait);
    return n == k->base.node.size;
}

zopt_status zi_channel_checked(zi_channel_comm *k, zopt_status status)
{
    if (status != ZOPT_OK && k->block != NULL)
        give_up(k, k->base.rank);
    return status;
}

static int count_missing(const zi_channel_comm *k, const zi_awaited *what, int from)
{
    int end = what->n < end_of_node(k) ? what->n : end_of_node(k);
    from = from > k->base.node.base ? from : k->base.node.base;
    while (from < end && count_of(k, from, what->which) >= what->target)
        from++;
    return from < end ? from : k->base.world;
}

int zi_channel_missing(const zi_channel_comm *k, zi_counter which, uint64_t target, int from, int n)
{
    const zi_awaited what = {.which = which, .target = target, .n = n};
    return count_missing(k, &what, from);
}

/* The rank that can be waited for no longer: one that gave up, or one that left without what is
 * awaited of it, which is final once it has left; -1: none. */
static int find_stopped(const zi_channel_comm *k, const zi_awaited *what)
{
    int world = k->base.world;
    for (int r = k->base.node.base; r < end_of_node(k); r++) {
        int gave_up = atomic_load_explicit(&block_of(k, r)->gave_up, memory_order_acquire);
        if (gave_up > 0)
            return gave_up - 1;
    }
    int first = what != NULL ? what->missing(k, what, 0) : world;
    for (int r = first; r < world; r = what->missing(k, what, r + 1)) {
        int left = atomic_load_explicit(&block_of(k, r)->left, memory_order_acquire);
        if (left && what->missing(k, what, r) == r)
            return r;
    }
    return -1;
}

static zopt_status hang(zi_channel_comm *k, const zi_awaited *what)
{
    zi_rank_text list = {""};
    for (int r = what->missing(k, what, 0); r < k->base.world; r = what->missing(k, what, r + 1))
        zi_rank_list(&list, r);
    give_up(k, k->base.rank);
    return zi_wait_hang(&k->base, what->text, list.text);
}

static zopt_status stop(zi_channel_comm *k, int stopped)
{
    give_up(k, stopped);
    return ZI_FAIL(ZOPT_ERR_PEER, "rank %d gave up", stopped);
}

zopt_status zi_channel_check(zi_channel_comm *k, const zi_awaited *what)
{
    int stopped = find_stopped(k, what);
    return stopped >= 0 ? stop(k, stopped) : ZOPT_OK;
}

zopt_status zi_channel_poll(zi_channel_comm *k, const zi_awaited *what)
{
    zi_wait wait;
    zi_wait_begin(&wait, &k->base);
    wait.n_spins = k->n_spins;
    for (int expired = 0;; expired = zi_wait_pause(&wait)) {
        int stopped = find_stopped(k, what);
        if (what->missing(k, what, 0) == k->base.world)
            return ZOPT_OK;
        if (stopped >= 0)
            return stop(k, stopped);
        if (expired)
            return hang(k, what);
    }
}

zopt_status zi_channel_wait_for(zi_channel_comm *k, const zi_awaited *what)
{
    if (what->missing(k, what, 0) == k->base.world)
        return ZOPT_OK;
    return k->await != NULL ? k->await(k, what) : zi_channel_poll(k, what);
}

zi_awaited zi_channel_counts(zi_counter which, uint64_t target, int n)
{
    return (zi_awaited){
        .missing = count_missing, .text = awaited[which], .which = which, .target = target, .n = n};
}

int zi_channel_reached(const zi_channel_comm *k, zi_counter which, uint64_t target, int n)
{
    const zi_awaited what = zi_channel_counts(which, target, n);
    return what.missing(k, &what, 0) == k->base.world;
}

zopt_status zi_channel_wait(zi_channel_comm *k, zi_counter which, uint64_t target, int n)
{
    const zi_awaited what = zi_channel_counts(which, target, n);
    return zi_channel_wait_for(k, &what);
}

/* ------------------------------------------------------------------ small collectives -------- */

enum { ALL_GATHER, ALL_REDUCE, BROADCAST };

static const char *const operations[] = {
    [ALL_GATHER] = "all_gather", [ALL_REDUCE] = "all_reduce", [BROADCAST] = "broadcast"};

static zopt_status compare_calls(zi_channel_comm *k, int side)
{
    int first = k->base.node.base;
    const zi_call *a = &block_of(k, first)->call[side];
    for (int r = first + 1; r < end_of_node(k); r++) {
        const zi_call *b = &block_of(k, r)->call[side];
        if (a->operation == b->operation && a->variant == b->variant && a->bytes == b->bytes)
            continue;
        give_up(k, k->base.rank);
        return ZI_FAIL(
            ZOPT_ERR_COMM,
            "collective %llu: rank %d calls %s(%d) of %llu bytes, rank %d %s(%d) of %llu",
            (unsigned long long)zi_channel_count(k, ZI_CALLED), first, operations[a->operation],
            a->variant, (unsigned long long)a->bytes, r, operations[b->operation], b->variant,
            (unsigned long long)b->bytes);
    }
    return ZOPT_OK;
}

/* Show a piece of n bytes of this rank's part of the call, and wait until every rank has shown its
 * own: they are at their data[*side] until the next exchange. */
static zopt_status exchange(zi_channel_comm *k, const zi_call *call, const void *piece, size_t n,
                            int *side)
{
    zi_channel_rank *own = block_of(k, k->base.rank);
    uint64_t sequence = zi_channel_count(k, ZI_CALLED) + 1;
    *side = (int)(sequence % 2);
    own->call[*side] = *call;
    if (n > 0)
        memcpy(own->data[*side], piece, n);
    zi_channel_advance(k, ZI_CALLED);
    ZI_TRY(zi_channel_wait(k, ZI_CALLED, sequence, k->base.world));
    return compare_calls(k, *side);
}

static size_t piece_at(size_t offset, size_t bytes)
{
    return bytes - offset < ZI_CALL_BYTES ? bytes - offset : ZI_CALL_BYTES;
}

zopt_status zi_channel_all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    const zi_call call = {ALL_GATHER, 0, bytes};
    size_t offset = 0;
    int side;
    ZI_TRY(zi_check_connected(comm, operations[ALL_GATHER]));
    do {
        size_t n = piece_at(offset, bytes);
        ZI_TRY(exchange(k, &call, (const char *)send + offset, n, &side));
        for (int i = 0; i < comm->node.size && n > 0; i++)
            memcpy((char *)recv + (size_t)i * bytes + offset,
                   block_of(k, comm->node.base + i)->data[side], n);
        offset += n;
    } while (offset < bytes);
    return ZOPT_OK;
}

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

zopt_status zi_channel_all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    const zi_call call = {ALL_REDUCE, (int)op, n * sizeof *values};
    size_t done = 0;
    int side;
    ZI_TRY(zi_check_connected(comm, operations[ALL_REDUCE]));
    do {
        size_t m = piece_at(done * sizeof *values, call.bytes) / sizeof *values;
        ZI_TRY(exchange(k, &call, values + done, m * sizeof *values, &side));
        for (int r = comm->node.base; r < end_of_node(k); r++) {
            const int64_t *theirs = (const int64_t *)(const void *)block_of(k, r)->data[side];
            for (size_t i = 0; i < m; i++)
                values[done + i] =
                    r == comm->node.base ? theirs[i] : reduce_one(op, values[done + i], theirs[i]);
        }
        done += m;
    } while (done < n);
    return ZOPT_OK;
}

zopt_status zi_channel_broadcast(zi_comm *comm, int root, void *buffer, size_t bytes)
{
    zi_channel_comm *k = (zi_channel_comm *)comm;
    const zi_call call = {BROADCAST, root, bytes};
    size_t offset = 0;
    int side;
    ZI_TRY(zi_check_connected(comm, operations[BROADCAST]));
    do {
        size_t n = piece_at(offset, bytes);
        char *piece = (char *)buffer + offset;
        ZI_TRY(exchange(k, &call, piece, comm->rank == root ? n : 0, &side));
        if (comm->rank != root && n > 0)
            memcpy(piece, block_of(k, root)->data[side], n);
        offset += n;
    } while (offset < bytes);
    return ZOPT_OK;
}
