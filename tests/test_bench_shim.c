/* Benchmarks on a GPU, on the shim: every result is right, one that is left out is found, and what
 * is not measured there is refused. Times mean nothing here. */
#include <check.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/print.h"
#include "shim.h"

static bench_request request_of(const char *bench, int threads)
{
    return (bench_request){.bench = bench,
                           .device = "cuda",
                           .threads = threads,
                           .params = {1000},
                           .n_params = 1,
                           .bucket_elems = strcmp(bench, "step") == 0 ? 1024 : 0,
                           .json = 1};
}

static void must_be(zopt_status want, const bench_request *request, const char *text)
{
    zopt_status got = bench_run(request);
    ck_assert_msg(got == want, "bench %s: %d: %s", request->bench, got, zopt_last_error());
    if (text != NULL)
        ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "'%s' is not in '%s'", text,
                      zopt_last_error());
}

/* Few and small: threads that wait for each other on the shim take turns. */
START_TEST(steps_of_one_rank_are_right)
{
    bench_request r = request_of("step", 1);
    r.params[0] = 5003;
    r.optimizer[r.n_optimizers++] = "adamw";
    r.optimizer[r.n_optimizers++] = "adamw8bit";
    r.optimizer[r.n_optimizers++] = "adafactor";
    r.transport[r.n_transports++] = "threads";
    r.transport[r.n_transports++] = "self"; /* whose steps are replayed as a graph */
    int n_graphs = shim_n_graph_launches();
    must_be(ZOPT_OK, &r, NULL);
    ck_assert_int_gt(shim_n_graph_launches(), n_graphs);
}
END_TEST

START_TEST(steps_of_threads_are_right)
{
    bench_request r = request_of("step", 2 + _i);
    r.params[0] = _i == 0 ? 5003 : 1;
    r.n_tensors = 1;
    r.norm[r.n_norms++] = _i == 0;
    r.shared_params = _i == 0;
    must_be(ZOPT_OK, &r, NULL);
}
END_TEST

/* From no state to two, of 8 bits too. */
START_TEST(kernels_are_right)
{
    static const char *const optimizers[] = {"sgd", "lion", "adamw", "adamw8bit"};
    bench_request r = request_of("adam", 1 + _i);
    r.params[0] = 10007;
    r.dtype = _i % 2 ? ZOPT_BF16 : ZOPT_FP16;
    for (int i = 0; i < 4; i++)
        r.optimizer[r.n_optimizers++] = optimizers[i];
    must_be(ZOPT_OK, &r, NULL);
}
END_TEST

START_TEST(passes_are_right)
{
    bench_request r = request_of(_i % 2 ? "norm" : "accumulate", 1 + _i / 2);
    r.params[0] = 70003; /* more than a period of the data */
    r.params[r.n_params++] = 1;
    r.dtype = _i / 2 ? ZOPT_BF16 : ZOPT_FP16;
    must_be(ZOPT_OK, &r, NULL);
}
END_TEST

START_TEST(transfers_are_right)
{
    bench_request r = request_of("comm", 1 + _i);
    r.params[0] = 3001;
    must_be(ZOPT_OK, &r, NULL);
}
END_TEST

/* A wrong result is found by comparing it, whatever threads made it: of these runs, which are long
 * with the thread sanitizer, it has the first. */
#ifdef __SANITIZE_THREAD__
enum { N_FAULTS = 1 };
#else
enum { N_FAULTS = 5 };
#endif

START_TEST(what_is_left_out_or_wrong_is_found)
{
    static const char *const faults[] = {"subject", "copy", "element", "limit", "no graph"};
    static const char *const benches[] = {"step", "adam", "norm", "accumulate", "comm"};
    for (int b = 0; b < 5; b++) {
        bench_request r = request_of(benches[b], 2 - b % 2);
        if ((_i == 3 && (b == 2 || b == 3)) || (_i == 4 && b > 0))
            continue; /* they have none */
        setenv("ZOPT_BENCH_FAULT", faults[_i], 1);
        must_be(ZOPT_ERR_MISMATCH, &r, "are wrong");
    }
    unsetenv("ZOPT_BENCH_FAULT");
}
END_TEST

START_TEST(what_is_not_measured_there_is_refused)
{
    bench_request r = request_of("ckpt", 2);
    must_be(ZOPT_ERR_UNSUPPORTED, &r, "bench ckpt is measured on the CPU alone");
    r.bench = "calibrate";
    must_be(ZOPT_ERR_UNSUPPORTED, &r, "bench calibrate is measured on the CPU alone");
    r = request_of("step", 2);
    r.overlap[r.n_overlaps++] = 1;
    must_be(ZOPT_ERR_UNSUPPORTED, &r, "behind a backward pass is measured on the CPU alone");
    r = request_of("step", 2);
    shim.n_gpus = 0;
    must_be(ZOPT_ERR_UNSUPPORTED, &r, "no GPU");
    shim = shim_healthy;
    shim.memory_bytes = 4096;
    must_be(ZOPT_ERR_MEMORY, &r, "the GPU has 4096 left");
    shim = shim_healthy;
}
END_TEST

/* What bench_print_row prints of a subject with that path. */
static json_t *printed_row(const char *path)
{
    static bench_crew crew = {.world = 1};
    static bench_data data = {.dtype = ZOPT_FP16};
    bench_request request = request_of("step", 1);
    zi_device_ops device = {.name = "none"};
    const bench_case c = {.crew = &crew, .data = &data, .request = &request, .params = 1000};
    bench_result r = {.c = &c, .path = path, .ms = {1, NAN, NAN, NAN, NAN}};
    FILE *file = tmpfile();
    fflush(stdout);
    int before = dup(STDOUT_FILENO);
    crew.device = &device;
    ck_assert(file != NULL && before >= 0 && dup2(fileno(file), STDOUT_FILENO) >= 0);
    bench_print_row(&r, 1); /* not the first, which JSON begins with */
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    rewind(file);
    ck_assert_int_eq(fgetc(file), ','); /* behind the row before */
    json_t *row = json_loadf(file, 0, NULL);
    fclose(file);
    return row;
}

START_TEST(json_of_a_row_can_be_read_whatever_the_path_says)
{
    static const char *const paths[] = {"of C:\\x, \"said\" a driver\n", "not \xff UTF-8", NULL};
    for (int i = 0; i < 3; i++) {
        json_t *row = printed_row(paths[i]);
        const char *path = json_string_value(json_object_get(row, "path"));
        ck_assert_msg(row != NULL, "row %d is no JSON", i);
        ck_assert(i == 0 ? path != NULL && strcmp(path, paths[0]) == 0 : path == NULL);
        json_decref(row);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bench on the shim");
    TCase *tcase = tcase_create("bench on the shim");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, steps_of_one_rank_are_right);
    tcase_add_loop_test(tcase, steps_of_threads_are_right, 0, 2);
    tcase_add_loop_test(tcase, kernels_are_right, 0, 2);
    tcase_add_loop_test(tcase, passes_are_right, 0, 4);
    tcase_add_loop_test(tcase, transfers_are_right, 0, 3);
    tcase_add_loop_test(tcase, what_is_left_out_or_wrong_is_found, 0, N_FAULTS);
    tcase_add_test(tcase, what_is_not_measured_there_is_refused);
    tcase_add_test(tcase, json_of_a_row_can_be_read_whatever_the_path_says);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
