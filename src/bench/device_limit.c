/* The limits where memory is a GPU's. One is the kernel that only adds, over the same streams as
 * limit.c's, but each rank's in memory of its own: as many gradient slices as a step reads, master
 * weights and states, and as many parameter slices as it writes. The other is the device's own copy
 * of as many bytes as master weights take, what makers of memory tell its speed by. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "bench/device.h"

enum { MAX_SOURCES = 128 };

typedef struct device_limit {
    const bench_case *c;
    zi_mem mem;
    uint16_t *grads, *params; /* [n_slots][slice_elems]; two floats an element: a copy's */
    const void *source[MAX_SOURCES];
    void *dest[MAX_SOURCES];
    bench_add add;
    uint64_t n_rounds; /* begun */
} device_limit;

static size_t slice_bytes(const device_limit *l, size_t element_bytes)
{
    return (size_t)l->c->slice_elems * element_bytes;
}

static zopt_status alloc(device_limit *l, size_t bytes, void *out)
{
    const bench_crew *crew = l->c->crew;
    return crew->device->alloc(crew->queue, &l->mem, ZI_MEM_STAGING, bytes, out);
}

static void release(device_limit *l, void *array, size_t bytes)
{
    const bench_crew *crew = l->c->crew;
    crew->device->free(crew->queue, &l->mem, ZI_MEM_STAGING, array, bytes);
}

/* ------------------------------------------------------------------ additions ---------------- */

static zopt_status alloc_arrays(device_limit *l)
{
    const bench_rule *rule = &l->c->rule;
    if (!l->c->has_rule)
        return ZOPT_OK;
    ZI_TRY(alloc(l, slice_bytes(l, 4), &l->add.word[0]));
    l->add.n_words = 1;
    for (int s = 0; s < rule->variant->n_states; s++) {
        zi_form form = rule->variant->state[s].form;
        if (form == ZI_FORM_F32)
            ZI_TRY(alloc(l, slice_bytes(l, 4), &l->add.word[l->add.n_words++]));
        else if (form == ZI_FORM_Q8_SIGNED || form == ZI_FORM_Q8_UNSIGNED)
            ZI_TRY(alloc(l, slice_bytes(l, 1), &l->add.byte[l->add.n_bytes++]));
    }
    return ZOPT_OK;
}

static zopt_status create(void *self, const bench_case *c)
{
    device_limit *l = self;
    size_t n = (size_t)c->n_slots;
    l->c = c;
    if (n > MAX_SOURCES)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "%zu ranks are more than %d", n, MAX_SOURCES);
    ZI_TRY(alloc(l, n * slice_bytes(l, 2), &l->grads));
    ZI_TRY(alloc(l, n * slice_bytes(l, 2), &l->params));
    for (size_t i = 0; i < n; i++) {
        l->source[i] = l->grads + i * c->slice_elems;
        l->dest[i] = l->params + i * c->slice_elems;
    }
    l->add = (bench_add){.n_elems = (size_t)c->slice_elems,
                         .source = l->source,
                         .n_sources = c->n_slots,
                         .dest = l->dest,
                         .n_dests = c->n_slots};
    return alloc_arrays(l);
}

static void destroy(void *self)
{
    device_limit *l = self;
    if (l->c == NULL)
        return;
    size_t n = (size_t)l->c->n_slots;
    for (int i = 0; i < BENCH_MAX_ARRAYS; i++) {
        release(l, l->add.word[i], slice_bytes(l, 4));
        release(l, l->add.byte[i], slice_bytes(l, 1));
    }
    release(l, l->params, n * slice_bytes(l, 2));
    release(l, l->grads, n * slice_bytes(l, 2));
}

static zopt_status prepare(void *self)
{
    device_limit *l = self;
    const bench_case *c = l->c;
    for (int i = 0; i < c->n_slots; i++)
        ZI_TRY(bench_fill_device(c, bench_slot(c, i, l->n_rounds), c->owned_first, c->n_owned,
                                 l->grads + (size_t)i * c->slice_elems));
    l->n_rounds++;
    return ZOPT_OK;
}

