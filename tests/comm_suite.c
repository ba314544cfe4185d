/* The suite of comm_suite.h. Contents are patterns that name step, kind, writer, bucket and place,
 * so that a byte that went astray cannot look right. */
#include "comm_suite.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

void suite_fail(suite_failure *failure, const char *format, ...)
{
    va_list args;
    if (failure->text[0] != '\0')
        return;
    va_start(args, format);
    vsnprintf(failure->text, sizeof failure->text, format, args);
    va_end(args);
}

/* ------------------------------------------------------------------ a device's memory ------- */

/* What api_life.c does: the rank's queue on the device of the config. */
static zopt_status create_on(const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem,
                             zi_comm **out)
{
    zopt_status status = ops->create(config, mem, out);
    if (status != ZOPT_OK || config->device == NULL)
        return status;
    (*out)->device = config->device;
    return (*out)->planned ? ZOPT_OK : config->device->open((*out)->local_rank, &(*out)->queue);
}

static void destroy_on(zi_comm *comm)
{
    const zi_device_ops *device = comm->device;
    zi_queue *queue = comm->queue;
    comm->ops->destroy(comm);
    if (queue != NULL)
        device->close(queue);
}

/* Enqueued, as kernels read and write; nothing waits. */
static void put(zi_comm *comm, void *dst, const void *src, size_t bytes)
{
    comm->device->copy(comm->queue, dst, src, bytes);
}

static zopt_status get(zi_comm *comm, void *dst, const void *src, size_t bytes)
{
    comm->device->copy(comm->queue, dst, src, bytes);
    return comm->device->wait(comm->queue);
}

/* As a caller does it, who knows nothing of the comm's queue: on a queue of its own. */
static zopt_status copy_aside(zi_comm *comm, void *dst, const void *src, size_t bytes)
{
    zi_queue *aside = NULL;
    if (comm->queue != NULL) {
        zopt_status status = comm->device->open_beside(comm->queue, &aside);
        if (status != ZOPT_OK)
            return status;
    }
    comm->device->copy(aside, dst, src, bytes);
    zopt_status status = comm->device->wait(aside);
    if (aside != NULL)
        comm->device->close(aside);
    return status;
}

/* ------------------------------------------------------------------ small collectives ------- */

static void all_gather_orders_by_rank(zi_comm *comm, suite_failure *failure)
{
    static const size_t sizes[] = {0, 1, 8, 1000, 65536, 150001};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t bytes = sizes[i], world = (size_t)comm->world;
        unsigned char *send = malloc(bytes + 1), *recv = malloc(world * bytes + 1);
        for (size_t j = 0; j < bytes; j++)
            send[j] = (unsigned char)(j * 7 + (size_t)comm->rank * 31 + i);
        recv[world * bytes] = 0xa5;
        zopt_status status = comm->ops->all_gather(comm, send, bytes, recv);
        size_t n_wrong = recv[world * bytes] != 0xa5;
        for (size_t r = 0; r < world; r++)
            for (size_t j = 0; j < bytes; j++)
                n_wrong += recv[r * bytes + j] != (unsigned char)(j * 7 + r * 31 + i);
        free(send);
        free(recv);
        SUITE_OK(failure, status);
        SUITE_EXPECT(failure, n_wrong == 0, "all_gather of %zu bytes: %zu wrong", bytes, n_wrong);
    }
}

