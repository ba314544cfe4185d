/* Arrays for one rank's part of the elements, and one job over them. */
#include "bench/update.h"

#include "base/status.h"

static zopt_status alloc(bench_update *u, zi_category category, size_t element_bytes, void *out)
{
    return u->device->alloc(NULL, &u->mem, category, u->c->slice_elems * element_bytes, out);
}

static zopt_status alloc_state(bench_update *u, int s)
{
    zi_state_slice *state = &u->job.state[s];
    zi_category category = (zi_category)(ZI_MEM_STATE + s);
    if (u->rule.variant->state[s].form == ZI_FORM_F32) {
        ZI_TRY(alloc(u, category, sizeof(float), &state->data));
        for (uint64_t i = 0; i < u->c->slice_elems; i++)
            ((float *)state->data)[i] = bench_rule_start(&u->rule, s);
        return ZOPT_OK;
    }
    ZI_TRY(alloc(u, category, 1, &state->data));
    return u->device->alloc(NULL, &u->mem, category, u->c->slice_elems / ZI_BLOCK * sizeof(float),
                            &state->absmax);
}

zopt_status bench_update_open(const bench_case *c, const bench_rule *rule, bench_update *u)
{
    *u = (bench_update){.c = c, .rule = *rule, .first = *rule};
    ZI_TRY(zi_device_find("cpu", 0, &u->device));
    u->span = (zi_span){.end = c->slice_elems};
    u->control = (zi_control){
        .coef = (float)(1.0 / c->n_slots), .loss_scale = 1, .scalars = &u->rule.scalar};
    u->job = (zi_job){.n_elems = c->slice_elems,
                      .source = &u->source,
                      .n_sources = 1,
                      .dest = &u->dest,
                      .span = &u->span,
                      .n_spans = 1,
                      .control = &u->control};
    ZI_TRY(alloc(u, ZI_MEM_MASTER, sizeof(float), &u->job.master));
    for (int s = 0; s < rule->variant->n_states; s++)
        ZI_TRY(alloc_state(u, s));
    bench_fill_start(c->data, c->owned_first, c->n_owned, u->job.master);
    return ZOPT_OK;
}

void bench_update_close(bench_update *u)
{
    size_t n = u->c != NULL ? u->c->slice_elems : 0;
    if (u->device == NULL)
        return;
    for (int s = 0; s < ZI_MAX_STATES; s++) {
        zi_state_slice *state = &u->job.state[s];
        zi_category category = (zi_category)(ZI_MEM_STATE + s);
        size_t bytes = state->absmax != NULL ? 1 : sizeof(float);
        u->device->free(NULL, &u->mem, category, state->data, n * bytes);
        u->device->free(NULL, &u->mem, category, state->absmax, n / ZI_BLOCK * sizeof(float));
    }
    u->device->free(NULL, &u->mem, ZI_MEM_MASTER, u->job.master, n * sizeof(float));
}

zopt_status bench_update_run(bench_update *u, zi_source source, zi_dest dest)
{
    bench_rule_next(&u->rule);
    u->source = source;
    u->dest = dest;
    u->job.n_dests = dest.data != NULL;
    u->device->update(NULL, u->rule.variant, &u->job);
    return u->device->wait(NULL);
}

uint64_t bench_update_compare(const bench_update *u, uint64_t steps, const uint16_t *params)
{
    const bench_case *c = u->c;
    float masters[BENCH_SAMPLE];
    bench_rule_replay(&u->first, c->data, c->n_slots, steps, &c->sample, masters);
    uint64_t wrong = bench_compare_sample(c, masters, c->held_first, c->n_held, params);
    for (int i = 0; i < c->sample.n; i++) {
        uint64_t e = c->sample.element[i];
        if (e >= c->owned_first && e - c->owned_first < c->n_owned)
            wrong += u->job.master[e - c->owned_first] != masters[i];
    }
    return wrong;
}
