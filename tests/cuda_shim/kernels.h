/* Between the shim's streams and its kernels. */
#ifndef TESTS_CUDA_SHIM_KERNELS_H
#define TESTS_CUDA_SHIM_KERNELS_H

#include "device/cuda.h"

/* A kernel that is given the host's memory ends the test. */
void shim_check_addresses(const zi_cuda_launch *launch);
void shim_run_kernel(const zi_cuda_launch *launch);
/* Another kernel, on a copy of its argument. */
cudaError_t shim_launch(cudaStream_t stream, void (*function)(const void *argument),
                        const void *argument, size_t bytes);

#endif
