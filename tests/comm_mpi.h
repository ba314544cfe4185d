/* The tests of transports mpi and shm, by subject: one program. */
#ifndef TESTS_COMM_MPI_H
#define TESTS_COMM_MPI_H

#include "comm_world.h"

extern const zi_comm_ops *mpi, *shm;

/* _i: the transport, of these two. */
const zi_comm_ops *row(int i);

void add_refusals(TCase *tests);
void add_breaking_tests(TCase *tests);

#endif
