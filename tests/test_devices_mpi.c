/* Runs over transports mpi (messages staged through host memory) and ipc on every device that is
 * not the CPU, against one rank alone on the CPU, bit for bit. Run with mpirun -n 2, 3 and 4. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "mpi_main.h"
#include "on_devices.h"
#include "optimizer_cases.h"

static int job_rank, job_world;

static void compare_devices(h_problem *problem, const char *transport, const char *name)
{
    h_result want, got;
    char what[96];
    h_run_alone(problem, &want);
    for (size_t d = 0; d < zi_n_devices; d++) {
        const zi_device_ops *device = zi_devices[d];
        if (device->on_host || !device_is_here(device))
            continue;
        problem->options.transport = transport;
        problem->options.device = device->name;
        h_run_one(problem, &problem->options, &got);
        snprintf(what, sizeof what, "%s on %s over %s, rank %d", name, device->name, transport,
                 job_rank);
        h_compare(&want, &got, what);
        h_free(&got);
    }
    h_free(&want);
}

/* _i: dtype; slots and buckets go with it. */
START_TEST(mpi_on_a_device_gives_the_cpus_bits)
{
    static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Adafactor"};
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)_i, 1);
    problem.options.optimizer = optimizers[_i];
    problem.options.clip_norm = _i == 1 ? 0 : 0.5;
    problem.options.slots = 2 + 2 * _i; /* fewer than ranks, more, and as many again */
    problem.options.bucket_elems = _i == 2 ? 0 : 700;
    compare_devices(&problem, "mpi", optimizers[_i]);
}
END_TEST

/* Every optimizer; dtypes, slots, buckets, clipping and shared parameters go with the case. */
START_TEST(ipc_gives_the_cpus_bits)
{
    const optimizer_case *c = &optimizer_cases[_i];
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 3), _i % 4 == 0);
    case_use(c, &problem);
    problem.options.clip_norm = _i % 2 ? 0.5 : 0;
    problem.options.check_overflow = _i % 5 == 0 ? 0 : -1;
    problem.options.slots = 1 + _i % 6;
    problem.options.bucket_elems = _i % 3 == 2 ? 0 : 700;
    problem.options.shared_params = _i % 4 == 3;
    problem.options.reduce_group = 1 + _i % 2;
    compare_devices(&problem, "ipc", c->name);
}
END_TEST

/* Nodes of two ranks; the same with groups of slots, whose sums travel where they are FP32. */
START_TEST(ipc_over_nodes_gives_the_cpus_bits)
{
    const optimizer_case *c = &optimizer_cases[_i];
    h_problem problem;
    if (job_world % 2 != 0 || job_world == 2)
        return;
    h_uneven(&problem, (zopt_dtype)(_i % 3), _i % 4 == 0);
    case_use(c, &problem);
    problem.options.clip_norm = _i % 2 ? 0.5 : 0;
    problem.options.slots = 1 + _i % 7;
    problem.options.bucket_elems = _i % 3 == 1 ? 0 : 700;
    problem.options.shared_params = _i % 4 == 1;
    problem.options.reduce_group = 1 + _i % 2;
    problem.options.ranks_per_node = 2;
    compare_devices(&problem, "ipc", c->name);
}
END_TEST

START_TEST(overflows_are_found_as_on_the_cpu)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.dynamic_loss_scale = 1;
    problem.options.optimizer = "AdamW";
    problem.options.bucket_elems = 700;
    problem.grad = h_overflow_grad;
    compare_devices(&problem, _i ? "ipc" : "mpi", "overflow");
}
END_TEST

/* Rank 1's options are read no further than to what is wrong, and it must meet the others all the
 * same: the device that "auto" looks at is its own too. */
START_TEST(one_ranks_bad_option_is_told_to_all_whatever_the_device)
{
    for (size_t d = 0; d < zi_n_devices; d++) {
        zopt_options options;
        zopt *z;
        if (!device_is_here(zi_devices[d]))
            continue;
        zopt_options_init(&options);
        options.device = zi_devices[d]->name;
        options.deadline_ms = 20000;
        if (job_rank == 1)
            options.loss_scale = 3;
        ck_assert_int_eq(zopt_create(&options, &z), ZOPT_ERR_CONFIG);
        ck_assert_msg(strstr(zopt_last_error(), "loss_scale") != NULL, "%s", zopt_last_error());
    }
}
END_TEST

START_TEST(shm_refuses_a_devices_memory_by_name)
{
    zopt_options options;
    zopt *z;
    for (size_t d = 0; d < zi_n_devices; d++) {
        if (zi_devices[d]->on_host || !device_is_here(zi_devices[d]))
            continue;
        zopt_options_init(&options);
        options.transport = "shm";
        options.device = zi_devices[d]->name;
        ck_assert_int_eq(zopt_create(&options, &z), ZOPT_ERR_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), "shm"));
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), zi_devices[d]->name));
    }
}
END_TEST

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &job_world);
    Suite *suite = suite_create("devices over mpi");
    TCase *tests = tcase_create("mpi");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, mpi_on_a_device_gives_the_cpus_bits, 0, 3);
    tcase_add_loop_test(tests, ipc_gives_the_cpus_bits, 0, N_OPTIMIZER_CASES);
    tcase_add_loop_test(tests, ipc_over_nodes_gives_the_cpus_bits, 0, N_OPTIMIZER_CASES);
    tcase_add_loop_test(tests, overflows_are_found_as_on_the_cpu, 0, 2);
    tcase_add_test(tests, one_ranks_bad_option_is_told_to_all_whatever_the_device);
    tcase_add_test(tests, shm_refuses_a_devices_memory_by_name);
    suite_add_tcase(suite, tests);
    run_on_all_ranks(suite);
    MPI_Finalize();
    return 0;
}
