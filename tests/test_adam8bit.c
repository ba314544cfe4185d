/* Adam8bit and AdamW8bit through the whole library, where test_optimizers.c has no tensor that is
 * large enough: every step against float64 and the dynamic maps, worlds and groups with and without
 * 8-bit states in one handle, which tensors are eligible, and the bytes. */
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "reference/adamw_f64.h"
#include "reference/optimizers_f64.h"
#include "reference/quantize_f64.h"

enum { BLOCK = 256, ELEMS = 5001, STEPS = 100, N_STATES = 2 };
static const char *const state_names[N_STATES] = {"exp_avg", "exp_avg_sq"};

/* 0: Adam8bit, 1: AdamW8bit. */
static const optimizer_case *case_8bit(int which)
{
    int i = 0;
    while (i < N_OPTIMIZER_CASES - 1 && (!case_has_8bit_states(&optimizer_cases[i]) || which-- > 0))
        i++;
    return &optimizer_cases[i];
}

/* Exact in FP16. A few elements have no gradient ever, a few only at first. */
static float gradient_of(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    (void)tensor;
    if (step > 0 && (element % 97 == 0 || (step > 10 && element % 89 == 0)))
        return 0;
    return (float)reference_number((uint32_t)step, (uint32_t)element);
}

/* ---- a hundred steps, each from what the library had before ---- */

typedef struct snapshot {
    float p[ELEMS], state[N_STATES][ELEMS];
} snapshot;

static void take(zopt *z, snapshot *out)
{
    ck_assert_int_eq(zopt_get_master(z, 0, 0, ELEMS, out->p), ZOPT_OK);
    for (int s = 0; s < N_STATES; s++)
        ck_assert_int_eq(zopt_get_state(z, state_names[s], 0, 0, ELEMS, out->state[s]), ZOPT_OK);
}

/* What the step must have made of a block of a state, given the float64 values before encoding:
 * of those map values that the error of FP32 leaves open, times absmax, one. Returns the number of
 * elements of which it leaves more than one open. */
static int check_state(int map, const bounded *want, const float *got, int n, const char *what)
{
    int n_open = 0;
    bounded absmax = {0, 0};
    for (int i = 0; i < n; i++) {
        absmax.x = fmax(absmax.x, fabs(want[i].x));
        absmax.e = fmax(absmax.e, want[i].e);
    }
    for (int i = 0; i < n; i++) {
        double ratio = absmax.x > 0 ? want[i].x / absmax.x : 0, best = INFINITY;
        double e = absmax.x > 0 ? (want[i].e + fabs(ratio) * absmax.e) / absmax.x : 0;
        int lo, hi;
        nearest_indices(map, ratio, e * 1.001, &lo, &hi); /* 1.001: the second order */
        for (int c = lo; c <= hi; c++) {
            double value = reference_map[map][c];
            double bound = fabs(value) * (MAP_ERROR * absmax.x + absmax.e) * 1.001;
            best = fmin(best, fabs((double)got[i] - value * absmax.x) - bound);
        }
        if (!(best <= 0))
            ck_abort_msg("%s, element %d: %a, want %a +- %.3g of %a: value %d..%d", what, i,
                         (double)got[i], want[i].x, want[i].e, absmax.x, lo, hi);
        n_open += lo != hi;
    }
    return n_open;
}

/* p is held against fresh moments, since that is what an update uses: bitsandbytes' order. */
static int check_step(const optimizer_case *c, int step, const snapshot *before,
                      const snapshot *after)
{
    static bounded want[N_STATES][ELEMS];
    char what[64];
    int n_open = 0;
    for (int i = 0; i < ELEMS; i++) {
        reference_state r = {
            b_exact((double)before->p[i]),
            {b_exact((double)before->state[0][i]), b_exact((double)before->state[1][i])}};
        reference_of(c)(c, step, (double)gradient_of(step, 0, 0, (uint64_t)i), &r);
        double error = fabs((double)after->p[i] - r.p.x);
        if (!(error <= r.p.e * 1.001 + 0x1p-100) || r.p.e > 1e-3 * c->lr + 1e-5 * fabs(r.p.x))
            ck_abort_msg("%s, step %d, %d: %a, want %a within %.3g", c->name, step, i,
                         (double)after->p[i], r.p.x, r.p.e);
        for (int s = 0; s < N_STATES; s++)
            want[s][i] = r.s[s];
    }
    for (int s = 0; s < N_STATES; s++)
        for (int first = 0; first < ELEMS; first += BLOCK) {
            int n = ELEMS - first < BLOCK ? ELEMS - first : BLOCK;
            snprintf(what, sizeof what, "%s, step %d, %s from %d", c->name, step, state_names[s],
                     first);
            n_open += check_state(s, want[s] + first, after->state[s] + first, n, what);
        }
    return n_open;
}

