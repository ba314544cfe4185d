/* Transports mpi and shm give the bits of one rank alone whenever owners make their first passes,
 * with a progress thread that calls MPI too. Run with mpirun -n 5. */
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <zopt/zopt_mpi.h>

#include "comm/mpi_internal.h"
#include "mpi_main.h"
#include "overlap_cases.h"

static int job_rank, job_size;

static void check_part(h_problem *problem, MPI_Comm part, const h_result *want, const char *name)
{
    static const char *const transports[] = {"mpi", "shm"};
    char what[128];
    for (int t = 0; t < 2; t++)
        for (moment when = LATE; when < N_MOMENTS; when++) {
            h_result got;
            set_moment(problem, when);
            zopt_options options = problem->options;
            zopt_options_set_comm(&options, part);
            options.transport = transports[t];
            h_run_one(problem, &options, &got);
            snprintf(what, sizeof what, "%s, %s, rank %d, %s", name, transports[t], job_rank,
                     moment_names[when]);
            h_compare(want, &got, what);
            h_free(&got);
        }
}

START_TEST(no_bit_depends_on_when_buckets_are_summed)
{
    const struct overlap_case *c = &overlap_cases[_i];
    h_problem problem;
    h_result want;
    set_problem(&problem, c);
    set_moment(&problem, LATE);
    zopt_options alone = problem.options;
    alone.transport = "self";
    h_run_one(&problem, &alone, &want);
    for (int world = 1; world <= job_size; world += 2) {
        MPI_Comm part;
        MPI_Comm_split(MPI_COMM_WORLD, job_rank < world ? 0 : MPI_UNDEFINED, job_rank, &part);
        if (job_rank < world) {
            check_part(&problem, part, &want, c->name);
            MPI_Comm_free(&part);
        }
        MPI_Barrier(MPI_COMM_WORLD);
    }
    h_free(&want);
}
END_TEST

/* Behind zopt_step no rank calls anything until all parameters are there. */
START_TEST(parameters_arrive_while_nobody_calls)
{
    h_problem problem;
    zopt *z;
    set_problem(&problem, &overlap_cases[0]);
    set_moment(&problem, THREAD);
    zopt_options options = problem.options;
    zopt_options_set_comm(&options, MPI_COMM_WORLD);
    options.transport = "mpi";
    ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
    ck_assert_int_eq(h_step(&problem, z, 1), ZOPT_OK);
    zi_zero *zero = zi_local_of(z)->zero;
    const zi_mpi *m = (const zi_mpi *)zero->comm;
    uint64_t n = 0;
    while (n < zero->layout.n_exchanged) {
        zi_owner_lock(zero);
        n = m->engine.n_finished[ZI_JOB_GATHER];
        zi_owner_unlock(zero);
        sched_yield();
    }
    zopt_destroy(z);
}
END_TEST

/* The end of a save is looked for in zopt_step, where parameters begin to move. */
START_TEST(saves_end_beside_a_thread_that_moves_messages)
{
    enum { N_SAVES = 4 };
    char dir[64] = "/tmp/zopt-overlap-XXXXXX", command[96];
    h_problem problem;
    zopt *z;
    set_problem(&problem, &overlap_cases[0]);
    set_moment(&problem, THREAD);
    zopt_options options = problem.options;
    zopt_options_set_comm(&options, MPI_COMM_WORLD);
    options.transport = "mpi";
    options.async_save = 1;
    if (job_rank == 0)
        ck_assert_ptr_nonnull(mkdtemp(dir));
    MPI_Bcast(dir, sizeof dir, MPI_BYTE, 0, MPI_COMM_WORLD);
    ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
    for (int step = 1; step <= N_SAVES; step++) {
        ck_assert_int_eq(h_step(&problem, z, 2 * step - 1), ZOPT_OK);
        ck_assert_int_eq(zopt_save(z, dir), ZOPT_OK);
        ck_assert_int_eq(h_step(&problem, z, 2 * step), ZOPT_OK);
    }
    ck_assert_int_eq(zopt_save_wait(z), ZOPT_OK);
    zopt_destroy(z);
    zopt_checkpoint *last;
    if (job_rank == 0) {
        ck_assert_int_eq(zopt_checkpoint_open(dir, &last), ZOPT_OK);
        ck_assert_uint_eq(zopt_checkpoint_step(last), 2 * N_SAVES - 1);
        ck_assert_int_eq(zopt_checkpoint_verify(last), ZOPT_OK);
        zopt_checkpoint_close(last);
        snprintf(command, sizeof command, "rm -rf %s", dir);
        ck_assert_int_eq(system(command), 0);
    }
}
END_TEST

int main(int argc, char **argv)
{
    int level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &job_size);
    if (level != MPI_THREAD_MULTIPLE) {
        printf("SKIP: this MPI has no MPI_THREAD_MULTIPLE\n");
        MPI_Finalize();
        return 0;
    }
    make_late_ops();
    Suite *suite = suite_create("overlap over mpi");
    TCase *tcase = tcase_create("mpi");
    tcase_set_timeout(tcase, 300);
    tcase_add_loop_test(tcase, no_bit_depends_on_when_buckets_are_summed, 0, N_OVERLAP_CASES);
    tcase_add_test(tcase, parameters_arrive_while_nobody_calls);
    tcase_add_test(tcase, saves_end_beside_a_thread_that_moves_messages);
    suite_add_tcase(suite, tcase);
    run_on_all_ranks(suite);
    MPI_Finalize();
    return 0;
}
