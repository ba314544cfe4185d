/* Arrays for one rank's part of the elements, and one job over them. */
#include "bench/update.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "bench/device.h"

struct bench_update_tables {
    zi_span span;
    zi_control control;
    float scalars[1][ZI_MAX_SCALARS];
};

static zopt_status alloc(bench_update *u, zi_category category, size_t bytes, void *out)
{
    return u->device->alloc(u->c->crew->queue, &u->mem, category, bytes, out);
}

static zopt_status fill_floats(const bench_update *u, float value, float *dst)
{
    enum { CHUNK = 16384 };
    float values[CHUNK];
    for (int i = 0; i < CHUNK; i++)
        values[i] = value;
    for (uint64_t at = 0; at < u->c->slice_elems; at += CHUNK) {
        uint64_t left = u->c->slice_elems - at;
        ZI_TRY(bench_copy(u->c->crew, dst + at, values,
                          (size_t)(left < CHUNK ? left : CHUNK) * sizeof *dst));
    }
    return ZOPT_OK;
}

static zopt_status alloc_state(bench_update *u, int s)
{
    zi_state_slice *state = &u->job.state[s];
    zi_category category = (zi_category)(ZI_MEM_STATE + s);
    float start = bench_rule_start(&u->rule, s);
    if (u->rule.variant->state[s].form == ZI_FORM_F32) {
        ZI_TRY(alloc(u, category, u->c->slice_elems * sizeof(float), &state->data));
        return start != 0.0f ? fill_floats(u, start, state->data) : ZOPT_OK;
    }
    ZI_TRY(alloc(u, category, u->c->slice_elems, &state->data));
    return alloc(u, category, u->c->slice_elems / ZI_BLOCK * sizeof(float), &state->absmax);
}

/* The scalars of the step to come among them. */
static void place_tables(const bench_update *u)
{
    struct bench_update_tables tables = {.span = {.end = u->c->slice_elems},
                                         .control = {.coef = (float)(1.0 / u->c->n_slots),
                                                     .loss_scale = 1,
                                                     .scalars = u->tables->scalars}};
    memcpy(tables.scalars[0], u->rule.scalar, sizeof u->rule.scalar);
    u->device->copy(u->c->crew->queue, u->tables, &tables, sizeof tables);
}

zopt_status bench_update_place_start(const bench_update *u, uint64_t first, uint64_t n,
                                     float *master)
{
    enum { CHUNK = 16384 };
    float values[CHUNK];
    for (uint64_t at = 0; at < n; at += CHUNK) {
        uint64_t m = n - at < CHUNK ? n - at : CHUNK;
        bench_fill_start(u->c->data, first + at, m, values);
        ZI_TRY(bench_copy(u->c->crew, master + at, values, (size_t)m * sizeof *values));
    }
    return ZOPT_OK;
}

zopt_status bench_update_open(const bench_case *c, const bench_rule *rule, bench_update *u)
{
    *u = (bench_update){.c = c, .device = c->crew->device, .rule = *rule, .first = *rule};
    ZI_TRY(alloc(u, ZI_MEM_TABLES, sizeof *u->tables, &u->tables));
    u->job = (zi_job){.n_elems = c->slice_elems,
                      .source = &u->source,
                      .n_sources = 1,
                      .dest = &u->dest,
                      .span = &u->tables->span,
                      .n_spans = 1,
                      .control = &u->tables->control};
    ZI_TRY(alloc(u, ZI_MEM_MASTER, c->slice_elems * sizeof(float), &u->job.master));
    for (int s = 0; s < rule->variant->n_states; s++)
        ZI_TRY(alloc_state(u, s));
    return bench_update_place_start(u, c->owned_first, c->n_owned, u->job.master);
}

void bench_update_close(bench_update *u)
{
    size_t n = u->c != NULL ? u->c->slice_elems : 0;
    if (u->device == NULL)
        return;
    zi_queue *q = u->c->crew->queue;
    for (int s = 0; s < ZI_MAX_STATES; s++) {
        zi_state_slice *state = &u->job.state[s];
        zi_category category = (zi_category)(ZI_MEM_STATE + s);
        size_t bytes = state->absmax != NULL ? 1 : sizeof(float);
        u->device->free(q, &u->mem, category, state->data, n * bytes);
        u->device->free(q, &u->mem, category, state->absmax, n / ZI_BLOCK * sizeof(float));
    }
    u->device->free(q, &u->mem, ZI_MEM_MASTER, u->job.master, n * sizeof(float));
    u->device->free(q, &u->mem, ZI_MEM_TABLES, u->tables, sizeof *u->tables);
}

void bench_update_next(bench_update *u)
{
    bench_rule_next(&u->rule);
    place_tables(u);
}

zopt_status bench_update_run(bench_update *u, zi_source source, zi_dest dest)
{
    bench_update_next(u);
    u->source = source;
    u->dest = dest;
    u->job.n_dests = dest.data != NULL;
    u->device->update(u->c->crew->queue, u->rule.variant, &u->job);
    return u->device->wait(u->c->crew->queue);
}

zopt_status bench_update_compare(const bench_update *u, uint64_t steps, const uint16_t *params,
                                 uint64_t *n_wrong)
{
    const bench_case *c = u->c;
    float masters[BENCH_SAMPLE], master;
    const void *view;
    void *copy;
    bench_rule_replay(&u->first, c->data, c->n_slots, steps, &c->sample, masters);
    zopt_status status =
        bench_view(c->crew, params, (size_t)c->n_held * sizeof *params, &copy, &view);
    if (status == ZOPT_OK)
        *n_wrong = bench_compare_sample(c, masters, c->held_first, c->n_held, view);
    free(copy);
    ZI_TRY(status);
    for (int i = 0; i < c->sample.n; i++) {
        uint64_t e = c->sample.element[i];
        if (e < c->owned_first || e - c->owned_first >= c->n_owned)
            continue;
        ZI_TRY(bench_copy(c->crew, &master, &u->job.master[e - c->owned_first], sizeof master));
        *n_wrong += master != masters[i];
    }
    return ZOPT_OK;
}
