/* Pass an MPI_Comm to zopt_create instead of its Fortran handle. The library duplicates it. */
#ifndef ZOPT_ZOPT_MPI_H
#define ZOPT_ZOPT_MPI_H

#include <mpi.h>
#include <zopt/zopt.h>

static inline void zopt_options_set_comm(zopt_options *options, MPI_Comm comm)
{
    options->has_comm = 1;
    options->comm_f = (int)MPI_Comm_c2f(comm);
}

#endif
