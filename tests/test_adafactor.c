/* Adafactor through the whole library: 100 steps against a float64 reference with a derived bound
 * (reference/adafactor_f64.h) and against the optimizers of PyTorch and Hugging Face; the memory of
 * its states; steps that are skipped. Equal bits on every world are in test_optimizers.c, equal
 * bits of instruction sets in test_rules.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "reference/adafactor_f64.h"
#include "reference/adamw_f64.h"

enum { N_REPORTED = 3 };
static const int reported[N_REPORTED] = {1, 10, 100};

static const h_tensor tensors[] = {
    {"n32", ZOPT_FP32, 1, {32}, 0},         {"m3x5", ZOPT_FP32, 2, {3, 5}, 0},
    {"t2x3x5", ZOPT_FP32, 3, {2, 3, 5}, 0}, {"m64x63", ZOPT_FP32, 2, {64, 63}, 0},
    {"m7x1", ZOPT_FP32, 2, {7, 1}, 0},      {"scalar", ZOPT_FP32, 0, {0}, 0},
};
enum { N_TENSORS = sizeof tensors / sizeof tensors[0], N_TORCH_TENSORS = 3 };

/* Those that adafactor_100.txt has as well. */
static const optimizer_case torch_cases[] = {
    {"torch", "Adafactor", 0.02, 0.1, {{NULL, 0, NULL}}, 0, NULL},
    {"torch_options",
     "Adafactor",
     0.02,
     0.0,
     {{"beta2_decay", -0.5, NULL}, {"d", 2, NULL}, {"eps1", 1e-3, NULL}, {"eps2", 0.1, NULL}},
     0,
     NULL},
    {"hf_relative",
     "Adafactor",
     0.01,
     0.1,
     {{"relative_step", 1, NULL}, {"warmup_init", 1, NULL}, {"eps1", 1e-15, NULL}},
     0,
     NULL},
    {"hf_moment",
     "Adafactor",
     0.003,
     0.01,
     {{"beta1", 0.9, NULL}, {"scale_parameter", 0, NULL}, {"eps1", 1e-15, NULL}},
     0,
     NULL},
};
enum { N_TORCH_CASES = sizeof torch_cases / sizeof torch_cases[0] };

/* ---- numbers, as adafactor_torch.py makes them ---- */

static float plain_grad(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    return (float)reference_number((uint32_t)step, (uint32_t)(tensor * 5000) + (uint32_t)element);
}

/* Times 2^-38 to 2^22, by element. */
static float wide_grad(int step, int slot, int tensor, uint64_t element)
{
    uint64_t r = reference_splitmix64((uint64_t)tensor << 32 | element);
    return (float)ldexp((double)plain_grad(step, slot, tensor, element), (int)(r % 61) - 38);
}

/* The tensors differ in size, too. */
static float start(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    return (float)ldexp(reference_number((uint32_t)step, (uint32_t)element), 2 * (2 - tensor));
}

static void use_case(h_problem *problem, const optimizer_case *c)
{
    memset(problem, 0, sizeof *problem);
    problem->n_tensors = N_TENSORS;
    memcpy(problem->tensor, tensors, sizeof tensors);
    problem->lr = c->lr;
    problem->weight_decay[0] = c->weight_decay;
    problem->grad = strncmp(c->name, "hf_", 3) == 0 ? plain_grad : wide_grad;
    problem->start = start;
    zopt_options_init(&problem->options);
    problem->options.slots = 1;
    problem->options.bucket_elems = 1024;
    problem->options.optimizer = c->optimizer;
    problem->options.settings = c->setting;
    problem->options.n_settings = case_n_settings(c);
}

/* ---- 100 steps ---- */

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

