/* Adafactor through the whole library against a float64 reference with a derived bound
 * (reference/adafactor_f64.h): 100 steps, vectors, matrices and batches of them, on 1 to 3 ranks;
 * memory of its states; and what its options mean. Equal bits on every world are in
 * test_optimizers.c, equal bits of instruction sets in test_rules.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "reference/adafactor_f64.h"
#include "reference/adamw_f64.h"

enum { N_TENSORS = 6, N_REPORTED = 3 };
static const int reported[N_REPORTED] = {1, 10, 100};

static const h_tensor tensors[N_TENSORS] = {
    {"scalar", ZOPT_FP32, 0, {0}, 0},       {"n300", ZOPT_FP32, 1, {300}, 0},
    {"m64x63", ZOPT_FP32, 2, {64, 63}, 0},  {"m3x5", ZOPT_FP32, 2, {3, 5}, 0},
    {"t2x3x5", ZOPT_FP32, 3, {2, 3, 5}, 0}, {"m7x1", ZOPT_FP32, 2, {7, 1}, 0},
};

/* Magnitudes from 2^-40 to 2^20 by element, and within 2^-6 to 2^6 of that from step to step. */
static float wide_number(int step, int tensor, uint64_t element)
{
    uint64_t r = reference_splitmix64((uint64_t)tensor << 32 | element);
    double middle = ldexp(1, (int)(r % 61) - 40);
    double near = reference_number((uint32_t)step, (uint32_t)(tensor * 5000) + (uint32_t)element);
    return (float)(middle * near * 0x1p2);
}

static float gradient(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    return wide_number(step, tensor, element);
}

/* The tensors differ in size as well: 2^-12 to 2^4 times 4^(2 - tensor). */
static float start(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    double x = reference_number((uint32_t)step, (uint32_t)element);
    return (float)ldexp(x, 2 * (2 - tensor));
}

static void use_case(h_problem *problem, const optimizer_case *c)
{
    memset(problem, 0, sizeof *problem);
    problem->n_tensors = N_TENSORS;
    memcpy(problem->tensor, tensors, sizeof tensors);
    problem->lr = c->lr;
    problem->weight_decay[0] = c->weight_decay;
    problem->grad = gradient;
    problem->start = start;
    zopt_options_init(&problem->options);
    problem->options.slots = 1;
    problem->options.bucket_elems = 1024;
    problem->options.optimizer = c->optimizer;
    problem->options.settings = c->setting;
    problem->options.n_settings = case_n_settings(c);
}

static adafactor_options options_of(const optimizer_case *c)
{
    return (adafactor_options){
        .lr = c->lr,
        .beta2_decay = hyper(c, "beta2_decay", -0.8),
        .eps1 = hyper(c, "eps1", 0x1p-23),
        .eps2 = hyper(c, "eps2", 1e-3),
        .d = hyper(c, "d", 1),
        .weight_decay = c->weight_decay,
        .beta1 = hyper(c, "beta1", 0),
        .scale_parameter = hyper(c, "scale_parameter", 1) > 0,
        .relative_step = hyper(c, "relative_step", 0) > 0,
        .warmup_init = hyper(c, "warmup_init", 0) > 0,
    };
}

static void run_reference(const adafactor_options *o, int tensor, int n_steps, adafactor_tensor *t)
{
    static double g[ADAFACTOR_MAX_ELEMS];
    const h_tensor *shape = &tensors[tensor];
    memset(t, 0, sizeof *t);
    t->n = h_elems(shape);
    if (shape->ndim > 1) {
        t->cols = shape->shape[shape->ndim - 1];
        t->rows = shape->shape[shape->ndim - 2];
        t->matrices = t->n / t->rows / t->cols;
    }
    for (size_t i = 0; i < t->n; i++)
        t->p[i] = b_exact((double)start(0, 0, tensor, i));
    for (int step = 1; step <= n_steps; step++) {
        for (size_t i = 0; i < t->n; i++)
            g[i] = (double)wide_number(step, tensor, i);
        adafactor_step(o, step, g, t);
    }
}

/* How much of its bound the farthest of n values uses. 1.001 covers the second order and what FP64
 * loses, 2^-100 what underflows. */
static double used(const char *what, const float *got, const bounded *want, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double bound = want[i].e * 1.001 + 0x1p-100, error = fabs((double)got[i] - want[i].x);
        ck_assert_msg(error <= bound, "%s[%zu]: %a, want %a within %.3g", what, i, (double)got[i],
                      want[i].x, bound);
        most = fmax(most, error / bound);
    }
    return most;
}

static const float *state_of(const h_result *result, const char *name)
{
    for (int s = 0; s < result->n_states; s++)
        if (strcmp(result->state_name[s], name) == 0)
            return result->state[s];
    ck_abort_msg("no state %s", name);
    return NULL;
}

static const optimizer_case *nth_case(int n)
{
    for (int i = 0; i < N_OPTIMIZER_CASES; i++)
        if (strcmp(optimizer_cases[i].optimizer, "Adafactor") == 0 && n-- == 0)
            return &optimizer_cases[i];
    ck_abort_msg("too few cases");
    return NULL;
}
enum { N_CASES = 4 };

START_TEST(a_hundred_steps_agree_with_the_paper)
{
    static adafactor_tensor want;
    const optimizer_case *c = nth_case(_i / N_REPORTED);
    adafactor_options o = options_of(c);
    int n_steps = reported[_i % N_REPORTED];
    h_problem problem;
    h_result result;
    double p = 0, states = 0, widest = 0;
    use_case(&problem, c);
    problem.n_steps = n_steps;
    h_run_threads(&problem, 1 + _i % N_REPORTED, &result);
    size_t at = 0;
    for (int i = 0; i < N_TENSORS; i++) {
        run_reference(&o, i, n_steps, &want);
        bounded size = b_rms(want.p, want.n);
        widest = fmax(widest, size.e / size.x);
        p = fmax(p, used(tensors[i].name, result.master + at, want.p, want.n));
        if (want.rows > 0) {
            const float *row = state_of(&result, "exp_avg_sq_row") + at;
            const float *col = state_of(&result, "exp_avg_sq_col") + at;
            states = fmax(states, used("row", row, want.row, want.matrices * want.rows));
            states = fmax(states, used("col", col, want.col, want.matrices * want.cols));
        } else {
            const float *v = state_of(&result, "exp_avg_sq") + at;
            states = fmax(states, used("exp_avg_sq", v, want.v, want.n));
        }
        if (o.beta1 > 0)
            states =
                fmax(states, used("exp_avg", state_of(&result, "exp_avg") + at, want.m, want.n));
        at += want.n;
    }
    printf("%-20s step %3d: error up to %.2f (states %.2f) of a bound of RMS %.2g\n", c->name,
           n_steps, p, states, widest);
    ck_assert_double_le(widest, 1e-4); /* a bound that says something */
    h_free(&result);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("adafactor");
    TCase *tests = tcase_create("threads");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, a_hundred_steps_agree_with_the_paper, 0, N_CASES * N_REPORTED);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
