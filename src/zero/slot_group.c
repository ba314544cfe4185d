/* Sums by groups: reduce_group consecutive slots are summed first, in slot order, from +0.0f on;
 * then these sums, in their order. So a node's ranks can add up before anything leaves the node,
 * and the bits are the same wherever the ranks are. A group that ends with the micro-step it begins
 * in is summed piece by piece, in the processor's cache; one that goes on in the next needs its sum
 * of all owned elements. Next: round.c reads the totals. */
#include "zero/passes.h"

enum { PIECE_ELEMS = 1 << 16 };

zi_slot_groups zi_slot_groups_of(const zi_zero *z)
{
    int group = z->config.reduce_group, world = z->comm->world;
    if (group <= 1 || group >= z->config.scale_rules.slots)
        return ZI_GROUPS_NONE;
    return z->n_micro > 1 && world % group != 0 ? ZI_GROUPS_SPAN : ZI_GROUPS_WITHIN;
}

size_t zi_slot_group_sums(const zi_zero *z)
{
    size_t n = z->layout.trained_elems;
    if (z->slot_groups == ZI_GROUPS_NONE)
        return 0;
    return z->slot_groups == ZI_GROUPS_SPAN || n < PIECE_ELEMS ? n : PIECE_ELEMS;
}

static void accumulate(zi_zero *z, const zi_source *source, int n_sources, size_t n, float *acc)
{
    const zi_job job = {.n_elems = n, .source = source, .n_sources = n_sources};
    z->config.device->accumulate(z->queue, &job, acc, &z->placed.norm->n_bad);
}

/* n elements of all sources, of which the first is this micro-step's first slot. A group that came
 * as a sum is the source of its first slot. */
static void add_piece(zi_zero *z, const zi_bucket *bucket, int n_sources, size_t n, float *sum,
                      float *total)
{
    int group = z->config.reduce_group, first = z->micro * z->comm->world;
    for (int i = 0, end; i < n_sources; i = end) {
        int begin_slot = first + i, end_slot = begin_slot - begin_slot % group + group;
        end = end_slot - first < n_sources ? end_slot - first : n_sources;
        if (zi_comes_summed(z->comm, bucket->dtype, i)) {
            accumulate(z, &z->source[i], 1, n, total);
            continue;
        }
        if (begin_slot % group == 0)
            z->config.device->zero(z->queue, sum, n * sizeof *sum);
        accumulate(z, &z->source[i], end - i, n, sum);
        const zi_source whole = {sum, ZOPT_FP32};
        if (first + end == end_slot || first + end == z->config.scale_rules.slots)
            accumulate(z, &whole, 1, n, total);
    }
}

void zi_slot_groups_add(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    for (size_t at = 0, n; at < job->n_elems; at += n) {
        size_t owned_at = bucket->owned_start + at;
        float *sum = z->slot_groups == ZI_GROUPS_SPAN ? z->group_sum + owned_at : z->group_sum;
        n = job->n_elems - at < PIECE_ELEMS ? job->n_elems - at : PIECE_ELEMS;
        add_piece(z, bucket, job->n_sources, n, sum, z->accum + owned_at);
        for (int i = 0; i < job->n_sources; i++)
            z->source[i].data =
                (const char *)z->source[i].data + n * zopt_dtype_bytes(z->source[i].dtype);
    }
}

int zi_slot_groups_sums(const zi_zero *z, const zi_bucket *bucket, zi_source sum[2])
{
    int goes_on = z->slot_groups == ZI_GROUPS_SPAN && !zi_reduce_is_done(z);
    sum[0] = (zi_source){z->accum + bucket->owned_start, ZOPT_FP32};
    if (goes_on)
        sum[1] = (zi_source){z->group_sum + bucket->owned_start, ZOPT_FP32};
    return goes_on ? 2 : 1;
}
