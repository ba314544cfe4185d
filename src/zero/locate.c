/* Where a non-finite gradient came from: the first tensor, and in it the first slot. Runs only
 * after the sums have shown that there is one. The answer does not depend on the number of ranks:
 * every owner looks at all slots of what it owns, and the least (tensor, slot) of all ranks is
 * reported. */
#include <math.h>

#include "base/status.h"
#include "zero/zero.h"

enum { SLOT_BITS = 23 };

static int64_t key_of(uint32_t tensor, int slot)
{
    return (int64_t)tensor << SLOT_BITS | slot;
}

/* Up to a block of a source's elements, as floats on the host. */
static void fetch(const zi_zero *z, const zi_source *source, uint64_t first, size_t n, float *out)
{
    char raw[ZI_BLOCK * sizeof(float)];
    size_t bytes = zopt_dtype_bytes(source->dtype);
    z->config.device->copy(NULL, raw, (const char *)source->data + first * bytes, n * bytes);
    zi_convert(out, ZOPT_FP32, raw, source->dtype, n);
}

/* 1 if the sum of sources [from, to) has a non-finite element in [lo, hi) of the slice. */
static int has_bad(const zi_zero *z, const zi_job *job, int from, int to, uint64_t lo, uint64_t hi)
{
    for (uint64_t at = lo; at < hi; at += ZI_BLOCK) {
        float sum[ZI_BLOCK] = {0}, x[ZI_BLOCK];
        size_t n = hi - at < ZI_BLOCK ? (size_t)(hi - at) : ZI_BLOCK;
        for (int s = from; s < to; s++) {
            fetch(z, &job->source[s], at, n, x);
            for (size_t i = 0; i < n; i++)
                sum[i] += x[i];
        }
        for (size_t i = 0; i < n; i++)
            if (!isfinite(sum[i]))
                return 1;
    }
    return 0;
}

/* The first slot with a non-finite element in [lo, hi) of the slice; -1: all is finite. */
static int first_bad_slot(const zi_zero *z, const zi_job *job, uint64_t lo, uint64_t hi)
{
    int first = z->n_micro > 1 && z->micro == z->n_micro - 1; /* source 0: the accumulators */
    for (int s = first; s < job->n_sources; s++)
        if (has_bad(z, job, s, s + 1, lo, hi))
            return z->micro * z->comm->world + s - first;
    return has_bad(z, job, 0, job->n_sources, lo, hi) ? ZI_SLOT_SUM : -1;
}

void zi_locate_slice(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    uint64_t slice = bucket->start + (uint64_t)z->comm->rank * bucket->slice_elems;
    uint32_t left = bucket->n_tensors;
    for (uint32_t id = bucket->first_tensor; left > 0; id++) {
        const zi_tensor *tensor = &z->tensors[id];
        if (tensor->space != bucket->space)
            continue;
        left--;
        uint64_t lo = tensor->start > slice ? tensor->start - slice : 0;
        uint64_t end = tensor->start + tensor->n_elems;
        uint64_t hi = end > slice ? end - slice : 0;
        hi = hi < bucket->slice_elems ? hi : bucket->slice_elems;
        int slot = lo < hi ? first_bad_slot(z, job, lo, hi) : -1;
        if (slot < 0)
            continue;
        if (z->bad_key > key_of(id, slot))
            z->bad_key = key_of(id, slot);
        return; /* later tensors have larger keys */
    }
}

zopt_status zi_locate_agree(zi_zero *z, zopt_step_report *report)
{
    int64_t key = z->bad_key;
    ZI_TRY(z->comm->ops->all_reduce(z->comm, ZI_MIN, &key, 1));
    if (key == INT64_MAX)
        return ZI_FAIL(ZOPT_ERR_FAILURE, "a sum was not finite, but no rank can say where");
    int slot = (int)(key & ZI_SLOT_SUM);
    report->bad_tensor = (int)(key >> SLOT_BITS);
    report->bad_slot = slot == ZI_SLOT_SUM ? -1 : slot;
    report->bad_rank = slot == ZI_SLOT_SUM ? -1 : slot % z->comm->world;
    return ZOPT_OK;
}
