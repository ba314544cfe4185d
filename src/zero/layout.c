/* Placement of tensors in their flat spaces, and the cut into buckets and slices. */
#include "zero/layout.h"

#include <assert.h>
#include <string.h>

#include "base/status.h"

enum { MAX_BUCKETS = 1 << 22 }; /* of a space: keeps the tables below 1 GB */

static uint64_t round_up(uint64_t n, uint64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* The space of a tensor, made if it is the first one there. */
static uint32_t space_of(const zi_tensor *tensor, zi_layout *layout)
{
    uint32_t s = 0;
    while (s < layout->n_spaces &&
           (layout->space[s].dtype != tensor->dtype || layout->space[s].variant != tensor->variant))
        s++;
    assert(s < ZI_MAX_SPACES);
    if (s == layout->n_spaces)
        layout->space[layout->n_spaces++] =
            (zi_space){.dtype = tensor->dtype, .variant = tensor->variant};
    return s;
}

static uint64_t alignment(const zi_tensor *tensor)
{
    if (tensor->n_elems >= ZI_LARGE_TENSOR)
        return ZI_ALIGN_LARGE;
    int whole = tensor->variant != NULL && tensor->variant->unit == ZI_UNIT_TENSOR;
    return whole ? ZI_ALIGN_WHOLE : ZI_ALIGN_SMALL;
}

static zopt_status place(zi_tensor *tensors, uint32_t n_tensors, zi_layout *layout)
{
    for (uint32_t i = 0; i < n_tensors; i++) {
        zi_tensor *tensor = &tensors[i];
        tensor->space = space_of(tensor, layout);
        zi_space *space = &layout->space[tensor->space];
        tensor->start = round_up(space->n_elems, alignment(tensor));
        space->n_elems = tensor->start + tensor->n_elems;
        if (space->n_elems > ZI_MAX_ELEMS)
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, "tensor '%s': more than 2^56 elements in all",
                           tensor->name);
    }
    return ZOPT_OK;
}

static void cut_space(zi_layout *layout, uint32_t s)
{
    zi_space *space = &layout->space[s];
    uint64_t slice_quantum = ZI_ALIGN_LARGE * (uint64_t)layout->world;
    for (uint32_t i = 0; i < space->n_buckets; i++) {
        zi_bucket *bucket = &layout->bucket[space->first_bucket + i];
        bucket->space = s;
        bucket->dtype = space->dtype;
        bucket->start = i * space->bucket_elems;
        uint64_t rest = round_up(space->n_elems - bucket->start, slice_quantum);
        bucket->n_elems = rest < space->bucket_elems ? rest : space->bucket_elems;
        bucket->slice_elems = bucket->n_elems / (uint64_t)layout->world;
        bucket->owned_start = space->owned_start + bucket->start / (uint64_t)layout->world;
        uint64_t slice_bytes = bucket->slice_elems * zopt_dtype_bytes(space->dtype);
        if (space->variant != NULL && layout->max_slice_bytes < slice_bytes)
            layout->max_slice_bytes = slice_bytes;
    }
}

static void cut(zi_layout *layout, uint64_t bucket_elems)
{
    uint64_t world = (uint64_t)layout->world;
    for (uint32_t s = 0; s < layout->n_spaces; s++) {
        zi_space *space = &layout->space[s];
        space->bucket_elems = round_up(bucket_elems, ZI_ALIGN_LARGE * world);
        uint64_t full = space->n_elems / space->bucket_elems * space->bucket_elems;
        space->n_padded = full + round_up(space->n_elems - full, ZI_ALIGN_LARGE * world);
        space->first_bucket = layout->n_buckets;
        space->n_buckets =
            (uint32_t)((space->n_padded + space->bucket_elems - 1) / space->bucket_elems);
        layout->n_buckets += space->n_buckets;
        if (space->variant != NULL)
            layout->n_exchanged += space->n_buckets;
    }
}

/* A rank's owned elements: space after space, frozen ones last. */
static void place_owned(zi_layout *layout)
{
    for (int frozen = 0; frozen <= 1; frozen++)
        for (uint32_t s = 0; s < layout->n_spaces; s++) {
            zi_space *space = &layout->space[s];
            if ((space->variant == NULL) != frozen)
                continue;
            space->owned_start = layout->owned_elems;
            layout->owned_elems += space->n_padded / (uint64_t)layout->world;
            if (!frozen)
                layout->trained_elems = layout->owned_elems;
        }
}

