/* What one CUDA thread does in each kernel of the step, as functions of its number: C on the host
 * too, where tests run them against the CPU's kernels. What threads of a block of 256 do together,
 * by shuffles, is in cuda_kernels.cu.
 *
 * The update gives a thread two groups of four consecutive elements, so that a warp's loads are 512
 * bytes in a row and a thread has all of them in flight before it needs the first. */
#ifndef ZI_DEVICE_CUDA_TILE_H
#define ZI_DEVICE_CUDA_TILE_H

#include "device/cuda.h"
#include "device/cuda_memory.h"

enum {
    ZI_CUDA_THREADS = 256, /* in a thread block */
    ZI_WARP = 32,
    ZI_GROUPS = 2, /* of four elements, for each thread of the update */
    ZI_GROUP_PITCH = ZI_CUDA_THREADS * ZI_QUAD,
    ZI_UPDATE_TILE = ZI_GROUPS * ZI_GROUP_PITCH,

    ZI_TEAM = ZI_LANES / ZI_QUAD, /* threads that share a block of 256: each has 4 columns of */
    ZI_ROWS = ZI_BLOCK / ZI_LANES /* this many rows of 32 */
};

/* g += sources first_source..n-1 of elements [i, i + 4), in slot order. */
ZI_TILE void zi_add_sources(const zi_cuda_job *job, int first_source, uint64_t i, zi_quad *g)
{
    ZI_UNROLL_4
    for (int s = first_source; s < job->n_sources; s++) {
        zopt_dtype dtype = job->source[s].dtype;
        zi_quad x = zi_widen(zi_load_raw(job->source[s].data, dtype, i), dtype);
        ZI_UNROLL
        for (int e = 0; e < ZI_QUAD; e++)
            g->x[e] += x.x[e];
    }
}

/* The span of element i: the first that ends behind it. */
ZI_TILE const zi_span *zi_find_span(const zi_cuda_job *job, uint64_t i)
{
    uint64_t lo = 0, hi = job->n_spans - 1;
    while (lo < hi) {
        uint64_t middle = lo + (hi - lo) / 2;
        if (job->span[middle].end <= i)
            lo = middle + 1;
        else
            hi = middle;
    }
    return &job->span[lo];
}

/* The rule by its number, a constant in every kernel. */
ZI_TILE void zi_apply_rule(zi_rule rule, float g, float *p, float *const state[ZI_MAX_STATES],
                           const float *k)
{
#define ZI_ARGUMENTS_0
#define ZI_ARGUMENTS_1 state[0],
#define ZI_ARGUMENTS_2 ZI_ARGUMENTS_1 state[1],
#define ZI_ARGUMENTS_3 ZI_ARGUMENTS_2 state[2],
#define ZI_RULE_CASE(NAME, function, states)     \
    case ZI_RULE_##NAME:                         \
        function(g, p, ZI_ARGUMENTS_##states k); \
        break;
    switch (rule) {
        ZI_RULE_LIST(ZI_RULE_CASE)
    default:
        break;
    }
#undef ZI_RULE_CASE
}

typedef struct zi_group_of_four {
    zi_raw raw; /* of source 0 */
    zi_quad master, state[ZI_MAX_STATES];
} zi_group_of_four;

ZI_TILE void zi_load_group(const zi_cuda_job *job, int n_states, uint64_t i,
                           zi_group_of_four *group)
{
    if (job->n_sources > 0)
        group->raw = zi_load_raw(job->source[0].data, job->source[0].dtype, i);
    group->master = zi_load_quad(job->master + i);
    ZI_UNROLL
    for (int s = 0; s < n_states; s++)
        group->state[s] = zi_load_quad((const float *)job->state[s].data + i);
}

ZI_TILE zi_quad zi_summed_gradient(const zi_cuda_job *job, zi_raw first, uint64_t i)
{
    zi_quad g = {{0, 0, 0, 0}};
    if (job->n_sources > 0) {
        zi_quad x = zi_widen(first, job->source[0].dtype);
        ZI_UNROLL
        for (int e = 0; e < ZI_QUAD; e++)
            g.x[e] += x.x[e];
    }
    zi_add_sources(job, 1, i, &g);
    return g;
}

ZI_TILE void zi_store_group(const zi_cuda_job *job, int n_states, uint64_t i,
                            const zi_group_of_four *group)
{
    zopt_dtype dtype = job->dest[0].dtype;
    zi_raw out = zi_narrow(group->master, dtype);
    zi_store_quad(job->master + i, group->master);
    ZI_UNROLL
    for (int s = 0; s < n_states; s++)
        zi_store_quad((float *)job->state[s].data + i, group->state[s]);
    for (int d = 0; d < job->n_dests; d++)
        zi_store_raw(job->dest[d].data, dtype, i, out);
}

/* The rule on four elements of one group: spans end at multiples of 16. */
ZI_TILE void zi_update_group(zi_rule rule, const zi_cuda_job *job, uint64_t i,
                             zi_group_of_four *group)
{
    const zi_control *control = job->control;
    const float *k = control->scalars[zi_find_span(job, i)->group];
    zi_quad g = zi_summed_gradient(job, group->raw, i);
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++) {
        float *state[ZI_MAX_STATES];
        ZI_UNROLL
        for (int s = 0; s < ZI_MAX_STATES; s++)
            state[s] = &group->state[s].x[e];
        zi_apply_rule(rule, g.x[e] * control->coef, &group->master.x[e], state, k);
    }
}

