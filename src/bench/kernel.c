/* The kernel alone, for `bench adam`. The subject: one pass from a 16-bit gradient to a 16-bit
 * parameter. The baseline: AdamW in three, as a trainer with FP32 buffers has it: widen the
 * gradient, update, round the master weights. Every rank has its own part of the elements. */
#include "base/dtype.h"
#include "base/status.h"
#include "bench/update.h"

typedef struct kernel {
    const bench_case *c;
    bench_update update;
    uint16_t *grads, *params;
    size_t wide_bytes;
    float *wide; /* passes alone */
} kernel;

static zopt_status open_kernel(kernel *k, const bench_case *c, const bench_rule *rule,
                               int with_floats)
{
    k->c = c;
    ZI_TRY(bench_update_open(c, rule, &k->update));
    zi_mem *mem = &k->update.mem;
    k->wide_bytes = with_floats ? c->slice_elems * sizeof *k->wide : 0;
    ZI_TRY(zi_mem_array(mem, ZI_MEM_GRADS, c->slice_elems * sizeof *k->grads, &k->grads));
    ZI_TRY(zi_mem_array(mem, ZI_MEM_PARAMS, c->slice_elems * sizeof *k->params, &k->params));
    return zi_mem_array(mem, ZI_MEM_STAGING, k->wide_bytes, &k->wide);
}

static void destroy(void *self)
{
    kernel *k = self;
    size_t n = k->c != NULL ? k->c->slice_elems : 0;
    zi_mem_free_array(&k->update.mem, ZI_MEM_STAGING, k->wide, k->wide_bytes);
    zi_mem_free_array(&k->update.mem, ZI_MEM_PARAMS, k->params, n * sizeof *k->params);
    zi_mem_free_array(&k->update.mem, ZI_MEM_GRADS, k->grads, n * sizeof *k->grads);
    bench_update_close(&k->update);
}

static zopt_status prepare(void *self)
{
    const kernel *k = self;
    bench_fill(k->c->data, k->c->slot, k->c->held_first, k->c->n_held, k->grads);
    return ZOPT_OK;
}

static zopt_status check(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const kernel *k = self;
    *n_wrong = bench_update_compare(&k->update, rounds, k->params);
    return ZOPT_OK;
}

/* ---- one pass ---- */

static zopt_status create_fused(void *self, const bench_case *c)
{
    if (c->rule.variant->unit == ZI_UNIT_TENSOR)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "%s has no kernel that runs alone: its tensors need sums over all of "
                       "their elements; see zopt bench step",
                       c->rule.optim->name);
    return open_kernel(self, c, &c->rule, 0);
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
    return n > 0 ? bench_compare_alone(c, c->owned_first, n_elems, rounds, n, k->params, n_wrong)
                 : ZOPT_OK;
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
    return open_kernel(k, c, &adamw, 1);
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