/* Which buckets each tensor touches, which tensors each bucket holds, and each tensor's extent. */
static void link_tensors(zi_tensor *tensors, uint32_t n_tensors, zi_layout *layout)
{
    zi_tensor *previous[ZI_MAX_SPACES] = {NULL};
    for (uint32_t i = 0; i < n_tensors; i++) {
        zi_tensor *tensor = &tensors[i];
        const zi_space *space = &layout->space[tensor->space];
        uint64_t first = tensor->start / space->bucket_elems;
        uint64_t last = (tensor->start + tensor->n_elems - 1) / space->bucket_elems;
        tensor->first_bucket = space->first_bucket + (uint32_t)first;
        tensor->n_buckets = (uint32_t)(last - first + 1);
        for (uint32_t b = 0; b < tensor->n_buckets; b++) {
            zi_bucket *bucket = &layout->bucket[tensor->first_bucket + b];
            if (bucket->n_tensors++ == 0)
                bucket->first_tensor = i;
        }
        if (previous[tensor->space] != NULL)
            previous[tensor->space]->extent = tensor->start - previous[tensor->space]->start;
        previous[tensor->space] = tensor;
        tensor->extent = space->n_padded - tensor->start;
    }
}

/* A bucket whose first tensor was registered later comes earlier. Within a space that is the order
 * of descending starts, so the spaces are merged from their ends. */
static void put_in_order(zi_layout *layout)
{
    uint32_t left[ZI_MAX_SPACES];
    for (uint32_t s = 0; s < layout->n_spaces; s++)
        left[s] = layout->space[s].variant != NULL ? layout->space[s].n_buckets : 0;
    for (uint32_t b = 0; b < layout->n_buckets; b++)
        layout->bucket[b].position = UINT32_MAX;
    for (uint32_t position = 0; position < layout->n_exchanged; position++) {
        zi_bucket *next = NULL;
        for (uint32_t s = 0; s < layout->n_spaces; s++) {
            if (left[s] == 0)
                continue;
            zi_bucket *last = &layout->bucket[layout->space[s].first_bucket + left[s] - 1];
            if (next == NULL || last->first_tensor > next->first_tensor)
                next = last;
        }
        if (next == NULL)
            break;
        left[next->space]--;
        next->position = position;
        layout->order[position] = (uint32_t)(next - layout->bucket);
    }
}

zopt_status zi_layout_build(zi_mem *mem, zi_tensor *tensors, uint32_t n_tensors, int world,
                            uint64_t bucket_elems, zi_layout *layout)
{
    memset(layout, 0, sizeof *layout);
    layout->world = world;
    if (bucket_elems > ZI_MAX_ELEMS)
        bucket_elems = ZI_MAX_ELEMS;
    ZI_TRY(place(tensors, n_tensors, layout));
    for (uint32_t s = 0; s < layout->n_spaces; s++)
        if (layout->space[s].n_elems / bucket_elems >= MAX_BUCKETS)
            return ZI_FAIL(
                ZOPT_ERR_ARGUMENT,
                "%llu elements in buckets of %llu: more than %d buckets; make them larger",
                (unsigned long long)layout->space[s].n_elems, (unsigned long long)bucket_elems,
                MAX_BUCKETS);
    cut(layout, bucket_elems);
    place_owned(layout);
    ZI_TRY(zi_mem_table(mem, layout->n_buckets * sizeof *layout->bucket, &layout->bucket));
    ZI_TRY(zi_mem_table(mem, layout->n_exchanged * sizeof *layout->order, &layout->order));
    for (uint32_t s = 0; s < layout->n_spaces; s++)
        cut_space(layout, s);
    link_tensors(tensors, n_tensors, layout);
    put_in_order(layout);
    return ZOPT_OK;
}

void zi_layout_free(zi_mem *mem, zi_layout *layout)
{
    zi_mem_free_table(mem, layout->order, layout->n_exchanged * sizeof *layout->order);
    zi_mem_free_table(mem, layout->bucket, layout->n_buckets * sizeof *layout->bucket);
    layout->order = NULL;
    layout->bucket = NULL;
}

const zi_bucket *zi_layout_bucket_at(const zi_layout *layout, uint32_t s, uint64_t at)
{
    const zi_space *space = &layout->space[s];
    return &layout->bucket[space->first_bucket + (uint32_t)(at / space->bucket_elems)];
}

zi_piece zi_layout_piece(const zi_layout *layout, const zi_tensor *tensor, uint64_t at,
                         uint64_t end)
{
    uint64_t flat_at = tensor->start + at;
    const zi_bucket *bucket = zi_layout_bucket_at(layout, tensor->space, flat_at);
    uint64_t in_bucket = flat_at - bucket->start;
    uint64_t in_slice = in_bucket % bucket->slice_elems;
    uint64_t room = bucket->slice_elems - in_slice;
    return (zi_piece){
        .owner = (int)(in_bucket / bucket->slice_elems),
        .tensor_at = at,
        .flat_at = flat_at,
        .owned_at = bucket->owned_start + in_slice,
        .n_elems = end - at < room ? end - at : room,
    };
}