static void all_reduce_is_exact(zi_comm *comm, suite_failure *failure)
{
    static const size_t sizes[] = {0, 1, 21, 1000, 20000};
    int64_t world = comm->world;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (int op = ZI_SUM; op <= ZI_MAX; op++) {
            size_t n = sizes[i], n_wrong = 0;
            int64_t *values = calloc(n + 1, sizeof *values);
            for (size_t j = 0; j < n; j++)
                values[j] = ((int64_t)j - 5) * 1000000007 + comm->rank * 3 - 4;
            zopt_status status = comm->ops->all_reduce(comm, (zi_reduce_op)op, values, n);
            for (size_t j = 0; j < n; j++) {
                int64_t least = ((int64_t)j - 5) * 1000000007 - 4;
                int64_t want[] = {[ZI_SUM] = world * least + 3 * world * (world - 1) / 2,
                                  [ZI_MIN] = least,
                                  [ZI_MAX] = least + 3 * (world - 1)};
                n_wrong += values[j] != want[op];
            }
            free(values);
            SUITE_OK(failure, status);
            SUITE_EXPECT(failure, n_wrong == 0, "all_reduce %d of %zu: %zu wrong", op, n, n_wrong);
        }
    }
}

static void broadcast_reaches_all_from_any_root(zi_comm *comm, suite_failure *failure)
{
    static const size_t sizes[] = {0, 1, 4096, 65537, 300000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (int root = 0; root < comm->world; root++) {
            size_t bytes = sizes[i], n_wrong = 0;
            unsigned char *buffer = malloc(bytes + 1);
            for (size_t j = 0; j < bytes; j++)
                buffer[j] = (unsigned char)(j * 5 + (size_t)comm->rank * 17);
            zopt_status status = comm->ops->broadcast(comm, root, buffer, bytes);
            for (size_t j = 0; j < bytes; j++)
                n_wrong += buffer[j] != (unsigned char)(j * 5 + (size_t)root * 17);
            free(buffer);
            SUITE_OK(failure, status);
            SUITE_EXPECT(failure, n_wrong == 0, "broadcast of %zu bytes from %d: %zu wrong", bytes,
                         root, n_wrong);
        }
    }
}

/* ------------------------------------------------------------------ messages ---------------- */

static void pattern(unsigned char *out, size_t n, size_t first, uint64_t who)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t x = (who * 1000003 + first + i) * UINT64_C(0x9e3779b97f4a7c15);
        out[i] = (unsigned char)(x >> 56);
    }
}

/* Two messages to the rank `step` on and two from the rank `step` back, of different sizes: those
 * of a pair stay in order. */
static void shift_by(zi_comm *comm, int step, size_t bytes, suite_failure *failure)
{
    int world = comm->world, to = (comm->rank + step) % world;
    int from = (comm->rank - step + world) % world;
    size_t total = 2 * bytes + 1;
    unsigned char *send = malloc(total), *recv = calloc(1, total), *want = malloc(total);
    pattern(send, total, 0, (uint64_t)comm->rank);
    pattern(want, total, 0, (uint64_t)from);
    const zi_message messages[] = {
        {.peer = to, .data = send, .bytes = bytes},
        {.peer = from, .receive = 1, .data = recv, .bytes = bytes},
        {.peer = from, .receive = 1, .data = recv + bytes, .bytes = bytes + 1},
        {.peer = to, .data = send + bytes, .bytes = bytes + 1},
    };
    zopt_status status = comm->ops->exchange(comm, messages, COUNT(messages));
    int same = memcmp(recv, want, total) == 0;
    free(send);
    free(recv);
    free(want);
    SUITE_OK(failure, status);
    SUITE_EXPECT(failure, same, "messages of %zu bytes from rank %d are wrong", bytes, from);
}

static void messages_arrive_in_the_order_of_their_pair(zi_comm *comm, suite_failure *failure)
{
    static const size_t sizes[] = {1, 4097, 3000000};
    SUITE_OK(failure, comm->ops->exchange(comm, NULL, 0));
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int step = 1; step < comm->world; step++)
            shift_by(comm, step, sizes[i], failure);
}

/* Rank 0 hands something to each in turn, and only those two call. */
static void messages_need_only_their_pair(zi_comm *comm, suite_failure *failure)
{
    for (int peer = 1; peer < comm->world; peer++) {
        int64_t value = comm->rank == 0 ? peer * 1001 : 0;
        const zi_message message = {.peer = comm->rank == 0 ? peer : 0,
                                    .receive = comm->rank != 0,
                                    .data = &value,
                                    .bytes = sizeof value};
        if (comm->rank == 0 || comm->rank == peer)
            SUITE_OK(failure, comm->ops->exchange(comm, &message, 1));
        if (comm->rank == peer)
            SUITE_EXPECT(failure, value == peer * 1001, "received %lld", (long long)value);
    }
}

