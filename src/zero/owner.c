/* The owner's first pass over its slices: the norm's sums in the last micro-step, the accumulation
 * in earlier ones. It is made bucket by bucket, in their order, as soon as all ranks have exposed
 * one: while backward goes on, and while what was written last is still in the caches. Sums are
 * exact and accumulators each element's own, so no bit depends on when. zopt_grad_ready makes what
 * it can, or owner_thread.c does; zopt_micro_end and zopt_step make the rest. Next: round.c. */
#include "base/status.h"
#include "zero/passes.h"
#include "zero/trace.h"

/* By groups the last micro-step accumulates too, and the norm's pass over the totals follows. */
static int accumulates(const zi_zero *z)
{
    return z->micro < (z->slot_groups == ZI_GROUPS_NONE ? z->n_micro - 1 : z->n_micro);
}

static const zi_bucket *next_bucket(const zi_zero *z)
{
    return &z->layout.bucket[z->layout.order[z->n_passed]];
}

zopt_status zi_owner_take(zi_zero *z, const zi_bucket **bucket, zi_job *job)
{
    int ready = 0;
    *bucket = NULL;
    if (z->n_passed == z->n_exposed)
        return ZOPT_OK;
    zi_transfer transfer = zi_grad_transfer(z, next_bucket(z));
    ZI_TRY(z->comm->ops->expose_test(z->comm, &transfer, &ready));
    if (!ready)
        return ZOPT_OK;
    ZI_TRY(zi_reduce_sources(z, next_bucket(z), job));
    *bucket = next_bucket(z);
    return ZOPT_OK;
}

/* Where a step measures nothing its last micro-step has no pass. */
void zi_owner_pass(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    zi_norm_sums *sums = z->placed.norm;
    if (z->n_passed == 0)
        zi_norm_clear(z);
    if (accumulates(z))
        zi_reduce_add(z, bucket, job);
    else if (z->measure)
        z->config.device->norm(z->queue, job, &sums->squares, &sums->n_bad);
    if (accumulates(z) || z->measure)
        zi_trace_mark(z, bucket, ZI_AT_PASSED, z->queue);
}

int zi_owner_phase(const zi_zero *z)
{
    if (z->sharing)
        return ZOPT_PHASE_UPDATE;
    return accumulates(z) ? ZOPT_PHASE_REDUCE : ZOPT_PHASE_NORM;
}

static void pass_here(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    int phase = zi_phase(z, zi_owner_phase(z));
    zi_owner_pass(z, bucket, job);
    z->n_passed++;
    zi_phase(z, phase);
}

int zi_owner_is_due(const zi_zero *z)
{
    return z->thread == NULL && z->n_passed < z->n_exposed;
}

zopt_status zi_owner_advance(zi_zero *z)
{
    for (;;) {
        const zi_bucket *bucket;
        zi_job job;
        ZI_TRY(zi_owner_take(z, &bucket, &job));
        if (bucket == NULL)
            return ZOPT_OK;
        pass_here(z, bucket, &job);
    }
}

zopt_status zi_owner_finish(zi_zero *z)
{
    while (z->n_passed < z->layout.n_exchanged) {
        const zi_bucket *bucket = next_bucket(z);
        zi_job job;
        ZI_TRY(zi_reduce_job(z, bucket, &job));
        pass_here(z, bucket, &job);
    }
    return ZOPT_OK;
}
