/* Steps under a trace, in which all buckets but those of the first tensor have been passed over
 * when its gradient is made ready: what a backward pass that is long enough hides. */
#ifndef TESTS_TRACE_RUN_H
#define TESTS_TRACE_RUN_H

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api_local.h"
#include "harness.h"
#include "trace_check.h"

#define MUST(call)                                                                            \
    do {                                                                                      \
        if ((call) != ZOPT_OK) {                                                              \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, zopt_last_error()); \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

static inline void trace_problem(h_problem *problem, int slots)
{
    h_uneven(problem, ZOPT_FP16, 0);
    problem->options.bucket_elems = 700;
    problem->options.slots = slots;
}

static inline void trace_give(const h_problem *problem, zopt *z, int tensor)
{
    static const char zeros[8192 * 2];
    void *grad;
    size_t n = h_elems(&problem->tensor[tensor]);
    MUST(zopt_grad_acquire(z, tensor, &grad));
    MUST(zopt_copy(z, grad, zeros, n * zopt_dtype_bytes(problem->tensor[tensor].dtype)));
    MUST(zopt_grad_ready(z, tensor));
}

/* Until this rank has passed over all that it has exposed: peers do the same. */
static inline int trace_pass_all(zopt *z)
{
    zi_zero *zero = zi_local_of(z)->zero;
    for (int done = 0; !done;) {
        zi_owner_lock(zero);
        if (zero->thread == NULL)
            MUST(zi_owner_advance(zero));
        done = zero->n_passed == zero->n_exposed;
        zi_owner_unlock(zero);
        sched_yield();
    }
    MUST(zero->config.device->wait(zero->queue));
    return (int)zero->n_exposed;
}

/* One step, and its parameters. Returns how many buckets were early in each micro-step. */
static inline int trace_step(const h_problem *problem, zopt *z)
{
    int n_early = 0, slot;
    const void *param;
    for (int k = 0; k < zopt_micro_steps(z); k++) {
        MUST(zopt_slot(z, &slot));
        for (int i = problem->n_tensors - 1; slot >= 0 && i > 0; i--)
            trace_give(problem, z, i);
        n_early = trace_pass_all(z);
        if (slot >= 0)
            trace_give(problem, z, 0);
        MUST(zopt_micro_end(z, 0));
    }
    MUST(zopt_step(z));
    for (int i = 0; i < problem->n_tensors; i++) {
        MUST(zopt_param_acquire(z, i, &param));
        MUST(zopt_param_release(z, i));
    }
    return n_early;
}

/* n_steps under a trace of as many, behind one without. Fills in *want. */
static inline void trace_steps(const h_problem *problem, zopt *z, const char *path, int n_steps,
                               trace_want *want)
{
    int n_early = trace_step(problem, z);
    MUST(zopt_trace(z, path, (uint64_t)n_steps));
    for (int i = 0; i < n_steps; i++)
        n_early = trace_step(problem, z);
    *want = (trace_want){.world = zopt_world(z),
                         .first_step = 2,
                         .n_steps = n_steps,
                         .n_micro = zopt_micro_steps(z),
                         .n_buckets = (int)zi_zero_of(z)->layout.n_exchanged,
                         .has_parameters = 1,
                         .n_early = n_early,
                         .is_one_clock = strcmp(zopt_device(z), "cpu") == 0};
}

/* In a file of its own, which is removed in the end. */
static inline void trace_name(char path[64])
{
    snprintf(path, 64, "/tmp/zopt-trace-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0)
        abort();
    close(fd);
}

#endif
