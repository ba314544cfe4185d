/* Where a non-finite gradient came from: the first tensor, and in it the first slot. Runs only
 * after the sums have shown that there is one. The answer does not depend on the number of ranks:
 * every owner looks at all slots of what it owns, and the least (tensor, slot) of all ranks is
 * reported. */
#include <math.h>

#include "base/status.h"
#include "zero/ahead.h"
#include "zero/passes.h"

enum { PIECE = 16 * ZI_BLOCK };

typedef struct range {
    uint64_t lo, hi; /* [lo, hi) */
} range;

static int64_t key_of(uint32_t tensor, int slot)
{
    return (int64_t)tensor << ZI_SLOT_BITS | slot;
}

/* Up to PIECE of a source's elements, as floats on the host. */
static zopt_status fetch(const zi_zero *z, const zi_source *source, uint64_t first, size_t n,
                         float *out)
{
    char raw[PIECE * sizeof(float)];
    size_t bytes = zopt_dtype_bytes(source->dtype);
    z->config.device->copy(z->queue, raw, (const char *)source->data + first * bytes, n * bytes);
    ZI_TRY(z->config.device->wait(z->queue));
    zi_convert(out, ZOPT_FP32, raw, source->dtype, n);
    return ZOPT_OK;
}

/* *bad = 1 if the sum of sources [from, to) has a non-finite element in [lo, hi) of the slice. */
static zopt_status find_bad(const zi_zero *z, const zi_job *job, int from, int to, range in,
                            int *bad)
{
    *bad = 0;
    for (uint64_t at = in.lo; at < in.hi && !*bad; at += PIECE) {
        float sum[PIECE] = {0}, x[PIECE];
        size_t n = in.hi - at < PIECE ? (size_t)(in.hi - at) : PIECE;
        for (int s = from; s < to; s++) {
            ZI_TRY(fetch(z, &job->source[s], at, n, x));
            for (size_t i = 0; i < n; i++)
                sum[i] += x[i];
        }
        for (size_t i = 0; i < n; i++)
            *bad |= !isfinite(sum[i]);
    }
    return ZOPT_OK;
}

/* The job with the sums so far in place of its slots, where these are summed by groups. */
static zi_job sums_job(const zi_zero *z, const zi_bucket *bucket, const zi_job *job,
                       zi_source sum[2])
{
    zi_job sums = *job;
    if (z->slot_groups == ZI_GROUPS_NONE)
        return sums;
    sums.source = sum;
    sums.n_sources = zi_slot_groups_sums(z, bucket, sum);
    return sums;
}

/* Each of the sums by itself: a group's that goes on is not in the total yet. */
static zopt_status find_bad_sum(const zi_zero *z, const zi_bucket *bucket, const zi_job *job,
                                range in, int *bad)
{
    zi_source sum[2];
    const zi_job sums = sums_job(z, bucket, job, sum);
    if (z->slot_groups == ZI_GROUPS_NONE)
        return find_bad(z, &sums, 0, sums.n_sources, in, bad);
    *bad = 0;
    for (int s = 0; s < sums.n_sources && !*bad; s++)
        ZI_TRY(find_bad(z, &sums, s, s + 1, in, bad));
    return ZOPT_OK;
}

/* Where to look. */
typedef struct suspects {
    const zi_bucket *bucket;
    const zi_job *job;
    int first, rank; /* sources from `first` on are of contributors from `rank` on */
    int has_sum;     /* 1: and what they come to is known */
} suspects;

/* The first slot with a non-finite element in the range of the slice; -1: all is finite. */
static zopt_status first_bad_slot(const zi_zero *z, const suspects *at, range in, int *slot)
{
    int bad = 0;
    for (int s = at->first; s < at->job->n_sources; s++) {
        int rank = at->rank + s - at->first;
        if (z->comm->comes_reduced) /* nobody can tell */
            break;
        if (zi_comes_summed(z->comm, at->bucket->dtype, rank)) /* who summed has looked */
            continue;
        ZI_TRY(find_bad(z, at->job, s, s + 1, in, &bad));
        *slot = z->micro * z->comm->world + rank;
        if (bad)
            return ZOPT_OK;
    }
    if (at->has_sum)
        ZI_TRY(find_bad_sum(z, at->bucket, at->job, in, &bad));
    *slot = bad ? ZI_SLOT_SUM : -1;
    return ZOPT_OK;
}

static zopt_status locate_slice(zi_zero *z, const suspects *at)
{
    const zi_bucket *bucket = at->bucket;
    const zi_job *job = at->job;
    uint32_t left = bucket->n_tensors;
    for (uint32_t id = bucket->first_tensor; left > 0; id++) {
        const zi_tensor *tensor = &z->tensors[id];
        if (tensor->space != bucket->space)
            continue;
        left--;
        uint64_t end = tensor->start + tensor->n_elems;
        range in = {tensor->start > job->start ? tensor->start - job->start : 0,
                    end > job->start ? end - job->start : 0};
        in.hi = in.hi < job->n_elems ? in.hi : job->n_elems;
        int slot = -1;
        if (in.lo < in.hi)
            ZI_TRY(first_bad_slot(z, at, in, &slot));
        if (slot < 0)
            continue;
        if (z->bad_key > key_of(id, slot))
            z->bad_key = key_of(id, slot);
        return ZOPT_OK; /* later tensors have larger keys */
    }
    return ZOPT_OK;
}

