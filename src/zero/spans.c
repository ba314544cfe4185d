/* The runs of one group in a rank's slices: counted, allocated, then written by the same walk. */
#include "zero/spans.h"

#include <string.h>

#include "base/status.h"

/* The runs of one slice; out may be NULL to count only. */
static uint64_t walk_slice(const zi_layout *layout, const zi_bucket *bucket,
                           const zi_tensor *tensors, int rank, zi_span *out)
{
    const zi_variant *variant = layout->space[bucket->space].variant;
    int by_tensor = variant != NULL && variant->unit == ZI_UNIT_TENSOR;
    uint64_t lo = bucket->start + (uint64_t)rank * bucket->slice_elems;
    uint64_t hi = lo + bucket->slice_elems;
    uint64_t n = 0;
    zi_span last = {0, 0, 0};
    uint32_t left = bucket->n_tensors;
    for (uint32_t id = bucket->first_tensor; left > 0; id++) {
        const zi_tensor *tensor = &tensors[id];
        if (tensor->space != bucket->space)
            continue;
        left--;
        uint64_t end = tensor->start + tensor->extent;
        if (end <= lo || tensor->start >= hi)
            continue;
        if (n == 0 || by_tensor || last.group != (uint32_t)tensor->group) {
            n++;
            last.group = (uint32_t)tensor->group;
            last.tensor = id;
        }
        last.end = (end < hi ? end : hi) - lo;
        if (out != NULL)
            out[n - 1] = last;
    }
    return n;
}

zopt_status zi_spans_build(zi_mem *mem, const zi_layout *layout, const zi_tensor *tensors, int rank,
                           zi_spans *spans)
{
    memset(spans, 0, sizeof *spans);
    spans->n_buckets = layout->n_buckets;
    ZI_TRY(zi_mem_table(mem, (spans->n_buckets + 1) * sizeof *spans->first, &spans->first));
    uint64_t n = 0;
    for (uint32_t b = 0; b < layout->n_buckets; b++) {
        spans->first[b] = n;
        n += walk_slice(layout, &layout->bucket[b], tensors, rank, NULL);
    }
    spans->first[layout->n_buckets] = n;
    ZI_TRY(zi_mem_table(mem, n * sizeof *spans->span, &spans->span));
    for (uint32_t b = 0; b < layout->n_buckets; b++)
        walk_slice(layout, &layout->bucket[b], tensors, rank, spans->span + spans->first[b]);
    return ZOPT_OK;
}

void zi_spans_free(zi_mem *mem, zi_spans *spans)
{
    if (spans->first != NULL)
        zi_mem_free_table(mem, spans->span, spans->first[spans->n_buckets] * sizeof *spans->span);
    zi_mem_free_table(mem, spans->first, (spans->n_buckets + 1) * sizeof *spans->first);
    spans->span = NULL;
    spans->first = NULL;
}
