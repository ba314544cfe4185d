/* Problems, and three moments at which an owner can make its first passes: as late as it can be, in
 * the calls of the backward pass, and on the progress thread. No bit of a result depends on it. */
#ifndef TESTS_OVERLAP_CASES_H
#define TESTS_OVERLAP_CASES_H

#include <math.h>
#include <string.h>

#include "api_local.h"
#include "harness.h"

typedef enum moment { LATE, CALLS, THREAD, N_MOMENTS } moment;
static const char *const moment_names[N_MOMENTS] = {"late", "calls", "thread"};

enum { MAX_COMMS = 8 };
static zi_comm_ops late_ops[MAX_COMMS];

static zopt_status never_ready(zi_comm *comm, const zi_transfer *transfer, int *ready)
{
    (void)comm, (void)transfer;
    *ready = 0;
    return ZOPT_OK;
}

/* Before ranks start. */
static void make_late_ops(void)
{
    for (size_t i = 0; i < zi_n_comms && i < MAX_COMMS; i++) {
        late_ops[i] = *zi_comms[i];
        late_ops[i].expose_test = never_ready;
    }
}

static void be_late(zopt *z)
{
    zi_comm *comm = zi_local_of(z)->comm;
    size_t i = 0;
    while (zi_comms[i] != comm->ops)
        i++;
    comm->ops = &late_ops[i];
}

static void set_moment(h_problem *problem, moment when)
{
    problem->options.progress_thread = when == THREAD;
    problem->adjust = when == LATE ? be_late : NULL;
}

static float overflow_in_one_slot(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == 2 && tensor == 5 && element == 4000)
        return INFINITY;
    return h_wide_grad(step, slot, tensor, element);
}

static int some_absent(int step, int slot, int tensor)
{
    return (step + slot + tensor) % 3 == 0 && tensor != 5;
}

static const struct overlap_case {
    const char *name, *optimizer;
    zopt_dtype dtype;
    int mixed, slots, overflows, absent, frozen;
    double clip;
} overlap_cases[] = {
    {"one slot", "adamw", ZOPT_FP16, 0, 1, 0, 0, 0, 0.5},
    {"seven slots", "adamw", ZOPT_FP16, 1, 7, 0, 0, 0, 0},
    {"nothing measured", "adamw", ZOPT_BF16, 0, 5, 0, 0, 0, 0},
    {"overflow", "adamw", ZOPT_FP16, 0, 4, 1, 0, 0, 0},
    {"absent, overflow", "lion", ZOPT_FP16, 0, 7, 1, 1, 0, 0.1},
    {"frozen, statistics", "adafactor", ZOPT_FP16, 0, 5, 0, 1, 1, 0},
};
enum { N_OVERLAP_CASES = sizeof overlap_cases / sizeof overlap_cases[0] };

static void set_problem(h_problem *problem, const struct overlap_case *c)
{
    static const zopt_setting frozen = {"frozen", 1, NULL};
    h_uneven(problem, c->dtype, c->mixed);
    problem->n_steps = 3;
    problem->options.optimizer = c->optimizer;
    problem->options.slots = c->slots;
    problem->options.clip_norm = c->clip;
    problem->options.bucket_elems = 700;
    if (c->overflows) {
        problem->grad = overflow_in_one_slot;
        problem->options.dynamic_loss_scale = 1;
        problem->options.loss_scale = 128;
    }
    if (c->absent)
        problem->absent = some_absent;
    if (c->frozen)
        problem->group_setting[1][0] = frozen;
}

#endif
