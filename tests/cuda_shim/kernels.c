/* Kernels of the shim: thread by thread; what threads of a team do together by shuffles is done
 * here on all of them at once. */
#include "kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda_block.h"
#include "device/cuda_step.h"
#include "device/cuda_tensor.h"
#include "memory.h"
#include "optim/settle.h"

static void must_be_device(const void *address)
{
    if (address != NULL && !shim_is_device(address)) {
        fprintf(stderr, "cuda shim: a kernel was given %p, which is not the device's\n", address);
        abort();
    }
}

static void must_be_locked(const void *address)
{
    if (address != NULL && !shim_is_locked(address)) {
        fprintf(stderr, "cuda shim: a kernel was given %p, which is not page-locked\n", address);
        abort();
    }
}

void shim_check_addresses(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    for (int i = 0; i < job->n_sources; i++)
        must_be_device(job->source[i].data);
    for (int i = 0; i < job->n_dests; i++)
        must_be_device(job->dest[i].data);
    for (int i = 0; i < ZI_MAX_STATES; i++) {
        must_be_device(job->state[i].data);
        must_be_device(job->state[i].absmax);
    }
    const void *const others[] = {job->master, job->span,   job->control, job->tensor,
                                  launch->acc, launch->sum, launch->n_bad};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        must_be_device(others[i]);
    const zi_decide_job *decide = &launch->decide;
    const void *const words[] = {
        launch->search.tensor, launch->search.n_bad, launch->search.key, decide->norm,
        decide->bad_key,       decide->losses,       decide->standing,   decide->control,
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        must_be_device(words[i]);
    must_be_locked(decide->slot);
    must_be_locked(decide->offered);
    must_be_locked(decide->offered_terms);
    must_be_device(decide->terms);
    must_be_device(launch->settle.tensor);
    must_be_device(launch->settle.terms);
    must_be_device(launch->settle.control);
}

static void run_update_elements(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    uint64_t n_tiles = (job->n_elems + ZI_UPDATE_TILE - 1) / ZI_UPDATE_TILE;
    for (uint64_t tile = 0; tile < n_tiles; tile++)
        for (uint32_t thread = 0; thread < ZI_CUDA_THREADS; thread++)
            zi_update_thread(launch->variant->rule, launch->variant->n_states, job, tile, thread);
}

static void run_update_blocks(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    const zi_variant *v = launch->variant;
    for (uint64_t block = 0; block < job->n_elems / ZI_BLOCK; block++) {
        zi_block_part part[ZI_WARP];
        float largest[ZI_MAX_STATES] = {0};
        int goes_on = 1;
        for (uint32_t t = 0; t < ZI_WARP; t++)
            goes_on &= zi_update_block_thread(v->rule, v->n_states, job, block, t, &part[t]);
        for (int t = 0; t < ZI_WARP && goes_on; t++)
            for (int s = 0; s < v->n_states; s++)
                largest[s] = zi_q8_larger(largest[s], part[t].largest[s]);
        for (uint32_t t = 0; t < ZI_WARP && goes_on; t++) {
            memcpy(part[t].largest, largest, sizeof largest);
            zi_encode_block_thread(v->n_states, job, block, t, &part[t]);
        }
    }
}

/* The addresses that a kernel finds in the tensors' statistics. */
static void check_tensors(const zi_cuda_job *job)
{
    for (uint64_t s = 0; s < job->n_spans; s++) {
        const zi_tensor_statistics *t = &job->tensor[job->span[s].tensor];
        const void *const all[] = {t->row,     t->col,     t->row_mean, t->sum,
                                   t->row_sum, t->col_sum, job->tensor};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            must_be_device(all[i]);
    }
}

static void run_update_tensors(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    uint64_t n_tiles = (job->n_elems + ZI_UPDATE_TILE - 1) / ZI_UPDATE_TILE;
    check_tensors(job);
    for (uint64_t tile = 0; tile < n_tiles; tile++)
        for (uint32_t thread = 0; thread < ZI_CUDA_THREADS; thread++)
            zi_update_tensor_thread(job->is_factored, job->n_states, job, tile, thread);
}

static void (*const run_update_of_unit[ZI_N_UNITS])(const zi_cuda_launch *launch) = {
    [ZI_UNIT_ELEMENT] = run_update_elements,
    [ZI_UNIT_BLOCK] = run_update_blocks,
    [ZI_UNIT_TENSOR] = run_update_tensors,
};

static void run_update(const zi_cuda_launch *launch)
{
    must_be_device(launch->job.control->scalars);
    run_update_of_unit[launch->variant->unit](launch);
}

/* What team_sum does: each step adds the lanes of the thread `half` further on. */
static double team_sum(double lane[ZI_TEAM][ZI_QUAD])
{
    for (int half = ZI_TEAM / 2; half > 0; half /= 2)
        for (int t = 0; t < half; t++)
            for (int e = 0; e < ZI_QUAD; e++)
                lane[t][e] += lane[t + half][e];
    return (lane[0][0] + lane[0][2]) + (lane[0][1] + lane[0][3]);
}

static void add_squares(int64_t limb[ZI_EXACT_LIMBS], int64_t *n_bad, double squares)
{
    if (!isfinite(squares)) {
        ++*n_bad;
    } else if (squares > 0) {
        zi_exact_parts parts = zi_exact_split(squares);
        for (int i = 0; i < 3; i++)
            limb[parts.first + i] += parts.part[i];
    }
}

static void run_norm(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    for (uint64_t block = 0; block < job->n_elems / ZI_BLOCK; block++) {
        double lane[ZI_TEAM][ZI_QUAD] = {{0}};
        for (uint32_t thread = 0; thread < ZI_TEAM; thread++)
            zi_norm_thread(job, block, thread, lane[thread]);
        add_squares(launch->sum->limb, launch->n_bad, team_sum(lane));
    }
}

static void run_squares_of_tensors(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    for (uint64_t block = 0; block < job->n_elems / ZI_BLOCK; block++)
        for (zi_block_run run = zi_before_block(job, block); zi_next_in_block(block, &run);) {
            int64_t *sum = job->tensor[run.span->tensor].sum;
            double lane[ZI_TEAM][ZI_QUAD] = {{0}};
            for (uint32_t t = 0; t < ZI_TEAM; t++)
                zi_squares_thread(launch->round, job, block, &run, t, lane[t]);
            add_squares(sum, &sum[ZI_EXACT_LIMBS], team_sum(lane));
        }
}

/* The last warp first: the order in which they run is none of the result's. */
static void run_statistics(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    uint64_t n_warps = (job->n_elems + ZI_WARP_ELEMS - 1) / ZI_WARP_ELEMS;
    check_tensors(job);
    if (job->control->skip)
        return;
    for (uint64_t w = n_warps; w-- > 0 && launch->round == ZI_STATISTICS_MOMENTS;)
        for (uint32_t thread = 0; thread < ZI_WARP; thread++)
            zi_grid_sums_thread(job, w, thread);
    run_squares_of_tensors(launch);
}

static void run_accumulate(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    for (uint64_t block = 0; block < job->n_elems / ZI_BLOCK; block++) {
        int bad = 0;
        for (uint32_t thread = 0; thread < ZI_TEAM; thread++)
            bad |= zi_accumulate_thread(job, block, thread, launch->acc);
        *launch->n_bad += bad;
    }
}

/* The last thread first, as its key may not be the lowest. */
static void run_locate(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    if (*launch->search.n_bad == 0)
        return;
    for (uint64_t i = job->n_elems; i > 0; i -= ZI_QUAD)
        zi_search_thread(job, &launch->search, i - ZI_QUAD);
}

static void run_decide(const zi_cuda_launch *launch)
{
    int64_t first = zi_decide_step(&launch->decide);
    must_be_device(launch->decide.control->scalars);
    for (uint32_t thread = 0; thread < ZI_CUDA_THREADS; thread++)
        zi_take_offer_thread(&launch->decide, first, thread);
}

/* The last factor first, as threads come in any order; lanes as shuffles add them. */
static void settle_factors(const zi_terms *terms, const zi_tensor_statistics *t)
{
    for (uint64_t i = zi_settle_n_factors(t); i-- > 0;)
        zi_settle_factor(terms, t, i);
    for (uint64_t m = 0; m < t->n_matrices; m++) {
        double lane[ZI_WARP];
        for (uint32_t i = 0; i < ZI_WARP; i++)
            lane[i] = zi_settle_lane(t, m, i);
        for (int half = ZI_WARP / 2; half > 0; half /= 2)
            for (int i = 0; i < half; i++)
                lane[i] += lane[i + half];
        zi_settle_mean(terms, t, m, lane[0]);
    }
}

static void run_settle(const zi_cuda_launch *launch)
{
    const zi_settle_job *job = &launch->settle;
    for (uint32_t i = 0; i < job->n_tensors && !job->control->skip; i++) {
        zi_tensor_statistics *t = &job->tensor[i];
        const void *const all[] = {t->row, t->col, t->row_mean, t->sum, t->row_sum, t->col_sum};
        if (t->sum == NULL)
            continue;
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            must_be_device(all[k]);
        const zi_terms *terms = &job->terms[t->group];
        if (job->round == ZI_STATISTICS_MOMENTS)
            settle_factors(terms, t);
        zi_settle_scalars(job->round, terms, job->control->scalars[t->group], t);
    }
}

static void (*const run_kernel[])(const zi_cuda_launch *launch) = {
    [ZI_CUDA_ACCUMULATE] = run_accumulate, [ZI_CUDA_NORM] = run_norm,
    [ZI_CUDA_STATISTICS] = run_statistics, [ZI_CUDA_UPDATE] = run_update,
    [ZI_CUDA_LOCATE] = run_locate,         [ZI_CUDA_DECIDE] = run_decide,
    [ZI_CUDA_SETTLE] = run_settle,
};

void shim_run_kernel(const zi_cuda_launch *launch)
{
    run_kernel[launch->kernel](launch);
}
