/* The trainer's model: its backward pass against central differences in every parameter, in single
 * precision and, compiled with TRAIN_FP64, in double precision; and what it promises the trainer.
 * `test_model --dump FILE` writes a model, a batch, its loss and gradients as JSON, for the
 * comparison with PyTorch in bench_gpt_torch.py. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gradient.h"
#include "train/model.h"

enum { BATCH = 2 };
static const model_shape tiny = {.vocab = 11, .n_layer = 2, .n_head = 2, .n_embd = 8, .n_ctx = 6};
static token tiny_inputs[BATCH * 6], tiny_targets[BATCH * 6];

static model *make_model(const model_shape *shape)
{
    model *m;
    if (model_create(shape, BATCH, &m) != ZOPT_OK)
        abort(); /* no ck_assert: --dump comes here without Check */
    const param *params = model_params(m);
    for (int i = 0; i < model_n_params(m); i++) {
        float *values = malloc(params[i].n * sizeof *values);
        params_init(shape, params, i, 7, 0, params[i].n, values);
        /* Away from the symmetric start, where many gradients vanish. */
        for (size_t k = 0; k < params[i].n; k++)
            model_weights(m, i)[k] = (real)values[k] + (real)0.2 * noise((uint64_t)i, k);
        free(values);
    }
    for (size_t i = 0; i < BATCH * 6; i++) {
        tiny_inputs[i] = (token)(i * 7 % 11);
        tiny_targets[i] = (token)((i * 5 + 3) % 11);
    }
    return m;
}

static zopt_status no_callback(void *arg, int tensor)
{
    (void)arg;
    (void)tensor;
    return ZOPT_OK;
}

typedef struct run {
    model *m;
    model_batch batch;
} run;

static double run_loss(void *arg)
{
    run *r = arg;
    return model_forward(r->m, r->batch);
}

/* Full windows, and ones shorter than the context as sampling has. */
START_TEST(model_backward_matches_differences_in_every_parameter)
{
    run r = {make_model(&tiny), {tiny_inputs, tiny_targets, BATCH, _i ? tiny.n_ctx : 4}};
    run_loss(&r);
    ck_assert_int_eq(model_backward(r.m, 1, no_callback, NULL), ZOPT_OK);
    for (int i = 0; i < model_n_params(r.m); i++) {
        const param *p = &model_params(r.m)[i];
        check_gradient(p->name, model_weights(r.m, i), model_grad(r.m, i), p->n, run_loss, &r);
    }
    model_destroy(r.m);
}
END_TEST

START_TEST(loss_scale_multiplies_gradients_exactly)
{
    run r = {make_model(&tiny), {tiny_inputs, tiny_targets, BATCH, tiny.n_ctx}};
    size_t n = model_n_elements(r.m);
    real *plain = malloc(n * sizeof *plain);
    run_loss(&r);
    ck_assert_int_eq(model_backward(r.m, 1, no_callback, NULL), ZOPT_OK);
    memcpy(plain, model_grad(r.m, 0), n * sizeof *plain);
    run_loss(&r);
    ck_assert_int_eq(model_backward(r.m, 4096, no_callback, NULL), ZOPT_OK);
    for (size_t i = 0; i < n; i++)
        ck_assert(model_grad(r.m, 0)[i] == 4096 * plain[i]);
    free(plain);
    model_destroy(r.m);
}
END_TEST

typedef struct arrivals {
    run *r;
    int next, stop_at;
    real *seen; /* gradients as they were when handed out */
} arrivals;

static zopt_status record(void *arg, int tensor)
{
    arrivals *a = arg;
    const param *p = &model_params(a->r->m)[tensor];
    ck_assert_int_eq(tensor, a->next--);
    memcpy(a->seen + p->offset, model_grad(a->r->m, tensor), p->n * sizeof(real));
    return tensor == a->stop_at ? ZOPT_ERR_COMM : ZOPT_OK;
}

START_TEST(gradients_are_handed_out_once_and_final_last_layer_first)
{
    run r = {make_model(&tiny), {tiny_inputs, tiny_targets, BATCH, tiny.n_ctx}};
    size_t bytes = model_n_elements(r.m) * sizeof(real);
    arrivals a = {&r, model_n_params(r.m) - 1, -1, malloc(bytes)};
    run_loss(&r);
    ck_assert_int_eq(model_backward(r.m, 1, record, &a), ZOPT_OK);
    ck_assert_int_eq(a.next, -1);
    ck_assert(memcmp(a.seen, model_grad(r.m, 0), bytes) == 0);
    a.next = model_n_params(r.m) - 1;
    a.stop_at = 9;
    run_loss(&r);
    ck_assert_int_eq(model_backward(r.m, 1, record, &a), ZOPT_ERR_COMM);
    ck_assert_int_eq(a.next, a.stop_at - 1);
    free(a.seen);
    model_destroy(r.m);
}
END_TEST