static void run_reference(const h_problem *problem, const adafactor_options *o, int tensor,
                          adafactor_tensor *t)
{
    static double g[ADAFACTOR_MAX_ELEMS];
    const h_tensor *shape = &problem->tensor[tensor];
    memset(t, 0, sizeof *t);
    t->n = h_elems(shape);
    if (shape->ndim > 1) {
        t->cols = shape->shape[shape->ndim - 1];
        t->rows = shape->shape[shape->ndim - 2];
        t->matrices = t->n / t->rows / t->cols;
    }
    for (size_t i = 0; i < t->n; i++)
        t->p[i] = b_exact((double)problem->start(0, 0, tensor, i));
    for (int step = 1; step <= problem->n_steps; step++) {
        for (size_t i = 0; i < t->n; i++)
            g[i] = (double)problem->grad(step, 0, tensor, i);
        adafactor_step(o, step, g, t);
    }
}

/* 1.001 covers the second order and what FP64 loses, 2^-100 what underflows. */
static double bound_of(bounded x)
{
    return x.e * 1.001 + 0x1p-100;
}

/* How much of its bound the farthest of n values uses: at most 1. */
static double used(const char *what, const float *got, const bounded *want, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - want[i].x);
        ck_assert_msg(error <= bound_of(want[i]), "%s[%zu]: %a, want %a within %.3g", what, i,
                      (double)got[i], want[i].x, bound_of(want[i]));
        most = fmax(most, error / bound_of(want[i]));
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

/* The states of the tensor that begins at `at`. */
static double states_used(const h_result *result, size_t at, const adafactor_tensor *want,
                          int with_moment)
{
    double most;
    if (want->rows > 0) {
        const float *row = state_of(result, "exp_avg_sq_row") + at;
        const float *col = state_of(result, "exp_avg_sq_col") + at;
        most = fmax(used("row", row, want->row, want->matrices * want->rows),
                    used("col", col, want->col, want->matrices * want->cols));
    } else {
        most = used("exp_avg_sq", state_of(result, "exp_avg_sq") + at, want->v, want->n);
    }
    if (!with_moment)
        return most;
    return fmax(most, used("exp_avg", state_of(result, "exp_avg") + at, want->m, want->n));
}

/* Tensor after tensor, against the paper; the bounds must be far below the parameters. */
static void check_case(const optimizer_case *c, int n_steps, int n_ranks, h_result *result,
                       bounded torch_tensors[N_TORCH_TENSORS][32])
{
    static adafactor_tensor want;
    adafactor_options o = options_of(c);
    h_problem problem;
    double p = 0, states = 0, widest = 0;
    use_case(&problem, c);
    problem.n_steps = n_steps;
    h_run_threads(&problem, n_ranks, result);
    for (size_t i = 0, at = 0; i < N_TENSORS; i++, at += want.n) {
        run_reference(&problem, &o, (int)i, &want);
        bounded size = b_rms(want.p, want.n);
        widest = fmax(widest, size.e / size.x);
        p = fmax(p, used(tensors[i].name, result->master + at, want.p, want.n));
        states = fmax(states, states_used(result, at, &want, o.beta1 > 0));
        if (i < N_TORCH_TENSORS)
            memcpy(torch_tensors[i], want.p, want.n * sizeof *want.p);
    }
    printf("%-18s step %3d: %.2f (states %.2f) of the bound, %.2g of the parameters\n", c->name,
           n_steps, p, states, widest);
    ck_assert_double_le(widest, 1e-4);
}

static const optimizer_case *nth_case(int n)
{
    for (int i = 0; i < N_OPTIMIZER_CASES; i++)
        if (strcmp(optimizer_cases[i].optimizer, "Adafactor") == 0 && n-- == 0)
            return &optimizer_cases[i];
    return n < N_TORCH_CASES ? &torch_cases[n] : NULL;
}

START_TEST(a_hundred_steps_agree_with_the_paper)
{
    bounded want[N_TORCH_TENSORS][32];
    h_result result;
    for (int n = 0; nth_case(n) != NULL && nth_case(n) != torch_cases; n++) {
        check_case(nth_case(n), reported[_i], 1 + (n + _i) % 3, &result, want);
        h_free(&result);
    }
}
END_TEST

