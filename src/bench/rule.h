/* An optimizer's scalars from step to step, and its rule applied to single elements: what the
 * kernels are run with here, and what they are compared with. */
#ifndef BENCH_RULE_H
#define BENCH_RULE_H

#include "bench/data.h"
#include "optim/optim.h"

typedef struct bench_rule {
    const zi_optim *optim;
    const zi_variant *variant;
    double value[ZI_MAX_SETTINGS], power[ZI_MAX_POWERS];
    uint64_t t;
    float scalar[ZI_MAX_SCALARS]; /* of step t */
} bench_rule;

/* The optimizer of that name with its default settings, before its first step, for a tensor of that
 * shape. Errors: ERR_CONFIG with the nearest name. */
zopt_status bench_rule_open(const char *optimizer, const zi_shape *shape, bench_rule *rule);

/* 1: its steps measure the norm whether that is asked for or not. */
int bench_always_measures(const zi_optim *optim);

/* On to the next step. */
void bench_rule_next(bench_rule *rule);

/* What a state begins at. */
float bench_rule_start(const bench_rule *rule, int state);

/* Bytes of states that a step reads, and writes again, for each element. */
double bench_rule_state_bytes(const bench_rule *rule);

/* masters[i] = element sample->element[i]'s master after `steps` steps on the mean of `slots`
 * gradients. For a variant whose unit is the element. */
void bench_rule_replay(const bench_rule *rule, const bench_data *data, int slots, uint64_t steps,
                       const bench_sample *sample, float *masters);

#endif
