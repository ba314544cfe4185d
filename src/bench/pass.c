/* An owner's first pass over gradients, alone, for `bench norm` and `bench accumulate`: the exact
 * sum of their squares, and their addition to FP32 accumulators. Every rank has its own part of the
 * elements. What comes of it is checked without a tolerance: gradients are multiples of 1/32. */
#include <math.h>

#include "base/status.h"
#include "bench/device.h"
#include "device/device.h"

typedef struct pass {
    const bench_case *c;
    zi_mem mem;
    uint16_t *grads;
    float *acc;         /* NULL: the norm's pass */
    zi_norm_sums *sums; /* of all rounds */
    zi_source source;
    uint64_t n_rounds; /* begun */
} pass;

static size_t slice_bytes(const pass *p, size_t element_bytes)
{
    return (size_t)p->c->slice_elems * element_bytes;
}

static zopt_status alloc(pass *p, zi_category category, size_t bytes, void *out)
{
    const bench_crew *crew = p->c->crew;
    return crew->device->alloc(crew->queue, &p->mem, category, bytes, out);
}

static void release(pass *p, zi_category category, void *array, size_t bytes)
{
    const bench_crew *crew = p->c->crew;
    crew->device->free(crew->queue, &p->mem, category, array, bytes);
}

static zopt_status create_norm(void *self, const bench_case *c)
{
    pass *p = self;
    p->c = c;
    ZI_TRY(alloc(p, ZI_MEM_TABLES, sizeof *p->sums, &p->sums));
    ZI_TRY(alloc(p, ZI_MEM_GRADS, slice_bytes(p, sizeof *p->grads), &p->grads));
    p->source = (zi_source){p->grads, c->data->dtype};
    return ZOPT_OK;
}

static zopt_status create_accumulate(void *self, const bench_case *c)
{
    pass *p = self;
    ZI_TRY(create_norm(self, c));
    return alloc(p, ZI_MEM_GRAD_ACCUM, slice_bytes(p, sizeof *p->acc), &p->acc);
}

static void destroy(void *self)
{
    pass *p = self;
    if (p->c == NULL)
        return;
    release(p, ZI_MEM_GRAD_ACCUM, p->acc, slice_bytes(p, sizeof *p->acc));
    release(p, ZI_MEM_GRADS, p->grads, slice_bytes(p, sizeof *p->grads));
    release(p, ZI_MEM_TABLES, p->sums, sizeof *p->sums);
}

static zopt_status prepare(void *self)
{
    pass *p = self;
    const bench_case *c = p->c;
    return bench_fill_device(c, bench_slot(c, c->slot, p->n_rounds++), c->owned_first, c->n_owned,
                             p->grads);
}

static zopt_status one_round(void *self)
{
    pass *p = self;
    const bench_crew *crew = p->c->crew;
    const zi_job job = {.n_elems = (size_t)p->c->slice_elems, .source = &p->source, .n_sources = 1};
    if (p->acc != NULL)
        crew->device->accumulate(crew->queue, &job, p->acc, &p->sums->n_bad);
    else
        crew->device->norm(crew->queue, &job, &p->sums->squares, &p->sums->n_bad);
    return crew->device->wait(crew->queue);
}

/* Of the owned gradients of a slot, times 32^2; they repeat. */
static uint64_t squares_of(const bench_case *c, int slot)
{
    uint64_t sum = 0, n = c->n_owned;
    for (uint64_t i = 0; i < BENCH_PERIOD && i < n; i++) {
        uint64_t times = n / BENCH_PERIOD + (i < n % BENCH_PERIOD ? 1 : 0);
        int64_t k = (int64_t)(32 * bench_gradient(c->data, slot, c->owned_first + i));
        sum += times * (uint64_t)(k * k);
    }
    return sum;
}

static zopt_status check_norm(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const pass *p = self;
    zi_norm_sums sums;
    uint64_t want = 0;
    ZI_TRY(bench_copy(p->c->crew, &sums, p->sums, sizeof sums));
    for (uint64_t r = 0; r < rounds; r++)
        want += squares_of(p->c, bench_slot(p->c, p->c->slot, r));
    *n_wrong = sums.n_bad != 0;
    *n_wrong += zi_exact_round(sums.squares.limb) != (double)want / 1024;
    return ZOPT_OK;
}

static zopt_status check_accumulate(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const pass *p = self;
    const bench_case *c = p->c;
    zi_norm_sums sums;
    float got;
    ZI_TRY(bench_copy(c->crew, &sums, p->sums, sizeof sums));
    *n_wrong = sums.n_bad != 0;
    for (int i = 0; i < c->sample.n; i++) {
        uint64_t e = c->sample.element[i];
        float want = 0;
        if (e < c->owned_first || e - c->owned_first >= c->n_owned)
            continue;
        for (uint64_t r = 0; r < rounds; r++)
            want += bench_gradient(c->data, bench_slot(c, c->slot, r), e);
        ZI_TRY(bench_copy(c->crew, &got, &p->acc[e - c->owned_first], sizeof got));
        *n_wrong += got != want;
    }
    return ZOPT_OK;
}

const bench_contestant bench_pass_norm = {
    .bytes = sizeof(pass),
    .create = create_norm,
    .destroy = destroy,
    .prepare = prepare,
    .round = one_round,
    .check = check_norm,
};

const bench_contestant bench_pass_accumulate = {
    .bytes = sizeof(pass),
    .create = create_accumulate,
    .destroy = destroy,
    .prepare = prepare,
    .round = one_round,
    .check = check_accumulate,
};
