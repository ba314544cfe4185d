/* Master weights and states on the host, gradients and parameters on every device that is not the
 * host: whole runs equal to those without offload and to the CPU's, bit for bit; memory as planned,
 * on each side; and what there is nothing to offload from, or to, is refused by name. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "on_devices.h"
#include "optimizer_cases.h"

static h_result run_on(h_problem *problem, const char *device, const char *offload, int n_ranks)
{
    h_result result;
    problem->options.device = device;
    problem->options.offload_optimizer = offload;
    problem->options.transport = "self";
    if (n_ranks == 1)
        h_run_one(problem, &problem->options, &result);
    else
        h_run_threads(problem, n_ranks, &result);
    return result;
}

/* On n ranks of each device, with and without offload, against one rank of the CPU. */
static void compare(h_problem *problem, const char *name, int n_ranks)
{
    h_result want = run_on(problem, "cpu", "none", 1);
    char what[96];
    for (size_t d = 0; d < zi_n_devices; d++) {
        const zi_device_ops *device = zi_devices[d];
        if (device->on_host || !device_is_here(device))
            continue;
        h_result plain = run_on(problem, device->name, "none", n_ranks);
        h_result got = run_on(problem, device->name, "cpu", n_ranks);
        snprintf(what, sizeof what, "%s offloaded from %s, %d ranks", name, device->name, n_ranks);
        h_compare(&want, &got, what);
        h_compare(&plain, &got, what);
        h_free(&plain);
        h_free(&got);
    }
    h_free(&want);
}

/* _i / 2: the case; _i % 2: the ranks. Slots: one, which comes down as it is; several; more than
 * ranks; and by groups, whose sum does. */
START_TEST(every_optimizer_has_the_bits_of_no_offload)
{
    static const int slots[] = {1, 2, 5, 4};
    int i = _i / 2, n_ranks = 1 + _i % 2;
    const optimizer_case *c = &optimizer_cases[i];
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(i % 3), i % 5 == 0);
    case_use(c, &problem);
    problem.options.slots = slots[i % 4];
    problem.options.reduce_group = i % 4 == 3 ? 2 : 1;
    problem.options.bucket_elems = i % 7 == 6 ? 0 : 700;
    problem.options.clip_norm = i % 2 ? 0.5 : 0;
    problem.options.check_overflow = i % 3 == 1 ? 0 : -1;
    problem.options.shared_params = i % 4 == 2;
    compare(&problem, c->name, n_ranks);
}
END_TEST

/* Three ranks, groups that go on from one micro-step to the next, tensors that stay away. */
static int is_absent(int step, int slot, int tensor)
{
    return (step + slot + tensor) % 4 == 0;
}

START_TEST(groups_that_span_micro_steps_have_the_bits_of_no_offload)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_BF16, 1);
    problem.options.slots = 7;
    problem.options.reduce_group = 2;
    problem.options.bucket_elems = 700;
    problem.absent = is_absent;
    compare(&problem, "groups", 3);
}
END_TEST

static void freeze_group_1(h_problem *problem)
{
    problem->group_setting[1][0] = (zopt_setting){"frozen", 1, NULL};
}

/* Master weights that are set when the run stands: of frozen and of trained tensors. */
static void set_some(zopt *z)
{
    float values[100];
    for (int i = 0; i < 100; i++)
        values[i] = h_start_value(99, (uint64_t)i);
    for (int tensor = 2; tensor < 6; tensor++)
        if (zopt_set_master(z, tensor, 50, 100, values) != ZOPT_OK)
            abort();
}

START_TEST(weights_that_are_set_and_frozen_ones_have_the_bits_of_no_offload)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    freeze_group_1(&problem);
    problem.adjust = set_some;
    problem.options.check_params_every = 2;
    problem.options.bucket_elems = 700;
    problem.options.shared_params = _i;
    compare(&problem, "set", 2);
}
END_TEST

START_TEST(overflows_are_skipped_and_found_as_without_offload)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.options.dynamic_loss_scale = 1;
    problem.options.loss_scale = 256;
    problem.options.optimizer = _i ? "Adafactor" : "AdamW";
    problem.options.bucket_elems = 700;
    problem.options.slots = 2 + _i;
    problem.grad = h_overflow_grad;
    compare(&problem, "overflow", 1 + _i);
}
END_TEST

/* ---- memory ---- */

typedef struct counted {
    h_problem *problem;
    zopt_memory_usage all[3], device[3]; /* by rank */
} counted;

static void run_and_count(int rank, zopt_threads *threads, void *arg)
{
    counted *c = arg;
    zopt_options options = c->problem->options;
    zopt *z;
    options.transport = "threads";
    options.threads = threads;
    options.threads_rank = rank;
    if (h_create(c->problem, &options, &z) != ZOPT_OK || h_step(c->problem, z, 1) != ZOPT_OK ||
        zopt_memory(z, &c->all[rank]) != ZOPT_OK ||
        zopt_device_memory(z, &c->device[rank]) != ZOPT_OK)
        abort();
    zopt_destroy(z);
}

static void compare_usage(const zopt_memory_usage *planned, const zopt_memory_usage *run)
{
    ck_assert_int_eq(planned->n, run->n);
    for (int i = 0; i < run->n; i++)
        ck_assert_msg(planned->category[i].peak_bytes == run->category[i].peak_bytes,
                      "%s: planned %" PRIu64 ", counted %" PRIu64, run->category[i].name,
                      planned->category[i].peak_bytes, run->category[i].peak_bytes);
    ck_assert_uint_eq(planned->total_peak_bytes, run->total_peak_bytes);
}

