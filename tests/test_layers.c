/* The trainer's layers, one by one: every backward pass against central differences of its forward
 * pass, in single precision and, compiled with TRAIN_FP64, in double precision. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gradient.h"
#include "train/expr.h"

/* A layer under test: inputs that are differentiated, and its output, made a scalar by weights. */
typedef struct probe probe;
struct probe {
    real *in[4];
    size_t n_in[4];
    real *grad[4];
    real *y, *dy;
    size_t n_y;
    void (*forward)(probe *p);
    real *kept; /* between forward and backward */
};

enum { WEIGHTS_STREAM = 50 };

static double scalar(probe *p)
{
    double sum = 0;
    p->forward(p);
    for (size_t i = 0; i < p->n_y; i++)
        sum += (double)p->y[i] * (double)p->dy[i];
    return sum;
}

static void probe_open(probe *p)
{
    for (int k = 0; k < 4; k++)
        p->grad[k] = p->n_in[k] ? calloc(p->n_in[k], sizeof(real)) : NULL;
    p->y = calloc(p->n_y, sizeof(real));
    p->dy = make(WEIGHTS_STREAM, p->n_y, 1, 0);
    p->forward(p);
}

static void probe_close(probe *p)
{
    for (int k = 0; k < 4; k++) {
        free(p->in[k]);
        free(p->grad[k]);
    }
    free(p->y);
    free(p->dy);
    free(p->kept);
}

static double probe_scalar(void *p)
{
    return scalar(p);
}

static void probe_check(probe *p, const char *name)
{
    for (int k = 0; k < 4; k++) {
        char text[64];
        snprintf(text, sizeof text, "%s, input %d", name, k);
        check_gradient(text, p->in[k], p->grad[k], p->n_in[k], probe_scalar, p);
    }
    probe_close(p);
}

enum { ROWS = 3, IN = 19, OUT = 7 }; /* odd, so that vector loops have a rest */

static void norm_probe(probe *p)
{
    norm_forward((norm_shape){ROWS, IN}, p->in[0], p->in[1], p->in[2], p->y, p->kept);
}

START_TEST(layer_norm_backward_matches_differences)
{
    norm_shape s = {ROWS, IN};
    probe p = {.in = {make(1, ROWS * IN, 2, 0.5), make(2, IN, 1, 1), make(3, IN, 1, 0)},
               .n_in = {ROWS * IN, IN, IN},
               .n_y = ROWS * IN,
               .forward = norm_probe,
               .kept = calloc(2 * ROWS, sizeof(real))};
    probe_open(&p);
    norm_backward_input(s, p.in[0], p.kept, p.in[1], p.dy, p.grad[0]);
    norm_backward_params(s, p.in[0], p.kept, p.dy, p.grad[1], p.grad[2]);
    probe_check(&p, "layer norm");
}
END_TEST

static void linear_probe(probe *p)
{
    linear_forward((linear_shape){ROWS, IN, OUT}, p->in[0], p->in[1], p->in[2], p->in[3], p->y);
}

START_TEST(linear_backward_matches_differences)
{
    linear_shape s = {ROWS, IN, OUT};
    probe p = {.in = {make(1, ROWS * IN, 1, 0), make(2, OUT * IN, 1, 0), make(3, OUT, 1, 0),
                      make(4, ROWS * OUT, 1, 0)},
               .n_in = {ROWS * IN, OUT * IN, OUT, ROWS * OUT},
               .n_y = ROWS * OUT,
               .forward = linear_probe};
    probe_open(&p);
    linear_backward_input(s, p.in[1], p.dy, p.grad[0]);
    linear_backward_params(s, p.in[0], p.dy, p.grad[1], p.grad[2]);
    memcpy(p.grad[3], p.dy, ROWS * OUT * sizeof(real));
    probe_check(&p, "linear");
}
END_TEST

enum { GELU_N = 41 };

static void gelu_probe(probe *p)
{
    gelu_forward(GELU_N, p->in[0], p->kept, p->y);
}

START_TEST(gelu_backward_matches_differences)
{
    probe p = {.in = {make(1, GELU_N, 4, 0)},
               .n_in = {GELU_N},
               .n_y = GELU_N,
               .forward = gelu_probe,
               .kept = calloc(GELU_N, sizeof(real))};
    probe_open(&p);
    gelu_backward(GELU_N, p.in[0], p.kept, p.dy, p.grad[0]);
    probe_check(&p, "gelu");
}
END_TEST