START_TEST(a_character_does_not_see_later_ones)
{
    run r = {make_model(&tiny), {tiny_inputs, tiny_targets, 1, tiny.n_ctx}};
    size_t before = 4 * (size_t)tiny.vocab;
    real *probs = malloc(before * sizeof *probs);
    run_loss(&r);
    memcpy(probs, model_probs(r.m), before * sizeof *probs);
    tiny_inputs[4] = (token)(tiny_inputs[4] + 1) % 11;
    tiny_inputs[5] = (token)(tiny_inputs[5] + 2) % 11;
    run_loss(&r);
    ck_assert(memcmp(probs, model_probs(r.m), before * sizeof *probs) == 0);
    ck_assert(model_probs(r.m)[before] != probs[0]);
    free(probs);
    model_destroy(r.m);
}
END_TEST

START_TEST(a_batch_loses_the_mean_of_its_windows)
{
    run r = {make_model(&tiny), {tiny_inputs, tiny_targets, BATCH, tiny.n_ctx}};
    double both = run_loss(&r), mean = 0;
    for (int i = 0; i < BATCH; i++) {
        r.batch = (model_batch){tiny_inputs + i * 6, tiny_targets + i * 6, 1, 6};
        mean += run_loss(&r) / BATCH;
    }
    ck_assert_double_eq_tol(both, mean, ROUNDING);
    model_destroy(r.m);
}
END_TEST

START_TEST(impossible_models_are_refused)
{
    model *m;
    model_shape odd = {11, 1, 3, 8, 4}, huge = {65535, 1024, 1, 65536, 65536};
    ck_assert_int_eq(model_create(&odd, 1, &m), ZOPT_ERR_CONFIG);
    ck_assert_ptr_null(m);
    ck_assert_int_eq(model_create(&huge, 1000000, &m), ZOPT_ERR_MEMORY);
    ck_assert_ptr_null(m);
}
END_TEST

/* ------------------------------------------------------------------ dump -------------------- */

static void dump_reals(FILE *file, const char *key, const real *x, size_t n)
{
    fprintf(file, ", \"%s\": [", key);
    for (size_t i = 0; i < n; i++)
        fprintf(file, "%s%.9g", i ? "," : "", (double)x[i]);
    fputc(']', file);
}

static void dump_tokens(FILE *file, const char *key, const token *x, int n)
{
    fprintf(file, "\"%s\": [", key);
    for (int i = 0; i < n; i++)
        fprintf(file, "%s%d", i ? "," : "", x[i]);
    fputs("], ", file);
}

static int dump(const char *path)
{
    run r = {make_model(&tiny), {tiny_inputs, tiny_targets, BATCH, tiny.n_ctx}};
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        return EXIT_FAILURE;
    }
    double loss = run_loss(&r);
    model_backward(r.m, 1, no_callback, NULL);
    fprintf(file,
            "{\"vocab\": %d, \"n_layer\": %d, \"n_head\": %d, \"n_embd\": %d, \"n_ctx\": %d, ",
            tiny.vocab, tiny.n_layer, tiny.n_head, tiny.n_embd, tiny.n_ctx);
    fprintf(file, "\"batch\": %d, \"loss\": %.17g, ", BATCH, loss);
    dump_tokens(file, "inputs", tiny_inputs, BATCH * tiny.n_ctx);
    dump_tokens(file, "targets", tiny_targets, BATCH * tiny.n_ctx);
    fputs("\"params\": {", file);
    for (int i = 0; i < model_n_params(r.m); i++) {
        const param *p = &model_params(r.m)[i];
        fprintf(file, "%s\"%s\": {\"ndim\": %d", i ? ", " : "", p->name, p->ndim);
        dump_reals(file, "value", model_weights(r.m, i), p->n);
        dump_reals(file, "grad", model_grad(r.m, i), p->n);
        fputc('}', file);
    }
    fputs("}}\n", file);
    model_destroy(r.m);
    return fclose(file) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--dump") == 0)
        return dump(argv[2]);
    Suite *suite = suite_create("model");
    TCase *tests = tcase_create("model");
    suite_add_tcase(suite, tests);
    tcase_add_loop_test(tests, model_backward_matches_differences_in_every_parameter, 0, 2);
    tcase_add_test(tests, loss_scale_multiplies_gradients_exactly);
    tcase_add_test(tests, gradients_are_handed_out_once_and_final_last_layer_first);
    tcase_add_test(tests, a_character_does_not_see_later_ones);
    tcase_add_test(tests, a_batch_loses_the_mean_of_its_windows);
    tcase_add_test(tests, impossible_models_are_refused);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