ZI_TILE void zi_update_thread(zi_rule rule, int n_states, const zi_cuda_job *job, uint64_t tile,
                              uint32_t thread)
{
    zi_group_of_four group[ZI_GROUPS];
    uint64_t first = tile * ZI_UPDATE_TILE + (uint64_t)thread * ZI_QUAD;
    ZI_UNROLL
    for (int j = 0; j < ZI_GROUPS; j++)
        if (first + (uint64_t)j * ZI_GROUP_PITCH < job->n_elems)
            zi_load_group(job, n_states, first + (uint64_t)j * ZI_GROUP_PITCH, &group[j]);
    if (job->control->skip)
        return;
    ZI_UNROLL
    for (int j = 0; j < ZI_GROUPS; j++) {
        uint64_t i = first + (uint64_t)j * ZI_GROUP_PITCH;
        if (i >= job->n_elems)
            continue;
        zi_update_group(rule, job, i, &group[j]);
        zi_store_group(job, n_states, i, &group[j]);
    }
}

/* Where the four columns of a team's thread begin in a row of its block. */
ZI_TILE uint64_t zi_team_element(uint64_t block, int row, uint32_t thread)
{
    return block * ZI_BLOCK + (uint64_t)row * ZI_LANES + (uint64_t)thread * ZI_QUAD;
}

/* This thread's four of the 32 lanes of its block's sum of squares. */
ZI_TILE void zi_norm_thread(const zi_cuda_job *job, uint64_t block, uint32_t thread,
                            double lane[ZI_QUAD])
{
    zi_raw raw[ZI_ROWS] = {{{0, 0, 0, 0}}};
    ZI_UNROLL
    for (int row = 0; row < ZI_ROWS && job->n_sources > 0; row++)
        raw[row] = zi_load_raw(job->source[0].data, job->source[0].dtype,
                               zi_team_element(block, row, thread));
    ZI_UNROLL
    for (int row = 0; row < ZI_ROWS; row++) {
        zi_quad g = zi_summed_gradient(job, raw[row], zi_team_element(block, row, thread));
        ZI_UNROLL
        for (int e = 0; e < ZI_QUAD; e++)
            lane[e] += (double)g.x[e] * (double)g.x[e];
    }
}

/* Adds the sources onto this thread's part of a block. Returns 1 where a sum is not finite. */
ZI_TILE int zi_accumulate_thread(const zi_cuda_job *job, uint64_t block, uint32_t thread,
                                 float *acc)
{
    zi_quad sum[ZI_ROWS];
    int bad = 0;
    ZI_UNROLL
    for (int row = 0; row < ZI_ROWS; row++)
        sum[row] = zi_load_quad(acc + zi_team_element(block, row, thread));
    ZI_UNROLL
    for (int row = 0; row < ZI_ROWS; row++) {
        zi_add_sources(job, 0, zi_team_element(block, row, thread), &sum[row]);
        ZI_UNROLL
        for (int e = 0; e < ZI_QUAD; e++)
            bad |= (zi_float_word(sum[row].x[e]) & 0x7f800000u) == 0x7f800000u;
    }
    ZI_UNROLL
    for (int row = 0; row < ZI_ROWS; row++)
        zi_store_quad(acc + zi_team_element(block, row, thread), sum[row]);
    return bad;
}

#endif