static const attention_shape attention_case = {.batch = 2, .time = 5, .width = 6, .heads = 3};
enum { QKV_N = 2 * 5 * 18, HEADS_N = 2 * 5 * 6, PROBS_N = 2 * 3 * 25 };

static void attention_probe(probe *p)
{
    attention_forward(attention_case, p->in[0], p->kept, p->y);
}

START_TEST(attention_backward_matches_differences)
{
    real scratch[25];
    probe p = {.in = {make(1, QKV_N, 1.5, 0)},
               .n_in = {QKV_N},
               .n_y = HEADS_N,
               .forward = attention_probe,
               .kept = calloc(PROBS_N, sizeof(real))};
    probe_open(&p);
    attention_backward(attention_case, p.in[0], p.kept, p.dy, p.grad[0], scratch);
    probe_check(&p, "attention");
}
END_TEST

static const batch_shape embed_case = {.batch = 2, .time = 3, .width = 5};
static const token embed_tokens[6] = {1, 0, 1, 3, 1, 0}; /* 2 does not occur */

static void embed_probe(probe *p)
{
    embed_forward(embed_case, embed_tokens, p->in[0], p->in[1], p->y);
}

START_TEST(embedding_backward_matches_differences)
{
    probe p = {.in = {make(1, 20, 1, 0), make(2, 15, 1, 0)},
               .n_in = {20, 15},
               .n_y = 30,
               .forward = embed_probe};
    probe_open(&p);
    embed_backward(embed_case, embed_tokens, p.dy, p.grad[0], p.grad[1]);
    probe_check(&p, "embedding");
}
END_TEST

enum { CLASSES = 13 };
static const token entropy_targets[ROWS] = {12, 0, 5};

static double entropy(void *logits)
{
    real probs[ROWS * CLASSES];
    memcpy(probs, logits, sizeof probs);
    return 0.5 * cross_entropy_forward(ROWS, CLASSES, probs, entropy_targets);
}

START_TEST(cross_entropy_backward_matches_differences)
{
    real *logits = make(1, ROWS * CLASSES, 2, 3), grad[ROWS * CLASSES];
    memcpy(grad, logits, sizeof grad);
    cross_entropy_forward(ROWS, CLASSES, grad, entropy_targets);
    for (int row = 0; row < ROWS; row++) {
        double sum = 0;
        for (int i = 0; i < CLASSES; i++)
            sum += (double)grad[row * CLASSES + i];
        ck_assert_double_eq_tol(sum, 1, ROUNDING);
    }
    cross_entropy_backward(ROWS, CLASSES, grad, entropy_targets, (real)0.5);
    check_gradient("cross entropy", logits, grad, ROWS * CLASSES, entropy, logits);
    free(logits);
}
END_TEST

START_TEST(gelu_is_the_tanh_form)
{
    for (double x = -10; x <= 10; x += 0.37) {
        real in = (real)x, gate, y;
        gelu_forward(1, &in, &gate, &y);
        double u = sqrt(2 / acos(-1)) * ((double)in + 0.044715 * pow((double)in, 3));
        ck_assert_double_eq_tol((double)y, 0.5 * (double)in * (1 + tanh(u)), 4 * ROUNDING);
    }
}
END_TEST

/* The reduction of x loses |x| 2^-24 / ln 2 at most, the polynomial 2^-23. */
START_TEST(exp_is_close_to_libm_and_keeps_nan)
{
    for (double x = -60; x <= 60; x += 0.0137) {
        double want = exp((double)(real)x);
        ck_assert_double_eq_tol((double)exp_real((real)x) / want, 1, 5 * ROUNDING);
    }
    ck_assert_double_gt((double)exp_real(-INFINITY), -1e-30);
    ck_assert_double_lt((double)exp_real(-1e30f), 1e-20);
    ck_assert(isnan(exp_real((real)NAN)));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("layers");
    TCase *tests = tcase_create("layers");
    suite_add_tcase(suite, tests);
    tcase_add_test(tests, layer_norm_backward_matches_differences);
    tcase_add_test(tests, linear_backward_matches_differences);
    tcase_add_test(tests, gelu_backward_matches_differences);
    tcase_add_test(tests, attention_backward_matches_differences);
    tcase_add_test(tests, embedding_backward_matches_differences);
    tcase_add_test(tests, cross_entropy_backward_matches_differences);
    tcase_add_test(tests, gelu_is_the_tanh_form);
    tcase_add_test(tests, exp_is_close_to_libm_and_keeps_nan);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
