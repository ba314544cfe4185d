/* The communicators of nccl.h: ranks exchange bytes through rings in a file that all of them map.
 * Work runs on the streams of the CUDA shim, as they run. Where NCCL would hang or hand out wrong
 * bytes, this one ends the test: host memory, buffers that are received into while they are sent,
 * calls on a communicator that is still in progress, ranks that do not call the same.
 *
 * As with a communicator that does not block: it connects, and does its first work, while it is
 * asked for errors, and what it has not begun by then is not on its stream. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim.h"
#include "work.h"

nccl_shim_state nccl_shim;

/* ------------------------------------------------------------------ life --------------------- */

ncclResult_t ncclGetVersion(int *version)
{
    const char *text = getenv("NCCL_SHIM_VERSION");
    *version = text != NULL ? (int)strtol(text, NULL, 10) : NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclRemoteError ? "remote process exited" : "unhandled error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return comm == NULL ? "" : "the shim says so";
}

static shared *map(const char *name)
{
    int file = shm_open(name, O_RDWR | O_CREAT, 0600);
    MUST(file >= 0 && ftruncate(file, sizeof(shared)) == 0);
    void *memory = mmap(NULL, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    MUST(memory != MAP_FAILED);
    close(file);
    return memory;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int n;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/zopt-nccl-%d-%d", (int)getpid(), n++);
    return ncclSuccess;
}

static ncclComm_t join(const char *name, int world, int rank)
{
    ncclComm_t comm = calloc(1, sizeof *comm);
    MUST(comm != NULL && world <= MAX_RANKS && rank >= 0 && rank < world);
    snprintf(comm->name, sizeof comm->name, "%s", name);
    comm->all = map(name);
    comm->rank = rank;
    comm->world = world;
    comm->in_progress = 1;
    MUST(cudaGetDevice(&comm->device) == cudaSuccess);
    MUST(cudaDeviceGetPCIBusId(comm->all->gpu[rank], sizeof comm->all->gpu[rank], comm->device) ==
         cudaSuccess);
    atomic_fetch_add(&comm->all->n_joined, 1);
    nccl_shim.n_begun++;
    return comm;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int world, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    MUST(config->blocking == 0);
    nccl_shim.n_zero_ctas += config->CTAPolicy == NCCL_CTA_POLICY_ZERO;
    *comm = join(id.internal, world, rank);
    return ncclInProgress;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *out,
                           ncclConfig_t *config)
{
    char name[128];
    MUST(color == 0 && key == comm->rank && config->blocking == 0 && comm->in_progress == 0);
    snprintf(name, sizeof name, "%.100s-%d", comm->name, comm->n_splits++);
    *out = join(name, comm->world, comm->rank);
    return ncclInProgress;
}

static int two_share_a_gpu(const ncclComm_t comm)
{
    for (int a = 0; a < comm->world; a++)
        for (int b = 0; b < a; b++)
            if (strcmp(comm->all->gpu[a], comm->all->gpu[b]) == 0)
                return 1;
    return 0;
}

/* What NCCL's own threads do meanwhile. */
static void go_on(ncclComm_t comm)
{
    shared *all = comm->all;
    if (comm->in_progress == 1 && atomic_load(&all->n_joined) == comm->world) {
        MUST(!two_share_a_gpu(comm));
        shm_unlink(comm->name);
        comm->in_progress = 0;
    } else if (comm->in_progress == 2) {
        comm->in_progress = 0;
        work_post(comm->first);
    } else if (comm->in_progress == 3 && atomic_load(&all->n_finalized) == comm->world) {
        comm->in_progress = 0;
    }
    for (int r = 0; r < comm->world; r++)
        if (atomic_load(&all->is_dead[r]) && r != comm->rank)
            comm->error = ncclRemoteError;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    MUST(!comm->is_aborted);
    go_on(comm);
    shim_push();
    if (nccl_shim.fail > 0 && --nccl_shim.fail == 0)
        comm->error = nccl_shim.fail_as != ncclSuccess ? nccl_shim.fail_as : ncclSystemError;
    *state = comm->error != ncclSuccess ? comm->error
             : comm->in_progress        ? ncclInProgress
                                        : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    MUST(!comm->in_progress && comm->n_done == comm->n_posted && comm->n_graphs == 0);
    MUST(comm->n_registered == 0 && comm->windows == NULL);
    comm->in_progress = 3;
    atomic_fetch_add(&comm->all->n_finalized, 1);
    return ncclInProgress;
}

/* Memory of a communicator with unfinished work stays. */
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    MUST(!comm->in_progress && atomic_load(&comm->all->n_finalized) == comm->world);
    munmap(comm->all, sizeof *comm->all);
    free(comm);
    nccl_shim.n_destroyed++;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    MUST(!comm->is_aborted && comm->n_graphs == 0); /* it would wait for them for ever */
    MUST(!work_is_captured(comm));
    comm->is_aborted = 1;
    atomic_store(&comm->all->is_dead[comm->rank], 1);
    shm_unlink(comm->name);
    nccl_shim.n_aborted++;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t comm, int *world)
{
    *world = comm->world;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(ncclComm_t comm, int *rank)
{
    *rank = comm->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(ncclComm_t comm, int *device)
{
    *device = comm->device;
    return ncclSuccess;
}

/* ------------------------------------------------------------------ buffers ------------------ */

ncclResult_t ncclCommRegister(ncclComm_t comm, void *data, size_t bytes, void **handle)
{
    MUST(!comm->is_aborted && !comm->in_progress && bytes > 0);
    MUST(shim_is_device(data) && shim_is_device((char *)data + bytes - 1));
    comm->n_registered++;
    nccl_shim.n_registered++;
    *handle = data;
    return ncclSuccess;
}

/* Before its memory is freed. */
ncclResult_t ncclCommDeregister(ncclComm_t comm, void *handle)
{
    MUST(!comm->is_aborted && comm->n_registered > 0 && shim_is_device(handle));
    comm->n_registered--;
    nccl_shim.n_deregistered++;
    return ncclSuccess;
}
