/* One micro-step: gradients arrive tensor by tensor; a bucket whose tensors have all arrived is
 * exposed while backward goes on, in the order that the layout fixed for all ranks. Next: reduce.c
 * describes what was exposed, owner.c reads it. */
#include "base/status.h"
#include "zero/passes.h"
#include "zero/trace.h"

int zi_zero_slot(const zi_zero *z)
{
    int64_t slot = (int64_t)z->micro * z->comm->world + z->comm->rank;
    return z->micro < z->n_micro && slot < z->config.scale_rules.slots ? (int)slot : -1;
}

static int n_contributors(const zi_zero *z)
{
    int64_t left = z->config.scale_rules.slots - (int64_t)z->micro * z->comm->world;
    return left < z->comm->world ? (int)left : z->comm->world;
}

static zi_transfer transfer_of(const zi_bucket *bucket, uint64_t ordinal,
                               const zi_symmetric *memory)
{
    size_t bytes = zopt_dtype_bytes(bucket->dtype);
    return (zi_transfer){
        .ordinal = ordinal,
        .memory = memory,
        .offset_bytes = bucket->start * bytes,
        .slice_bytes = bucket->slice_elems * bytes,
    };
}

zi_transfer zi_grad_transfer(const zi_zero *z, const zi_bucket *bucket)
{
    uint64_t ordinal = z->n_exchanges * z->layout.n_exchanged + bucket->position;
    zi_transfer transfer = transfer_of(bucket, ordinal, &z->memory[bucket->space].grads);
    transfer.n_contributors = n_contributors(z);
    transfer.dtype = bucket->dtype;
    return transfer;
}

uint64_t zi_param_ordinal(const zi_zero *z, const zi_bucket *bucket, uint64_t n_before)
{
    return (n_before + 1) * z->layout.n_exchanged - 1 - bucket->position;
}

zi_transfer zi_param_transfer(const zi_zero *z, const zi_bucket *bucket)
{
    return transfer_of(bucket, zi_param_ordinal(z, bucket, z->n_updates),
                       &z->memory[bucket->space].params);
}

void *zi_grad_address(const zi_zero *z, int id)
{
    const zi_tensor *tensor = &z->tensors[id];
    char *base = z->memory[tensor->space].grads.base;
    return base + tensor->start * zopt_dtype_bytes(tensor->dtype);
}

/* behind: who waits, as reuse_wait has it: the caller, or the queue. */
static zopt_status wait_consumed(zi_zero *z, uint32_t b, zi_queue *behind)
{
    const zi_bucket *bucket = &z->layout.bucket[b];
    uint64_t ordinal = (z->n_exchanges - 1) * z->layout.n_exchanged + bucket->position;
    int phase = zi_phase(z, ZOPT_PHASE_REDUCE);
    z->comm->bucket = (int)bucket->position;
    int is_traced = phase < 0 && behind == NULL; /* a wait of zopt_grad_acquire, by the host */
    if (is_traced)
        zi_trace_mark(z, bucket, ZI_AT_GRAD_WAIT, NULL);
    ZI_TRY(z->comm->ops->reuse_wait(z->comm, ordinal, behind));
    if (is_traced)
        zi_trace_mark(z, bucket, ZI_AT_GRAD_WAITED, NULL);
    zi_phase(z, phase);
    if (behind == z->caller.stream)
        z->waited[b].n_exchanges = z->n_exchanges;
    return ZOPT_OK;
}

/* Wait until every owner has consumed the last exchange of the tensor's buckets. */
static zopt_status wait_reusable(zi_zero *z, int id, zi_queue *behind)
{
    const zi_tensor *tensor = &z->tensors[id];
    for (uint32_t i = 0; i < tensor->n_buckets && z->n_exchanges > 0; i++) {
        uint32_t b = tensor->first_bucket + i;
        if (z->waited[b].n_exchanges != z->n_exchanges || behind != z->caller.stream)
            ZI_TRY(wait_consumed(z, b, behind));
    }
    return ZOPT_OK;
}

static zopt_status wait_writable(zi_zero *z, int id)
{
    ZI_TRY(wait_reusable(z, id, z->caller.stream));
    /* The caller writes without the queue. Behind the first pass of this micro-step it reads other
     * tensors alone: an earlier call has waited for all that reads this one. */
    if (z->n_passed > 0 && z->caller.stream == NULL)
        return ZOPT_OK;
    return zi_caller_follow(z, &z->caller.n_exchanges, z->n_exchanges);
}

