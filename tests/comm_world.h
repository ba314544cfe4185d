/* Ranks of an MPI world as the worlds of a suite: smaller ones are made too, and a failure of one
 * rank is every rank's, so that none waits for another that has given up. */
#ifndef TESTS_COMM_WORLD_H
#define TESTS_COMM_WORLD_H

#include <check.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "comm_suite.h"

enum { DEADLINE_MS = 60000 };

typedef void rank_function(const zi_comm_ops *ops, const zi_comm_config *config,
                           suite_failure *failure);

static inline int world_size(void)
{
    int size;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}

static inline void assert_all_passed(const suite_failure *failure)
{
    int rank, failed = failure->text[0] != '\0', any = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (failed)
        fprintf(stderr, "rank %d: %s\n", rank, failure->text);
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    ck_assert_msg(!any, "rank %d: %s", rank, failed ? failure->text : "another rank failed");
}

/* Ranks below `world` are one world, the others another. device: NULL: the host. */
static inline void run_split(const zi_comm_ops *ops, const zi_device_ops *device, int world,
                             rank_function *function)
{
    int rank;
    MPI_Comm part;
    suite_failure failure = {""};
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, rank < world, rank, &part);
    zi_comm_config config = {.has_comm = 1,
                             .comm_f = (int)MPI_Comm_c2f(part),
                             .deadline_ms = DEADLINE_MS,
                             .device = device};
    function(ops, &config, &failure);
    assert_all_passed(&failure);
    MPI_Comm_free(&part);
}

/* A test of pairs: the rest of the ranks, if there are any, do nothing. */
static inline int is_pair(const zi_comm_config *config)
{
    int size;
    MPI_Comm_size(MPI_Comm_f2c((MPI_Fint)config->comm_f), &size);
    return size == 2;
}

static inline const zi_comm_ops *comm_row(const char *name)
{
    for (size_t i = 0; i < zi_n_comms; i++)
        if (strcmp(zi_comms[i]->name, name) == 0)
            return zi_comms[i];
    return NULL;
}

#endif