static zopt_status one_round(void *self)
{
    const device_limit *l = self;
    return bench_add_device(l->c->crew, &l->add);
}

/* Element `at` of every array, where each round adds the same sum: those that differ. */
static zopt_status check_element(const device_limit *l, uint64_t at, uint32_t sum, uint64_t rounds,
                                 uint64_t *n_wrong)
{
    const bench_crew *crew = l->c->crew;
    uint32_t total = (uint32_t)(sum * rounds), word;
    uint16_t half;
    uint8_t byte;
    for (int w = 0; w < l->add.n_words; w++) {
        ZI_TRY(bench_copy(crew, &word, l->add.word[w] + at, sizeof word));
        *n_wrong += word != total;
    }
    for (int b = 0; b < l->add.n_bytes; b++) {
        ZI_TRY(bench_copy(crew, &byte, l->add.byte[b] + at, sizeof byte));
        *n_wrong += byte != (uint8_t)total;
    }
    for (int d = 0; d < l->add.n_dests; d++) {
        ZI_TRY(bench_copy(crew, &half, (uint16_t *)l->dest[d] + at, sizeof half));
        *n_wrong += half != (uint16_t)(l->add.n_words > 0 ? total : sum);
    }
    return ZOPT_OK;
}

static zopt_status check(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const device_limit *l = self;
    const bench_case *c = l->c;
    *n_wrong = 0;
    for (int i = 0; i < c->sample.n; i++) {
        uint64_t e = c->sample.element[i];
        uint32_t sum = 0;
        if (e < c->owned_first || e - c->owned_first >= c->n_owned)
            continue;
        for (int slot = 0; slot < c->n_slots; slot++)
            sum += bench_gradient_bits(c->data, bench_slot(c, slot, rounds - 1), e);
        ZI_TRY(check_element(l, e - c->owned_first, sum & 0xffff, rounds, n_wrong));
    }
    return ZOPT_OK;
}

const bench_contestant bench_device_limit = {
    .bytes = sizeof(device_limit),
    .create = create,
    .destroy = destroy,
    .prepare = prepare,
    .round = one_round,
    .check = check,
};

/* ------------------------------------------------------------------ the copy ----------------- */

static zopt_status create_copy(void *self, const bench_case *c)
{
    device_limit *l = self;
    l->c = c;
    ZI_TRY(alloc(l, slice_bytes(l, 4), &l->grads));
    return alloc(l, slice_bytes(l, 4), &l->params);
}

static void destroy_copy(void *self)
{
    device_limit *l = self;
    if (l->c == NULL)
        return;
    release(l, l->params, slice_bytes(l, 4));
    release(l, l->grads, slice_bytes(l, 4));
}

/* The first and the last words, of this round alone. */
static zopt_status prepare_copy(void *self)
{
    device_limit *l = self;
    uint64_t stamp = ++l->n_rounds;
    size_t end = slice_bytes(l, 4) - sizeof stamp;
    ZI_TRY(bench_copy(l->c->crew, l->grads, &stamp, sizeof stamp));
    return bench_copy(l->c->crew, (char *)l->grads + end, &stamp, sizeof stamp);
}

static zopt_status round_copy(void *self)
{
    const device_limit *l = self;
    return bench_copy(l->c->crew, l->params, l->grads, slice_bytes(l, 4));
}

static zopt_status check_copy(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const device_limit *l = self;
    uint64_t first, last;
    size_t end = slice_bytes(l, 4) - sizeof last;
    ZI_TRY(bench_copy(l->c->crew, &first, l->params, sizeof first));
    ZI_TRY(bench_copy(l->c->crew, &last, (char *)l->params + end, sizeof last));
    *n_wrong = first != rounds;
    *n_wrong += last != rounds;
    return ZOPT_OK;
}

const bench_contestant bench_device_copy = {
    .bytes = sizeof(device_limit),
    .create = create_copy,
    .destroy = destroy_copy,
    .prepare = prepare_copy,
    .round = round_copy,
    .check = check_copy,
};