static void use_case(h_problem *problem, const optimizer_case *c)
{
    problem->lr = c->lr;
    problem->weight_decay[0] = problem->weight_decay[1] = c->weight_decay;
    problem->options.optimizer = c->optimizer;
    problem->options.settings = c->setting;
    problem->options.n_settings = case_n_settings(c);
}

/* Codes make errors of FP32 large where they are near the middle of two values, so that bounds over
 * many steps would soon say nothing. Every step is judged from the library's own state before it.
 */
START_TEST(every_step_is_the_papers_and_then_the_nearest_codes)
{
    static snapshot at[2];
    const optimizer_case *c = case_8bit(_i);
    h_problem problem = {.n_tensors = 1, .grad = gradient_of, .start = gradient_of};
    zopt *z;
    int n_open = 0;
    problem.tensor[0] = (h_tensor){"p", ZOPT_FP16, 1, {ELEMS}, 0};
    zopt_options_init(&problem.options);
    problem.options.slots = 1;
    problem.options.transport = "self";
    use_case(&problem, c);
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    take(z, &at[0]);
    for (int step = 1; step <= STEPS; step++) {
        ck_assert_int_eq(h_step(&problem, z, step), ZOPT_OK);
        take(z, &at[step % 2]);
        n_open += check_step(c, step, &at[1 - step % 2], &at[step % 2]);
    }
    double open = (double)n_open / (N_STATES * (double)ELEMS * STEPS);
    printf("%s: FP32 leaves two codes open for %.2g of the elements\n", c->name, open);
    ck_assert_double_le(open, 1e-2);
    zopt_destroy(z);
}
END_TEST

/* ---- worlds, groups, eligibility ---- */

/* Large and small tensors, ends inside blocks, and a group that opts out. */
static void mixed_problem(h_problem *problem)
{
    static const h_tensor tensors[] = {
        {"n5001", 0, 1, {5001}, 0},    {"n4095", 0, 1, {4095}, 0},       {"n1", 0, 1, {1}, 1},
        {"m70x70", 0, 2, {70, 70}, 0}, {"embedding", 0, 2, {65, 64}, 1}, {"n8192", 0, 1, {8192}, 0},
    };
    h_uneven(problem, ZOPT_BF16, 0);
    use_case(problem, case_8bit(1));
    memcpy(problem->tensor, tensors, sizeof tensors);
    problem->n_tensors = (int)(sizeof tensors / sizeof tensors[0]);
    for (int i = 0; i < problem->n_tensors; i++)
        problem->tensor[i].dtype = i == 3 ? ZOPT_FP32 : ZOPT_BF16;
    problem->group_setting[1][0] = (zopt_setting){"optim_bits", 32, NULL};
    problem->options.clip_norm = 0.5;
}

START_TEST(worlds_and_buckets_change_no_bit)
{
    h_problem problem;
    mixed_problem(&problem);
    h_check_worlds(&problem, "AdamW8bit");
}
END_TEST

/* A handle with tensors of these sizes, one in each group. */
static zopt *plan(const uint64_t n[2], const zopt_setting *group_setting, int world)
{
    h_problem problem;
    zopt *z;
    mixed_problem(&problem);
    problem.n_tensors = 2;
    problem.group_setting[1][0] = *group_setting;
    for (int i = 0; i < 2; i++)
        problem.tensor[i] = (h_tensor){i ? "b" : "a", ZOPT_FP16, 1, {n[i]}, i};
    problem.options.plan_world = world;
    problem.options.slots = 1;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    return z;
}

static uint64_t bytes_of(zopt *z, const char *name)
{
    zopt_memory_usage usage;
    ck_assert_int_eq(zopt_memory(z, &usage), ZOPT_OK);
    for (int c = 0; c < usage.n; c++)
        if (strcmp(usage.category[c].name, name) == 0)
            return usage.category[c].bytes;
    return 0;
}

