/* The step, after the last micro-step: sum, decide, update, publish. Reads like the design's path
 * of a gradient; each line of it is a function of this room. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/status.h"
#include "zero/ahead.h"
#include "zero/passes.h"
#include "zero/trace.h"

const char *const zopt_phase_names[ZOPT_N_PHASES] = {
    [ZOPT_PHASE_REDUCE] = "reduce",
    [ZOPT_PHASE_NORM] = "norm",
    [ZOPT_PHASE_UPDATE] = "update",
    [ZOPT_PHASE_GATHER] = "gather",
};

int zi_phase(zi_zero *z, int phase)
{
    double now = zi_now_ms();
    int before = z->phase;
    if (before >= 0)
        z->phase_ms[before] += now - z->phase_since_ms;
    z->phase_since_ms = now;
    z->phase = phase;
    z->comm->phase = phase >= 0 ? zopt_phase_names[phase] : z->between;
    z->comm->bucket = -1;
    return before;
}

zopt_status zi_micro_end(zi_zero *z, double loss)
{
    z->losses[z->micro] = loss;
    zi_trace_mark(z, NULL, ZI_AT_MICRO_END, NULL);
    ZI_TRY(zi_owner_rest(z));
    zi_phase(z, ZOPT_PHASE_REDUCE);
    ZI_TRY(zi_bucket_flush(z));
    if (z->micro < z->n_micro - 1 || z->slot_groups != ZI_GROUPS_NONE) {
        ZI_TRY(zi_reduce_accumulate(z));
        zi_bucket_next(z);
        z->micro++;
    } else {
        ZI_TRY(zi_owner_advance(z));
        z->micro = z->n_micro; /* the gradients wait for zopt_step */
    }
    zi_trace_mark(z, NULL, ZI_AT_MICRO_ENDED, NULL);
    zi_phase(z, -1);
    return ZOPT_OK;
}

/* A number that is the same on all ranks if they take the same step with the same settings. Powers
 * follow from these, on each rank as soon as it hears of a step. */
static double settings_mark(const zi_zero *z)
{
    uint64_t hash = z->step;
    for (uint32_t i = 0; i < z->n_groups; i++)
        hash = XXH3_64bits_withSeed(&z->groups[i], offsetof(zi_group, power), hash);
    return (double)(hash >> 12);
}

zopt_status zi_disagree(uint64_t step, int rank)
{
    return ZI_FAIL(ZOPT_ERR_DISAGREE,
                   "step %llu: rank %d has other group settings than rank 0: call "
                   "zopt_group_set_lr alike on all ranks",
                   (unsigned long long)step, rank);
}

/* All ranks' losses; and whether all take this step alike, before anything is updated. */
static zopt_status meet(zi_zero *z, double *loss)
{
    int n = z->n_micro, world = z->comm->world;
    ZI_TRY(z->comm->ops->all_gather(z->comm, z->losses, (size_t)(n + 1) * sizeof *z->losses,
                                    z->all_losses));
    int other = zi_other_mark(z->all_losses, n, world);
    z->comm->broken |= other > 0;
    *loss = zi_mean_loss(z->all_losses, n, world, z->config.scale_rules.slots);
    return other > 0 ? zi_disagree(z->step + 1, other) : ZOPT_OK;
}

/* The host decides. */
static zopt_status decide_and_update(zi_zero *z, double *loss)
{
    ZI_TRY(meet(z, loss));
    z->report.bad_tensor = z->report.bad_slot = z->report.bad_rank = -1;
    ZI_TRY(zi_rounds_run(z));
    if (z->control.skip)
        return ZOPT_OK;
    ZI_TRY(zi_update_all(z));
    z->good_step++;
    return ZOPT_OK;
}

/* Peers may write their next gradients. */
static zopt_status give_back(zi_zero *z)
{
    for (uint32_t i = 0; i < z->layout.n_exchanged; i++)
        ZI_TRY(zi_reduce_release(z, &z->layout.bucket[z->layout.order[i]]));
    return ZOPT_OK;
}

static void write_report(zi_zero *z, double loss, double scale)
{
    zopt_step_report *report = &z->report;
    const zi_decision *decision = &z->decision;
    zi_phase(z, -1);
    report->step = z->step;
    report->good_step = z->good_step;
    report->loss = loss;
    report->grad_norm = decision->norm;
    report->clip_coef = decision->clip;
    report->loss_scale = scale;
    report->skipped = decision->skip;
    report->lr = zi_group_lr(z, 0, z->good_step + (decision->skip ? 1 : 0));
    report->bytes_sent = z->comm->bytes_sent - z->bytes_before;
    z->bytes_before = z->comm->bytes_sent;
    memcpy(report->phase_ms, z->phase_ms, sizeof report->phase_ms);
    memset(z->phase_ms, 0, sizeof z->phase_ms);
}

