/* Scalars as the step prepares them, and each rule on one element at a time. */
#include "bench/rule.h"

#include "base/status.h"

zopt_status bench_rule_open(const char *optimizer, const zi_shape *shape, bench_rule *rule)
{
    *rule = (bench_rule){.power = {1.0, 1.0}};
    ZI_TRY(zi_optim_find(optimizer, &rule->optim));
    zi_settings_default(rule->optim->settings, (size_t)rule->optim->n_settings, rule->value);
    rule->variant = rule->optim->variant(rule->value, shape);
    return ZOPT_OK;
}

int bench_always_measures(const zi_optim *optim)
{
    return optim->terms != NULL; /* statistics, which one NaN would spoil for all elements */
}

void bench_rule_next(bench_rule *rule)
{
    const zi_optim *optim = rule->optim;
    for (int p = 0; p < optim->n_powers; p++)
        rule->power[p] *= rule->value[optim->power_setting[p]];
    const zi_instant now = {
        .t = ++rule->t, .lr = rule->value[optim->lr_setting], .power = rule->power};
    optim->scalars(rule->value, &now, rule->scalar);
}

float bench_rule_start(const bench_rule *rule, int state)
{
    const zi_optim *optim = rule->optim;
    return optim->start == NULL ? 0.0f
                                : optim->start(rule->value, rule->variant->state[state].name);
}

double bench_rule_state_bytes(const bench_rule *rule)
{
    static const double bytes[] = {
        [ZI_FORM_F32] = 4,
        [ZI_FORM_Q8_SIGNED] = 1 + 4.0 / 256,
        [ZI_FORM_Q8_UNSIGNED] = 1 + 4.0 / 256,
        [ZI_FORM_ROWS] = 0, /* O(rows + columns) */
        [ZI_FORM_COLS] = 0,
    };
    double sum = 0;
    for (int s = 0; s < rule->variant->n_states; s++)
        sum += bytes[rule->variant->state[s].form];
    return sum;
}

#define STATES_0
#define STATES_1 &state[0],
#define STATES_2 STATES_1 &state[1],
#define STATES_3 STATES_2 &state[2],
#define RULE_CASE(NAME, function, states)  \
    case ZI_RULE_##NAME:                   \
        function(g, p, STATES_##states k); \
        break;

static void apply(zi_rule rule, float g, float *p, float *state, const float *k)
{
    switch (rule) {
        ZI_RULE_LIST(RULE_CASE)
    case ZI_N_RULES:
        break;
    }
}

void bench_rule_replay(const bench_rule *rule, const bench_data *data, int slots, uint64_t steps,
                       const bench_sample *sample, float *masters)
{
    float state[BENCH_SAMPLE][ZI_MAX_STATES] = {{0}}, coef = (float)(1.0 / slots);
    bench_rule now = *rule;
    for (int i = 0; i < sample->n; i++) {
        masters[i] = bench_start(data, sample->element[i]);
        for (int s = 0; s < rule->variant->n_states; s++)
            state[i][s] = bench_rule_start(rule, s);
    }
    for (uint64_t step = 0; step < steps; step++) {
        bench_rule_next(&now);
        for (int i = 0; i < sample->n; i++) {
            float sum = 0.0f;
            for (int slot = 0; slot < slots; slot++)
                sum += bench_gradient(data, slot, sample->element[i]);
            apply(rule->variant->rule, sum * coef, &masters[i], state[i], now.scalar);
        }
    }
}
