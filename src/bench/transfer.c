/* The subject of `bench comm`: one bucket's gradients to their owners, and what they make of them
 * back to every rank, through a transport's own operations. Owners only add, with the limit's
 * kernel, so that what is left is the transport's cost. */
#include <stdlib.h>

#include "base/status.h"
#include "bench/device.h"
#include "device/device.h"

typedef struct transfer {
    const bench_case *c;
    zi_mem mem;
    zi_comm *comm;
    zi_symmetric grads, params;
    const void *source[BENCH_MAX_RANKS];
    void *dest[BENCH_MAX_RANKS];
    zi_transfer of_grads, of_params;
} transfer;

enum { DEADLINE_MS = 300000 };

static zopt_status connect(transfer *t)
{
    const bench_crew *crew = t->c->crew;
    const zi_comm_config config = {
        .threads = crew->threads,
        .threads_rank = crew->rank,
        .deadline_ms = DEADLINE_MS,
        .shared_params = t->c->request->shared_params,
        .device = !crew->device->on_host ? crew->device : NULL,
    };
    ZI_TRY(zi_comm_connect(t->c->transport, &config, &t->mem, &t->comm));
    if (t->comm->world != crew->world)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "transport %s connects %d of %d ranks", t->comm->ops->name,
                       t->comm->world, crew->world);
    if (!crew->device->on_host && !t->comm->ops->device_memory)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "transport %s cannot use the memory of device %s",
                       t->comm->ops->name, crew->device->name);
    t->comm->device = crew->device;
    t->comm->queue = crew->queue;
    return ZOPT_OK;
}

static zopt_status create(void *self, const bench_case *c)
{
    transfer *t = self;
    size_t world = (size_t)c->crew->world, slice_bytes = c->slice_elems * sizeof(uint16_t);
    t->c = c;
    ZI_TRY(connect(t));
    const zi_comm_ops *ops = t->comm->ops;
    ZI_TRY(ops->reserve(t->comm, 2, slice_bytes));
    ZI_TRY(ops->alloc_symmetric(t->comm, ZI_MEM_GRADS, world * slice_bytes, &t->grads));
    ZI_TRY(ops->alloc_symmetric(t->comm, ZI_MEM_PARAMS, world * slice_bytes, &t->params));
    t->of_grads = (zi_transfer){
        .memory = &t->grads, .slice_bytes = slice_bytes, .n_contributors = c->crew->world};
    t->of_params = (zi_transfer){.memory = &t->params, .slice_bytes = slice_bytes};
    return ZOPT_OK;
}

static void destroy(void *self)
{
    transfer *t = self;
    if (t->comm != NULL)
        t->comm->ops->destroy(t->comm);
}

static zopt_status prepare(void *self)
{
    const transfer *t = self;
    if (t->of_grads.ordinal > 0)
        ZI_TRY(t->comm->ops->reuse_wait(t->comm, t->of_grads.ordinal - 1, NULL));
    int slot = bench_slot(t->c, t->c->slot, t->of_grads.ordinal);
    return bench_fill_device(t->c, slot, 0, t->c->params, t->grads.base);
}

static zopt_status one_round(void *self)
{
    transfer *t = self;
    const zi_comm_ops *ops = t->comm->ops;
    bench_add add = {.n_elems = t->c->slice_elems,
                     .source = t->source,
                     .n_sources = t->of_grads.n_contributors,
                     .dest = t->dest};
    ZI_TRY(ops->expose(t->comm, &t->of_grads));
    ZI_TRY(ops->open(t->comm));
    ZI_TRY(ops->expose_wait(t->comm, &t->of_grads, t->source));
    ZI_TRY(ops->dest_wait(t->comm, &t->of_params, t->dest, &add.n_dests));
    ZI_TRY(bench_add_device(t->c->crew, &add));
    ZI_TRY(ops->consumed(t->comm, &t->of_grads));
    ZI_TRY(ops->publish(t->comm, &t->of_params));
    ZI_TRY(ops->publish_wait(t->comm, t->of_params.ordinal, NULL));
    ZI_TRY(t->c->crew->device->wait(t->c->crew->queue));
    t->of_grads.ordinal++;
    t->of_params.ordinal++;
    return ZOPT_OK;
}

static zopt_status check(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const transfer *t = self;
    const bench_case *c = t->c;
    const void *view;
    void *copy;
    zopt_status status =
        bench_view(c->crew, t->params.base, (size_t)c->params * sizeof(uint16_t), &copy, &view);
    const uint16_t *params = view;
    if (status != ZOPT_OK) {
        free(copy);
        return status;
    }
    *n_wrong = 0;
    for (int i = 0; i < c->sample.n; i++) {
        uint64_t e = c->sample.element[i];
        uint32_t sum = 0;
        for (int slot = 0; slot < c->n_slots; slot++)
            sum += bench_gradient_bits(c->data, bench_slot(c, slot, rounds - 1), e);
        *n_wrong += params[e] != (uint16_t)sum;
    }
    free(copy);
    return ZOPT_OK;
}

static const char *transport(const void *self)
{
    return ((const transfer *)self)->comm->ops->name;
}

const bench_contestant bench_transfer = {
    .bytes = sizeof(transfer),
    .create = create,
    .destroy = destroy,
    .prepare = prepare,
    .round = one_round,
    .check = check,
    .transport = transport,
};