/* ------------------------------------------------------------------ agreement --------------- */

static zopt_status own_failure(int rank, zopt_status status)
{
    return status == ZOPT_OK ? ZOPT_OK : ZI_FAIL(status, "own text of %d", rank);
}

/* Ranks fail as given, others do not; `chosen` is the rank whose status all must return. */
static void agree_on(zi_comm *comm, int rank_a, zopt_status a, int rank_b, zopt_status b,
                     int chosen, suite_failure *failure)
{
    char want[64];
    zopt_status mine = comm->rank == rank_a ? a : comm->rank == rank_b ? b : ZOPT_OK;
    zopt_status want_status = chosen == rank_a ? a : b;
    zopt_status got = zi_comm_agree(comm, own_failure(comm->rank, mine));
    SUITE_EXPECT(failure, got == want_status, "rank %d agrees on %d, not %d", comm->rank, (int)got,
                 (int)want_status);
    if (want_status == ZOPT_OK)
        return;
    if (mine != ZOPT_OK)
        snprintf(want, sizeof want, "own text of %d", comm->rank);
    else
        snprintf(want, sizeof want, "rank %d: own text of %d", chosen, chosen);
    SUITE_EXPECT(failure, strcmp(zopt_last_error(), want) == 0, "text \"%s\", not \"%s\"",
                 zopt_last_error(), want);
}

static void agreement_takes_the_worst_and_its_text(zi_comm *comm, suite_failure *failure)
{
    int last = comm->world - 1;
    agree_on(comm, 0, ZOPT_OK, last, ZOPT_OK, 0, failure);
    agree_on(comm, last, ZOPT_ERR_WRITE, -1, ZOPT_OK, last, failure);
    if (comm->world > 1) {
        agree_on(comm, 0, ZOPT_ERR_PEER, last, ZOPT_ERR_MEMORY, last, failure);
        agree_on(comm, 0, ZOPT_ERR_DATA, last, ZOPT_ERR_DATA, 0, failure);
        agree_on(comm, 0, ZOPT_ERR_PEER, -1, ZOPT_OK, 0, failure);
    }
    agree_on(comm, 0, ZOPT_OK, last, ZOPT_OK, 0, failure);
}

/* ------------------------------------------------------------------ transfers --------------- */

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
            pattern(bucket, bucket_bytes, 0, who(f, GRAD, comm->rank, b));
        else
            memset(bucket, 0xee, bucket_bytes);
        char *to = (char *)f->grads.base + transfer.offset_bytes;
        if (b % 2) /* by the caller, or by what is enqueued */
            SUITE_OK(failure, copy_aside(comm, to, bucket, bucket_bytes));
        else
            put(comm, to, bucket, bucket_bytes);
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
        pattern(f->expected, n, (size_t)comm->rank * n, who(f, GRAD, i, b));
        SUITE_OK(failure, get(comm, f->found, source[i], n));
        SUITE_EXPECT(failure, memcmp(f->found, f->expected, n) == 0,
                     "step %d bucket %d: rank %d's gradients are wrong", f->step, b, i);
    }
}