static uint64_t bytes_of(const zopt_memory_usage *usage, const char *name)
{
    for (int i = 0; i < usage->n; i++)
        if (strcmp(usage->category[i].name, name) == 0)
            return usage->category[i].bytes;
    ck_abort_msg("no category %s", name);
    return 0;
}

/* What lies where, of AdamW; the largest slice has 1024 elements, of 2 bytes. */
static void check_places(const zopt_memory_usage *all, const zopt_memory_usage *device, int slots)
{
    static const char *const on_device[] = {"params", "grads", "grad_accum"};
    static const char *const on_host[] = {"master", "exp_avg", "exp_avg_sq"};
    uint64_t sum = slots > 1 ? 4 * 1024 : 0, row = (slots > 1 ? 4 : 2) * 1024 + 2 * 1024;
    for (size_t i = 0; i < sizeof on_device / sizeof on_device[0]; i++)
        ck_assert_uint_eq(bytes_of(device, on_device[i]), bytes_of(all, on_device[i]));
    for (size_t i = 0; i < sizeof on_host / sizeof on_host[0]; i++) {
        ck_assert_uint_gt(bytes_of(all, on_host[i]), 0);
        ck_assert_uint_eq(bytes_of(device, on_host[i]), 0);
    }
    ck_assert_uint_eq(bytes_of(device, "staging"), sum);
    ck_assert_uint_eq(bytes_of(all, "staging"), sum + 2 * row);
    ck_assert_uint_lt(bytes_of(device, "tables"), 1000);
}

static void plan_rank(h_problem *problem, int rank, int world, zopt_memory_usage *all,
                      zopt_memory_usage *device)
{
    zopt *z;
    zopt_options options = problem->options;
    options.transport = "threads";
    options.plan_world = world;
    options.plan_rank = rank;
    ck_assert_int_eq(h_create(problem, &options, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_memory(z, all), ZOPT_OK);
    ck_assert_int_eq(zopt_device_memory(z, device), ZOPT_OK);
    zopt_destroy(z);
}

/* _i / 3: the optimizer; _i % 3: slots of two ranks. */
START_TEST(memory_planned_is_memory_counted_on_each_side)
{
    static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Adafactor"};
    static const int slots[] = {1, 2, 3};
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = optimizers[_i / 3];
    problem.options.offload_optimizer = "cpu";
    problem.options.bucket_elems = 2048;
    problem.options.slots = slots[_i % 3];
    for (size_t d = 0; d < zi_n_devices; d++) {
        counted run = {.problem = &problem};
        if (zi_devices[d]->on_host || !device_is_here(zi_devices[d]))
            continue;
        problem.options.device = zi_devices[d]->name;
        h_on_threads(2, run_and_count, &run);
        for (int rank = 0; rank < 2; rank++) {
            zopt_memory_usage all, device;
            plan_rank(&problem, rank, 2, &all, &device);
            compare_usage(&all, &run.all[rank]);
            compare_usage(&device, &run.device[rank]);
            if (_i / 3 == 0)
                check_places(&run.all[rank], &run.device[rank], slots[_i % 3]);
        }
    }
}
END_TEST

/* ---- refusals ---- */

static void refused(const char *device, const char *offload, zopt_status want, const char *text)
{
    zopt *z;
    zopt_options options;
    zopt_options_init(&options);
    options.device = device;
    options.offload_optimizer = offload;
    options.plan_world = 1; /* where no device need be */
    ck_assert_int_eq(zopt_create(&options, &z), want);
    ck_assert_ptr_null(z);
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
}

START_TEST(what_cannot_be_offloaded_is_refused_by_name)
{
    refused("cpu", "cpu", ZOPT_ERR_CONFIG, "nothing to offload from device 'cpu'");
    refused("auto", "cpu", ZOPT_ERR_CONFIG, "nothing to offload from device 'cpu'");
    refused("cpu", "nvme", ZOPT_ERR_UNSUPPORTED, "offload_optimizer 'nvme' is not available");
    refused("cpu", "ram", ZOPT_ERR_CONFIG, "unknown offload_optimizer 'ram'");
}
END_TEST

START_TEST(a_progress_thread_is_refused_as_on_the_device_alone)
{
    for (size_t d = 0; d < zi_n_devices; d++) {
        zopt *z;
        zopt_options options;
        if (zi_devices[d]->on_host || !device_is_here(zi_devices[d]))
            continue;
        zopt_options_init(&options);
        options.transport = "self";
        options.device = zi_devices[d]->name;
        options.offload_optimizer = "cpu";
        options.progress_thread = 1;
        ck_assert_int_eq(zopt_create(&options, &z), ZOPT_ERR_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), "progress_thread"));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("offload");
    TCase *tcase = tcase_create("offload");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, every_optimizer_has_the_bits_of_no_offload, 0,
                        2 * N_OPTIMIZER_CASES);
    tcase_add_test(tcase, groups_that_span_micro_steps_have_the_bits_of_no_offload);
    tcase_add_loop_test(tcase, weights_that_are_set_and_frozen_ones_have_the_bits_of_no_offload, 0,
                        2);
    tcase_add_loop_test(tcase, overflows_are_skipped_and_found_as_without_offload, 0, 2);
    tcase_add_loop_test(tcase, memory_planned_is_memory_counted_on_each_side, 0, 9);
    tcase_add_test(tcase, what_cannot_be_offloaded_is_refused_by_name);
    tcase_add_test(tcase, a_progress_thread_is_refused_as_on_the_device_alone);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
