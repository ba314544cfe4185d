/* zopt plan: the bytes that a rank sends in a step, by the formulas of the transports, and how many
 * of them leave its node. A run counts the same: zopt_step_report. */
#include <string.h>

#include "cli/plan.h"

static uint64_t grad_bytes(const plan_world *world)
{
    const zopt_memory_usage *usage = &world->per_rank[0];
    for (int i = 0; i < usage->n; i++)
        if (strcmp(usage->category[i].name, "grads") == 0)
            return usage->category[i].peak_bytes;
    return 0;
}

/* Sums that rank 0 sends in a micro-step, each in place of a slice; 0: slices travel. As groups of
 * slots fall on micro-steps (zero/slot_group.c) and on nodes (comm/nodes_sum.c, nccl_sum.c). */
static uint64_t n_sums(const plan *p, const plan_world *world, uint64_t n_micro)
{
    int group = p->options.reduce_group, n = world->ranks, node = world->node;
    int within = n_micro == 1 || n % group == 0;
    if (group == 1 || group >= world->slots || !within || !world->adds_up || node % group != 0)
        return 0;
    if ((size_t)group * zopt_dtype_bytes(p->dtype) <= sizeof(float))
        return 0;
    return (uint64_t)(n - node) / (uint64_t)group;
}

/* Rank 0 has a slot in every micro-step. It sends each time what the others own of its gradients,
 * and at the end its slices of the parameters, which take as many bytes, to each of them; over
 * shared memory once to a node, and to all memories there, unless all read the same. */
void plan_count_sent(const plan *p, plan_world *world)
{
    uint64_t n = (uint64_t)world->ranks, node = (uint64_t)world->node;
    uint64_t n_micro = ((uint64_t)world->slots + n - 1) / n, slice = grad_bytes(world) / n;
    uint64_t sums = n_sums(p, world, n_micro);
    uint64_t sum_bytes = slice / zopt_dtype_bytes(p->dtype) * sizeof(float);
    uint64_t n_far = world->is_flat ? n - node : n / node - 1;
    uint64_t n_readers = p->options.shared_params ? n_far : n - 1;
    world->sent_bytes = n_micro * ((n - 1 - sums) * slice + sums * sum_bytes) + n_readers * slice;
    world->between_bytes = n_micro * (sums > 0 ? sums * sum_bytes : (n - node) * slice);
    world->between_bytes += n_far * slice;
}
