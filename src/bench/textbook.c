/* The baseline: how a step is written from a textbook. Gradients are floats; MPI sums them onto
 * their owners (MPI_Reduce_scatter_block), each owner updates its slice by AdamW, with our own
 * kernel, which also rounds to 16 bits; MPI hands the 16-bit parameters to all (MPI_Allgather). In
 * place of the update `bench comm` only rounds. The only file of this room that knows MPI. */
#include <stdlib.h>

#include "base/dtype.h"
#include "base/status.h"
#include "bench/update.h"

#ifdef ZI_HAVE_MPI
#include <mpi.h>

const char *bench_textbook_missing(const zopt_threads *threads)
{
    return threads != NULL ? "ranks are threads, which MPI's collectives do not connect" : NULL;
}

typedef struct textbook {
    const bench_case *c;
    bench_update update;
    float *grads, *sum; /* of all elements; of the owned ones */
    uint16_t *params;
    uint64_t n_rounds; /* begun */
} textbook;

static zopt_status create(void *self, const bench_case *c)
{
    textbook *t = self;
    size_t n = (size_t)c->slice_elems * (size_t)c->crew->world;
    t->c = c;
    if (c->has_rule) {
        bench_rule adamw;
        const zi_shape shape = {1, &c->params, c->params};
        ZI_TRY(bench_rule_open("adamw", &shape, &adamw));
        ZI_TRY(bench_update_open(c, &adamw, &t->update));
    }
    t->grads = zi_aligned_zalloc(n * sizeof *t->grads);
    t->sum = zi_aligned_zalloc((size_t)c->slice_elems * sizeof *t->sum);
    t->params = zi_aligned_zalloc(n * sizeof *t->params);
    if (t->grads == NULL || t->sum == NULL || t->params == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for the baseline");
    return ZOPT_OK;
}

static void destroy(void *self)
{
    textbook *t = self;
    bench_update_close(&t->update);
    free(t->grads);
    free(t->sum);
    free(t->params);
}

static zopt_status prepare(void *self)
{
    textbook *t = self;
    const bench_case *c = t->c;
    int slot = bench_slot(c, c->slot, t->n_rounds++);
    bench_fill_wide(c->data, slot, c->held_first, c->n_held, t->grads);
    return ZOPT_OK;
}

static zopt_status one_round(void *self)
{
    textbook *t = self;
    int n = (int)t->c->slice_elems;
    zopt_dtype dtype = t->c->data->dtype;
    uint16_t *mine = t->params + (size_t)n * (size_t)t->c->crew->rank;
    if (MPI_Reduce_scatter_block(t->grads, t->sum, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) !=
        MPI_SUCCESS)
        return ZI_FAIL(ZOPT_ERR_COMM, "MPI_Reduce_scatter_block failed");
    if (t->c->has_rule)
        ZI_TRY(
            bench_update_run(&t->update, (zi_source){t->sum, ZOPT_FP32}, (zi_dest){mine, dtype}));
    else
        zi_convert(mine, dtype, t->sum, ZOPT_FP32, (size_t)n);
    if (MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, t->params, n, MPI_UINT16_T,
                      MPI_COMM_WORLD) != MPI_SUCCESS)
        return ZI_FAIL(ZOPT_ERR_COMM, "MPI_Allgather failed");
    return ZOPT_OK;
}

static zopt_status check(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const textbook *t = self;
    const bench_case *c = t->c;
    float sums[BENCH_SAMPLE];
    if (c->has_rule) {
        return bench_update_compare(&t->update, rounds, t->params, n_wrong);
    }
    for (int i = 0; i < c->sample.n; i++) {
        sums[i] = 0;
        for (int slot = 0; slot < c->n_slots; slot++)
            sums[i] +=
                bench_gradient(c->data, bench_slot(c, slot, rounds - 1), c->sample.element[i]);
    }
    *n_wrong = bench_compare_sample(c, sums, c->held_first, c->n_held, t->params);
    return ZOPT_OK;
}

const bench_contestant bench_textbook = {
    .bytes = sizeof(textbook),
    .create = create,
    .destroy = destroy,
    .prepare = prepare,
    .round = one_round,
    .check = check,
};

#else

const char *bench_textbook_missing(const zopt_threads *threads)
{
    (void)threads;
    return "built without MPI (ZOPT_MPI=OFF)";
}

const bench_contestant bench_textbook = {0};

#endif
