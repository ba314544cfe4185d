/* The end of a Check program under mpirun: where a rank's test fails the others wait for it, so
 * that the job must end. */
#ifndef TESTS_MPI_MAIN_H
#define TESTS_MPI_MAIN_H

#include <check.h>
#include <mpi.h>

/* Run it without output but rank 0's. */
static inline void run_on_all_ranks(Suite *suite)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, rank == 0 ? CK_NORMAL : CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (failed)
        MPI_Abort(MPI_COMM_WORLD, 1);
}

#endif
