/* Every optimizer and variant (optimizer_cases.h) through the whole library, on transport threads:
 * the same bits on every world, 100 steps against PyTorch and float64, states and memory as the
 * settings ask, and settings that are refused. The rules alone are in test_rules.c. */
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "reference/adamw_f64.h"
#include "reference/optimizers_f64.h"

/* _i / 3: the case; _i % 3: the dtype. */
START_TEST(worlds_and_buckets_change_no_bit)
{
    const optimizer_case *c = &optimizer_cases[_i / 3];
    zopt_dtype dtype = (zopt_dtype)(_i % 3);
    h_problem problem;
    char name[64];
    h_uneven(&problem, dtype, 0);
    case_use(c, &problem);
    problem.options.clip_norm = _i % 2 ? 0.5 : 0;
    problem.options.dynamic_loss_scale = dtype == ZOPT_FP16;
    problem.options.loss_scale = dtype == ZOPT_FP16 ? 256 : 1;
    snprintf(name, sizeof name, "%s, dtype %d", c->name, (int)dtype);
    h_check_worlds(&problem, name);
}
END_TEST

/* ---- 100 steps ---- */

enum { ELEMS = 32, N_REPORTED = 3 };
static const int reported[N_REPORTED] = {1, 10, 100};

static float reference_grad(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    (void)tensor;
    return (float)reference_number((uint32_t)step, (uint32_t)element);
}

static void run_to(const optimizer_case *c, int n_steps, float *master)
{
    h_problem problem = {
        .n_tensors = 1, .n_steps = n_steps, .grad = reference_grad, .start = reference_grad};
    h_result result;
    problem.tensor[0] = (h_tensor){"p", ZOPT_FP16, 1, {ELEMS}, 0};
    zopt_options_init(&problem.options);
    problem.options.slots = 1;
    case_use(c, &problem);
    h_run_threads(&problem, 1 + n_steps % 3, &result);
    memcpy(master, result.master, ELEMS * sizeof *master);
    h_free(&result);
}

static void run_reference(const optimizer_case *c, int n_steps, bounded *p)
{
    reference_step *step = reference_of(c);
    for (uint32_t i = 0; i < ELEMS; i++) {
        reference_state r = {.p = b_exact(reference_number(0, i))};
        for (int t = 1; t <= n_steps; t++)
            step(c, t, reference_number((uint32_t)t, i), &r);
        p[i] = r.p;
    }
}

/* PyTorch's parameters after a step, [float64, float32]. */
static void read_torch(const char *name, int step, double torch[ELEMS][2])
{
    FILE *file = fopen(ZOPT_TESTS_DIR "/reference/optimizers_100.txt", "r");
    char line[256], found[64];
    int at, i, n = 0;
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file) != NULL) {
        double f64, f32;
        if (line[0] == '#')
            continue;
        ck_assert_int_eq(sscanf(line, "%63s %d %d %la %la", found, &at, &i, &f64, &f32), 5);
        if (at != step || strcmp(found, name) != 0)
            continue;
        ck_assert(i >= 0 && i < ELEMS);
        torch[i][0] = f64;
        torch[i][1] = f32;
        n++;
    }
    fclose(file);
    ck_assert_int_eq(n, ELEMS);
}

/* A bound that says something: far below the parameter, or below a step where that is near 0. */
static int is_tight(const optimizer_case *c, bounded p)
{
    return p.e <= 1e-3 * (fabs(p.x) + c->lr);
}

/* Three computations: the library, PyTorch, and float64 from the papers with a bound on what FP32
 * may lose. The two in float64 do the same in another order, and lose 2^-53 where FP32 loses 2^-24:
 * they may differ by 2^-29 of that bound, 2^-25 with room. Against the bound 1.001 covers the
 * second order, and 2^-100 what underflows. */
START_TEST(a_hundred_steps_agree_with_pytorch_and_the_papers)
{
    const optimizer_case *c = &optimizer_cases[_i];
    double worst = 0, worst_torch = 0;
    char name[64]; /* without 8bit: so small a tensor has FP32 states */
    if (reference_of(c) == NULL) {
        printf("%-26s works on whole tensors: see test_adafactor.c\n", c->name);
        return;
    }
    snprintf(name, sizeof name, "%.*s", (int)strcspn(c->name, "8"), c->name);
    for (int s = 0; s < N_REPORTED; s++) {
        float got[ELEMS];
        bounded want[ELEMS];
        double torch[ELEMS][2];
        run_to(c, reported[s], got);
        run_reference(c, reported[s], want);
        read_torch(name, reported[s], torch);
        for (int i = 0; i < ELEMS; i++) {
            double error = fabs((double)got[i] - want[i].x), bound = want[i].e * 1.001 + 0x1p-100;
            ck_assert_msg(is_tight(c, want[i]), "%s, step %d, %d: a bound of %.3g on %a", c->name,
                          reported[s], i, want[i].e, want[i].x);
            ck_assert_msg(error <= bound, "%s, step %d, %d: %a, want %a within %.3g", c->name,
                          reported[s], i, (double)got[i], want[i].x, bound);
            ck_assert_msg(fabs(torch[i][0] - want[i].x) <= 0x1p-25 * bound,
                          "%s, step %d, %d: the references differ: %a, %a", c->name, reported[s], i,
                          torch[i][0], want[i].x);
            worst = fmax(worst, fabs((double)got[i] - torch[i][0]));
            worst_torch = fmax(worst_torch, fabs(torch[i][1] - torch[i][0]));
        }
    }
    printf("%-26s farthest from float64: %.3g here, %.3g in PyTorch's float32\n", c->name, worst,
           worst_torch);
    ck_assert_double_le(worst, 2 * worst_torch);
}
END_TEST

