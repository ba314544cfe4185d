/* Part of comm_suite.h's: steps of gradients and parameters, bucket by bucket. Contents are
 * patterns that name step, kind, writer, bucket and place, so that a byte that went astray cannot
 * look right.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm_suite_parts.h"

typedef struct shape {
    size_t slice_bytes;
    int n_buckets, n_steps, max_world;
} shape;

/* Small; no multiple of anything; more than two pieces of an exchange, and of a gather, where bytes
 * move by messages. */
static const shape shapes[] = {
    {64, 1, 3, 6},
    {1537, 4, 12, 6},
    {70001, 2, 3, 6},
    {(2 << 20) + 12345, 2, 2, 5},
    {(9 << 20) + 7, 1, 2, 2},
};
enum { CUT_BYTES = 1 << 20, LATE_US = 1000 };

typedef struct flow {
    zi_comm *comm;
    shape shape;
    int n_contributors, step;
    zi_symmetric grads, params;
    unsigned char *expected, *found; /* one slice; room for a bucket */
    uint64_t bytes_before;
} flow;

enum { GRAD, PARAM };

static uint64_t who(const flow *f, int kind, int rank, int bucket)
{
    return (((uint64_t)f->step * 2 + (uint64_t)kind) * 64 + (uint64_t)rank) * 64 + (uint64_t)bucket;
}

static zi_transfer transfer_of(const flow *f, const zi_symmetric *memory, int bucket)
{
    return (zi_transfer){
        .ordinal = (uint64_t)(f->step * f->shape.n_buckets + bucket),
        .memory = memory,
        .offset_bytes = (size_t)bucket * (size_t)f->comm->world * f->shape.slice_bytes,
        .slice_bytes = f->shape.slice_bytes,
        .n_contributors = f->n_contributors,
    };
}

static void expose_all(flow *f, suite_failure *failure)
{
    zi_comm *comm = f->comm;
    size_t bucket_bytes = (size_t)comm->world * f->shape.slice_bytes;
    if (comm->rank == f->step % comm->world) /* one is late, each in turn */
        usleep(LATE_US);
    for (int b = 0; b < f->shape.n_buckets; b++) {
        zi_transfer transfer = transfer_of(f, &f->grads, b);
        unsigned char *bucket = f->found;
        if (f->step > 0)
            SUITE_OK(failure, comm->ops->reuse_wait(
                                  comm, transfer.ordinal - (uint64_t)f->shape.n_buckets, NULL));
        if (comm->rank < f->n_contributors)
            suite_pattern(bucket, bucket_bytes, 0, who(f, GRAD, comm->rank, b));
        else
            memset(bucket, 0xee, bucket_bytes);
        char *to = (char *)f->grads.base + transfer.offset_bytes;
        if (b % 2) /* by the caller, or by what is enqueued */
            SUITE_OK(failure, suite_copy_aside(comm, to, bucket, bucket_bytes));
        else
            suite_put(comm, to, bucket, bucket_bytes);
        SUITE_OK(failure, comm->ops->expose(comm, &transfer));
    }
}

/* Of some buckets, until they have come, without a wait. */
static void test_sources(zi_comm *comm, const zi_transfer *transfer, suite_failure *failure)
{
    zi_wait wait;
    zi_wait_begin(&wait, comm);
    for (int ready = 0; !ready;) {
        SUITE_OK(failure, comm->ops->expose_test(comm, transfer, &ready));
        if (!ready && zi_wait_pause(&wait)) {
            suite_fail(failure, "transfer %d is never ready", (int)transfer->ordinal);
            return;
        }
    }
}

static void check_sources(flow *f, int b, suite_failure *failure)
{
    zi_comm *comm = f->comm;
    const void *source[8] = {NULL};
    size_t n = f->shape.slice_bytes;
    zi_transfer transfer = transfer_of(f, &f->grads, b);
    int ready = 0;
    if (b % 2 == f->step % 2)
        test_sources(comm, &transfer, failure);
    SUITE_OK(failure, comm->ops->expose_wait(comm, &transfer, source));
    if (comm->ops->device_direct) /* it is the queue that waits */
        SUITE_OK(failure, comm->device->wait(comm->queue));
    SUITE_OK(failure, comm->ops->expose_test(comm, &transfer, &ready));
    SUITE_EXPECT(failure, ready, "step %d bucket %d: not ready behind a wait", f->step, b);
    for (int i = 0; i < f->n_contributors; i++) {
        suite_pattern(f->expected, n, (size_t)comm->rank * n, who(f, GRAD, i, b));
        SUITE_OK(failure, suite_get(comm, f->found, source[i], n));
        SUITE_EXPECT(failure, memcmp(f->found, f->expected, n) == 0,
                     "step %d bucket %d: rank %d's gradients are wrong", f->step, b, i);
    }
}

/* Until a rank opens them its parameters are its own, as when they are set. */
static void scribble(flow *f)
{
    memset(f->found, 0xdd, f->shape.slice_bytes);
    for (int r = 0; r < f->comm->world && !f->params.shared; r++)
        suite_put(f->comm, (char *)f->params.base + (size_t)r * f->shape.slice_bytes, f->found,
                  f->shape.slice_bytes);
}

