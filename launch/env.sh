# shellcheck shell=bash
# Sourced before mpirun: lets Open MPI run as root, on more ranks than cores, and in containers.
# Each line sets only what you have not set yourself.

# Open MPI refuses root unless told twice; in a container root is the usual user.
export OMPI_ALLOW_RUN_AS_ROOT="${OMPI_ALLOW_RUN_AS_ROOT-1}"
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM-1}"

# More ranks than cores: allowed, and a rank that waits gives its core away.
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe-1}"
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle-1}"

# Not bound to cores: two jobs on one machine would be bound to the same ones.
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy-none}"

# One host: shared memory alone, so that ranks do not listen on the network. Several hosts: unset,
# or set OMPI_MCA_btl yourself.
if [ "${SLURM_JOB_NUM_NODES:-1}" = 1 ] && [ -z "${OMPI_MCA_orte_default_hostfile:-}" ]; then
    export OMPI_MCA_btl="${OMPI_MCA_btl-self,vader}"
fi

# A container that filters system calls may refuse process_vm_readv, which Open MPI finds out only
# when a copy fails ("Read -1, expected N"): there messages are copied twice, through shared memory.
if { [ -e /.dockerenv ] || [ -e /run/.containerenv ]; } &&
    ! grep -qs '^Seccomp:[[:space:]]*0' /proc/self/status; then
    export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism-none}"
fi

# Open MPI's own crash handler can hang where the heap is damaged: let the signal end the rank.
export OMPI_MCA_opal_signal="${OMPI_MCA_opal_signal-}"

# One thread of OpenBLAS for each rank.
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS-1}"