zopt_status zi_locate(zi_zero *z)
{
    if (zi_reduce_is_done(z)) /* then each micro-step has looked for itself */
        return ZOPT_OK;
    for (uint32_t i = 0; i < z->layout.n_exchanged; i++) {
        const zi_bucket *bucket = &z->layout.bucket[z->layout.order[i]];
        zi_source sum[2];
        zi_job job;
        ZI_TRY(zi_reduce_job(z, bucket, &job));
        const zi_job sums = sums_job(z, bucket, &job, sum);
        zi_norm_clear(z);
        z->config.device->norm(z->queue, &sums, &z->placed.norm->squares, &z->placed.norm->n_bad);
        ZI_TRY(zi_norm_fetch(z));
        /* Plain sums of several micro-steps: source 0 is the accumulators. */
        int first =
            z->slot_groups == ZI_GROUPS_NONE && z->n_micro > 1 && z->micro == z->n_micro - 1;
        const suspects at = {.bucket = bucket, .job = &job, .first = first, .has_sum = 1};
        if (z->norm.n_bad > 0)
            ZI_TRY(locate_slice(z, &at));
    }
    return ZOPT_OK;
}

void zi_locate_sum(void *z, const zi_bad_sum *bad)
{
    const zi_layout *layout = &((zi_zero *)z)->layout;
    uint32_t position = (uint32_t)(bad->ordinal % layout->n_exchanged);
    const zi_bucket *bucket = &layout->bucket[layout->order[position]];
    const zi_job job = {.n_elems = bucket->slice_elems,
                        .start = bucket->start + (uint64_t)bad->owner * bucket->slice_elems,
                        .source = bad->sources,
                        .n_sources = bad->n_sources};
    const suspects at = {.bucket = bucket, .job = &job, .rank = bad->first};
    (void)locate_slice(z, &at); /* what fails on a queue comes out of its next wait */
}

/* ---- where a step does not wait for the host ---- */

static void search(zi_zero *z, const zi_bucket *bucket, const zi_job *job, zi_search *what)
{
    const zi_ahead *a = z->ahead;
    uint32_t first = a->first_tensor[bucket->space];
    what->tensor = a->tensor + first;
    what->n_tensors = a->first_tensor[bucket->space + 1] - first;
    what->n_bad = &z->placed.norm->n_bad;
    what->key = a->bad_key + z->comm->rank;
    z->config.device->locate(z->queue, job, what);
}

/* As first_bad_slot: plain slots and their sum, or slots, and sums each by itself. */
static void search_slice(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    int has_groups = z->slot_groups != ZI_GROUPS_NONE;
    int first = !has_groups && z->n_micro > 1 && z->micro == z->n_micro - 1;
    zi_search slots = {.first = z->comm->comes_reduced ? job->n_sources : first,
                       .slot = z->micro * z->comm->world,
                       .in_sum = !has_groups};
    search(z, bucket, job, &slots);
    zi_source sum[2];
    const zi_job sums = sums_job(z, bucket, job, sum);
    for (int s = 0; has_groups && s < sums.n_sources; s++) {
        zi_job one = sums;
        zi_search in_sum = {.first = 1, .in_sum = 1};
        one.source = &sum[s];
        one.n_sources = 1;
        search(z, bucket, &one, &in_sum);
    }
}

zopt_status zi_locate_enqueue(zi_zero *z)
{
    for (uint32_t i = 0; i < z->layout.n_exchanged && !zi_reduce_is_done(z); i++) {
        const zi_bucket *bucket = &z->layout.bucket[z->layout.order[i]];
        zi_job job;
        ZI_TRY(zi_reduce_job(z, bucket, &job));
        search_slice(z, bucket, &job);
    }
    return ZOPT_OK;
}

/* ---- what is reported ---- */

void zi_locate_report(const zi_zero *z, int64_t key, zopt_step_report *report)
{
    int slot = (int)(key & ZI_SLOT_SUM), has_slot = key != INT64_MAX && slot != ZI_SLOT_SUM;
    report->bad_tensor = key == INT64_MAX ? -1 : (int)(key >> ZI_SLOT_BITS);
    report->bad_slot = has_slot ? slot : -1;
    report->bad_rank = has_slot ? slot % z->comm->world : -1;
}

zopt_status zi_locate_agree(zi_zero *z, zopt_step_report *report)
{
    int64_t key = z->bad_key;
    ZI_TRY(z->comm->ops->all_reduce(z->comm, ZI_MIN, &key, 1));
    if (key == INT64_MAX)
        return ZI_FAIL(ZOPT_ERR_FAILURE, "a sum was not finite, but no rank can say where");
    zi_locate_report(z, key, report);
    return ZOPT_OK;
}
