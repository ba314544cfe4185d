/* Whole runs on every device that is not the CPU, each equal to the CPU's bit for bit: every
 * optimizer, dtypes, buckets, several slots a rank, overflow; and what a device cannot do is
 * refused by name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "on_devices.h"
#include "optimizer_cases.h"

/* The problem on one rank of each device, against the CPU's result. */
static void compare_devices(h_problem *problem, const char *name)
{
    h_result want, got;
    char what[96];
    problem->options.transport = "self";
    problem->options.device = "cpu";
    h_run_one(problem, &problem->options, &want);
    for (size_t d = 0; d < zi_n_devices; d++) {
        const zi_device_ops *device = zi_devices[d];
        if (device->on_host || !device_is_here(device))
            continue;
        problem->options.device = device->name;
        h_run_one(problem, &problem->options, &got);
        snprintf(what, sizeof what, "%s on %s", name, device->name);
        h_compare(&want, &got, what);
        h_free(&got);
    }
    h_free(&want);
}

/* Threads of one process on one GPU, or on several that reach each other. */
static void compare_worlds(h_problem *problem, const char *name)
{
    static const int worlds[] = {2, 3};
    h_result want, got;
    char what[96];
    problem->options.transport = "threads";
    problem->options.device = "cpu";
    h_run_threads(problem, 1, &want);
    for (size_t d = 0; d < zi_n_devices; d++) {
        const zi_device_ops *device = zi_devices[d];
        problem->options.device = device->name;
        for (size_t w = 0; w < sizeof worlds / sizeof worlds[0]; w++) {
            if (device->on_host || !device_is_here(device))
                continue;
            h_run_threads(problem, worlds[w], &got);
            snprintf(what, sizeof what, "%s on %s, %d ranks", name, device->name, worlds[w]);
            h_compare(&want, &got, what);
            h_free(&got);
        }
    }
    h_free(&want);
}

START_TEST(threads_on_a_device_are_the_cpus_bits)
{
    const optimizer_case *c = &optimizer_cases[_i];
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 3), 0);
    case_use(c, &problem);
    problem.options.clip_norm = _i % 2 ? 0.5 : 0;
    problem.options.bucket_elems = 700;
    problem.options.slots = 3 + _i % 2;
    problem.options.shared_params = _i % 4 == 3;
    compare_worlds(&problem, c->name);
}
END_TEST

/* _i / 3: the case; _i % 3: the dtype, and with it buckets, slots, clipping and the scale. */
START_TEST(runs_of_every_optimizer_are_the_cpus_bits)
{
    const optimizer_case *c = &optimizer_cases[_i / 3];
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 3), _i % 2);
    case_use(c, &problem);
    problem.options.clip_norm = _i % 3 == 1 ? 0 : 0.5;
    problem.options.check_overflow = _i % 3 == 1 ? 0 : -1; /* 1: no norm round */
    problem.options.dynamic_loss_scale = _i % 3 == 0;
    problem.options.loss_scale = _i % 3 == 0 ? 256 : 1;
    problem.options.slots = _i % 3 == 2 ? 1 : 3;
    problem.options.bucket_elems = _i % 3 == 0 ? 700 : 0;
    compare_devices(&problem, c->name);
}
END_TEST

START_TEST(overflows_are_skipped_and_found_as_on_the_cpu)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.options.dynamic_loss_scale = 1;
    problem.options.optimizer = "AdamW";
    problem.options.bucket_elems = 700;
    problem.options.slots = 2 + _i;
    problem.grad = h_overflow_grad;
    compare_devices(&problem, "overflow");
}
END_TEST

static const char *refusal(const zopt_options *options)
{
    zopt *z;
    ck_assert_int_eq(zopt_create(options, &z), ZOPT_ERR_UNSUPPORTED);
    ck_assert_ptr_null(z);
    return zopt_last_error();
}

START_TEST(what_a_device_cannot_do_is_refused_by_name)
{
    for (size_t d = 0; d < zi_n_devices; d++) {
        const zi_device_ops *device = zi_devices[d];
        zopt_options options;
        zopt_options_init(&options);
        options.device = device->name;
        if (device->missing() != NULL)
            ck_assert_ptr_nonnull(strstr(refusal(&options), device->missing()));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("devices");
    TCase *tcase = tcase_create("devices");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, runs_of_every_optimizer_are_the_cpus_bits, 0, 3 * N_OPTIMIZER_CASES);
    tcase_add_loop_test(tcase, overflows_are_skipped_and_found_as_on_the_cpu, 0, 2);
    tcase_add_test(tcase, what_a_device_cannot_do_is_refused_by_name);
    suite_add_tcase(suite, tcase);
    TCase *threads = tcase_create("threads"); /* which launch/gpu-check.sh runs by itself */
    tcase_set_timeout(threads, 120);
    tcase_add_loop_test(threads, threads_on_a_device_are_the_cpus_bits, 0, N_OPTIMIZER_CASES);
    suite_add_tcase(suite, threads);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
