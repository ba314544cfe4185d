/* The rounds of a step: each reads all owned gradients once, sums exactly over all ranks, and acts
 * on the totals, which every rank has alike. The first, whose pass owner.c has made while backward
 * went on, decides whether and with what coefficient the step updates; rounds of statistics that an
 * optimizer needs come behind it, before the update. Where a step does not wait for the host
 * (ahead.h), kernels act. Next: update.c. */
#include <string.h>

#include "base/status.h"
#include "zero/passes.h"

/* ---- the norm round: sum of squares, non-finite blocks ---- */

enum { NORM_WORDS = ZI_EXACT_LIMBS + 1 };

static size_t norm_words(const zi_zero *z)
{
    (void)z;
    return NORM_WORDS;
}

static zopt_status norm_end(zi_zero *z)
{
    ZI_TRY(zi_norm_fetch(z));
    zi_exact_carry(z->norm.squares.limb);
    memcpy(z->sums, z->norm.squares.limb, sizeof z->norm.squares.limb);
    z->sums[ZI_EXACT_LIMBS] = z->norm.n_bad;
    return ZOPT_OK;
}

/* ---- what both first rounds come to ---- */

static zopt_status decide(zi_zero *z, double sum_of_squares, int64_t n_bad)
{
    z->decision = zi_decide(&z->config.scale_rules, &z->scale, z->measure, sum_of_squares, n_bad);
    z->control.coef = (float)z->decision.coef;
    z->control.skip = z->decision.skip;
    z->control.loss_scale = (float)z->scale.scale;
    if (!z->decision.skip) {
        zi_group_foresee(z, 1, z->control.scalars);
        zi_group_advance(z);
    }
    zi_place_control(z);
    if (!z->decision.skip)
        return ZOPT_OK;
    if (z->norm.n_bad > 0)
        ZI_TRY(zi_locate(z));
    return zi_locate_agree(z, &z->report);
}

static zopt_status decide_on_norm(zi_zero *z)
{
    return decide(z, zi_exact_round(z->sums), z->sums[ZI_EXACT_LIMBS]);
}

static zopt_status decide_unmeasured(zi_zero *z)
{
    return decide(z, 0, 0);
}

static const zi_round norm_round = {
    .n_words = norm_words,
    .end = norm_end,
    .act = decide_on_norm,
};

/* Neither clip nor check: no pass over the gradients but the update's own. */
static const zi_round unmeasured_round = {.act = decide_unmeasured};

/* ---- the table of a handle's rounds ---- */

void zi_rounds_list(zi_zero *z)
{
    z->n_rounds = 0;
    z->rounds[z->n_rounds++] = z->measure ? &norm_round : &unmeasured_round;
    for (int i = 0; i < ZI_N_STATISTICS && zi_statistics_needed(z); i++)
        z->rounds[z->n_rounds++] = &zi_statistics_rounds[i];
    z->n_sums = 0;
    for (int i = 0; i < z->n_rounds; i++) {
        size_t n = z->rounds[i]->n_words != NULL ? z->rounds[i]->n_words(z) : 0;
        z->n_sums = n > z->n_sums ? n : z->n_sums;
    }
}

static zopt_status pass(zi_zero *z, const zi_round *round)
{
    round->begin(z);
    if (zi_is_offloaded(z))
        return zi_offload_pass(z, round);
    for (uint32_t i = 0; i < z->layout.n_exchanged; i++) {
        const zi_bucket *bucket = &z->layout.bucket[z->layout.order[i]];
        zi_job job;
        ZI_TRY(zi_reduce_job(z, bucket, &job));
        round->add_slice(z, bucket, &job);
    }
    return ZOPT_OK;
}

static zopt_status sum(zi_zero *z, const zi_round *round)
{
    ZI_TRY(round->add_slice != NULL ? pass(z, round) : zi_owner_finish(z));
    ZI_TRY(round->end(z));
    zi_phase(z, ZOPT_PHASE_REDUCE);
    ZI_TRY(z->comm->ops->all_reduce(z->comm, ZI_SUM, z->sums, round->n_words(z)));
    zi_phase(z, ZOPT_PHASE_NORM);
    return ZOPT_OK;
}

zopt_status zi_rounds_enqueue(zi_zero *z)
{
    for (int i = 0; i < ZI_N_STATISTICS && z->statistics != NULL; i++) {
        ZI_TRY(pass(z, &zi_statistics_rounds[i]));
        ZI_TRY(zi_statistics_settle_enqueue(z, (zi_statistics_round)i));
    }
    return ZOPT_OK;
}

zopt_status zi_rounds_run(zi_zero *z)
{
    zi_phase(z, ZOPT_PHASE_NORM);
    z->control.skip = 0;
    for (int i = 0; i < z->n_rounds && !z->control.skip; i++) {
        if (z->rounds[i]->n_words != NULL)
            ZI_TRY(sum(z, z->rounds[i]));
        ZI_TRY(z->rounds[i]->act(z));
    }
    return ZOPT_OK;
}
