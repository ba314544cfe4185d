/* The update of this rank's slices of all buckets, in the order of parameters, straight into every
 * destination. The caller makes it; on the host the progress thread, if there is one, takes every
 * bucket that is next when it is free. An element is updated by one of the two, with the same
 * numbers, so no bit depends on who that is. Next: the comm publishes what is stored. */
#include <string.h>

#include "base/status.h"
#include "zero/ahead.h"
#include "zero/passes.h"
#include "zero/trace.h"

zopt_status zi_update_job(zi_zero *z, const zi_bucket *bucket, zi_job *job)
{
    zi_transfer params = zi_param_transfer(z, bucket);
    ZI_TRY(zi_reduce_job(z, bucket, job));
    int phase = zi_phase(z, ZOPT_PHASE_GATHER);
    ZI_TRY(z->comm->ops->dest_wait(z->comm, &params, z->dest_at, &job->n_dests));
    for (int i = 0; i < job->n_dests; i++)
        z->dest[i] = (zi_dest){z->dest_at[i], bucket->dtype};
    job->dest = z->dest;
    zi_phase(z, phase);
    return ZOPT_OK;
}

/* The k-th bucket in the order of parameters. */
static const zi_bucket *bucket_at(const zi_zero *z, uint32_t k)
{
    return &z->layout.bucket[z->layout.order[z->layout.n_exchanged - 1 - k]];
}

void zi_update_enqueue(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    zi_trace_mark(z, bucket, ZI_AT_UPDATE, z->queue);
    z->config.device->update(z->queue, z->layout.space[bucket->space].variant, job);
    zi_trace_mark(z, bucket, ZI_AT_UPDATED, z->queue);
}

static zopt_status publish(zi_zero *z, const zi_bucket *bucket)
{
    zi_transfer params = zi_param_transfer(z, bucket);
    zi_phase(z, ZOPT_PHASE_GATHER);
    zi_trace_mark(z, bucket, ZI_AT_PUBLISH, z->queue);
    ZI_TRY(z->comm->ops->publish(z->comm, &params));
    zi_phase(z, ZOPT_PHASE_UPDATE);
    return ZOPT_OK;
}

static zopt_status update_alone(zi_zero *z)
{
    for (uint32_t k = 0; k < z->layout.n_exchanged; k++) {
        zi_job job;
        ZI_TRY(zi_update_job(z, bucket_at(z, k), &job));
        zi_update_enqueue(z, bucket_at(z, k), &job);
        ZI_TRY(publish(z, bucket_at(z, k)));
    }
    return ZOPT_OK;
}

/* ---- two hands ---- */

int zi_update_is_shared(const zi_zero *z)
{
    return z->config.progress_thread && z->config.device->on_host && !zi_is_offloaded(z);
}

int zi_update_is_left(const zi_zero *z)
{
    return z->sharing && z->n_taken < z->layout.n_exchanged;
}

/* The job's tables, which the other hand's next job is described in. */
static void keep_tables(zi_hand *hand)
{
    zi_job *job = &hand->job;
    memcpy(hand->source, job->source, (size_t)job->n_sources * sizeof *hand->source);
    memcpy(hand->dest, job->dest, (size_t)job->n_dests * sizeof *hand->dest);
    job->source = hand->source;
    job->dest = hand->dest;
}

zopt_status zi_update_take(zi_zero *z, zi_hand *hand)
{
    hand->is_full = 0;
    if (!zi_update_is_left(z))
        return ZOPT_OK;
    hand->k = z->n_taken;
    ZI_TRY(zi_update_job(z, bucket_at(z, hand->k), &hand->job));
    keep_tables(hand);
    hand->is_full = 1;
    z->n_taken++;
    return ZOPT_OK;
}

/* Destinations are open once the caller has taken the first bucket. */
zopt_status zi_update_take_ready(zi_zero *z, zi_hand *hand)
{
    int ready = z->n_taken > 0;
    hand->is_full = 0;
    if (ready && zi_update_is_left(z) && !zi_reduce_is_done(z)) {
        zi_transfer grads = zi_grad_transfer(z, bucket_at(z, z->n_taken));
        ZI_TRY(z->comm->ops->expose_test(z->comm, &grads, &ready));
    }
    return ready ? zi_update_take(z, hand) : ZOPT_OK;
}

void zi_update_run(zi_zero *z, const zi_hand *hand)
{
    const zi_bucket *bucket = bucket_at(z, hand->k);
    int is_beside = hand == &z->hand[ZI_THREADS_HAND];
    zi_trace_mark(z, bucket, is_beside ? ZI_AT_UPDATE_BESIDE : ZI_AT_UPDATE, NULL);
    z->config.device->update(z->queue, z->layout.space[bucket->space].variant, &hand->job);
    zi_trace_mark(z, bucket, is_beside ? ZI_AT_UPDATED_BESIDE : ZI_AT_UPDATED, NULL);
}

/* Publish as far as neither hand is at work. */
zopt_status zi_update_end(zi_zero *z, zi_hand *hand)
{
    uint32_t end = z->n_taken;
    hand->is_full = 0;
    for (int i = 0; i < ZI_N_HANDS; i++)
        if (z->hand[i].is_full && z->hand[i].k < end)
            end = z->hand[i].k;
    while (z->n_stored < end)
        ZI_TRY(publish(z, bucket_at(z, z->n_stored++)));
    return ZOPT_OK;
}

/* The caller's hand. The thread is locked out but while the kernel runs. */
static zopt_status update_rest(zi_zero *z)
{
    zi_hand *hand = &z->hand[ZI_CALLERS_HAND];
    for (;;) {
        ZI_TRY(zi_update_take(z, hand));
        if (!hand->is_full)
            return ZOPT_OK;
        zi_owner_wake(z);
        zi_owner_unlock(z);
        zi_update_run(z, hand);
        zi_owner_lock(z);
        ZI_TRY(zi_update_end(z, hand));
    }
}

static zopt_status update_shared(zi_zero *z)
{
    zi_owner_lock(z);
    z->n_taken = z->n_stored = 0;
    z->sharing = 1;
    zopt_status status = update_rest(z);
    zi_owner_unlock(z);
    zopt_status other = zi_owner_rest(z);
    z->sharing = 0;
    return status != ZOPT_OK ? status : other;
}

zopt_status zi_update_all(zi_zero *z)
{
    zi_phase(z, ZOPT_PHASE_UPDATE);
    ZI_TRY(z->comm->ops->open(z->comm));
    ZI_TRY(zi_is_offloaded(z)       ? zi_offload_update(z)
           : zi_update_is_shared(z) ? update_shared(z)
                                    : update_alone(z));
    z->n_updates++;
    return ZOPT_OK;
}
