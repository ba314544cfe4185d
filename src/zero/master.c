/* Whole tensors of what is sharded: setting the master weights, reading them or a state array on
 * every rank, piece by piece, and rounding them into all ranks' parameters. */
#include <string.h>

#include "base/status.h"
#include "zero/zero.h"

enum { PIECE_ELEMS = 1 << 16 };

/* Round n floats into parameter memory, through a host buffer. */
static void store_params(const zi_zero *z, const zi_tensor *tensor, uint64_t offset, uint64_t n,
                         const float *values)
{
    char rounded[ZI_BLOCK * sizeof(float)];
    size_t bytes = zopt_dtype_bytes(tensor->dtype);
    char *param = (char *)z->memory[tensor->space].params.base + (tensor->start + offset) * bytes;
    for (uint64_t i = 0; i < n; i += ZI_BLOCK) {
        size_t m = n - i < ZI_BLOCK ? (size_t)(n - i) : ZI_BLOCK;
        zi_convert(rounded, tensor->dtype, values + i, ZOPT_FP32, m);
        z->config.device->copy(z->queue, param + i * bytes, rounded, m * bytes);
    }
}

static zopt_status all_are_here(zi_zero *z)
{
    int64_t here = 1;
    return z->comm->ops->all_reduce(z->comm, ZI_MIN, &here, 1);
}

/* Whether this rank is the one of its node that stores what `owner` has: the owner, or on other
 * nodes the rank that has its place. */
static int stores_for(const zi_comm *comm, int owner)
{
    return (owner - comm->rank) % comm->node.size == 0;
}

zopt_status zi_set_master(zi_zero *z, int id, uint64_t offset, uint64_t n, const float *values)
{
    const zi_tensor *tensor = &z->tensors[id];
    int shared = z->memory[tensor->space].params.shared;
    zi_caller_join(z);                /* its stream may still read */
    ZI_TRY(zi_param_wait(z, tensor)); /* nothing of the last step may arrive later */
    if (shared)
        ZI_TRY(all_are_here(z)); /* nobody reads any more */
    else
        store_params(z, tensor, offset, n, values);
    for (uint64_t at = offset; at < offset + n;) {
        zi_piece piece = zi_layout_piece(&z->layout, tensor, at, offset + n);
        const float *from = values + (at - offset);
        if (piece.owner == z->comm->rank)
            z->config.home->copy(z->home_queue, z->master + piece.owned_at, from,
                                 piece.n_elems * sizeof *values);
        if (shared && stores_for(z->comm, piece.owner))
            store_params(z, tensor, at, piece.n_elems, from);
        at += piece.n_elems;
    }
    ZI_TRY(z->config.device->wait(z->queue));  /* `values` is the caller's */
    return shared ? all_are_here(z) : ZOPT_OK; /* nobody reads before all have stored */
}

/* All ranks must ask for the same: what one rank sends is what the others believe to receive. */
static zopt_status same_request(zi_zero *z, int state, int id, uint64_t offset, uint64_t n)
{
    enum { N = 4 };
    const int64_t request[N] = {state, id, (int64_t)offset, (int64_t)n};
    int64_t most[(size_t)2 * N];
    for (int i = 0; i < N; i++) {
        most[i] = request[i];
        most[N + i] = -request[i];
    }
    ZI_TRY(z->comm->ops->all_reduce(z->comm, ZI_MAX, most, sizeof most / sizeof most[0]));
    for (int i = 0; i < N; i++)
        if (most[i] != -most[N + i]) {
            z->comm->broken = 1;
            return ZI_FAIL(ZOPT_ERR_DISAGREE,
                           "ranks read different tensors or ranges; this one "
                           "[%llu, +%llu) of '%s'",
                           (unsigned long long)offset, (unsigned long long)n, z->tensors[id].name);
        }
    return ZOPT_OK;
}

static zopt_status read_owned(const zi_zero *z, const zi_tensor *tensor, int state,
                              const zi_piece *piece, float *out)
{
    const zi_device_ops *home = z->config.home;
    if (state >= 0)
        return zi_state_read(z, tensor, state, piece->owned_at, piece->n_elems, out);
    home->copy(z->home_queue, out, z->master + piece->owned_at, piece->n_elems * sizeof *out);
    return home->wait(z->home_queue);
}

