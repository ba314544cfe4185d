/* See parts.h: arrays, transfers and kernels of a step, bucket by bucket. */
#include "bench/parts.h"

#include <stdlib.h>

#include "base/status.h"

enum { DEADLINE_MS = 300000, WARMUP = 2, DEFAULT_BUCKET = 4 << 20, N_SMALL = 64 };
enum { SMALL_BYTES = ZI_BLOCK * sizeof(uint16_t) };

/* ------------------------------------------------------------------ set-up ------------------- */

static zopt_status connect(bench_parts *p, const char *transport)
{
    const bench_crew *crew = p->c.crew;
    const zi_comm_config config = {
        .threads = crew->threads, .threads_rank = crew->rank, .deadline_ms = DEADLINE_MS};
    ZI_TRY(zi_comm_connect(transport, &config, &p->mem, &p->comm));
    if (p->comm->world != crew->world)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "transport %s connects %d of %d ranks", p->comm->ops->name,
                       p->comm->world, crew->world);
    return ZOPT_OK;
}

static uint64_t slice_elems(const bench_parts *p)
{
    return p->bucket_elems / (uint64_t)p->c.crew->world;
}

/* Where this rank's slice of a bucket begins among all elements. */
static uint64_t owned_at(const bench_parts *p, uint64_t bucket)
{
    return bucket * p->bucket_elems + (uint64_t)p->c.crew->rank * slice_elems(p);
}

static zopt_status open_transfers(bench_parts *p)
{
    const zi_comm_ops *ops = p->comm->ops;
    uint64_t bytes = p->c.params * sizeof(uint16_t), n = p->n_buckets;
    ZI_TRY(ops->reserve(p->comm, (size_t)(n > N_SMALL ? n : N_SMALL),
                        (size_t)(slice_elems(p) * sizeof(uint16_t))));
    ZI_TRY(ops->alloc_symmetric(p->comm, ZI_MEM_GRADS, (size_t)bytes, &p->grads));
    return ops->alloc_symmetric(p->comm, ZI_MEM_PARAMS, (size_t)bytes, &p->params);
}

zopt_status bench_parts_open(bench_parts *p, const bench_case *c, const char *transport)
{
    uint64_t unit = (uint64_t)ZI_BLOCK * (uint64_t)c->crew->world, world = (uint64_t)c->crew->world;
    uint64_t bucket = c->request->bucket_elems > 0 ? c->request->bucket_elems : DEFAULT_BUCKET;
    *p = (bench_parts){.c = *c};
    p->bucket_elems = (bucket + unit - 1) / unit * unit;
    p->n_buckets = (c->params + p->bucket_elems - 1) / p->bucket_elems;
    p->c.params = p->n_buckets * p->bucket_elems;
    p->c.slice_elems = p->c.n_owned = p->n_buckets * slice_elems(p);
    p->c.owned_first = 0;
    p->source = calloc((size_t)(p->n_buckets * world), sizeof *p->source);
    p->dest = calloc((size_t)world, sizeof *p->dest);
    p->source_at = calloc((size_t)world, sizeof *p->source_at);
    p->dest_at = calloc((size_t)world, sizeof *p->dest_at);
    if (p->source == NULL || p->dest == NULL || p->source_at == NULL || p->dest_at == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for tables of %llu buckets",
                       (unsigned long long)p->n_buckets);
    ZI_TRY(connect(p, transport));
    ZI_TRY(open_transfers(p));
    ZI_TRY(bench_update_open(&p->c, &p->c.rule, &p->update));
    for (uint64_t b = 0; b < p->n_buckets; b++)
        ZI_TRY(bench_update_place_start(&p->update, owned_at(p, b), slice_elems(p),
                                        p->update.job.master + b * slice_elems(p)));
    return ZOPT_OK;
}

void bench_parts_close(bench_parts *p)
{
    bench_update_close(&p->update);
    if (p->comm != NULL)
        p->comm->ops->destroy(p->comm);
    free(p->source);
    free(p->dest);
    free(p->source_at);
    free(p->dest_at);
}

/* ------------------------------------------------------------------ transfers ---------------- */

