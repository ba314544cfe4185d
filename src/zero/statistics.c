/* Statistics of whole tensors, for rules that work on them (ZI_UNIT_TENSOR): two rounds a step,
 * each batched over all tensors of the handle. What is summed lies in z->sums: first, for every
 * tensor, an exact sum of squares and a count of those that were not finite; behind that, for
 * the first round alone, sums for each row and column of factored tensors. What follows from the
 * totals is in optim/settle.h: made here, or by a kernel where a step does not wait for the host.
 * Next: update.c. */
#include "base/grid_sum.h"
#include "base/status.h"
#include "optim/settle.h"
#include "zero/ahead.h"
#include "zero/passes.h"

enum { TENSOR_WORDS = ZI_EXACT_LIMBS + 1 };

static int has_statistics(const zi_tensor *tensor)
{
    return tensor->variant != NULL && tensor->variant->unit == ZI_UNIT_TENSOR;
}

int zi_statistics_needed(const zi_zero *z)
{
    for (uint32_t i = 0; i < z->n_tensors; i++)
        if (has_statistics(&z->tensors[i]))
            return 1;
    return 0;
}

/* ---- a tensor's matrices ---- */

static int is_factored(const zi_tensor *tensor)
{
    return has_statistics(tensor) && tensor->variant->state[0].form == ZI_FORM_ROWS;
}

static uint64_t matrices_of(const zi_tensor *tensor)
{
    return is_factored(tensor)
               ? tensor->n_elems / tensor->shape[tensor->ndim - 1] / tensor->shape[tensor->ndim - 2]
               : 0;
}

uint64_t zi_factor_floats(const zi_tensor *tensor, zi_form form)
{
    int from_end = form == ZI_FORM_ROWS ? 2 : 1;
    return is_factored(tensor) ? matrices_of(tensor) * tensor->shape[tensor->ndim - from_end] : 0;
}

static uint64_t n_factors(const zi_tensor *tensor)
{
    return zi_factor_floats(tensor, ZI_FORM_ROWS) + zi_factor_floats(tensor, ZI_FORM_COLS);
}

uint64_t zi_statistics_n_matrices(const zi_zero *z)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < z->n_tensors; i++)
        n += matrices_of(&z->tensors[i]);
    return n;
}

static size_t tensor_words(const zi_zero *z)
{
    return (size_t)z->n_tensors * TENSOR_WORDS;
}

static size_t all_words(const zi_zero *z)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < z->n_tensors; i++)
        n += n_factors(&z->tensors[i]);
    return tensor_words(z) + n * ZI_GRID_LIMBS;
}

static zopt_status check_extents(const zi_tensor *tensor)
{
    for (int d = tensor->ndim - 2; is_factored(tensor) && d < tensor->ndim; d++)
        if (tensor->shape[d] > ZI_GRID_MAX_ADDENDS)
            return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                           "tensor '%s': extent %llu is more than 2^31, too much for a factored "
                           "second moment",
                           tensor->name, (unsigned long long)tensor->shape[d]);
    return ZOPT_OK;
}

/* Where the next factored tensor's part begins in what several share. */
typedef struct next_part {
    int64_t *sum;
    float *mean;
    uint64_t row[ZI_MAX_SPACES], col[ZI_MAX_SPACES]; /* in the states of each space */
} next_part;

static void describe_factors(const zi_zero *z, const zi_tensor *tensor, next_part *next,
                             zi_tensor_statistics *t)
{
    const zi_state_slice *state = z->memory[tensor->space].state;
    uint64_t n_rows = zi_factor_floats(tensor, ZI_FORM_ROWS);
    uint64_t n_cols = zi_factor_floats(tensor, ZI_FORM_COLS);
    t->n_matrices = matrices_of(tensor);
    t->n_rows = n_rows / t->n_matrices;
    t->n_cols = n_cols / t->n_matrices;
    t->row = (float *)state[0].data + next->row[tensor->space];
    t->col = (float *)state[1].data + next->col[tensor->space];
    t->row_mean = next->mean;
    t->row_sum = next->sum;
    t->col_sum = next->sum + n_rows;
    t->stride = n_rows + n_cols;
    next->row[tensor->space] += n_rows;
    next->col[tensor->space] += n_cols;
    next->mean += t->n_matrices;
    next->sum += t->stride * ZI_GRID_LIMBS;
}

