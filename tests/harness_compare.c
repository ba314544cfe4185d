/* See harness.h: runs that are compared, bit for bit. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

float h_overflow_grad(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == 1 && tensor == 5 && element == 4000)
        return INFINITY;
    if (step == 3 && tensor == 8 && element == 17)
        return 3e38f;
    return h_wide_grad(step, slot, tensor, element);
}

void h_run_alone(const h_problem *problem, h_result *result)
{
    zopt_options options = problem->options;
    options.transport = "self";
    options.device = "cpu";
    options.ranks_per_node = 0;
    h_run_one(problem, &options, result);
}

typedef struct run_arg {
    const h_problem *problem;
    h_result *result; /* [n_ranks] */
} run_arg;

static void run_rank(int rank, zopt_threads *threads, void *arg)
{
    run_arg *run = arg;
    zopt_options options = run->problem->options;
    options.transport = "threads";
    options.threads = threads;
    options.threads_rank = rank;
    h_run_one(run->problem, &options, &run->result[rank]);
}

void h_run_threads(const h_problem *problem, int n_ranks, h_result *result)
{
    h_result *results = calloc((size_t)n_ranks, sizeof *results);
    run_arg arg = {problem, results};
    h_on_threads(n_ranks, run_rank, &arg);
    for (int r = 1; r < n_ranks; r++) {
        char what[32];
        snprintf(what, sizeof what, "rank %d of %d", r, n_ranks);
        h_compare(&results[0], &results[r], what);
        h_free(&results[r]);
    }
    *result = results[0];
    free(results);
}

void h_check_worlds(h_problem *problem, const char *name)
{
    static const int worlds[] = {1, 2, 3, 5};
    static const size_t bucket_elems[] = {700, 4 << 20};
    h_result first, other;
    char what[128];
    h_run_threads(problem, 1, &first);
    for (size_t w = 0; w < sizeof worlds / sizeof worlds[0]; w++)
        for (size_t b = 0; b < sizeof bucket_elems / sizeof bucket_elems[0]; b++) {
            problem->options.bucket_elems = bucket_elems[b];
            problem->options.shared_params = b == 0;
            h_run_threads(problem, worlds[w], &other);
            snprintf(what, sizeof what, "%s, %d ranks, buckets of %zu", name, worlds[w],
                     bucket_elems[b]);
            h_compare(&first, &other, what);
            h_free(&other);
        }
    h_free(&first);
}

void h_free(h_result *result)
{
    free(result->master);
    result->master = NULL;
}

static void compare_arrays(const char *name, const float *a, const float *b, uint64_t n,
                           const char *what)
{
    for (uint64_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0)
            ck_abort_msg("%s: %s[%" PRIu64 "] is %a, want %a", what, name, i, (double)b[i],
                         (double)a[i]);
}

static void compare_reports(const zopt_step_report *a, const zopt_step_report *b, const char *what)
{
    ck_assert_msg(memcmp(&a->loss, &b->loss, sizeof a->loss) == 0, "%s: step %d: loss %a, want %a",
                  what, (int)a->step, b->loss, a->loss);
    ck_assert_msg(memcmp(&a->grad_norm, &b->grad_norm, sizeof a->grad_norm) == 0,
                  "%s: step %d: norm %a, want %a", what, (int)a->step, b->grad_norm, a->grad_norm);
    ck_assert_msg(a->clip_coef == b->clip_coef && a->lr == b->lr && a->skipped == b->skipped &&
                      a->loss_scale == b->loss_scale && a->good_step == b->good_step &&
                      a->bad_tensor == b->bad_tensor && a->bad_slot == b->bad_slot,
                  "%s: step %d: reports differ", what, (int)a->step);
}

void h_compare(const h_result *a, const h_result *b, const char *what)
{
    ck_assert_msg(a->status == b->status, "%s: status %d, want %d", what, b->status, a->status);
    ck_assert_uint_eq(a->n_elems, b->n_elems);
    compare_arrays("master", a->master, b->master, a->n_elems, what);
    ck_assert_int_eq(a->n_states, b->n_states);
    for (int s = 0; s < a->n_states; s++)
        compare_arrays(a->state_name[s], a->state[s], b->state[s], a->n_elems, what);
    for (int i = 0; i < H_MAX_STEPS; i++)
        compare_reports(&a->report[i], &b->report[i], what);
}

void h_compare_memory(const zopt_memory_usage *planned, const zopt_memory_usage *counted,
                      const char *what)
{
    ck_assert_int_eq(planned->n, counted->n);
    for (int c = 0; c < planned->n; c++) {
        ck_assert_str_eq(planned->category[c].name, counted->category[c].name);
        ck_assert_msg(planned->category[c].peak_bytes == counted->category[c].peak_bytes,
                      "%s, %s: planned %" PRIu64 ", counted %" PRIu64, what,
                      planned->category[c].name, planned->category[c].peak_bytes,
                      counted->category[c].peak_bytes);
    }
    ck_assert_uint_eq(planned->total_peak_bytes, counted->total_peak_bytes);
}
