/* The decision of a step, made once and the same on all ranks: skip or update, the coefficient, the
 * next loss scale. Written once, as C and as CUDA C++: zero/round.c makes it on the host, and a
 * kernel where a step is not to wait for the host. Behind it: what the two tell each other then.
 *
 * Rules: any non-finite sum skips the step; the scale halves when `hysteresis` overflows have been
 * seen and doubles after growth_interval good steps, which also forgives past overflows; the scale
 * of a step is what its gradients were multiplied with. */
#ifndef ZI_DEVICE_CONTROL_H
#define ZI_DEVICE_CONTROL_H

#include <math.h>
#include <stddef.h>

#include "base/exact.h"
#include "optim/optim.h"

/* What is asked for; fixed at create. */
typedef struct zi_scale_rules {
    int dynamic;
    double min_scale;
    int growth_interval; /* good steps in a row before the scale doubles */
    int hysteresis;      /* overflows before it halves */
    int max_consecutive_skips;
    double clip_norm; /* 0: off */
    int slots;
} zi_scale_rules;

/* What moves from step to step; part of a checkpoint. */
typedef struct zi_scale_state {
    double scale;
    int n_good;          /* good steps in a row since the scale last grew */
    int hysteresis_left; /* overflows until it halves */
    int n_skips;         /* consecutive skips at a scale that cannot go lower */
} zi_scale_state;

typedef struct zi_decision {
    int skip;
    int give_up; /* 1: max_consecutive_skips was reached */
    double norm; /* of the unscaled, averaged gradient; NaN if not finite or not measured */
    double clip; /* 1 where nothing is clipped */
    double coef; /* clip / (slots * scale) */
} zi_decision;

ZI_SHARED void zi_scale_start(const zi_scale_rules *rules, double scale, zi_scale_state *state)
{
    zi_scale_state start = {scale, 0, rules->hysteresis, 0};
    *state = start;
}

/* Returns 1 where it is to give up. */
ZI_SHARED int zi_scale_overflow(const zi_scale_rules *rules, zi_scale_state *state)
{
    int lowest = !rules->dynamic || state->scale <= rules->min_scale;
    state->n_good = 0;
    if (lowest) {
        state->n_skips++;
        return state->n_skips >= rules->max_consecutive_skips;
    }
    if (state->hysteresis_left > 1) {
        state->hysteresis_left--;
        return 0;
    }
    state->scale = fmax(state->scale / 2, rules->min_scale);
    return 0;
}

ZI_SHARED void zi_scale_good(const zi_scale_rules *rules, zi_scale_state *state)
{
    state->n_skips = 0;
    if (!rules->dynamic || ++state->n_good < rules->growth_interval)
        return;
    state->n_good = 0;
    state->hysteresis_left = rules->hysteresis;
    /* The scale is handed out as a float and gradients are multiplied with it: never to infinity.
     */
    if (state->scale <= 0x1p126)
        state->scale *= 2;
}

/* sum_of_squares: of the summed gradient, loss scale included; n_bad: blocks that were not finite;
 * measured: 0 where no sums were made. Moves *state on. */
ZI_SHARED zi_decision zi_decide(const zi_scale_rules *rules, zi_scale_state *state, int measured,
                                double sum_of_squares, int64_t n_bad)
{
    double divisor = rules->slots * state->scale;
    zi_decision decision = {0, 0, NAN, 1.0, 0};
    if (measured && n_bad > 0) {
        decision.skip = 1;
        decision.give_up = zi_scale_overflow(rules, state);
        return decision;
    }
    if (measured) {
        decision.norm = sqrt(sum_of_squares) / divisor;
        if (rules->clip_norm > 0)
            decision.clip = fmin(1.0, rules->clip_norm / (decision.norm + 1e-6));
    }
    decision.coef = decision.clip / divisor;
    zi_scale_good(rules, state);
    return decision;
}

/* Each rank's losses, and a mark of what it takes the step with: rows of n_losses + 1. The mean
 * over the slots, in slot order. */
ZI_SHARED double zi_mean_loss(const double *rows, int n_losses, int world, int slots)
{
    double sum = 0;
    for (int slot = 0; slot < slots; slot++)
        sum += rows[slot % world * (n_losses + 1) + slot / world];
    return sum / slots;
}

/* The first rank whose mark is not rank 0's; 0: none. */
ZI_SHARED int zi_other_mark(const double *rows, int n_losses, int world)
{
    for (int rank = 1; rank < world; rank++)
        if (rows[rank * (n_losses + 1) + n_losses] != rows[n_losses])
            return rank;
    return 0;
}

/* ---- where a device decides ---- */

/* What kernels sum for the norm round. */
typedef struct zi_norm_sums {
    zi_exact squares;
    int64_t n_bad; /* blocks that are not finite */
} zi_norm_sums;

/* What the decision of a step hands to the update kernel; lives where the kernel runs. */
typedef struct zi_control {
    float coef;                       /* the summed gradient is multiplied by this, once */
    float loss_scale;                 /* what the next gradients must be multiplied by */
    int32_t skip;                     /* 1: this step updates nothing */
    float (*scalars)[ZI_MAX_SCALARS]; /* one row for each group */
} zi_control;