/* Until a rank opens them its parameters are its own, as when they are set. */
static void scribble(flow *f)
{
    memset(f->found, 0xdd, f->shape.slice_bytes);
    for (int r = 0; r < f->comm->world && !f->params.shared; r++)
        put(f->comm, (char *)f->params.base + (size_t)r * f->shape.slice_bytes, f->found,
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
        pattern(f->found, f->shape.slice_bytes, 0, who(f, PARAM, comm->rank, b));
        for (int i = 0; i < n_dests; i++)
            put(comm, dest[i], f->found, f->shape.slice_bytes);
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
        SUITE_OK(failure, copy_aside(f->comm, f->found, bucket, all));
        for (int r = 0; r < f->comm->world; r++) {
            pattern(f->expected, n, 0, who(f, PARAM, r, b));
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
    SUITE_OK(failure, create_on(ops, config, &mem, &comm));
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
    destroy_on(comm);
    SUITE_EXPECT(failure, mem.total_bytes == 0, "%llu bytes are still counted",
                 (unsigned long long)mem.total_bytes);
}

/* ------------------------------------------------------------------ memory ------------------ */

/* A node's first rank writes, the others read it, and nobody leaves before. */
static void check_shared(zi_comm *comm, const zi_symmetric *params, suite_failure *failure)
{
    int64_t here = 1;
    char *base_of = params->base, text[64] = "";
    SUITE_EXPECT(failure, (uintptr_t)base_of % 64 == 0, "not aligned");
    int base = comm->node.base, end = base + comm->node.size;
    for (int r = 0; r < comm->world; r++)
        SUITE_EXPECT(failure, params->peer[r] == (r >= base && r < end ? base_of : NULL),
                     "peer %d is not the shared", r);
    snprintf(text, sizeof text, "shared %d", base);
    if (comm->rank == base)
        SUITE_OK(failure, copy_aside(comm, base_of, text, params->bytes));
    SUITE_OK(failure, comm->ops->all_reduce(comm, ZI_MIN, &here, 1));
    SUITE_OK(failure, get(comm, text, base_of, params->bytes));
    SUITE_EXPECT(failure, strtol(text + 7, NULL, 10) == base, "rank %d's text is not here", base);
    SUITE_OK(failure, comm->ops->all_reduce(comm, ZI_MIN, &here, 1));
}

enum { GRAD_BYTES = 12345 };

static void use_memory(zi_comm *comm, suite_failure *failure)
{
    zi_symmetric grads, params, none;
    SUITE_OK(failure, comm->ops->alloc_symmetric(comm, ZI_MEM_GRADS, GRAD_BYTES, &grads));
    SUITE_OK(failure, comm->ops->alloc_symmetric(comm, ZI_MEM_PARAMS, 64, &params));
    SUITE_OK(failure, comm->ops->alloc_symmetric(comm, ZI_MEM_PARAMS, 0, &none));
    SUITE_OK(failure, comm->ops->reserve(comm, 10, 100));
    comm->ops->free_symmetric(comm, ZI_MEM_PARAMS, &none);
    SUITE_EXPECT(failure, (grads.peer != NULL) == comm->ops->peer_memory, "peers of %s",
                 comm->ops->name);
    if (comm->planned)
        return;
    SUITE_EXPECT(failure, (uintptr_t)grads.base % 64 == 0, "not aligned");
    char zero[GRAD_BYTES];
    SUITE_OK(failure, get(comm, zero, grads.base, grads.bytes));
    for (size_t i = 0; i < grads.bytes; i++)
        SUITE_EXPECT(failure, zero[i] == 0, "byte %zu is not zero", i);
    SUITE_EXPECT(failure, grads.peer == NULL || grads.peer[comm->rank] == grads.base, "own peer");
    SUITE_EXPECT(failure, params.shared == comm->shared_params && !grads.shared, "shared");
    if (params.shared)
        check_shared(comm, &params, failure);
}

static void plan_counts_what_a_real_one_allocates(const zi_comm_ops *ops,
                                                  const zi_comm_config *config,
                                                  suite_failure *failure)
{
    zi_mem real = {0}, dry = {.dry = 1};
    zi_comm *comm, *plan;
    SUITE_OK(failure, create_on(ops, config, &real, &comm));
    use_memory(comm, failure);
    zi_comm_config planning = {.plan_world = comm->world,
                               .plan_rank = comm->rank,
                               .ranks_per_node = config->ranks_per_node,
                               .shared_params = config->shared_params,
                               .device = config->device};
    SUITE_OK(failure, create_on(ops, &planning, &dry, &plan));
    use_memory(plan, failure);
    SUITE_EXPECT(failure, plan->world == comm->world && plan->rank == comm->rank, "plan's world");
    for (int i = 0; i < ZI_N_CATEGORIES; i++)
        SUITE_EXPECT(failure, real.row[i].bytes == dry.row[i].bytes,
                     "category %d: %llu bytes planned, %llu real", i,
                     (unsigned long long)dry.row[i].bytes, (unsigned long long)real.row[i].bytes);
    SUITE_EXPECT(failure, real.row[ZI_MEM_TABLES].bytes > 0, "no tables counted");
    int64_t params = (int64_t)real.row[ZI_MEM_PARAMS].bytes;
    if (config->shared_params)
        SUITE_OK(failure, comm->ops->all_reduce(comm, ZI_SUM, &params, 1));
    int want = 64 * (config->shared_params ? comm->world / comm->node.size : 1);
    SUITE_EXPECT(failure, params == want, "parameters of %d bytes counted", (int)params);
    destroy_on(plan);
    destroy_on(comm);
    SUITE_EXPECT(failure, real.total_bytes == 0 && dry.total_bytes == 0, "bytes still counted");
}

/* ------------------------------------------------------------------ running ----------------- */

static void (*const cases[])(zi_comm *, suite_failure *) = {
    all_gather_orders_by_rank,           all_reduce_is_exact,
    broadcast_reaches_all_from_any_root, messages_arrive_in_the_order_of_their_pair,
    messages_need_only_their_pair,       agreement_takes_the_worst_and_its_text,
};

void comm_suite_run(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    int world = comm->world, has_messages = comm->node.size < world && !ops->device_direct;
    for (size_t i = 0; i < COUNT(cases); i++)
        cases[i](comm, failure);
    comm->ops->destroy(comm);
    zi_comm_config shared = *config;
    shared.shared_params = ops->peer_memory;
    plan_counts_what_a_real_one_allocates(ops, config, failure);
    plan_counts_what_a_real_one_allocates(ops, &shared, failure);
    for (size_t i = 0; i < COUNT(shapes) && failure->text[0] == '\0'; i++) {
        int cut = shapes[i].slice_bytes > CUT_BYTES;
        if (world > shapes[i].max_world || (cut && !has_messages))
            continue;
        int step = cut ? (world + 1) / 2 : 1; /* for time */
        for (int n = world; n >= 0; n -= step)
            run_flow(ops, n % 2 ? config : &shared, &shapes[i], n, failure);
    }
}

void comm_suite_order(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_symmetric memory;
    SUITE_OK(failure, create_on(ops, config, &mem, &comm));
    ops = comm->ops;
    SUITE_OK(failure, ops->alloc_symmetric(comm, ZI_MEM_GRADS, 64, &memory));
    SUITE_OK(failure, ops->reserve(comm, 2, 8));
    zi_transfer second = {.ordinal = 1, .memory = &memory, .slice_bytes = 8};
    zopt_status status = ops->expose(comm, &second);
    SUITE_EXPECT(failure, status == ZOPT_ERR_COMM, "expose out of order: status %d", (int)status);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), "the next is 0"), "%s", zopt_last_error());
    status = ops->open(comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_COMM, "open of a broken comm: %d", (int)status);
    destroy_on(comm);
}

