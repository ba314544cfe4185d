/* What the device cuda says where the machine cannot do it, on a runtime that fails as it is told:
 * no driver, an old one, no GPU, an old GPU, too little memory, a kernel that breaks. Each comes
 * out with its code and CUDA's words, and nothing is left behind. */
#include <stdlib.h>
#include <string.h>

#include "cuda_shim/shim.h"
#include "harness.h"
#include "on_devices.h"

extern const zi_device_ops zi_device_cuda;

static void heal(void)
{
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
    shim = shim_healthy;
}

static void expect_text(const char *part)
{
    ck_assert_msg(strstr(zopt_last_error(), part) != NULL, "'%s' is not in: %s", part,
                  zopt_last_error());
}

static zopt_status create_status(void)
{
    zopt_options options;
    zopt *z;
    zopt_options_init(&options);
    options.device = "cuda";
    zopt_status status = zopt_create(&options, &z);
    zopt_destroy(z);
    return status;
}

START_TEST(a_machine_that_cannot_is_refused_with_its_reason)
{
    static const struct {
        shim_machine machine;
        const char *text;
    } cases[] = {
        {{.n_gpus = 1, .driver_version = 0}, "no NVIDIA driver"},
        {{.n_gpus = 1, .driver_version = 12040},
         "the driver is for CUDA 12.4, zopt was built with 13.0"},
        {{.n_gpus = 0, .driver_version = 13000}, "no GPU, or CUDA_VISIBLE_DEVICES"},
        {{.n_gpus = 1, .driver_version = 13000, .capability_major = 7}, "compute capability 7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        shim = cases[i].machine;
        ck_assert_int_eq(create_status(), ZOPT_ERR_UNSUPPORTED);
        expect_text(cases[i].text);
        heal();
    }
    ck_assert_int_eq(create_status(), ZOPT_OK);
}
END_TEST

static void small_problem(h_problem *problem)
{
    h_uneven(problem, ZOPT_BF16, 0);
    problem->options.device = "cuda";
    problem->options.transport = "self";
    problem->options.slots = 1;
    problem->options.bucket_elems = 1;
}

/* From nothing to all that a run needs: refused before, or in the middle, or fine. */
START_TEST(too_little_memory_is_refused_with_the_numbers_and_freed)
{
    h_problem problem;
    zopt *z;
    int n_fine = 0;
    small_problem(&problem);
    for (size_t bytes = 0; n_fine == 0; bytes += 20000) {
        ck_assert_uint_lt(bytes, 1 << 20);
        shim.memory_bytes = bytes;
        zopt_status status = h_create(&problem, &problem.options, &z);
        n_fine += status == ZOPT_OK;
        ck_assert(status == ZOPT_OK || status == ZOPT_ERR_MEMORY);
        if (status != ZOPT_OK)
            expect_text("GPU");
        zopt_destroy(z);
        ck_assert_uint_eq(shim_bytes_in_use(), 0);
    }
    heal();
}
END_TEST

START_TEST(memory_that_runs_out_names_its_use_and_what_is_free)
{
    zi_queue *queue;
    zi_mem mem = {0};
    void *array;
    shim.memory_bytes = 1000;
    ck_assert_int_eq(zi_device_cuda.open(0, &queue), ZOPT_OK);
    ck_assert_int_eq(zi_device_cuda.alloc(queue, &mem, ZI_MEM_MASTER, 1001, &array),
                     ZOPT_ERR_MEMORY);
    expect_text("master: no memory for 1001 bytes on GPU 0, which has 1000 free");
    expect_text("out of memory");
    ck_assert_ptr_null(array);
    ck_assert_uint_eq(mem.total_bytes, 0);
    zi_device_cuda.close(queue);
    heal();
}
END_TEST

/* _i: which launch breaks. */
START_TEST(a_kernel_that_breaks_fails_the_run_with_cudas_words)
{
    h_problem problem;
    zopt *z;
    small_problem(&problem);
    problem.options.clip_norm = 1;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_eq(h_step(&problem, z, 1), ZOPT_OK);
    shim.fail_at_launch = _i;
    zopt_status status = h_step(&problem, z, 2);
    const void *param;
    if (status == ZOPT_OK) /* the update's failure comes out of the first wait behind it */
        status = zopt_param_acquire(z, 0, &param);
    ck_assert_int_eq(status, ZOPT_ERR_FAILURE);
    expect_text("GPU 0");
    expect_text("illegal memory access");
    zopt_destroy(z);
    heal();
}
END_TEST

/* _i: the optimizer. What a real handle has counted is what a planning one counts, which is one
 * where there is not even a driver. */
START_TEST(a_plan_counts_the_bytes_of_a_gpu_without_one)
{
    static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Adafactor"};
    h_problem problem;
    zopt *real, *plan;
    zopt_memory_usage counted, planned;
    small_problem(&problem);
    problem.options.optimizer = optimizers[_i];
    ck_assert_int_eq(h_create(&problem, &problem.options, &real), ZOPT_OK);
    ck_assert_int_eq(zopt_memory(real, &counted), ZOPT_OK);
    zopt_destroy(real);
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
    shim.driver_version = 0;
    problem.options.plan_world = 1;
    ck_assert_msg(h_create(&problem, &problem.options, &plan) == ZOPT_OK, "%s", zopt_last_error());
    ck_assert_int_eq(zopt_memory(plan, &planned), ZOPT_OK);
    ck_assert_int_eq(planned.n, counted.n);
    for (int c = 0; c < planned.n; c++)
        ck_assert_uint_eq(planned.category[c].peak_bytes, counted.category[c].peak_bytes);
    ck_assert_uint_eq(planned.total_peak_bytes, counted.total_peak_bytes);
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
    zopt_destroy(plan);
    heal();
}
END_TEST

/* Every rank's gradients and the accumulators are one job's sources. */
START_TEST(more_ranks_than_a_kernel_sums_are_refused_with_the_limit)
{
    h_problem problem;
    zopt *z;
    small_problem(&problem);
    problem.options.transport = "threads";
    problem.options.plan_world = 127;
    ck_assert_msg(h_create(&problem, &problem.options, &z) == ZOPT_OK, "%s", zopt_last_error());
    zopt_destroy(z);
    problem.options.plan_world = 128;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_ERR_UNSUPPORTED);
    expect_text("device cuda sums up to 127 ranks at once, not 128");
    zopt_destroy(z);
}
END_TEST

