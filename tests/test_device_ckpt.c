/* Checkpoints of runs on every device that is not the CPU, with the state there or offloaded: the
 * CPU's files, byte for byte, that either goes on from to the other's bits. With states of
 * elements, in 8 bits, and of rows and columns, which lie on the host. */
#include "on_devices.h" /* whose rules have names that ckpt_runs.h makes global */

#include "ckpt_runs.h"

enum { N_RANKS = 2 };

static const char *offload; /* of the test under way */

static h_result run(h_problem *problem, const char *device, const char *load, const char *dir,
                    int last_step)
{
    job j = {.problem = problem, .load = load, .dir = dir, .save_every = 3, .last_step = last_step};
    problem->options.device = device;
    problem->options.offload_optimizer = strcmp(device, "cpu") == 0 ? "none" : offload;
    return result_of(&j, N_RANKS);
}

/* On the device from the CPU's step 3, and on the CPU from the device's. */
static void check(const zi_device_ops *device, h_problem *problem)
{
    const char *at_3 = "step-00000003", *at_6 = "step-00000006";
    char cpu[256], there[256], a[512], b[512];
    snprintf(cpu, sizeof cpu, "%s/cpu-%s", root, device->name);
    snprintf(there, sizeof there, "%s/%s", root, device->name);
    h_result want = run(problem, "cpu", NULL, cpu, 6);
    snprintf(a, sizeof a, "%s/%s", cpu, at_3);
    h_result got = run(problem, device->name, a, there, 6);
    h_compare(&want, &got, "on a device from the CPU's files");
    h_free(&got);
    snprintf(a, sizeof a, "%s/%s", cpu, at_6);
    snprintf(b, sizeof b, "%s/%s", there, at_6);
    same_files(a, b);

    h_result whole = run(problem, device->name, NULL, there, 3);
    h_free(&whole);
    snprintf(a, sizeof a, "%s/%s", cpu, at_3);
    snprintf(b, sizeof b, "%s/%s", there, at_3);
    same_files(a, b);
    got = run(problem, "cpu", b, cpu, 6);
    h_compare(&want, &got, "on the CPU from a device's files");
    h_free(&got);
    h_free(&want);
}

/* _i / 2: the optimizer; _i % 2: where the state lies. */
START_TEST(files_of_a_device_are_the_cpus)
{
    static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Adafactor"};
    static const zopt_setting first_moment = {"beta1", 0.9, NULL};
    h_problem problem;
    make_problem(&problem);
    problem.options.optimizer = optimizers[_i / 2];
    problem.options.async_save = _i == 3;
    offload = _i % 2 ? "cpu" : "none";
    problem.options.settings = &first_moment;
    problem.options.n_settings = 1;
    for (size_t d = 0; d < zi_n_devices; d++)
        if (!zi_devices[d]->on_host && device_is_here(zi_devices[d]))
            check(zi_devices[d], &problem);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_ckpt");
    TCase *tcase = tcase_create("device_ckpt");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_loop_test(tcase, files_of_a_device_are_the_cpus, 0, 6);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