zopt_status zi_statistics_describe(zi_zero *z)
{
    next_part next = {.sum = z->sums + tensor_words(z), .mean = z->row_means};
    for (uint32_t i = 0; z->statistics != NULL && i < z->n_tensors; i++) {
        const zi_tensor *tensor = &z->tensors[i];
        zi_tensor_statistics *t = &z->statistics[i];
        ZI_TRY(check_extents(tensor));
        if (!has_statistics(tensor))
            continue;
        t->group = (uint32_t)tensor->group;
        t->start = tensor->start;
        t->n_elems = tensor->n_elems;
        t->sum = z->sums + (size_t)i * TENSOR_WORDS;
        if (is_factored(tensor) && !z->comm->planned)
            describe_factors(z, tensor, &next, t);
    }
    zi_place_statistics(z);
    return ZOPT_OK;
}

/* ---- the rounds ---- */

static void begin_moments(zi_zero *z)
{
    zi_sums_clear(z, all_words(z));
}

static void begin_update(zi_zero *z)
{
    zi_sums_clear(z, tensor_words(z));
}

static void add_slice(zi_zero *z, const zi_bucket *bucket, zi_statistics_round round,
                      const zi_job *job)
{
    const zi_variant *variant = z->layout.space[bucket->space].variant;
    if (variant->unit == ZI_UNIT_TENSOR)
        z->config.home->statistics(z->home_queue, round, job);
}

static void add_moments(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    add_slice(z, bucket, ZI_STATISTICS_MOMENTS, job);
}

static void add_update(zi_zero *z, const zi_bucket *bucket, const zi_job *job)
{
    add_slice(z, bucket, ZI_STATISTICS_UPDATE, job);
}

/* Limbs that ranks add must not be near their limit. */
static zopt_status end(zi_zero *z, size_t n_words)
{
    ZI_TRY(zi_sums_fetch(z, n_words));
    for (uint32_t i = 0; i < z->n_tensors; i++)
        if (z->statistics[i].sum != NULL)
            zi_exact_carry(z->statistics[i].sum);
    return ZOPT_OK;
}

static zopt_status end_moments(zi_zero *z)
{
    return end(z, all_words(z));
}

static zopt_status end_update(zi_zero *z)
{
    return end(z, tensor_words(z));
}

static zopt_status settle(zi_zero *z, zi_statistics_round round)
{
    for (uint32_t i = 0; i < z->n_tensors; i++) {
        zi_tensor_statistics *t = &z->statistics[i];
        zi_terms terms;
        if (t->sum == NULL)
            continue;
        zi_group_terms(z, t->group, z->good_step + 1, &terms);
        zi_settle_tensor(round, &terms, z->control.scalars[t->group], t);
    }
    zi_place_statistics(z);
    return ZOPT_OK;
}

static zopt_status settle_moments(zi_zero *z)
{
    return settle(z, ZI_STATISTICS_MOMENTS);
}

static zopt_status settle_update(zi_zero *z)
{
    return settle(z, ZI_STATISTICS_UPDATE);
}

zopt_status zi_statistics_settle_enqueue(zi_zero *z, zi_statistics_round round)
{
    const zi_settle_job job = {.round = round,
                               .n_tensors = z->n_tensors,
                               .tensor = z->placed.statistics,
                               .terms = z->ahead->terms,
                               .control = z->placed.control};
    ZI_TRY(
        z->comm->ops->sum_enqueue(z->comm, z->placed.sums, zi_statistics_rounds[round].n_words(z)));
    z->config.device->settle(z->queue, &job);
    return ZOPT_OK;
}

const zi_round zi_statistics_rounds[ZI_N_STATISTICS] = {
    [ZI_STATISTICS_MOMENTS] = {.n_words = all_words,
                               .begin = begin_moments,
                               .add_slice = add_moments,
                               .end = end_moments,
                               .act = settle_moments},
    [ZI_STATISTICS_UPDATE] = {.n_words = tensor_words,
                              .begin = begin_update,
                              .add_slice = add_update,
                              .end = end_update,
                              .act = settle_update},
};