static void remember(void *arg, const char *text)
{
    snprintf(((suite_failure *)arg)->text, sizeof((suite_failure *)arg)->text, "%s", text);
}

static void wait_in_vain(zi_comm *comm, const suite_failure *told, suite_failure *failure)
{
    const zi_comm_ops *ops = comm->ops;
    const void *source[8];
    zi_symmetric memory;
    SUITE_OK(failure, ops->alloc_symmetric(comm, ZI_MEM_GRADS, 64, &memory));
    SUITE_OK(failure, ops->reserve(comm, 2, 8));
    if (comm->rank != 0)
        return;
    zi_transfer transfer = {.memory = &memory, .slice_bytes = 8, .n_contributors = 2};
    comm->step = 12;
    comm->phase = "reduce";
    comm->bucket = 3;
    SUITE_OK(failure, ops->expose(comm, &transfer));
    int ready = 1;
    SUITE_OK(failure, ops->expose_test(comm, &transfer, &ready));
    SUITE_EXPECT(failure, !ready, "ready without rank 1");
    zopt_status status = ops->expose_wait(comm, &transfer, source);
    if (status == ZOPT_OK) /* the queue waits */
        status = comm->device->wait(comm->queue);
    SUITE_EXPECT(failure, status == ZOPT_ERR_TIMEOUT, "status %d: %s", (int)status,
                 zopt_last_error());
    char want[] = "rank 0 waited 0.2 s in step 12, phase reduce, bucket 3: gradients of rank 1 "
                  "have not arrived";
    SUITE_EXPECT(failure, strcmp(told->text, want) == 0, "on_hang: %s", told->text);
    SUITE_EXPECT(failure, strcmp(zopt_last_error(), want) == 0, "text: %s", zopt_last_error());
    SUITE_EXPECT(failure, comm->broken, "not broken");
}