/* The parameters after a step, [float64, float32]. */
static void read_torch(const char *name, int tensor, int step, double torch[32][2])
{
    FILE *file = fopen(ZOPT_TESTS_DIR "/reference/adafactor_100.txt", "r");
    char line[256], found[64];
    int at, of, i, n = 0;
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file) != NULL) {
        double f64, f32;
        if (line[0] == '#')
            continue;
        ck_assert_int_eq(sscanf(line, "%63s %d %d %d %la %la", found, &of, &at, &i, &f64, &f32), 6);
        if (at != step || of != tensor || strcmp(found, name) != 0)
            continue;
        ck_assert(i >= 0 && i < 32);
        torch[i][0] = f64;
        torch[i][1] = f32;
        n++;
    }
    fclose(file);
    ck_assert_uint_eq((uint64_t)n, h_elems(&tensors[tensor]));
}

/* As in test_optimizers.c: two float64 computations of the same differ by 2^-29 of what FP32 may
 * lose, 2^-25 with room. The library is about as near to them as PyTorch's float32: decay rounds
 * elsewhere, and which of the two falls better is chance, a factor of 4 at most. */
START_TEST(a_hundred_steps_agree_with_pytorch_and_hugging_face)
{
    const optimizer_case *c = &torch_cases[_i];
    for (int s = 0; s < N_REPORTED; s++) {
        bounded want[N_TORCH_TENSORS][32];
        h_result result;
        check_case(c, reported[s], 1 + (_i + s) % 3, &result, want);
        size_t at = 0;
        for (int t = 0; t < N_TORCH_TENSORS; t++) {
            double torch[32][2], here = 0, there = 0;
            size_t n = h_elems(&tensors[t]);
            read_torch(c->name, t, reported[s], torch);
            for (size_t i = 0; i < n; i++) {
                ck_assert_msg(fabs(torch[i][0] - want[t][i].x) <= 0x1p-25 * bound_of(want[t][i]),
                              "%s, step %d, %s[%zu]: the references differ: %a, %a", c->name,
                              reported[s], tensors[t].name, i, torch[i][0], want[t][i].x);
                here = fmax(here, fabs((double)result.master[at + i] - torch[i][0]));
                there = fmax(there, fabs(torch[i][1] - torch[i][0]));
            }
            printf("  %-8s farthest from float64: %.3g here, %.3g in PyTorch's float32\n",
                   tensors[t].name, here, there);
            ck_assert_double_le(here, 4 * there);
            at += n;
        }
        h_free(&result);
    }
}
END_TEST

/* ---- states ---- */

static uint64_t bytes_of(const zopt *z, const char *name)
{
    zopt_memory_usage usage;
    ck_assert_int_eq(zopt_memory(z, &usage), ZOPT_OK);
    for (int c = 0; c < usage.n; c++)
        if (strcmp(usage.category[c].name, name) == 0)
            return usage.category[c].bytes;
    return 0;
}

/* A float for each row and column of every matrix on every rank; the vector and the scalar fill one
 * block, so a slice of them is a block. */
START_TEST(states_of_matrices_are_rows_and_columns_on_every_world)
{
    static const int worlds[] = {1, 2, 5, 1000};
    h_problem problem;
    use_case(&problem, &torch_cases[0]);
    for (size_t w = 0; w < sizeof worlds / sizeof worlds[0]; w++) {
        zopt_options options = problem.options;
        zopt *z;
        options.transport = "threads";
        options.plan_world = worlds[w];
        options.plan_rank = worlds[w] - 1;
        ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
        ck_assert_uint_eq(bytes_of(z, "exp_avg_sq_row"), 4 * (3 + 2 * 3 + 64 + 7));
        ck_assert_uint_eq(bytes_of(z, "exp_avg_sq_col"), 4 * (5 + 2 * 5 + 63 + 1));
        ck_assert_uint_eq(bytes_of(z, "exp_avg_sq"), 4 * 256);
        ck_assert_uint_eq(bytes_of(z, "exp_avg"), 0);
        zopt_destroy(z);
    }
}
END_TEST

