/* Master weights and states on the host, gradients and parameters on every device that is not, over
 * transports mpi and ipc: every optimizer, against one rank alone on the CPU, bit for bit. Run with
 * mpirun -n 2. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "mpi_main.h"
#include "on_devices.h"
#include "optimizer_cases.h"

static int job_rank;

/* _i / 2: the case; _i % 2: the transport. Slots: one, of rank 0; one each; more than ranks; and by
 * groups. */
START_TEST(offload_gives_the_cpus_bits)
{
    static const int slots[] = {1, 2, 3, 4};
    const int i = _i / 2;
    const optimizer_case *c = &optimizer_cases[i];
    h_problem problem;
    h_result want, got;
    char what[96];
    h_uneven(&problem, (zopt_dtype)(i % 3), i % 5 == 0);
    case_use(c, &problem);
    problem.n_steps = 3;
    problem.options.slots = slots[i % 4];
    problem.options.reduce_group = i % 4 == 3 ? 2 : 1;
    problem.options.bucket_elems = i % 2 ? 700 : 0;
    problem.options.clip_norm = i % 2 ? 0 : 0.5;
    problem.options.transport = "self";
    problem.options.device = "cpu";
    h_run_one(&problem, &problem.options, &want);
    for (size_t d = 0; d < zi_n_devices; d++) {
        if (zi_devices[d]->on_host || !device_is_here(zi_devices[d]))
            continue;
        problem.options.transport = _i % 2 ? "ipc" : "mpi";
        problem.options.device = zi_devices[d]->name;
        problem.options.offload_optimizer = "cpu";
        h_run_one(&problem, &problem.options, &got);
        snprintf(what, sizeof what, "%s offloaded from %s over %s, rank %d", c->name,
                 zi_devices[d]->name, problem.options.transport, job_rank);
        h_compare(&want, &got, what);
        h_free(&got);
    }
    h_free(&want);
}
END_TEST

START_TEST(ranks_that_do_not_offload_alike_are_told)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    for (size_t d = 0; d < zi_n_devices; d++) {
        if (zi_devices[d]->on_host || !device_is_here(zi_devices[d]))
            continue;
        problem.options.transport = "mpi";
        problem.options.device = zi_devices[d]->name;
        problem.options.offload_optimizer = job_rank == 1 ? "cpu" : "none";
        ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_ERR_DISAGREE);
        ck_assert_msg(strstr(zopt_last_error(), "state on cpu") != NULL, "%s", zopt_last_error());
    }
}
END_TEST

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    Suite *suite = suite_create("offload over mpi");
    TCase *tests = tcase_create("mpi");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, offload_gives_the_cpus_bits, 0, 2 * N_OPTIMIZER_CASES);
    tcase_add_test(tests, ranks_that_do_not_offload_alike_are_told);
    suite_add_tcase(suite, tests);
    run_on_all_ranks(suite);
    MPI_Finalize();
    return 0;
}