/* 4096 elements on any number of ranks are eligible, 4095 are not. */
static const struct {
    uint64_t n;
    zopt_setting setting;
    int has_8bit;
} eligible[] = {
    {4096, {"optim_bits", 8, NULL}, 1},        {4095, {"optim_bits", 8, NULL}, 0},
    {4096, {"optim_bits", 32, NULL}, 0},       {10000, {"min_8bit_size", 10000, NULL}, 1},
    {9999, {"min_8bit_size", 10000, NULL}, 0},
};
enum { N_ELIGIBLE = sizeof eligible / sizeof eligible[0] };

START_TEST(tensors_are_eligible_by_their_whole_size_and_their_groups_word)
{
    uint64_t n = eligible[_i].n;
    for (int world = 1; world <= 5; world += 2) {
        zopt *z = plan((const uint64_t[2]){8192, n}, &eligible[_i].setting, world);
        uint64_t unit = 256 * (uint64_t)world, of_a = (8192 + unit - 1) / unit * 256;
        uint64_t of_b = (n + unit - 1) / unit * 256;
        if (eligible[_i].has_8bit) /* one space: b behind a */
            of_a = (8192 + n + unit - 1) / unit * 256, of_b = 0;
        ck_assert_uint_eq(bytes_of(z, "exp_avg"), of_a + of_a / 64 + 4 * of_b);
        ck_assert_uint_eq(bytes_of(z, "exp_avg_sq"), of_a + of_a / 64 + 4 * of_b);
        zopt_destroy(z);
    }
}
END_TEST

/* 2 + 2 for parameters and gradients; 4 + 2 (1 + 4 / 256) = 193 / 32 for what is owned. */
START_TEST(eligible_tensors_take_4_and_6_03_over_n_bytes_a_parameter)
{
    static const char *const arrays[] = {"params", "grads", "master", "exp_avg", "exp_avg_sq"};
    const uint64_t n = 3 << 20;
    for (int world = 1; world <= 3; world++) {
        const zopt_setting bits = {"optim_bits", 8, NULL};
        zopt *z = plan((const uint64_t[2]){n / 2, n / 2}, &bits, world);
        uint64_t bytes = 0;
        for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
            bytes += bytes_of(z, arrays[i]);
        ck_assert_uint_eq(bytes * 32 * (uint64_t)world, n * (4 * 32 * (uint64_t)world + 193));
        zopt_destroy(z);
    }
}
END_TEST

START_TEST(memory_planned_is_memory_counted)
{
    h_problem problem;
    h_result result;
    zopt *z;
    mixed_problem(&problem);
    problem.n_steps = 1;
    h_run_threads(&problem, 3, &result);
    zopt_options options = problem.options;
    options.transport = "threads";
    options.plan_world = 3;
    ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
    zopt_memory_usage planned;
    ck_assert_int_eq(zopt_memory(z, &planned), ZOPT_OK);
    ck_assert_uint_eq(planned.total_peak_bytes, result.memory.total_peak_bytes);
    zopt_destroy(z);
    h_free(&result);
}
END_TEST

/* From the middle of one block to the middle of another. */
START_TEST(parts_of_a_state_can_be_read)
{
    static float all[8192], part[8192];
    h_problem problem;
    zopt *z;
    mixed_problem(&problem);
    problem.options.transport = "self";
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_eq(h_step(&problem, z, 1), ZOPT_OK);
    for (int s = 0; s < N_STATES; s++) {
        ck_assert_int_eq(zopt_get_state(z, state_names[s], 5, 0, 8192, all), ZOPT_OK);
        for (uint64_t at = 0; at < 8192; at += 1111) {
            uint64_t n = 8192 - at < 700 ? 8192 - at : 700;
            ck_assert_int_eq(zopt_get_state(z, state_names[s], 5, at, n, part), ZOPT_OK);
            ck_assert_mem_eq(part, all + at, n * sizeof *part);
        }
        ck_assert(all[0] != all[1]);
    }
    zopt_destroy(z);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("adam8bit");
    TCase *tests = tcase_create("adam8bit");
    tcase_set_timeout(tests, 120);
    tcase_add_unchecked_fixture(tests, read_maps, NULL);
    tcase_add_loop_test(tests, every_step_is_the_papers_and_then_the_nearest_codes, 0, 2);
    tcase_add_test(tests, worlds_and_buckets_change_no_bit);
    tcase_add_loop_test(tests, tensors_are_eligible_by_their_whole_size_and_their_groups_word, 0,
                        N_ELIGIBLE);
    tcase_add_test(tests, eligible_tensors_take_4_and_6_03_over_n_bytes_a_parameter);
    tcase_add_test(tests, memory_planned_is_memory_counted);
    tcase_add_test(tests, parts_of_a_state_can_be_read);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