/* And in whoever waits for an event behind it, on another queue too. */
START_TEST(a_job_with_too_many_sources_fails_at_the_wait)
{
    zi_queue *queue, *beside;
    zi_event *event;
    int done = 1;
    zi_mem mem = {0};
    float *array;
    zi_source source[200];
    ck_assert_int_eq(zi_device_cuda.open(5, &queue), ZOPT_OK); /* the sixth rank shares GPU 0 */
    ck_assert_int_eq(zi_device_cuda.alloc(queue, &mem, ZI_MEM_MASTER, 1024, &array), ZOPT_OK);
    for (int i = 0; i < 200; i++)
        source[i] = (zi_source){array, ZOPT_FP32};
    const zi_job job = {.n_elems = ZI_BLOCK, .source = source, .n_sources = 200};
    zi_device_cuda.norm(queue, &job, (zi_exact *)(void *)array, (int64_t *)(void *)array);
    ck_assert_int_eq(zi_device_cuda.wait(queue), ZOPT_ERR_FAILURE);
    expect_text("larger tables");
    ck_assert_int_eq(zi_device_cuda.open_beside(queue, &beside), ZOPT_OK);
    ck_assert_int_eq(zi_device_cuda.event_create(queue, &event), ZOPT_OK);
    zi_device_cuda.event_record(queue, event);
    ck_assert_int_eq(zi_device_cuda.event_query(event, &done), ZOPT_ERR_FAILURE);
    ck_assert_int_eq(done, 0);
    ck_assert_int_eq(zi_device_cuda.event_wait(event), ZOPT_ERR_FAILURE);
    zi_device_cuda.event_await(beside, event);
    ck_assert_int_eq(zi_device_cuda.wait(beside), ZOPT_ERR_FAILURE);
    expect_text("larger tables");
    zi_device_cuda.event_destroy(event);
    zi_device_cuda.close(beside);
    zi_device_cuda.free(queue, &mem, ZI_MEM_MASTER, array, 1024);
    zi_device_cuda.close(queue);
    heal();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_failures");
    TCase *tcase = tcase_create("cuda_failures");
    tcase_add_test(tcase, a_machine_that_cannot_is_refused_with_its_reason);
    tcase_add_test(tcase, too_little_memory_is_refused_with_the_numbers_and_freed);
    tcase_add_test(tcase, memory_that_runs_out_names_its_use_and_what_is_free);
    tcase_add_loop_test(tcase, a_kernel_that_breaks_fails_the_run_with_cudas_words, 1, 12);
    tcase_add_loop_test(tcase, a_plan_counts_the_bytes_of_a_gpu_without_one, 0, 3);
    tcase_add_test(tcase, more_ranks_than_a_kernel_sums_are_refused_with_the_limit);
    tcase_add_test(tcase, a_job_with_too_many_sources_fails_at_the_wait);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
