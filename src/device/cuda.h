/* The CUDA device's kernels: cuda.c makes a launch of each call and cuda_kernels.cu puts it on the
 * stream. Tests put a runtime and a launcher of their own in the place of CUDA's, so that all but
 * the few lines of cuda_kernels.cu runs without a GPU. */
#ifndef ZI_DEVICE_CUDA_H
#define ZI_DEVICE_CUDA_H

#include <cuda_runtime_api.h>

#include "device/device.h"

enum { ZI_CUDA_MAX_TABLE = 128 }; /* sources, and destinations, of a job: they travel by value */

/* A job with its tables inside. All addresses are the device's. States are those of elements alone;
 * those of rows and columns are in the tensors' statistics. */
typedef struct zi_cuda_job {
    uint64_t n_elems;
    uint64_t start;
    uint64_t n_spans;
    int n_sources, n_dests;
    float *master;
    zi_state_slice state[ZI_MAX_STATES];
    zi_form form[ZI_MAX_STATES];
    int n_states;
    int is_factored; /* the variant has rows and columns */
    const zi_span *span;
    const zi_control *control;
    const zi_tensor_statistics *tensor;
    zi_source source[ZI_CUDA_MAX_TABLE];
    zi_dest dest[ZI_CUDA_MAX_TABLE];
} zi_cuda_job;

typedef enum zi_cuda_kernel {
    ZI_CUDA_ACCUMULATE,
    ZI_CUDA_NORM,
    ZI_CUDA_STATISTICS,
    ZI_CUDA_UPDATE,
    ZI_CUDA_LOCATE,
    ZI_CUDA_DECIDE,
    ZI_CUDA_SETTLE
} zi_cuda_kernel;

typedef struct zi_cuda_launch {
    zi_cuda_kernel kernel;
    zi_cuda_job job;
    float *acc;                /* accumulate */
    zi_exact *sum;             /* norm */
    int64_t *n_bad;            /* both */
    zi_statistics_round round; /* statistics */
    const zi_variant *variant; /* update; on the host */
    zi_search search;          /* locate */
    zi_decide_job decide;      /* decide, which has no other job */
    zi_settle_job settle;      /* settle, which neither has */
    int n_processors;          /* of the device */
} zi_cuda_launch;

#ifdef __cplusplus
extern "C" {
#endif

/* Enqueue on the stream; the launch is copied. */
cudaError_t zi_cuda_launch_kernel(cudaStream_t stream, const zi_cuda_launch *launch);

#ifdef __cplusplus
}
#endif

extern const zi_device_ops zi_device_cuda;

#endif
