/* The owner's side of a reduction: a table of sources for each bucket, and accumulation over
 * micro-steps. Sums run in slot order: the accumulators hold all earlier slots and come first.
 * Where slots are summed by groups (slot_group.c), every micro-step accumulates and the total is
 * the one source that is left. Next: owner.c makes the first pass over what is read here. */
#include "base/status.h"
#include "zero/ahead.h"
#include "zero/passes.h"
#include "zero/trace.h"

/* Where master weights and states are not at hand, without them and their tables. */
static void describe_slice(zi_zero *z, const zi_bucket *bucket, zi_job *job)
{
    *job = zi_home_job(z, bucket);
    if (zi_is_offloaded(z))
        *job = (zi_job){.n_elems = job->n_elems, .start = job->start};
    job->source = z->source;
}

int zi_reduce_is_done(const zi_zero *z)
{
    return z->slot_groups != ZI_GROUPS_NONE && z->micro == z->n_micro;
}

zopt_status zi_reduce_release(zi_zero *z, const zi_bucket *bucket)
{
    zi_transfer transfer = zi_grad_transfer(z, bucket);
    return zi_reduce_is_done(z) ? ZOPT_OK : z->comm->ops->consumed(z->comm, &transfer);
}

zopt_status zi_reduce_sources(zi_zero *z, const zi_bucket *bucket, zi_job *job)
{
    if (zi_reduce_is_done(z)) {
        describe_slice(z, bucket, job);
        zi_trace_mark(z, bucket, ZI_AT_FOUND, z->queue);
        job->n_sources = zi_slot_groups_sums(z, bucket, z->source);
        return ZOPT_OK;
    }
    zi_transfer transfer = zi_grad_transfer(z, bucket);
    ZI_TRY(z->comm->ops->expose_wait(z->comm, &transfer, z->source_at));
    zi_trace_mark(z, bucket, ZI_AT_FOUND, z->queue);
    describe_slice(z, bucket, job);
    int last_of_many =
        z->slot_groups == ZI_GROUPS_NONE && z->n_micro > 1 && z->micro == z->n_micro - 1;
    if (last_of_many)
        z->source[job->n_sources++] = (zi_source){z->accum + bucket->owned_start, ZOPT_FP32};
    int all = transfer.n_contributors, n = z->comm->comes_reduced && all > 0 ? 1 : all;
    for (int i = 0; i < n; i++) {
        int is_sum = zi_comes_summed(z->comm, bucket->dtype, i);
        z->source[job->n_sources++] =
            (zi_source){z->source_at[i], is_sum ? ZOPT_FP32 : bucket->dtype};
    }
    return ZOPT_OK;
}

zopt_status zi_reduce_job(zi_zero *z, const zi_bucket *bucket, zi_job *job)
{
    int phase = zi_phase(z, ZOPT_PHASE_REDUCE);
    z->comm->bucket = (int)bucket->position;
    ZI_TRY(zi_reduce_sources(z, bucket, job));
    zi_phase(z, phase);
    return ZOPT_OK;
}

void zi_reduce_add(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    float *accum = z->accum + bucket->owned_start;
    if (z->micro == 0)
        z->config.device->zero(z->queue, accum, job->n_elems * sizeof *accum);
    if (z->slot_groups != ZI_GROUPS_NONE)
        zi_slot_groups_add(z, bucket, job);
    else
        z->config.device->accumulate(z->queue, job, accum, &z->placed.norm->n_bad);
}

zopt_status zi_reduce_accumulate(zi_zero *z)
{
    ZI_TRY(zi_owner_finish(z));
    if (z->measure && z->ahead != NULL)
        ZI_TRY(zi_locate_enqueue(z));
    else if (z->measure)
        ZI_TRY(zi_norm_fetch(z));
    if (z->measure && z->norm.n_bad > 0)
        ZI_TRY(zi_locate(z));
    for (uint32_t i = 0; i < z->layout.n_exchanged; i++)
        ZI_TRY(zi_reduce_release(z, &z->layout.bucket[z->layout.order[i]]));
    return ZOPT_OK;
}
