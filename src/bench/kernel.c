/* The kernel alone, for `bench adam`. The subject: one pass from a 16-bit gradient to a 16-bit
 * parameter. The baseline: AdamW in three, as a trainer with FP32 buffers has it: widen the
 * gradient, update, round the master weights. Every rank has its own part of the elements. */
#include <stdlib.h>

#include "base/dtype.h"
#include "base/status.h"
#include "bench/device.h"
#include "bench/update.h"

typedef struct kernel {
    const bench_case *c;
    bench_update update;
    uint16_t *grads, *params;
    float *wide; /* passes alone, on the host */
} kernel;

static zopt_status alloc(kernel *k, zi_category category, size_t element_bytes, void *out)
{
    const bench_crew *crew = k->c->crew;
    return crew->device->alloc(crew->queue, &k->update.mem, category,
                               (size_t)k->c->slice_elems * element_bytes, out);
}

static void release(kernel *k, zi_category category, size_t element_bytes, void *array)
{
    const bench_crew *crew = k->c->crew;
    crew->device->free(crew->queue, &k->update.mem, category, array,
                       (size_t)k->c->slice_elems * element_bytes);
}

static zopt_status open_kernel(kernel *k, const bench_case *c, const bench_rule *rule)
{
    k->c = c;
    ZI_TRY(bench_update_open(c, rule, &k->update));
    ZI_TRY(alloc(k, ZI_MEM_GRADS, sizeof *k->grads, &k->grads));
    return alloc(k, ZI_MEM_PARAMS, sizeof *k->params, &k->params);
}

static void destroy(void *self)
{
    kernel *k = self;
    if (k->c != NULL) {
        release(k, ZI_MEM_STAGING, sizeof *k->wide, k->wide);
        release(k, ZI_MEM_PARAMS, sizeof *k->params, k->params);
        release(k, ZI_MEM_GRADS, sizeof *k->grads, k->grads);
    }
    bench_update_close(&k->update);
}

static zopt_status prepare(void *self)
{
    const kernel *k = self;
    return bench_fill_device(k->c, k->c->slot, k->c->held_first, k->c->n_held, k->grads);
}

static zopt_status check(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const kernel *k = self;
    return bench_update_compare(&k->update, rounds, k->params, n_wrong);
}

/* ---- one pass ---- */

static zopt_status create_fused(void *self, const bench_case *c)
{
    if (c->rule.variant->unit == ZI_UNIT_TENSOR)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "%s has no kernel that runs alone: its tensors need sums over all of "
                       "their elements; see zopt bench step",
                       c->rule.optim->name);
    return open_kernel(self, c, &c->rule);
}

static zopt_status round_fused(void *self)
{
    kernel *k = self;
    zopt_dtype dtype = k->c->data->dtype;
    return bench_update_run(&k->update, (zi_source){k->grads, dtype}, (zi_dest){k->params, dtype});
}

/* Blocks do not depend on each other, so some of them are enough; in a tensor that is as large or
 * as small as this one, on which the states' form depends. */
static zopt_status check_fused(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    enum { COMPARED = 65536 };
    const kernel *k = self;
    const bench_case *c = k->c;
    uint64_t n = c->n_owned < COMPARED ? c->n_owned : COMPARED;
    uint64_t n_elems = c->params < COMPARED ? c->params : COMPARED;
    if (c->rule.variant->unit == ZI_UNIT_ELEMENT)
        return check(self, rounds, n_wrong);
    *n_wrong = 0;
    if (n < n_elems)
        n -= n % ZI_BLOCK; /* the tensor goes on where this rank's last block is padded */
    if (n == 0)
        return ZOPT_OK;
    const void *view;
    void *copy;
    zopt_status status =
        bench_view(c->crew, k->params, (size_t)n * sizeof *k->params, &copy, &view);
    if (status == ZOPT_OK)
        status = bench_compare_alone(c, c->owned_first, n_elems, rounds, n, view, n_wrong);
    free(copy);
    return status;
}

const bench_contestant bench_kernel = {
    .bytes = sizeof(kernel),
    .create = create_fused,
    .destroy = destroy,
    .prepare = prepare,
    .round = round_fused,
    .check = check_fused,
};

/* ---- three passes ---- */

static zopt_status create_passes(void *self, const bench_case *c)
{
    kernel *k = self;
    bench_rule adamw;
    const zi_shape shape = {1, &c->params, c->params};
    ZI_TRY(bench_rule_open("adamw", &shape, &adamw));
    ZI_TRY(open_kernel(k, c, &adamw));
    return alloc(k, ZI_MEM_STAGING, sizeof *k->wide, &k->wide);
}

static zopt_status round_passes(void *self)
{
    kernel *k = self;
    size_t n = (size_t)k->c->slice_elems;
    zopt_dtype dtype = k->c->data->dtype;
    zi_convert(k->wide, ZOPT_FP32, k->grads, dtype, n);
    ZI_TRY(bench_update_run(&k->update, (zi_source){k->wide, ZOPT_FP32}, (zi_dest){0}));
    zi_convert(k->params, dtype, k->update.job.master, ZOPT_FP32, n);
    return ZOPT_OK;
}

const bench_contestant bench_passes = {
    .bytes = sizeof(kernel),
    .create = create_passes,
    .destroy = destroy,
    .prepare = prepare,
    .round = round_passes,
    .check = check,
};
