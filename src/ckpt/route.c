/* See route.h. */
#include "ckpt/route.h"

uint64_t zi_origin_tag(zi_origin origin)
{
    return (uint64_t)origin.tensor << 16 | (uint64_t)origin.array << 8 | (uint64_t)origin.state;
}

zi_origin zi_origin_of(uint64_t tag)
{
    return (zi_origin){(uint32_t)(tag >> 16), (zi_array)(tag >> 8 & 0xff), (int)(tag & 0xff)};
}

void zi_route_begin(const zi_zero *z, const zi_tensorfile *file, uint64_t at, size_t bytes,
                    zi_route *route)
{
    uint32_t lo = 0, hi = file->n_tensors;
    *route = (zi_route){.z = z, .file = file, .at = at - file->data_at};
    route->first = route->at;
    route->end = route->at + bytes;
    /* The first tensor that ends behind `at`: ends ascend. */
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        if (file->tensor[middle].end > route->at)
            hi = middle;
        else
            lo = middle + 1;
    }
    route->tensor = lo;
}

/* A run of values, one for each `elems` elements of a tensor that is cut into slices. */
static zi_run sharded(const zi_route *route, const zi_file_tensor *from, zi_origin origin,
                      uint64_t elems, uint64_t end)
{
    const zi_zero *z = route->z;
    const zi_tensor *tensor = &z->tensors[origin.tensor];
    size_t bytes = zi_file_dtype_bytes(from->dtype);
    uint64_t first = (route->at - from->begin) / bytes * elems;
    uint64_t last = (end - from->begin) / bytes * elems;
    zi_piece piece =
        zi_layout_piece(&z->layout, tensor, first, last < tensor->n_elems ? last : tensor->n_elems);
    zi_run run = {.owner = piece.owner,
                  .of_params = origin.array == ZI_ARRAY_PARAM,
                  .at = (size_t)(route->at - route->first),
                  .bytes = (size_t)((piece.n_elems + elems - 1) / elems) * bytes};
    if (piece.owner != z->comm->rank)
        return run;
    switch (origin.array) {
    case ZI_ARRAY_MASTER:
        run.memory = (char *)(z->master + piece.owned_at);
        break;
    case ZI_ARRAY_PARAM:
        run.memory = (char *)z->memory[tensor->space].params.base + piece.flat_at * bytes;
        break;
    case ZI_ARRAY_STATE:
        run.memory = zi_state_at(z, tensor->space, origin.state, piece.owned_at).data;
        break;
    case ZI_ARRAY_ABSMAX:
        run.memory = (char *)zi_state_at(z, tensor->space, origin.state, piece.owned_at).absmax;
        break;
    case ZI_ARRAY_FACTORS:
        break; /* replicated() has them */
    }
    return run;
}

static zi_run replicated(const zi_route *route, const zi_file_tensor *from, zi_origin origin,
                         uint64_t end)
{
    const float *factors = zi_state_factors(route->z, (int)origin.tensor, origin.state);
    return (zi_run){.owner = ZI_EVERY_RANK,
                    .memory = (char *)factors + (route->at - from->begin),
                    .at = (size_t)(route->at - route->first),
                    .bytes = (size_t)(end - route->at)};
}

int zi_route_next(zi_route *route, zi_run *run)
{
    while (route->tensor < route->file->n_tensors &&
           route->file->tensor[route->tensor].end <= route->at)
        route->tensor++;
    if (route->at >= route->end || route->tensor == route->file->n_tensors)
        return 0;
    const zi_file_tensor *from = &route->file->tensor[route->tensor];
    zi_origin origin = zi_origin_of(from->tag);
    uint64_t end = from->end < route->end ? from->end : route->end;
    *run = origin.array == ZI_ARRAY_FACTORS
               ? replicated(route, from, origin, end)
               : sharded(route, from, origin, origin.array == ZI_ARRAY_ABSMAX ? ZI_BLOCK : 1, end);
    route->at += run->bytes;
    return 1;
}
