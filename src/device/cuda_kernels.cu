/* The CUDA kernels: what a thread does is in cuda_tile.h; here is what threads do together, and the
 * launches. Compiled with -fmad=false and IEEE division and square root, so that every bit is the
 * CPU's. */
#include "device/cuda_tile.h"

namespace
{

/* Lanes combined by halving, as the CPU does: the team's first thread has the result. */
__device__ double team_sum(double lane[ZI_QUAD])
{
    for (int half = ZI_TEAM / 2; half > 0; half /= 2)
        for (int e = 0; e < ZI_QUAD; e++)
            lane[e] += __shfl_down_sync(0xffffffffu, lane[e], half, ZI_TEAM);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

__device__ void add_word(int64_t *to, int64_t value)
{
    atomicAdd((unsigned long long *)to, (unsigned long long)value);
}

/* A thread block's share, so that few additions reach the device's memory. */
struct shared_sum {
    int64_t limb[ZI_EXACT_LIMBS], n_bad;
};

__device__ void add_block(shared_sum *share, double squares)
{
    if (!isfinite(squares)) {
        add_word(&share->n_bad, 1);
    } else if (squares != 0.0) {
        zi_exact_parts parts = zi_exact_split(squares);
        for (int i = 0; i < 3; i++)
            add_word(&share->limb[parts.first + i], parts.part[i]);
    }
}

constexpr int TEAMS = ZI_CUDA_THREADS / ZI_TEAM; /* in a thread block */

__global__ void __launch_bounds__(ZI_CUDA_THREADS)
    norm(const __grid_constant__ zi_cuda_job job, zi_exact *sum, int64_t *n_bad)
{
    __shared__ shared_sum share;
    const uint64_t n_blocks = job.n_elems / ZI_BLOCK;
    const uint32_t team = threadIdx.x / ZI_TEAM, thread = threadIdx.x % ZI_TEAM;
    for (uint32_t i = threadIdx.x; i < sizeof share / sizeof(int64_t); i += ZI_CUDA_THREADS)
        ((int64_t *)&share)[i] = 0;
    __syncthreads();
    for (uint64_t first = (uint64_t)blockIdx.x * TEAMS; first < n_blocks;
         first += (uint64_t)gridDim.x * TEAMS) {
        double lane[ZI_QUAD] = {0, 0, 0, 0};
        bool has_block = first + team < n_blocks;
        if (has_block)
            zi_norm_thread(&job, first + team, thread, lane);
        double squares = team_sum(lane);
        if (has_block && thread == 0)
            add_block(&share, squares);
    }
    __syncthreads();
    if (threadIdx.x < ZI_EXACT_LIMBS && share.limb[threadIdx.x] != 0)
        add_word(&sum->limb[threadIdx.x], share.limb[threadIdx.x]);
    if (threadIdx.x == ZI_EXACT_LIMBS && share.n_bad != 0)
        add_word(n_bad, share.n_bad);
}

__global__ void __launch_bounds__(ZI_CUDA_THREADS)
    accumulate(const __grid_constant__ zi_cuda_job job, float *acc, int64_t *n_bad)
{
    const uint64_t block = (uint64_t)blockIdx.x * TEAMS + threadIdx.x / ZI_TEAM;
    const uint32_t thread = threadIdx.x % ZI_TEAM;
    int bad = 0;
    if (block < job.n_elems / ZI_BLOCK)
        bad = zi_accumulate_thread(&job, block, thread, acc);
    for (int half = ZI_TEAM / 2; half > 0; half /= 2)
        bad |= __shfl_down_sync(0xffffffffu, bad, half, ZI_TEAM);
    if (thread == 0 && bad)
        add_word(n_bad, 1);
}

template <zi_rule rule, int n_states>
__global__ void __launch_bounds__(ZI_CUDA_THREADS) update(const __grid_constant__ zi_cuda_job job)
{
    zi_update_thread(rule, n_states, &job, blockIdx.x, threadIdx.x);
}

typedef void update_kernel(zi_cuda_job job);

update_kernel *const update_of_rule[ZI_N_RULES] = {
#define RULE_ROW(NAME, function, states) update<ZI_RULE_##NAME, states>,
    ZI_RULE_LIST(RULE_ROW)};

template <typename... Parameters>
cudaError_t start(void (*kernel)(Parameters...), uint64_t n_thread_blocks, cudaStream_t stream,
                  Parameters... parameters)
{
    void *pointers[] = {&parameters...};
    return cudaLaunchKernel((const void *)kernel, dim3((unsigned)n_thread_blocks),
                            dim3(ZI_CUDA_THREADS), pointers, 0, stream);
}

uint64_t tiles(uint64_t n_elems, uint64_t tile_elems)
{
    return (n_elems + tile_elems - 1) / tile_elems;
}

} // namespace

cudaError_t zi_cuda_launch_kernel(cudaStream_t stream, const zi_cuda_launch *launch)
{
    const zi_cuda_job &job = launch->job;
    const uint64_t n_tiles = tiles(job.n_elems, (uint64_t)TEAMS * ZI_BLOCK);
    const uint64_t resident = (uint64_t)launch->n_processors * 8;
    switch (launch->kernel) {
    case ZI_CUDA_NORM:
        return start(norm, n_tiles < resident ? n_tiles : resident, stream, job, launch->sum,
                     launch->n_bad);
    case ZI_CUDA_ACCUMULATE:
        return start(accumulate, n_tiles, stream, job, launch->acc, launch->n_bad);
    case ZI_CUDA_UPDATE:
        return start(update_of_rule[launch->variant->rule], tiles(job.n_elems, ZI_UPDATE_TILE),
                     stream, job);
    }
    return cudaErrorInvalidValue;
}
