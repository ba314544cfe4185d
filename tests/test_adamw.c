/* 200 AdamW steps of the whole library against PyTorch's, in float64 and in float32 arithmetic
 * (reference/adamw_200.txt), on 1 and 3 ranks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "reference/adamw_f64.h"

static float reference_grad(int step, int slot, int tensor, uint64_t element)
{
    (void)slot;
    (void)tensor;
    return (float)reference_number((uint32_t)step, (uint32_t)element);
}

/* How far FP32 arithmetic may be from float64 after `step` steps, in units of 2^-24. With unit
 * roundoff u = 2^-24, after t steps:
 *   v errs relatively by at most 3u each step, forgotten at rate beta2: 3u / (1 - beta2) = 300u, so
 *   its root by 150u; m by 3u of the largest |m| so far each step, forgotten at rate beta1: 30u;
 *   the quotient, the sum with eps and the two scalars add 5u.
 * An update lr * q, |q| <= q_max, then errs by lr * q_max * 185u, and p itself rounds twice, 2u|p|.
 */
static double bound(int step, double q_max, double p_max)
{
    return step * (reference_problem.lr * q_max * 185 + 3 * p_max) * 0x1p-24;
}

/* The largest |m_hat / sqrt(v_hat)| with the largest |m| so far in place of m. */
static void reference_extremes(double *q_max, double *p_max)
{
    *q_max = *p_max = 0;
    for (uint32_t i = 0; i < REFERENCE_ELEMS; i++) {
        double p = reference_number(0, i), m = 0, v = 0, m_max = 0;
        for (int t = 1; t <= REFERENCE_STEPS; t++) {
            reference_adamw(&reference_problem, t, reference_number((uint32_t)t, i), &p, &m, &v);
            m_max = fmax(m_max, fabs(m));
            double m_hat = m_max / (1 - pow(reference_problem.beta1, t));
            *q_max = fmax(*q_max, m_hat / sqrt(v / (1 - pow(reference_problem.beta2, t))));
            *p_max = fmax(*p_max, fabs(p));
        }
    }
}

static void run_to(int n_steps, int n_ranks, h_result *result)
{
    const zopt_setting settings[] = {{"beta1", reference_problem.beta1, NULL},
                                     {"beta2", reference_problem.beta2, NULL},
                                     {"eps", reference_problem.eps, NULL}};
    h_problem problem = {.n_tensors = 1,
                         .n_steps = n_steps,
                         .lr = reference_problem.lr,
                         .weight_decay = {reference_problem.weight_decay},
                         .grad = reference_grad,
                         .start = reference_grad};
    problem.tensor[0] = (h_tensor){"p", ZOPT_FP16, 1, {REFERENCE_ELEMS}, 0};
    zopt_options_init(&problem.options);
    problem.options.slots = 1;
    problem.options.settings = settings;
    problem.options.n_settings = 3;
    h_run_threads(&problem, n_ranks, result);
}

START_TEST(two_hundred_steps_agree_with_pytorch)
{
    FILE *file = fopen(ZOPT_TESTS_DIR "/reference/adamw_200.txt", "r");
    ck_assert_ptr_nonnull(file);
    char line[256];
    double q_max, p_max, worst = 0, worst_torch = 0;
    int n_lines = 0, run_step = 0;
    h_result result = {0};
    reference_extremes(&q_max, &p_max);
    while (fgets(line, sizeof line, file) != NULL) {
        int step, i;
        double f64, f32;
        if (line[0] == '#')
            continue;
        ck_assert_int_eq(sscanf(line, "%d %d %la %la", &step, &i, &f64, &f32), 4);
        if (step != run_step) {
            h_free(&result);
            run_to(step, _i, &result);
            run_step = step;
        }
        double error = fabs((double)result.master[i] - f64);
        ck_assert_msg(error <= bound(step, q_max, p_max), "step %d, %d: %a, want %a", step, i,
                      (double)result.master[i], f64);
        worst = fmax(worst, error);
        worst_torch = fmax(worst_torch, fabs(f32 - f64));
        n_lines++;
    }
    fclose(file);
    h_free(&result);
    ck_assert_int_eq(n_lines, 5 * REFERENCE_ELEMS);
    /* The bound is a worst case; PyTorch's own float32 shows what rounding really does. */
    printf("%d ranks: farthest from float64: %.3g here, %.3g in PyTorch's float32, bound %.3g\n",
           _i, worst, worst_torch, bound(REFERENCE_STEPS, q_max, p_max));
    ck_assert_double_le(worst, 2 * worst_torch);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("adamw");
    TCase *tests = tcase_create("pytorch");
    tcase_add_loop_test(tests, two_hundred_steps_agree_with_pytorch, 1, 4);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