/* Bucket b of n, each of world slices of so many bytes. */
static zi_transfer transfer(const bench_parts *p, const zi_symmetric *memory, uint64_t first,
                            uint64_t b, uint64_t slice_bytes)
{
    return (zi_transfer){.ordinal = first + b,
                         .memory = memory,
                         .offset_bytes = (size_t)(b * slice_bytes * (uint64_t)p->comm->world),
                         .slice_bytes = (size_t)slice_bytes,
                         .n_contributors = p->comm->world,
                         .dtype = p->c.data->dtype};
}

static zopt_status exchange(bench_parts *p, uint64_t n, uint64_t slice_bytes)
{
    const zi_comm_ops *ops = p->comm->ops;
    int world = p->comm->world;
    for (uint64_t b = 0; b < n; b++) {
        zi_transfer t = transfer(p, &p->grads, p->n_exposed, b, slice_bytes);
        ZI_TRY(ops->expose(p->comm, &t));
    }
    for (uint64_t b = 0; b < n; b++) {
        zi_transfer t = transfer(p, &p->grads, p->n_exposed, b, slice_bytes);
        ZI_TRY(ops->expose_wait(p->comm, &t, p->source_at));
        for (int i = 0; i < world && b < p->n_buckets; i++)
            p->source[b * (uint64_t)world + (uint64_t)i] =
                (zi_source){p->source_at[i], p->c.data->dtype};
    }
    p->n_exposed += n;
    return ZOPT_OK;
}

/* The last n transfers of gradients have been read. */
static zopt_status consume(bench_parts *p, uint64_t n, uint64_t slice_bytes)
{
    for (uint64_t b = 0; b < n; b++) {
        zi_transfer t = transfer(p, &p->grads, p->n_exposed - n, b, slice_bytes);
        ZI_TRY(p->comm->ops->consumed(p->comm, &t));
    }
    return p->comm->ops->reuse_wait(p->comm, p->n_exposed - 1, NULL);
}

static zopt_status gather(bench_parts *p, uint64_t n, uint64_t slice_bytes)
{
    for (uint64_t b = 0; b < n; b++) {
        zi_transfer t = transfer(p, &p->params, p->n_published, b, slice_bytes);
        ZI_TRY(p->comm->ops->publish(p->comm, &t));
    }
    p->n_published += n;
    return p->comm->ops->publish_wait(p->comm, p->n_published - 1, NULL);
}

/* ------------------------------------------------------------------ the parts ---------------- */

uint64_t bench_parts_slice_bytes(const bench_parts *p)
{
    return slice_elems(p) * sizeof(uint16_t);
}

uint64_t bench_parts_n_small(const bench_parts *p)
{
    uint64_t room = p->c.params / (uint64_t)(ZI_BLOCK * p->comm->world);
    return room < N_SMALL ? room : N_SMALL;
}

static zopt_status meet(void *self)
{
    bench_parts *p = self;
    int64_t together = 0;
    for (int i = 0; i < BENCH_N_MEETS; i++)
        ZI_TRY(p->comm->ops->all_reduce(p->comm, ZI_SUM, &together, 1));
    return ZOPT_OK;
}

static zopt_status exchange_all(void *self)
{
    bench_parts *p = self;
    return exchange(p, p->n_buckets, bench_parts_slice_bytes(p));
}

static zopt_status exchange_small(void *self)
{
    bench_parts *p = self;
    return exchange(p, bench_parts_n_small(p), SMALL_BYTES);
}

/* This rank's slice of a bucket. */
static zi_job job_of(const bench_parts *p, uint64_t bucket)
{
    const zi_variant *variant = p->c.rule.variant;
    uint64_t at = bucket * slice_elems(p);
    zi_job job = p->update.job;
    job.n_elems = (size_t)slice_elems(p);
    job.source = p->source + bucket * (uint64_t)p->comm->world;
    job.n_sources = p->comm->world;
    job.n_dests = 0;
    job.master += at;
    for (int s = 0; s < variant->n_states; s++) {
        size_t bytes = variant->state[s].form == ZI_FORM_F32 ? sizeof(float) : 1;
        job.state[s].data = (char *)job.state[s].data + at * bytes;
        if (job.state[s].absmax != NULL)
            job.state[s].absmax += at / ZI_BLOCK;
    }
    return job;
}

