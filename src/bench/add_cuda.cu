/* Launches of the kernel that only adds: one for each number of arrays that optimizers have. */
#include "bench/add_cuda.h"

namespace
{

template <int n_words, int n_bytes>
__global__ void __launch_bounds__(ZI_CUDA_THREADS) add(const __grid_constant__ bench_add_job job)
{
    bench_add_thread(n_words, n_bytes, &job, blockIdx.x, threadIdx.x);
}

const struct {
    int n_words, n_bytes;
    void (*kernel)(bench_add_job job);
} rows[] = {
    {0, 0, add<0, 0>}, {1, 0, add<1, 0>}, {2, 0, add<2, 0>},
    {3, 0, add<3, 0>}, {4, 0, add<4, 0>}, {1, 2, add<1, 2>},
};

} // namespace

cudaError_t bench_add_launch(cudaStream_t stream, const bench_add_job *job)
{
    const uint64_t n_tiles = (job->n_elems + ZI_UPDATE_TILE - 1) / ZI_UPDATE_TILE;
    bench_add_job copy = *job;
    void *pointers[] = {&copy};
    for (const auto &row : rows)
        if (row.n_words == job->n_words && row.n_bytes == job->n_bytes)
            return cudaLaunchKernel((const void *)row.kernel, dim3((unsigned)n_tiles),
                                    dim3(ZI_CUDA_THREADS), pointers, 0, stream);
    return cudaErrorInvalidDeviceFunction;
}
