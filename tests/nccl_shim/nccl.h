/* A libnccl.so.2 for tests where there is no GPU: the calls that src/comm/nccl*.c makes, with
 * NCCL's names and numbers, between processes of one machine, on the streams and the memory of
 * tests/cuda_shim. As strict as NCCL, and stricter: see nccl.c. */
#ifndef TESTS_NCCL_H
#define TESTS_NCCL_H

#include <cuda_runtime_api.h>
#include <limits.h>

#define NCCL_VERSION(X, Y, Z) ((X)*10000 + (Y)*100 + (Z))
#define NCCL_VERSION_CODE     NCCL_VERSION(2, 28, 9)
#define NCCL_CONFIG_INITIALIZER \
    {                           \
        INT_MIN, INT_MIN        \
    }
#define NCCL_WIN_COLL_SYMMETRIC 1
#define NCCL_CTA_POLICY_ZERO    2

#pragma GCC visibility push(default)

typedef struct ncclComm *ncclComm_t;
typedef struct ncclUniqueId {
    char internal[128];
} ncclUniqueId;
typedef struct ncclConfig_t {
    int blocking, CTAPolicy;
} ncclConfig_t;
typedef struct ncclWindow *ncclWindow_t;

typedef enum ncclResult_t {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
    ncclInProgress = 7
} ncclResult_t;
typedef enum ncclRedOp_t { ncclSum = 0 } ncclRedOp_t;
typedef enum ncclDataType_t {
    ncclInt8 = 0,
    ncclInt64 = 4,
    ncclFloat16 = 6,
    ncclFloat32 = 7,
    ncclBfloat16 = 9
} ncclDataType_t;

ncclResult_t ncclGetVersion(int *version);
ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
const char *ncclGetErrorString(ncclResult_t result);
const char *ncclGetLastError(ncclComm_t comm);
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int world, ncclUniqueId id, int rank,
                                    ncclConfig_t *config);
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *out,
                           ncclConfig_t *config);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state);
ncclResult_t ncclCommFinalize(ncclComm_t comm);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclCommRegister(ncclComm_t comm, void *data, size_t bytes, void **handle);
ncclResult_t ncclCommDeregister(ncclComm_t comm, void *handle);
ncclResult_t ncclMemAlloc(void **memory, size_t bytes);
ncclResult_t ncclMemFree(void *memory);
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *data, size_t bytes, ncclWindow_t *window,
                                    int flags);
ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window);
ncclResult_t ncclDevCommCreate(ncclComm_t comm, const void *requirements, void *made);
ncclResult_t ncclDevCommDestroy(ncclComm_t comm, const void *made);
ncclResult_t ncclCommCount(ncclComm_t comm, int *world);
ncclResult_t ncclCommUserRank(ncclComm_t comm, int *rank);
ncclResult_t ncclCommCuDevice(ncclComm_t comm, int *device);
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);
ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t dtype, int peer, ncclComm_t comm,
                      cudaStream_t stream);
ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t dtype, int peer, ncclComm_t comm,
                      cudaStream_t stream);
ncclResult_t ncclAllGather(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                           ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclAlltoAll(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                          ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclAllReduce(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);

/* What a test tells it, and asks it. */
typedef struct nccl_shim_state {
    int fail; /* calls of ncclCommGetAsyncError from now on until it says fail_as, or, if
               that is success, ncclSystemError */
    ncclResult_t fail_as;
    /* Captured calls from now on until one fails with that; at once, or when it is asked. */
    int fail_captured, fails_at_once;
    ncclResult_t fail_with;
    int n_graphs; /* calls that graphs keep */
    int n_begun;  /* communicators made, and how they ended */
    int n_destroyed;
    int n_aborted;
    int n_registered, n_deregistered; /* buffers, and windows */
    int no_windows;                   /* 1: GPUs that do not reach each other's memory */
    int n_windowed;                   /* collectives on windows */
    int n_zero_ctas;                  /* communicators of that policy */
    int n_allocated, n_freed;         /* by ncclMemAlloc and ncclMemFree */
} nccl_shim_state;
extern nccl_shim_state nccl_shim;

#pragma GCC visibility pop

#endif