/* Steps that the host may have enqueued and not heard of: one runs while the next is made. */
enum { ZI_MAX_PENDING = 2 };

/* Where a handle's steps stand. */
typedef struct zi_standing {
    uint64_t step, good_step; /* taken; applied */
    zi_scale_state scale;
    int other_rank; /* > 0: it has met a step with other settings, and no step is applied any more
                     */
} zi_standing;

/* What host and device tell each other of a step, in page-locked memory. */
typedef struct zi_step_slot {
    uint64_t least_good; /* from the host: good steps before this one, at least */
    zi_decision decision;
    zi_standing after;
    double loss;     /* the mean */
    int64_t bad_key; /* lowest (tensor, slot) with a non-finite gradient; INT64_MAX: none */
} zi_step_slot;

/* Where a tensor begins in its space. */
typedef struct zi_tensor_start {
    uint64_t start;
    int64_t tensor;
} zi_tensor_start;

/* (tensor, slot) as one number: the lowest is what a skipped step reports. */
enum { ZI_SLOT_BITS = 23, ZI_SLOT_SUM = 0x7fffff /* no slot held it: the sum overflowed */ };

/* What to look for in a job's sources: elements that are not finite. */
typedef struct zi_search {
    const zi_tensor_start *tensor; /* of the job's space, ascending */
    size_t n_tensors;
    int first, slot;      /* source `first` is of this slot, those behind it of the next ones */
    int in_sum;           /* 1: and in what all sources come to, as ZI_SLOT_SUM */
    const int64_t *n_bad; /* where this is 0 there are none, and nothing is read */
    int64_t *key;         /* lowered to the lowest that is found */
} zi_search;

/* All in the device's memory, but for slots and the scalars that they offer. */
typedef struct zi_decide_job {
    zi_scale_rules rules;
    int measured, rank, world, n_losses;
    uint32_t n_groups;
    zi_norm_sums *norm;    /* of all ranks; used up */
    int64_t *bad_key;      /* [world] each rank's; made ready for the next step, as is: */
    double *losses;        /* [world][n_losses + 1], with marks */
    zi_standing *standing; /* moved on */
    zi_control *control;
    zi_step_slot *slot; /* [ZI_MAX_PENDING] that of a step is step % ZI_MAX_PENDING */
    /* [ZI_MAX_PENDING][n_groups] for each slot: row i is for good step least_good + 1 + i. */
    const float (*offered)[ZI_MAX_SCALARS];
    const zi_terms *offered_terms; /* the same rows, where tensors have statistics */
    zi_terms *terms;               /* [n_groups] of this step */
} zi_decide_job;

/* What follows from the tensors' sums, behind a decision to update. All in the device's memory. */
typedef struct zi_settle_job {
    zi_statistics_round round;
    uint32_t n_tensors;
    zi_tensor_statistics *tensor; /* sums over all ranks; used up */
    const zi_terms *terms;        /* of their groups */
    const zi_control *control;
} zi_settle_job;

ZI_SHARED int64_t zi_take_bad_key(const zi_decide_job *job)
{
    int64_t key = INT64_MAX;
    for (int rank = 0; rank < job->world; rank++) {
        key = job->bad_key[rank] < key ? job->bad_key[rank] : key;
        job->bad_key[rank] = rank == job->rank ? INT64_MAX : 0;
    }
    return key;
}

/* Sums over ranks of what each of them writes. */
ZI_SHARED void zi_clear_losses(const zi_decide_job *job)
{
    for (int i = 0; i < job->world * (job->n_losses + 1); i++)
        job->losses[i] = 0;
}

/* What zi_decide would say of a step that ranks do not take alike. */
ZI_SHARED zi_decision zi_refuse_step(void)
{
    zi_decision decision = {1, 0, NAN, 1.0, 0};
    return decision;
}

/* One thread: decide, and tell the host and the kernels to come. Returns the first of the offered
 * rows that the update is to use, one for each group; -1: there is no update. */
ZI_SHARED int64_t zi_decide_step(const zi_decide_job *job)
{
    zi_standing now = *job->standing;
    zi_step_slot *slot = &job->slot[now.step % ZI_MAX_PENDING];
    int64_t n_bad = job->measured ? job->norm->n_bad : 0;
    double squares =
        job->measured && n_bad == 0 ? zi_exact_round_off(job->norm->squares.limb) : 0.0;
    if (now.other_rank == 0)
        now.other_rank = zi_other_mark(job->losses, job->n_losses, job->world);
    zi_decision decision = now.other_rank > 0
                               ? zi_refuse_step()
                               : zi_decide(&job->rules, &now.scale, job->measured, squares, n_bad);
    uint64_t row = now.step % ZI_MAX_PENDING * ZI_MAX_PENDING + now.good_step - slot->least_good;
    now.step++;
    now.good_step += !decision.skip;
    *job->standing = now;
    job->control->coef = (float)decision.coef;
    job->control->skip = decision.skip;
    job->control->loss_scale = (float)now.scale.scale;
    slot->decision = decision;
    slot->after = now;
    slot->loss = zi_mean_loss(job->losses, job->n_losses, job->world, job->rules.slots);
    slot->bad_key = zi_take_bad_key(job);
    zi_clear_losses(job);
    return decision.skip ? -1 : (int64_t)(row * job->n_groups);
}

#endif
