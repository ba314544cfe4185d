/* A problem whose weights are the gradients' sum: one step of SGD from zero with a rate of one. So
 * the bits of the sum can be held against a scalar loop in the order that the design states. */
#ifndef TESTS_SLOT_GROUP_H
#define TESTS_SLOT_GROUP_H

#include <math.h>

#include "harness.h"

static inline float slot_group_zero(int step, int slot, int tensor, uint64_t element)
{
    (void)step, (void)slot, (void)tensor, (void)element;
    return 0;
}

static inline void slot_group_problem(h_problem *problem, zopt_dtype dtype, int slots, int group)
{
    h_uneven(problem, dtype, 0);
    problem->n_tensors = 6; /* for time; the last is large enough for many buckets */
    problem->n_steps = 1;
    problem->lr = 1;
    problem->start = slot_group_zero;
    problem->weight_decay[0] = 0;
    problem->options.optimizer = "SGD";
    problem->options.slots = slots;
    problem->options.reduce_group = group;
}

/* +0.0f + slot + ... in each group, then +0.0f + group + ...; times the coefficient, rounded once.
 */
static inline float slot_group_sum(int slots, int group, int tensor, uint64_t element)
{
    float total = 0;
    for (int first = 0; first < slots; first += group) {
        float sum = 0;
        for (int slot = first; slot < slots && slot < first + group; slot++)
            sum += h_wide_grad(1, slot, tensor, element); /* exact in FP16 */
        total += sum;
    }
    return (float)(1.0 / slots) * total;
}

static inline void slot_group_check(const h_problem *problem, const h_result *got, const char *what)
{
    const float *master = got->master;
    for (int t = 0; t < problem->n_tensors; t++)
        for (uint64_t e = 0; e < h_elems(&problem->tensor[t]); e++, master++) {
            float rate = problem->tensor[t].group == 0 ? 1 : 2;
            float g = slot_group_sum(problem->options.slots, problem->options.reduce_group, t, e);
            float want = 0.0f - rate * g;
            ck_assert_msg(*master == want, "%s: tensor %d element %llu is %a, want %a", what, t,
                          (unsigned long long)e, (double)*master, (double)want);
        }
}

#endif
