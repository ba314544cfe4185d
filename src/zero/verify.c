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

/* Chain the tensor's parameters on this rank onto *hash. Where the host can read them it does so
 * in place, and this may run beside the handle's thread. */
static zopt_status hash_tensor(const zi_zero *z, const zi_tensor *tensor, uint64_t *hash)
{
    const zi_device_ops *device = z->config.device;
    char piece[PIECE_ELEMS * sizeof(float)];
    for (uint64_t at = 0; at < tensor->n_elems; at += PIECE_ELEMS) {
        size_t bytes = piece_elems(tensor, at) * zopt_dtype_bytes(tensor->dtype);
        const char *from = param_address(z, tensor, at);
        if (!device->on_host) {
            device->copy(z->queue, piece, from, bytes);
            ZI_TRY(device->wait(z->queue));
            from = piece;
        }
        *hash = XXH3_64bits_withSeed(from, bytes, *hash);
    }
    return ZOPT_OK;
}

static zopt_status hash_all(const zi_zero *z, uint64_t *hash)
{
    *hash = 0;
    for (uint32_t i = 0; i < z->n_tensors; i++)
        ZI_TRY(hash_tensor(z, &z->tensors[i], hash));
    return ZOPT_OK;
}

/* The last step's have arrived. */
static zopt_status acquire_all(zi_zero *z)
{
    for (uint32_t i = 0; i < z->n_tensors; i++)
        ZI_TRY(zi_param_wait(z, &z->tensors[i]));
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

/* The first of the n <= PIECE_ELEMS elements from `at` on that is not its master weight, rounded;
 * n: none. */
static zopt_status compare_piece(const zi_zero *z, const zi_tensor *tensor, uint64_t at, uint64_t n,
                                 const float *master, uint64_t *first)
{
    char want[PIECE_ELEMS * sizeof(float)], have[PIECE_ELEMS * sizeof(float)];
    size_t bytes = zopt_dtype_bytes(tensor->dtype);
    zi_convert(want, tensor->dtype, master, ZOPT_FP32, (size_t)n);
    z->config.device->copy(z->queue, have, param_address(z, tensor, at), (size_t)n * bytes);
    ZI_TRY(z->config.device->wait(z->queue));
    for (*first = 0; *first < n; (*first)++)
        if (memcmp(want + *first * bytes, have + *first * bytes, bytes) != 0)
            break;
    return ZOPT_OK;
}

/* The tensor's first element that is damaged on this rank; INT64_MAX: none. */
static zopt_status find_element(zi_zero *z, uint32_t id, int64_t *element)
{
    const zi_tensor *tensor = &z->tensors[id];
    float master[PIECE_ELEMS];
    *element = INT64_MAX;
    for (uint64_t at = 0; at < tensor->n_elems; at += PIECE_ELEMS) {
        uint64_t first, n = piece_elems(tensor, at);
        ZI_TRY(zi_get_owned(z, -1, (int)id, at, n, master));
        ZI_TRY(compare_piece(z, tensor, at, n, master, &first));
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

static zopt_status compare(zi_zero *z, uint64_t hash)
{
    int same;
    ZI_TRY(zi_all_same(z->comm, hash, &same));
    return same ? ZOPT_OK : name_difference(z);
}

static zopt_status hash_and_compare(zi_zero *z)
{
    uint64_t hash;
    ZI_TRY(acquire_all(z));
    ZI_TRY(hash_all(z, &hash));
    return compare(z, hash);
}

/* One buffer is the same for all, damaged or not: owners compare their own parts of it. */
static zopt_status find_owned(const zi_zero *z, int64_t *id, int64_t *element)
{
    const zi_device_ops *home = z->config.home;
    float master[PIECE_ELEMS];
    *id = *element = INT64_MAX;
    for (uint32_t i = 0; i < z->n_tensors && *id == INT64_MAX; i++) {
        const zi_tensor *tensor = &z->tensors[i];
        zi_piece piece = {0};
        for (uint64_t at = 0; at < tensor->n_elems && *id == INT64_MAX; at += piece.n_elems) {
            uint64_t first;
            piece = zi_layout_piece(&z->layout, tensor, at, at + piece_elems(tensor, at));
            if (piece.owner != z->comm->rank)
                continue;
            home->copy(z->home_queue, master, z->master + piece.owned_at,
                       piece.n_elems * sizeof *master);
            ZI_TRY(home->wait(z->home_queue));
            ZI_TRY(compare_piece(z, tensor, at, piece.n_elems, master, &first));
            if (first == piece.n_elems)
                continue;
            *id = i;
            *element = (int64_t)(at + first);
        }
    }
    return ZOPT_OK;
}

static zopt_status compare_shared(zi_zero *z)
{
    zi_comm *comm = z->comm;
    int64_t mine, element;
    ZI_TRY(acquire_all(z));
    ZI_TRY(zi_comm_agree(comm, find_owned(z, &mine, &element)));
    int64_t id = mine;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &id, 1));
    if (id == INT64_MAX)
        return ZOPT_OK;
    if (id != mine)
        element = INT64_MAX;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &element, 1));
    return ZI_FAIL(ZOPT_ERR_NUMERICS,
                   "after step %" PRIu64 ": the shared parameters are damaged: not what their "
                   "owners have, first in '%s' at element %" PRId64,
                   z->step, z->tensors[id].name, element);
}

static int is_one_buffer(const zi_zero *z)
{
    return z->comm->shared_params && z->comm->node.size == z->comm->world;
}

zopt_status zi_params_agree(zi_zero *z)
{
    int phase = zi_phase(z, -1);
    z->comm->phase = "parameter check";
    zopt_status status = is_one_buffer(z) ? compare_shared(z) : hash_and_compare(z);
    z->failed |= status != ZOPT_OK;
    zi_phase(z, phase);
    return status;
}

int zi_params_hashable(const zi_zero *z)
{
    return z->config.device->on_host && !is_one_buffer(z);
}

zopt_status zi_params_settle(zi_zero *z)
{
    return acquire_all(z);
}

uint64_t zi_params_hash(const zi_zero *z)
{
    uint64_t hash;
    (void)hash_all(z, &hash); /* on the host nothing can fail */
    return hash;
}

zopt_status zi_params_compare(zi_zero *z, uint64_t hash)
{
    int phase = zi_phase(z, -1);
    z->comm->phase = "parameter check";
    zopt_status status = compare(z, hash);
    z->failed |= status != ZOPT_OK;
    zi_phase(z, phase);
    return status;
}