zopt_status zi_give_up(const zi_zero *z)
{
    const zopt_step_report *r = &z->report;
    const char *name = r->bad_tensor >= 0 ? z->tensors[r->bad_tensor].name : "?";
    return ZI_FAIL(ZOPT_ERR_NUMERICS,
                   "step %llu: gradients not finite in %d steps in a row at loss scale %g, which "
                   "cannot go lower; first in '%s', slot %d (rank %d)",
                   (unsigned long long)r->step, z->scale.n_skips, r->loss_scale, name, r->bad_slot,
                   r->bad_rank);
}

static zopt_status take_step(zi_zero *z)
{
    double loss = 0, scale = z->scale.scale;
    z->phase_ms[ZOPT_PHASE_GATHER] = 0; /* waits for the last step's parameters are its own */
    int every = z->config.check_params_every;
    if (every > 0 && (z->step + 1) % (uint64_t)every == 0)
        ZI_TRY(zi_params_agree(z));
    zi_trace_mark(z, NULL, ZI_AT_STEP, NULL);
    if (!zi_reduce_is_done(z))
        z->micro = z->n_micro - 1; /* whose gradients are summed now */
    zi_phase(z, ZOPT_PHASE_REDUCE);
    zi_caller_join(z); /* it may have read parameters */
    z->losses[z->n_micro] = settings_mark(z);
    ZI_TRY(z->ahead != NULL ? zi_ahead_run(z) : decide_and_update(z, &loss));
    ZI_TRY(give_back(z));
    z->step++;
    zi_bucket_next(z);
    z->micro = 0;
    z->bad_key = INT64_MAX;
    if (z->ahead != NULL)
        zi_ahead_note(z);
    else
        write_report(z, loss, scale);
    z->comm->step = z->step + 1;
    zi_trace_mark(z, NULL, ZI_AT_STEPPED, NULL);
    zi_trace_step_end(z);
    return ZOPT_OK;
}

zopt_status zi_zero_step(zi_zero *z)
{
    zopt_status status = take_step(z);
    z->failed = status != ZOPT_OK;
    ZI_TRY(status);
    if (z->ahead != NULL)
        return zi_ahead_failure(z, 0);
    return z->decision.give_up ? zi_give_up(z) : ZOPT_OK;
}

const char *zi_step_path(zi_zero *z)
{
    const zi_ahead *a = z->ahead;
    const char *why = a != NULL ? a->capture.never : zi_ahead_missing(z);
    const char *how = a == NULL     ? "zopt_step waits for its sums: "
                      : why == NULL ? "zopt_step is enqueued, and replayed as a CUDA graph"
                                    : "zopt_step is enqueued, and not as a CUDA graph: ";
    snprintf(z->path, sizeof z->path, "%s%s", how, why != NULL ? why : "");
    return z->path;
}

/* behind: who waits, as publish_wait has it: the caller, or NULL: the host. */
static zopt_status wait_published(zi_zero *z, uint32_t b, zi_queue *behind)
{
    const zi_bucket *bucket = &z->layout.bucket[b];
    int phase = zi_phase(z, ZOPT_PHASE_GATHER);
    z->comm->bucket = (int)bucket->position;
    uint64_t ordinal = zi_param_ordinal(z, bucket, z->n_updates - 1);
    zi_trace_mark(z, bucket, ZI_AT_PARAM_WAIT, behind);
    ZI_TRY(z->comm->ops->publish_wait(z->comm, ordinal, behind));
    ZI_TRY(zi_trace_gathered(z, bucket, ordinal));
    if (behind == NULL && !z->comm->ops->device_waits)
        ZI_TRY(z->config.device->wait(z->queue));
    if (behind == NULL)
        zi_trace_mark(z, bucket, ZI_AT_PARAM_WAITED, NULL);
    zi_phase(z, phase);
    if (behind == z->caller.stream)
        z->waited[b].n_updates = z->n_updates;
    return ZOPT_OK;
}

static zopt_status wait_moved(zi_zero *z, const zi_tensor *tensor, zi_queue *behind)
{
    for (uint32_t i = 0; i < tensor->n_buckets; i++) {
        uint32_t b = tensor->first_bucket + i;
        int is_there = z->waited[b].n_updates == z->n_updates && behind == z->caller.stream;
        if (is_there || z->n_updates == 0)
            continue;
        zi_owner_lock(z);
        zopt_status status = wait_published(z, b, behind);
        zi_owner_unlock(z);
        ZI_TRY(status);
    }
    return ZOPT_OK;
}

zopt_status zi_param_wait(zi_zero *z, const zi_tensor *tensor)
{
    return tensor->variant != NULL ? wait_moved(z, tensor, NULL) : ZOPT_OK;
}

zopt_status zi_param_acquire(zi_zero *z, int id, const void **param)
{
    const zi_tensor *tensor = &z->tensors[id];
    if (tensor->variant != NULL)
        ZI_TRY(wait_moved(z, tensor, z->caller.stream));
    if (!z->config.device->on_host && !z->comm->ops->device_waits) /* what was set, too */
        ZI_TRY(zi_caller_follow(z, &z->caller.n_updates, z->n_updates));
    const char *base = z->memory[tensor->space].params.base;
    *param = base + tensor->start * zopt_dtype_bytes(tensor->dtype);
    return ZOPT_OK;
}
