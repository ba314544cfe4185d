/* Traces of ranks that are processes: one file of all, over messages and over shared memory, on the
 * host and, with the shim, on GPUs. Run with mpirun -n 4. */
#include <mpi.h>
#include <zopt/zopt_mpi.h>

#include "trace_run.h"

enum { N_STEPS = 5 };

static int job_rank;

static const struct {
    const char *device, *transport;
    int n_micro, nodes_of;
} cases[] = {
    {"cpu", "mpi", 1, 0},  {"cpu", "mpi", 2, 0},  {"cpu", "shm", 2, 0},  {"cpu", "shm", 1, 2},
    {"cuda", "mpi", 1, 0}, {"cuda", "ipc", 1, 0}, {"cuda", "ipc", 2, 0},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

START_TEST(ranks_write_one_file)
{
    char path[64];
    h_problem problem;
    trace_want want;
    zopt *z;
    int world, is_gpu = strcmp(cases[_i].device, "cuda") == 0;
    const zi_device_ops *device = zi_device_row(cases[_i].device);
    if (device == NULL || device->missing() != NULL) {
        ck_assert(is_gpu && getenv("ZOPT_REQUIRE_GPU") == NULL);
        return;
    }
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (job_rank == 0)
        trace_name(path);
    MPI_Bcast(path, sizeof path, MPI_CHAR, 0, MPI_COMM_WORLD);
    trace_problem(&problem, world * cases[_i].n_micro);
    problem.options.device = cases[_i].device;
    problem.options.transport = cases[_i].transport;
    problem.options.ranks_per_node = cases[_i].nodes_of;
    zopt_options_set_comm(&problem.options, MPI_COMM_WORLD);
    ck_assert_msg(h_create(&problem, &problem.options, &z) == ZOPT_OK, "%s", zopt_last_error());
    trace_steps(&problem, z, path, N_STEPS, &want);
    zopt_destroy(z);
    MPI_Barrier(MPI_COMM_WORLD);
    ck_assert_int_ge(want.n_early, 5);
    if (job_rank > 0)
        return;
    trace_check(path, &want);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    Suite *suite = suite_create("trace over mpi");
    TCase *tcase = tcase_create("mpi");
    tcase_add_loop_test(tcase, ranks_write_one_file, 0, N_CASES);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, job_rank == 0 ? CK_NORMAL : CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (failed)
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
    return 0;
}