static void await_message(const zi_comm_ops *ops, const zi_comm_config *config, int missing,
                          suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    static _Thread_local char data[100]; /* lives on, as receives of a failed call want it */
    SUITE_OK(failure, create_on(ops, config, &mem, &comm));
    ops = comm->ops;
    comm->deadline_ms = comm->rank == 0 ? 200 : config->deadline_ms;
    const zi_message message = {.peer = comm->rank == 0 ? 1 : 0,
                                .receive = comm->rank == 0,
                                .data = data,
                                .bytes = comm->rank == 0 ? 10 : 9};
    zopt_status status = ZOPT_OK, want = missing ? ZOPT_ERR_TIMEOUT : ZOPT_ERR_COMM;
    const char *text = missing ? "rank 0 waited 0.2 s: messages of rank 1 have not arrived"
                               : "rank 1 sends 9 bytes to rank 0, which awaits 10";
    if (comm->rank == 0 || (comm->rank == 1 && !missing))
        status = ops->exchange(comm, &message, 1);
    else if (ops->peer_memory) /* stay until rank 0 has given up */
        (void)ops->all_gather(comm, "", 0, NULL);
    if (comm->rank == 0) {
        SUITE_EXPECT(failure, status == want, "status %d: %s", (int)status, zopt_last_error());
        SUITE_EXPECT(failure, strcmp(zopt_last_error(), text) == 0, "%s", zopt_last_error());
        SUITE_EXPECT(failure, comm->broken, "not broken");
    }
    destroy_on(comm);
}

void comm_suite_message_missing(const zi_comm_ops *ops, const zi_comm_config *config,
                                suite_failure *failure)
{
    await_message(ops, config, 1, failure);
}

void comm_suite_message_size(const zi_comm_ops *ops, const zi_comm_config *config,
                             suite_failure *failure)
{
    await_message(ops, config, 0, failure);
}

void comm_suite_hang(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    suite_failure told = {""};
    zi_comm_config patient = *config;
    patient.on_hang = remember;
    patient.on_hang_arg = &told;
    SUITE_OK(failure, create_on(ops, &patient, &mem, &comm));
    ops = comm->ops;
    comm->deadline_ms = comm->rank == 0 ? 200 : config->deadline_ms;
    wait_in_vain(comm, &told, failure);
    if (comm->rank != 0 && ops->peer_memory) { /* told at once, not at its own deadline */
        zopt_status status = ops->all_gather(comm, "", 0, NULL);
        SUITE_EXPECT(failure, status == ZOPT_ERR_PEER, "status %d: %s", (int)status,
                     zopt_last_error());
        SUITE_EXPECT(failure, strcmp(zopt_last_error(), "rank 0 gave up") == 0, "%s",
                     zopt_last_error());
    }
    destroy_on(comm);
}