/* The gradients that were written last come first, as they are in the caches; the update then goes
 * the other way. */
static zopt_status norm(void *self)
{
    bench_parts *p = self;
    for (uint64_t b = p->n_buckets; b-- > 0;) {
        zi_job job = job_of(p, b);
        p->update.device->norm(NULL, &job, &p->sum, &p->n_bad);
    }
    return p->update.device->wait(NULL);
}

static zopt_status update(void *self)
{
    bench_parts *p = self;
    const zi_comm_ops *ops = p->comm->ops;
    zi_span span = {.end = slice_elems(p)};
    bench_update_next(&p->update);
    ZI_TRY(ops->open(p->comm));
    for (uint64_t b = 0; b < p->n_buckets; b++) {
        zi_job job = job_of(p, b);
        zi_transfer t = transfer(p, &p->params, p->n_published, b, bench_parts_slice_bytes(p));
        ZI_TRY(ops->dest_wait(p->comm, &t, p->dest_at, &job.n_dests));
        for (int i = 0; i < job.n_dests; i++)
            p->dest[i] = (zi_dest){p->dest_at[i], p->c.data->dtype};
        job.dest = p->dest;
        job.span = &span;
        p->update.device->update(NULL, p->c.rule.variant, &job);
    }
    return p->update.device->wait(NULL);
}

static zopt_status gather_all(void *self)
{
    bench_parts *p = self;
    return gather(p, p->n_buckets, bench_parts_slice_bytes(p));
}

static zopt_status gather_small(void *self)
{
    bench_parts *p = self;
    return gather(p, bench_parts_n_small(p), SMALL_BYTES);
}

static zopt_status (*const turns[BENCH_N_PARTS])(void *self) = {
    [BENCH_MEET] = meet,
    [BENCH_EXCHANGE_SMALL] = exchange_small,
    [BENCH_GATHER_SMALL] = gather_small,
    [BENCH_EXCHANGE] = exchange_all,
    [BENCH_NORM] = norm,
    [BENCH_UPDATE] = update,
    [BENCH_GATHER] = gather_all,
};

/* What comes behind a part, or before it, and is not measured. */
static zopt_status beside(bench_parts *p, int part)
{
    if (part == BENCH_EXCHANGE_SMALL)
        return consume(p, bench_parts_n_small(p), SMALL_BYTES);
    if (part == BENCH_GATHER)
        return consume(p, p->n_buckets, bench_parts_slice_bytes(p));
    if (part ==
        BENCH_GATHER_SMALL) /* and gradients, as a backward pass leaves them in the caches */
        bench_fill(p->c.data, p->c.slot, 0, p->c.params, p->grads.base);
    return ZOPT_OK;
}

static zopt_status open_memory(bench_parts *p, int part)
{
    return part == BENCH_GATHER_SMALL ? p->comm->ops->open(p->comm) : ZOPT_OK;
}

zopt_status bench_parts_time(bench_parts *p, double *ms[BENCH_N_PARTS])
{
    int rounds = p->c.request->rounds;
    for (int round = -WARMUP; round < rounds; round++)
        for (int part = 0; part < BENCH_N_PARTS; part++) {
            double took;
            ZI_TRY(zi_comm_agree(p->c.crew->comm, open_memory(p, part)));
            ZI_TRY(bench_crew_time(p->c.crew, turns[part], p, &took));
            ZI_TRY(zi_comm_agree(p->c.crew->comm, beside(p, part)));
            if (round >= 0)
                ms[part][round] = took;
        }
    return ZOPT_OK;
}

zopt_status bench_parts_check(const bench_parts *p, uint64_t *n_wrong)
{
    float masters[BENCH_SAMPLE];
    int64_t wrong;
    bench_rule_replay(&p->c.rule, p->c.data, p->c.n_slots, (uint64_t)p->c.request->rounds + WARMUP,
                      &p->c.sample, masters);
    wrong = (int64_t)bench_compare_sample(&p->c, masters, 0, p->c.params, p->params.base);
    ZI_TRY(p->c.crew->comm->ops->all_reduce(p->c.crew->comm, ZI_SUM, &wrong, 1));
    *n_wrong = (uint64_t)wrong;
    return ZOPT_OK;
}