/* ---- states and memory ---- */

static uint64_t bytes_of(const zopt_memory_usage *usage, const char *name)
{
    for (int c = 0; c < usage->n; c++)
        if (strcmp(usage->category[c].name, name) == 0)
            return usage->category[c].bytes;
    return 0;
}

START_TEST(states_exist_where_the_options_need_them_as_planned)
{
    const optimizer_case *c = &optimizer_cases[_i];
    h_problem problem;
    h_result result;
    zopt *z;
    zopt_memory_usage planned;
    h_uneven(&problem, ZOPT_BF16, 0);
    case_use(c, &problem);
    problem.n_steps = 1;
    h_run_threads(&problem, 3, &result);
    ck_assert_int_eq(result.n_states, c->n_states);
    if (c->last_state != NULL)
        ck_assert_str_eq(result.state_name[c->n_states - 1], c->last_state);
    for (int s = 0; s < result.n_states && reference_of(c) != NULL && !case_has_8bit_states(c); s++)
        ck_assert_uint_eq(bytes_of(&result.memory, result.state_name[s]),
                          bytes_of(&result.memory, "master"));
    zopt_options options = problem.options;
    options.transport = "threads";
    options.plan_world = 3;
    ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_memory(z, &planned), ZOPT_OK);
    ck_assert_uint_eq(planned.total_peak_bytes, result.memory.total_peak_bytes);
    zopt_destroy(z);
    h_free(&result);
}
END_TEST

static int none_arrives(int step, int slot, int tensor)
{
    (void)step;
    (void)slot;
    (void)tensor;
    return 1;
}

/* Every element of the library's first state, after a step of zero gradients. 0.7 is rounded to
 * nearest, down, whatever the caller's mode, which the ranks' threads inherit. */
START_TEST(adagrad_begins_at_its_initial_value_on_every_rank)
{
    const zopt_setting initial[] = {{"initial_accumulator_value", 0.7, NULL}};
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.weight_decay[0] = 0;
    problem.n_steps = 1;
    problem.absent = none_arrives;
    problem.options.optimizer = "Adagrad";
    problem.options.settings = initial;
    problem.options.n_settings = 1;
    fesetround(FE_UPWARD);
    h_run_threads(&problem, 3, &result);
    fesetround(FE_TONEAREST);
    for (uint64_t i = 0; i < result.n_elems; i++)
        ck_assert_float_eq(result.state[0][i], 0.7f);
    h_free(&result);
}
END_TEST

/* Infinite in step 1, so that step 2 is the first good one. */
static float late_grad(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    return step == 1 && tensor == 0 ? INFINITY : (float)(element % 7) - 3;
}

/* SGD's first buffer is the gradient itself, dampening notwithstanding: also when the first good
 * step is not the first. */
START_TEST(a_skipped_step_is_no_first_step)
{
    const zopt_setting settings[] = {{"momentum", 0.5, NULL}, {"dampening", 0.5, NULL}};
    h_problem problem;
    h_result result;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.weight_decay[0] = 0;
    problem.n_steps = 3;
    problem.grad = late_grad;
    problem.options.optimizer = "SGD";
    problem.options.settings = settings;
    problem.options.n_settings = 2;
    h_run_threads(&problem, 2, &result);
    ck_assert_int_eq(result.report[0].skipped, 1);
    ck_assert_int_eq((int)result.report[2].good_step, 2);
    /* Tensor 4 has 257 elements, behind 1 + 1 + 255 + 256: g, then 0.5 g + 0.5 g. */
    for (uint64_t e = 0; e < 257; e++)
        ck_assert_float_eq(result.state[0][513 + e], (float)(e % 7) - 3);
    h_free(&result);
}
END_TEST

/* ---- settings that are refused ---- */

static zopt *handle(const char *optimizer, const char *schedule)
{
    zopt_options options;
    zopt *z;
    zopt_options_init(&options);
    options.transport = "self";
    options.optimizer = optimizer;
    options.schedule = schedule;
    ck_assert_int_eq(zopt_create(&options, &z), ZOPT_OK);
    return z;
}