START_TEST(a_tensor_has_its_own_states_and_their_own_extents)
{
    static const struct {
        const char *state;
        int tensor;
        uint64_t n;
        const char *error; /* NULL: none */
    } asked[] = {
        {"exp_avg_sq", 0, 32, NULL},
        {"exp_avg_sq_row", 2, 6, NULL},
        {"exp_avg_sq_col", 2, 10, NULL},
        {"exp_avg_sq_row", 2, 7, "'exp_avg_sq_row' has 6 elements"},
        {"exp_avg_sq_row", 0, 1, "no state 'exp_avg_sq_row' of 'n32'; there is 'exp_avg_sq'"},
        {"exp_avg_sq", 3, 1, "no state 'exp_avg_sq' of 'm64x63'; there is 'exp_avg_sq_"},
        {"exp_avg", 3, 1, "no state 'exp_avg' of 'm64x63'"},
    };
    h_problem problem;
    zopt *z;
    float values[32];
    use_case(&problem, &torch_cases[0]);
    zopt_options options = problem.options;
    options.transport = "self";
    ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        zopt_status want = asked[i].error != NULL ? ZOPT_ERR_ARGUMENT : ZOPT_OK;
        ck_assert_int_eq(zopt_get_state(z, asked[i].state, asked[i].tensor, 0, asked[i].n, values),
                         want);
        if (want != ZOPT_OK)
            ck_assert_msg(strstr(zopt_last_error(), asked[i].error) != NULL, "%s",
                          zopt_last_error());
    }
    zopt_destroy(z);
}
END_TEST

/* ---- steps that are skipped, gradients that are too large ---- */

static float late_grad(int step, int slot, int tensor, uint64_t element)
{
    return step == 2 && tensor == 3 && element == 77
               ? INFINITY
               : wide_grad(step > 2 ? step - 1 : step, slot, tensor, element);
}

START_TEST(a_skipped_step_moves_no_row_and_no_column)
{
    h_problem problem;
    h_result want, got;
    use_case(&problem, nth_case(1));
    problem.n_steps = 3;
    h_run_threads(&problem, 2, &want);
    problem.n_steps = 4;
    problem.grad = late_grad;
    h_run_threads(&problem, 3, &got);
    ck_assert_int_eq(got.report[1].skipped, 1);
    memcpy(want.report, got.report, sizeof want.report);
    h_compare(&want, &got, "a step later");
    h_free(&want);
    h_free(&got);
}
END_TEST

static float huge_grad(int step, int slot, int tensor, uint64_t element)
{
    float g = plain_grad(step, slot, tensor, element);
    return element % 3 == 0 ? g * 0x1p110f : g;
}

/* Squares that are past the sums' range count as its end: the update is limited all the same. */
START_TEST(huge_gradients_are_steps_of_finite_size)
{
    h_problem problem;
    h_result result;
    use_case(&problem, &torch_cases[0]);
    problem.n_steps = 3;
    problem.grad = huge_grad;
    h_run_threads(&problem, 2, &result);
    for (uint64_t i = 0; i < result.n_elems; i++)
        ck_assert_msg(isfinite(result.master[i]), "element %d", (int)i);
    h_free(&result);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("adafactor");
    TCase *tests = tcase_create("threads");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, a_hundred_steps_agree_with_the_paper, 0, N_REPORTED);
    tcase_add_loop_test(tests, a_hundred_steps_agree_with_pytorch_and_hugging_face, 0,
                        N_TORCH_CASES);
    tcase_add_test(tests, states_of_matrices_are_rows_and_columns_on_every_world);
    tcase_add_test(tests, a_tensor_has_its_own_states_and_their_own_extents);
    tcase_add_test(tests, a_skipped_step_moves_no_row_and_no_column);
    tcase_add_test(tests, huge_gradients_are_steps_of_finite_size);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
