/* What CUDA threads do in the kernels that a step has in place of the host: look for the first
 * gradient that is not finite, and decide. C on the host too, for tests; the decision itself is in
 * control.h. */
#ifndef ZI_DEVICE_CUDA_STEP_H
#define ZI_DEVICE_CUDA_STEP_H

#include "device/cuda_tile.h"

#ifdef __CUDACC__

ZI_TILE void zi_lower_word(int64_t *to, int64_t value)
{
    atomicMin((long long *)to, (long long)value);
}

#else

ZI_TILE void zi_lower_word(int64_t *to, int64_t value)
{
    *to = value < *to ? value : *to;
}

#endif

ZI_TILE int zi_is_finite(float x)
{
    return (zi_float_word(x) & 0x7f800000u) != 0x7f800000u;
}

/* Element `at` of the space belongs to the last tensor that begins there or before. */
ZI_TILE void zi_found_bad(const zi_search *search, uint64_t at, int slot)
{
    uint64_t lo = 0, hi = search->n_tensors - 1;
    while (lo < hi) {
        uint64_t middle = hi - (hi - lo) / 2;
        if (search->tensor[middle].start <= at)
            lo = middle;
        else
            hi = middle - 1;
    }
    zi_lower_word(search->key, search->tensor[lo].tensor << ZI_SLOT_BITS | slot);
}

/* Elements [i, i + 4) of all sources, and of what they come to. */
ZI_TILE void zi_search_thread(const zi_cuda_job *job, const zi_search *search, uint64_t i)
{
    zi_quad sum = {{0, 0, 0, 0}};
    for (int s = 0; s < job->n_sources; s++) {
        zopt_dtype dtype = job->source[s].dtype;
        zi_quad x = zi_widen(zi_load_raw(job->source[s].data, dtype, i), dtype);
        ZI_UNROLL
        for (int e = 0; e < ZI_QUAD; e++) {
            if (s >= search->first && !zi_is_finite(x.x[e]))
                zi_found_bad(search, job->start + i + (uint64_t)e,
                             search->slot + s - search->first);
            sum.x[e] += x.x[e];
        }
    }
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD && search->in_sum; e++)
        if (!zi_is_finite(sum.x[e]))
            zi_found_bad(search, job->start + i + (uint64_t)e, ZI_SLOT_SUM);
}

/* Of what zi_decide_step returned; -1: the step is skipped. */
ZI_TILE void zi_take_offer_thread(const zi_decide_job *job, int64_t first, uint32_t thread)
{
    for (uint32_t g = thread; first >= 0 && g < job->n_groups; g += ZI_CUDA_THREADS) {
        for (int i = 0; i < ZI_MAX_SCALARS; i++)
            job->control->scalars[g][i] = job->offered[first + g][i];
        if (job->terms != 0)
            job->terms[g] = job->offered_terms[first + g];
    }
}

#endif