static const struct {
    const char *optimizer;
    zopt_setting setting[2];
    const char *text;
} refused[] = {
    {"SGD", {{"lr", -1, NULL}}, "SGD: lr = -1 is outside [0, 1e+06]"},
    {"SGD", {{"momentum", 1, NULL}}, "SGD: momentum = 1 is outside [0, 1)"},
    {"SGD", {{"dampening", 1.5, NULL}}, "SGD: dampening = 1.5 is outside [0, 1]"},
    {"SGD", {{"nesterov", 0.5, NULL}}, "SGD: nesterov = 0.5 is neither 0 nor 1"},
    {"SGD", {{"nesterov", 1, NULL}}, "nesterov needs momentum above 0"},
    {"SGD", {{"eps", 1, NULL}}, "SGD: unknown setting 'eps'"},
    {"RMSprop", {{"alpha", 1, NULL}}, "RMSprop: alpha = 1 is outside [0, 1)"},
    {"RMSprop", {{"eps", 0, NULL}}, "RMSprop: eps = 0 is outside [1.17549e-38, 1]"},
    {"Adagrad", {{"eps", 0, NULL}}, "Adagrad: eps = 0 is outside"},
    {"Adagrad", {{"lr_decay", -0.1, NULL}}, "Adagrad: lr_decay = -0.1 is outside"},
    {"Adagrad", {{"initial_accumulator_value", -1, NULL}}, "initial_accumulator_value = -1"},
    {"Adam", {{"beta2", 1, NULL}}, "Adam: beta2 = 1 is outside [0, 1)"},
    {"AdamW", {{"eps", 0, NULL}}, "AdamW: eps = 0 is outside"},
    {"AdamW", {{"amsgrad", 2, NULL}}, "AdamW: amsgrad = 2 is neither 0 nor 1"},
    {"Adafactor", {{"lr", -1, NULL}}, "Adafactor: lr = -1 is outside [0, 1e+06]"},
    {"Adafactor",
     {{"beta2_decay", 0.8, NULL}},
     "Adafactor: beta2_decay = 0.8 is outside [-100, 0]"},
    {"Adafactor", {{"eps1", 1e-30, NULL}}, "Adafactor: eps1 = 1e-30 is outside [1.0842e-19, 1]"},
    {"Adafactor", {{"eps2", -1, NULL}}, "Adafactor: eps2 = -1 is outside [0, 1000]"},
    {"Adafactor", {{"d", 0, NULL}}, "Adafactor: d = 0 is outside [1.0842e-19, 1e+06]"},
    {"Adafactor", {{"beta1", 1, NULL}}, "Adafactor: beta1 = 1 is outside [0, 1)"},
    {"Adafactor", {{"warmup_init", 1, NULL}}, "Adafactor: warmup_init needs relative_step"},
    {"Lion", {{"beta1", -0.1, NULL}}, "Lion: beta1 = -0.1 is outside [0, 1)"},
    {"Lion", {{"weight_decay", NAN, NULL}}, "Lion: weight_decay = nan is outside [0, 1000]"},
    {"Lion", {{"lr_mult", -2, NULL}}, "group: lr_mult = -2 is outside [0, 1e+06]"},
    {"Adam8bit", {{"optim_bits", 16, NULL}}, "Adam8bit: optim_bits = 16 is neither 8 nor 32"},
    {"AdamW8bit", {{"min_8bit_size", 256, NULL}}, "AdamW8bit: min_8bit_size = 256 is outside"},
    {"AdamW8bit", {{"amsgrad", 1, NULL}}, "AdamW8bit: unknown setting 'amsgrad'"},
    {"SGD", {{"frozen", 2, NULL}}, "group: frozen = 2 is neither 0 nor 1"},
};
enum { N_REFUSED = sizeof refused / sizeof refused[0] };

START_TEST(bad_settings_name_key_value_and_range)
{
    zopt *z = handle(refused[_i].optimizer, "constant");
    int group;
    ck_assert_int_eq(zopt_add_group(z, NULL, 0, &group), ZOPT_OK);
    ck_assert_int_eq(zopt_add_group(z, refused[_i].setting, 1, &group), ZOPT_ERR_CONFIG);
    ck_assert_msg(strstr(zopt_last_error(), refused[_i].text) != NULL, "'%s' lacks '%s'",
                  zopt_last_error(), refused[_i].text);
    zopt_destroy(z);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("optimizers");
    TCase *tests = tcase_create("threads");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, worlds_and_buckets_change_no_bit, 0, 3 * N_OPTIMIZER_CASES);
    tcase_add_loop_test(tests, a_hundred_steps_agree_with_pytorch_and_the_papers, 0,
                        N_OPTIMIZER_CASES);
    tcase_add_loop_test(tests, states_exist_where_the_options_need_them_as_planned, 0,
                        N_OPTIMIZER_CASES);
    tcase_add_test(tests, adagrad_begins_at_its_initial_value_on_every_rank);
    tcase_add_test(tests, a_skipped_step_is_no_first_step);
    tcase_add_loop_test(tests, bad_settings_name_key_value_and_range, 0, N_REFUSED);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
