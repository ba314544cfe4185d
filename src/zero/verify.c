/* Do all ranks hold the same parameters? A hash over all of them tells; where it differs, each rank
 * compares the first tensor that does with the owners' master weights, which say whose copy is
 * wrong on two ranks too. A damaged copy heals with the next update, but the gradients that were
 * computed with it do not: so the look comes before a step updates, and before anything is saved.
 */
#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#include "base/status.h"
#include "zero/zero.h"

enum { PIECE_ELEMS = 4096 };

static const char *param_address(const zi_zero *z, const zi_tensor *tensor, uint64_t at)
{
    const char *base = z->memory[tensor->space].params.base;
    return base + (tensor->start + at) * zopt_dtype_bytes(tensor->dtype);
}

static uint64_t piece_elems(const zi_tensor *tensor, uint64_t at)
{
    return tensor->n_elems - at < PIECE_ELEMS ? tensor->n_elems - at : PIECE_ELEMS;
}

/* Chain the tensor's parameters on this rank onto *hash. */
static zopt_status hash_tensor(const zi_zero *z, const zi_tensor *tensor, uint64_t *hash)
{
    const zi_device_ops *device = z->config.device;
    char piece[PIECE_ELEMS * sizeof(float)];
    for (uint64_t at = 0; at < tensor->n_elems; at += PIECE_ELEMS) {
        size_t bytes = piece_elems(tensor, at) * zopt_dtype_bytes(tensor->dtype);
        device->copy(NULL, piece, param_address(z, tensor, at), bytes);
        ZI_TRY(device->wait(NULL));
        *hash = XXH3_64bits_withSeed(piece, bytes, *hash);
    }
    return ZOPT_OK;
}

/* All of them, when the last step's have arrived. */
static zopt_status hash_all(zi_zero *z, uint64_t *hash)
{
    const void *param;
    *hash = 0;
    for (uint32_t i = 0; i < z->n_tensors; i++) {
        ZI_TRY(zi_param_acquire(z, (int)i, &param));
        ZI_TRY(hash_tensor(z, &z->tensors[i], hash));
    }
    return ZOPT_OK;
}

/* The first tensor that is not the same on all ranks; n_tensors: none. */
static zopt_status find_tensor(zi_zero *z, uint32_t *id)
{
    for (*id = 0; *id < z->n_tensors; (*id)++) {
        uint64_t hash = 0;
        int same;
        ZI_TRY(hash_tensor(z, &z->tensors[*id], &hash));
        ZI_TRY(zi_all_same(z->comm, hash, &same));
        if (!same)
            break;
    }
    return ZOPT_OK;
}

/* The first of n elements that differ; n: none. */
static uint64_t first_difference(const char *a, const char *b, uint64_t n, size_t bytes)
{
    for (uint64_t i = 0; i < n; i++)
        if (memcmp(a + i * bytes, b + i * bytes, bytes) != 0)
            return i;
    return n;
}

/* The first element of the tensor that is not its owner's master weight, rounded; INT64_MAX: none.
 */
static zopt_status find_element(zi_zero *z, uint32_t id, int64_t *element)
{
    const zi_tensor *tensor = &z->tensors[id];
    size_t bytes = zopt_dtype_bytes(tensor->dtype);
    float master[PIECE_ELEMS];
    char want[PIECE_ELEMS * sizeof(float)], have[PIECE_ELEMS * sizeof(float)];
    *element = INT64_MAX;
    for (uint64_t at = 0; at < tensor->n_elems; at += PIECE_ELEMS) {
        uint64_t n = piece_elems(tensor, at);
        ZI_TRY(zi_get_owned(z, -1, (int)id, at, n, master));
        zi_convert(want, tensor->dtype, master, ZOPT_FP32, (size_t)n);
        z->config.device->copy(NULL, have, param_address(z, tensor, at), (size_t)n * bytes);
        ZI_TRY(z->config.device->wait(NULL));
        uint64_t first = first_difference(want, have, n, bytes);
        if (first < n && *element == INT64_MAX)
            *element = (int64_t)(at + first);
    }
    return ZOPT_OK;
}

/* The ranks that found an element, and the lowest element of all. */
static zopt_status gather(zi_comm *comm, int64_t *element, zi_rank_text *ranks)
{
    int found = *element != INT64_MAX;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, element, 1));
    for (int64_t who = -1;;) {
        who = found && comm->rank > who ? comm->rank : INT64_MAX;
        ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &who, 1));
        if (who == INT64_MAX)
            return ZOPT_OK;
        zi_rank_list(ranks, (int)who);
    }
}

/* Never ZOPT_OK. */
static zopt_status name_difference(zi_zero *z)
{
    uint32_t id;
    int64_t element;
    zi_rank_text ranks = {""};
    ZI_TRY(find_tensor(z, &id));
    if (id == z->n_tensors)
        return ZI_FAIL(ZOPT_ERR_NUMERICS, "after step %" PRIu64 ": ranks held different parameters",
                       z->step);
    ZI_TRY(find_element(z, id, &element));
    ZI_TRY(gather(z->comm, &element, &ranks));
    if (element == INT64_MAX)
        return ZI_FAIL(ZOPT_ERR_NUMERICS,
                       "after step %" PRIu64 ": ranks held different parameters in '%s'", z->step,
                       z->tensors[id].name);
    return ZI_FAIL(
        ZOPT_ERR_NUMERICS,
        "after step %" PRIu64 ": the parameters on rank%s %s are damaged: not what their "
        "owners have, first in '%s' at element %" PRId64,
        z->step, strchr(ranks.text, ',') ? "s" : "", ranks.text, z->tensors[id].name, element);
}

static zopt_status compare(zi_zero *z)
{
    uint64_t hash;
    int same;
    ZI_TRY(hash_all(z, &hash));
    ZI_TRY(zi_all_same(z->comm, hash, &same));
    return same ? ZOPT_OK : name_difference(z);
}

zopt_status zi_params_agree(zi_zero *z)
{
    int phase = zi_phase(z, -1);
    z->comm->phase = "parameter check";
    zopt_status status = compare(z);
    z->failed |= status != ZOPT_OK;
    zi_phase(z, phase);
    return status;
}