zopt_status zi_grad_acquire(zi_zero *z, int id)
{
    zi_trace_mark(z, NULL, ZI_AT_BACKWARD, z->caller.stream);
    zi_owner_lock(z);
    zopt_status status = wait_writable(z, id);
    zi_owner_unlock(z);
    if (status == ZOPT_OK)
        z->grad_state[id] = ZI_GRAD_ACQUIRED;
    return status;
}

/* Expose the buckets that are next in order, as far as they are full. */
static zopt_status expose_full(zi_zero *z)
{
    while (z->n_exposed < z->layout.n_exchanged) {
        uint32_t b = z->layout.order[z->n_exposed];
        if (z->n_missing[b] > 0)
            return ZOPT_OK;
        zi_transfer transfer = zi_grad_transfer(z, &z->layout.bucket[b]);
        zi_caller_join(z);
        zi_trace_mark(z, &z->layout.bucket[b], ZI_AT_EXPOSE, z->queue);
        ZI_TRY(z->comm->ops->expose(z->comm, &transfer));
        z->n_exposed++;
    }
    return ZOPT_OK;
}

/* Zero elements [from, extent) of the tensor's place. */
static void zero_rest(zi_zero *z, int id, uint64_t from)
{
    const zi_tensor *tensor = &z->tensors[id];
    size_t bytes = zopt_dtype_bytes(tensor->dtype);
    if (tensor->extent > from)
        z->config.device->zero(z->queue, (char *)zi_grad_address(z, id) + from * bytes,
                               (tensor->extent - from) * bytes);
}

/* How many buckets it fills. */
static int arrived(zi_zero *z, int id)
{
    const zi_tensor *tensor = &z->tensors[id];
    int n_filled = 0;
    z->grad_state[id] = ZI_GRAD_READY;
    for (uint32_t b = 0; b < tensor->n_buckets; b++)
        n_filled += --z->n_missing[tensor->first_bucket + b] == 0;
    return n_filled;
}

static zopt_status push_on(zi_zero *z)
{
    int idle;
    ZI_TRY(expose_full(z));
    ZI_TRY(z->comm->ops->progress(z->comm, &idle));
    zi_owner_wake(z);
    return ZOPT_OK;
}

/* Calls do not move anything where all memory can be addressed, and cost more than a small tensor.
 * Elsewhere the padding, zero from the start, must be so in every exchange: slices are exchanged in
 * place, and leave other ranks' gradients there. */
zopt_status zi_grad_ready(zi_zero *z, int id)
{
    int moves = z->comm->node.size < z->comm->world || !z->config.device->on_host;
    zi_trace_mark(z, NULL, ZI_AT_BACKWARD_END, z->caller.stream);
    if (z->comm->node.size < z->comm->world)
        zero_rest(z, id, z->tensors[id].n_elems);
    z->caller.is_ahead = z->caller.stream != NULL;
    if (arrived(z, id) == 0 && !moves)
        return ZOPT_OK;
    zi_owner_lock(z);
    zopt_status status = push_on(z);
    zi_owner_unlock(z);
    return status;
}

zopt_status zi_bucket_flush(zi_zero *z)
{
    int contributes = zi_zero_slot(z) >= 0;
    for (uint32_t i = 0; i < z->n_tensors; i++) {
        if (z->grad_state[i] == ZI_GRAD_READY || z->tensors[i].variant == NULL)
            continue;
        if (contributes) {
            ZI_TRY(wait_reusable(z, (int)i, z->queue));
            zero_rest(z, (int)i, 0);
        }
        arrived(z, (int)i);
    }
    ZI_TRY(expose_full(z));
    for (uint32_t i = 0; i < z->n_tensors; i++)
        z->grad_state[i] = ZI_GRAD_ABSENT;
    for (uint32_t b = 0; b < z->layout.n_buckets; b++)
        z->n_missing[b] = z->layout.bucket[b].n_tensors;
    return ZOPT_OK;
}

void zi_bucket_next(zi_zero *z)
{
    z->n_exchanges += !zi_reduce_is_done(z);
    z->n_exposed = z->n_passed = 0;
}