static void update_all(flow *f, suite_failure *failure)
{
    zi_comm *comm = f->comm;
    scribble(f);
    SUITE_OK(failure, comm->ops->open(comm));
    for (int b = 0; b < f->shape.n_buckets; b++) {
        void *dest[8];
        int n_dests = 0;
        zi_transfer grads = transfer_of(f, &f->grads, b), params = transfer_of(f, &f->params, b);
        check_sources(f, b, failure); /* once for the norm, once for the update */
        check_sources(f, b, failure);
        SUITE_OK(failure, comm->ops->dest_wait(comm, &params, dest, &n_dests));
        int want = f->params.shared || !comm->ops->peer_memory ? 1 : comm->node.size;
        SUITE_EXPECT(failure, n_dests == want, "%d destinations, not %d", n_dests, want);
        suite_pattern(f->found, f->shape.slice_bytes, 0, who(f, PARAM, comm->rank, b));
        for (int i = 0; i < n_dests; i++)
            suite_put(comm, dest[i], f->found, f->shape.slice_bytes);
        SUITE_OK(failure, comm->ops->consumed(comm, &grads));
        SUITE_OK(failure, comm->ops->publish(comm, &params));
    }
}

static void check_params(flow *f, suite_failure *failure)
{
    size_t n = f->shape.slice_bytes;
    for (int b = 0; b < f->shape.n_buckets; b++) {
        zi_transfer transfer = transfer_of(f, &f->params, b);
        const char *bucket = (const char *)f->params.base + transfer.offset_bytes;
        size_t all = (size_t)f->comm->world * n;
        SUITE_OK(failure, f->comm->ops->publish_wait(f->comm, transfer.ordinal, NULL));
        SUITE_OK(failure, suite_copy_aside(f->comm, f->found, bucket, all));
        for (int r = 0; r < f->comm->world; r++) {
            suite_pattern(f->expected, n, 0, who(f, PARAM, r, b));
            SUITE_EXPECT(failure, memcmp(f->found + (size_t)r * n, f->expected, n) == 0,
                         "step %d bucket %d: rank %d's parameters are wrong", f->step, b, r);
        }
    }
}

/* Gradients of step s+1 are exposed before the parameters of step s are waited for, as a trainer
 * does that acquires tensor by tensor. The last step is left unwaited-for. */
static void run_steps(flow *f, suite_failure *failure)
{
    int n_steps = f->shape.n_steps;
    expose_all(f, failure);
    while (failure->text[0] == '\0') {
        int step = f->step;
        update_all(f, failure);
        if (step == n_steps - 1)
            break;
        f->step = step + 1;
        expose_all(f, failure);
        f->step = step;
        check_params(f, failure);
        f->step = step + 1;
    }
    int peers = f->comm->world - 1, contributes = f->comm->rank < f->n_contributors;
    int readers = f->params.shared ? f->comm->world / f->comm->node.size - 1 : peers;
    uint64_t want = (uint64_t)(n_steps * f->shape.n_buckets * (readers + peers * contributes)) *
                    f->shape.slice_bytes;
    if (failure->text[0] == '\0')
        check_params(f, failure);
    SUITE_EXPECT(failure, failure->text[0] || f->comm->bytes_sent - f->bytes_before == want,
                 "%llu bytes sent, not %llu",
                 (unsigned long long)(f->comm->bytes_sent - f->bytes_before),
                 (unsigned long long)want);
}

/* A comm for each: ordinals count from 0. */
static void run_flow(const zi_comm_ops *ops, const zi_comm_config *config, const shape *s,
                     int n_contributors, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    SUITE_OK(failure, suite_open(ops, config, &mem, &comm));
    flow f = {.comm = comm, .shape = *s, .n_contributors = n_contributors};
    size_t bytes = (size_t)s->n_buckets * (size_t)comm->world * s->slice_bytes;
    ops = comm->ops; /* what the row made, by what it found */
    if (ops->alloc_symmetric(comm, ZI_MEM_GRADS, bytes, &f.grads) != ZOPT_OK ||
        ops->alloc_symmetric(comm, ZI_MEM_PARAMS, bytes, &f.params) != ZOPT_OK ||
        ops->reserve(comm, 2 * (size_t)s->n_buckets, s->slice_bytes) != ZOPT_OK) {
        suite_fail(failure, "%s", zopt_last_error());
    } else {
        f.expected = malloc(s->slice_bytes);
        f.found = malloc((size_t)comm->world * s->slice_bytes);
        run_steps(&f, failure);
        free(f.expected);
        free(f.found);
    }
    /* One freed before destroy, one by it. */
    ops->free_symmetric(comm, ZI_MEM_PARAMS, &f.params);
    suite_close(comm);
    SUITE_EXPECT(failure, mem.total_bytes == 0, "%llu bytes are still counted",
                 (unsigned long long)mem.total_bytes);
}

void suite_run_transfers(const zi_comm_ops *ops, const zi_comm_config *config, int world,
                         int has_messages, suite_failure *failure)
{
    zi_comm_config shared = *config;
    shared.shared_params = ops->peer_memory;
    for (size_t i = 0; i < COUNT(shapes) && failure->text[0] == '\0'; i++) {
        int cut = shapes[i].slice_bytes > CUT_BYTES;
        if (world > shapes[i].max_world || (cut && !has_messages))
            continue;
        int step = cut ? (world + 1) / 2 : 1; /* for time */
        for (int n = world; n >= 0; n -= step)
            run_flow(ops, n % 2 ? config : &shared, &shapes[i], n, failure);
    }
}