zopt_status zi_get_owned(zi_zero *z, int state, int id, uint64_t offset, uint64_t n, float *values)
{
    const zi_tensor *tensor = &z->tensors[id];
    ZI_TRY(same_request(z, state, id, offset, n));
    const float *factors = state >= 0 ? zi_state_factors(z, id, state) : NULL;
    if (factors != NULL && n > 0) {
        ZI_TRY(zi_factors_fetch(z));
        memcpy(values, factors + offset, n * sizeof *values); /* the host's own */
        return ZOPT_OK;
    }
    for (uint64_t at = offset; at < offset + n;) {
        uint64_t end = offset + n - at < PIECE_ELEMS ? offset + n : at + PIECE_ELEMS;
        zi_piece piece = zi_layout_piece(&z->layout, tensor, at, end);
        float *out = values + (at - offset);
        if (piece.owner == z->comm->rank)
            ZI_TRY(read_owned(z, tensor, state, &piece, out));
        ZI_TRY(z->comm->ops->broadcast(z->comm, piece.owner, out, piece.n_elems * sizeof *out));
        at += piece.n_elems;
    }
    return ZOPT_OK;
}

/* This rank's slice of a bucket, rounded into every destination. */
static void round_slice(const zi_zero *z, const zi_bucket *bucket, int n_dests)
{
    char rounded[ZI_BLOCK * sizeof(float)];
    float values[ZI_BLOCK];
    size_t bytes = ZI_BLOCK * zopt_dtype_bytes(bucket->dtype);
    for (uint64_t at = 0; at < bucket->slice_elems; at += ZI_BLOCK) {
        z->config.home->copy(z->home_queue, values, z->master + bucket->owned_start + at,
                             sizeof values);
        (void)z->config.home->wait(z->home_queue);
        zi_convert(rounded, bucket->dtype, values, ZOPT_FP32, ZI_BLOCK);
        for (int i = 0; i < n_dests; i++)
            z->config.device->copy(z->queue, (char *)z->dest_at[i] + at / ZI_BLOCK * bytes, rounded,
                                   bytes);
    }
}

/* As an update publishes them, without one. The last ones must have come: there is room for those
 * of one update, and the next step's gradients. */
static zopt_status publish_trained(zi_zero *z)
{
    if (z->n_updates > 0)
        ZI_TRY(z->comm->ops->publish_wait(z->comm, z->n_updates * z->layout.n_exchanged - 1, NULL));
    ZI_TRY(z->comm->ops->open(z->comm));
    for (uint32_t i = z->layout.n_exchanged; i-- > 0;) {
        const zi_bucket *bucket = &z->layout.bucket[z->layout.order[i]];
        zi_transfer params = zi_param_transfer(z, bucket);
        int n_dests;
        ZI_TRY(z->comm->ops->dest_wait(z->comm, &params, z->dest_at, &n_dests));
        round_slice(z, bucket, n_dests);
        ZI_TRY(z->config.device->wait(z->queue));
        ZI_TRY(z->comm->ops->publish(z->comm, &params));
    }
    z->n_updates++;
    return ZOPT_OK;
}

/* Frozen tensors are in no bucket that is communicated. */
static zopt_status spread_frozen(zi_zero *z, int id)
{
    float values[16384]; /* of the stack: a plan counts no memory for it */
    const uint64_t most = sizeof values / sizeof values[0];
    const zi_tensor *tensor = &z->tensors[id];
    for (uint64_t at = 0; at < tensor->n_elems; at += most) {
        uint64_t rest = tensor->n_elems - at, n = rest < most ? rest : most;
        ZI_TRY(zi_get_owned(z, -1, id, at, n, values));
        store_params(z, tensor, at, n, values);
        ZI_TRY(z->config.device->wait(z->queue));
    }
    return ZOPT_OK;
}

zopt_status zi_params_from_master(zi_zero *z)
{
    zi_caller_join(z);
    ZI_TRY(publish_trained(z));
    for (uint32_t id = 0; id < z->n_tensors; id++)
        if (z->tensors[id].variant == NULL)
            ZI_TRY(spread_frozen(z, (int)id));
    return ZOPT_OK;
}
