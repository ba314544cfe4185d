/* The limit: what a step costs that only moves its bytes, in one pass and with no barrier between
 * its parts. Its streams, where each of N ranks owns 1/N of the elements:
 *
 *   read            the owned part of the 16-bit gradients of every rank, in memory that all share
 *   read and write  this rank's FP32 master weights, and its states, each of 4 or 1 bytes
 *   write           the owned part of the 16-bit parameters of every rank, as the kernels store
 *
 * Left out: the largest magnitudes of 8-bit states, 4 bytes for 256 elements. The update kernel
 * alone has its own gradients and parameters for sources and destinations, and a transfer neither
 * master weights nor states. Arrays begin 1088 bytes further into a page each, so that they do not
 * fall into the same sets of the caches. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "bench/add.h"
#include "bench/contestant.h"
#include "device/cpu.h"

enum { STAGGER = 1088, GRADS = 0, PARAMS = 1 };

typedef struct limit {
    const bench_case *c;
    bench_shared shared;           /* gradients, then parameters */
    void *array[BENCH_MAX_ARRAYS]; /* as allocated: word[], then byte[] */
    const void *source[BENCH_MAX_RANKS];
    void *dest[BENCH_MAX_RANKS];
    bench_add add;
    bench_add_run *run;
    uint64_t n_rounds; /* begun */
} limit;

bench_add_run *bench_add_kernel(void)
{
#ifdef ZI_HAVE_X86
    const char *name = zi_device_cpu.variant();
    if (strcmp(name, zi_cpu_kernels_avx512.name) == 0)
        return bench_add_avx512;
    if (strcmp(name, zi_cpu_kernels_avx2.name) == 0)
        return bench_add_avx2;
#endif
    return bench_add_portable;
}

static size_t buffer_bytes(const bench_case *c)
{
    return c->slice_elems * (size_t)c->n_slots * sizeof(uint16_t) + STAGGER;
}

static uint16_t *buffer(const limit *l, int rank, int which)
{
    return (uint16_t *)((char *)l->shared.at[rank] + (size_t)which * buffer_bytes(l->c));
}

static zopt_status alloc_array(limit *l, int i, size_t element_bytes, void *out)
{
    size_t stagger = (size_t)(i + 2) * STAGGER;
    l->array[i] = zi_aligned_zalloc(l->c->slice_elems * element_bytes + stagger);
    if (l->array[i] == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for the limit");
    void *begin = (char *)l->array[i] + stagger;
    memcpy(out, &begin, sizeof begin);
    return ZOPT_OK;
}

static zopt_status alloc_arrays(limit *l)
{
    const bench_case *c = l->c;
    int n = 0;
    if (!c->has_rule)
        return ZOPT_OK;
    ZI_TRY(alloc_array(l, n++, 4, &l->add.word[l->add.n_words++]));
    for (int s = 0; s < c->rule.variant->n_states; s++) {
        zi_form form = c->rule.variant->state[s].form;
        if (form == ZI_FORM_F32)
            ZI_TRY(alloc_array(l, n++, 4, &l->add.word[l->add.n_words++]));
        else if (form == ZI_FORM_Q8_SIGNED || form == ZI_FORM_Q8_UNSIGNED)
            ZI_TRY(alloc_array(l, n++, 1, &l->add.byte[l->add.n_bytes++]));
    }
    return ZOPT_OK;
}

static zopt_status create(void *self, const bench_case *c)
{
    limit *l = self;
    int n = c->n_slots, rank = c->crew->rank;
    uint64_t first = c->owned_first - c->held_first;
    l->c = c;
    l->run = bench_add_kernel();
    ZI_TRY(bench_shared_open(c->crew, 2 * buffer_bytes(c), &l->shared));
    for (int i = 0; i < n; i++) {
        int peer = n == 1 ? rank : i;
        l->source[i] = buffer(l, peer, GRADS) + first;
        l->dest[i] = buffer(l, peer, PARAMS) + first;
    }
    l->add = (bench_add){.n_elems = c->slice_elems,
                         .source = l->source,
                         .n_sources = n,
                         .dest = l->dest,
                         .n_dests = n};
    return alloc_arrays(l);
}

static void destroy(void *self)
{
    limit *l = self;
    for (int i = 0; i < BENCH_MAX_ARRAYS; i++)
        free(l->array[i]);
    if (l->c != NULL)
        bench_shared_close(l->c->crew, &l->shared);
}

static zopt_status prepare(void *self)
{
    limit *l = self;
    const bench_case *c = l->c;
    bench_fill(c->data, bench_slot(c, c->slot, l->n_rounds++), c->held_first, c->n_held,
               buffer(l, c->crew->rank, GRADS));
    return ZOPT_OK;
}

static zopt_status one_round(void *self)
{
    const limit *l = self;
    l->run(&l->add);
    return ZOPT_OK;
}

/* Where there are arrays, every round adds the same sum to them. */
static zopt_status check(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const limit *l = self;
    const bench_case *c = l->c;
    const uint16_t *params = buffer(l, c->crew->rank, PARAMS);
    *n_wrong = 0;
    for (int i = 0; i < c->sample.n; i++) {
        uint64_t e = c->sample.element[i], owned_at = e - c->owned_first;
        uint32_t sum = 0;
        for (int slot = 0; slot < c->n_slots; slot++)
            sum += bench_gradient_bits(c->data, bench_slot(c, slot, rounds - 1), e);
        sum = (uint16_t)sum;
        uint32_t total = (uint32_t)(sum * rounds), stored = c->has_rule ? total : sum;
        if (e >= c->held_first && e - c->held_first < c->n_held)
            *n_wrong += params[e - c->held_first] != (uint16_t)stored;
        if (e < c->owned_first || owned_at >= c->n_owned)
            continue;
        for (int w = 0; w < l->add.n_words; w++)
            *n_wrong += l->add.word[w][owned_at] != total;
        for (int b = 0; b < l->add.n_bytes; b++)
            *n_wrong += l->add.byte[b][owned_at] != (uint8_t)total;
    }
    return ZOPT_OK;
}

const bench_contestant bench_limit = {
    .bytes = sizeof(limit),
    .create = create,
    .destroy = destroy,
    .prepare = prepare,
    .round = one_round,
    .check = check,
};
