/* The CUDA kernels: what a thread does is in cuda_tile.h and cuda_block.h; here is what threads do
 * together, and the launches. Compiled with -fmad=false and IEEE division and square root, so that
 * every bit is the CPU's. */
#include "device/cuda_block.h"

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

constexpr int WARPS = ZI_CUDA_THREADS / ZI_WARP; /* in a thread block */

template <zi_rule rule, int n_states>
__global__ void __launch_bounds__(ZI_CUDA_THREADS)
    update_blocks(const __grid_constant__ zi_cuda_job job)
{
    const uint64_t block = (uint64_t)blockIdx.x * WARPS + threadIdx.x / ZI_WARP;
    const uint32_t thread = threadIdx.x % ZI_WARP;
    zi_block_part part;
    if (block >= job.n_elems / ZI_BLOCK ||
        !zi_update_block_thread(rule, n_states, &job, block, thread, &part))
        return; /* the whole warp */
    for (int s = 0; s < n_states; s++)
        for (int half = ZI_WARP / 2; half > 0; half /= 2)
            part.largest[s] = zi_q8_larger(
                part.largest[s], __shfl_xor_sync(0xffffffffu, part.largest[s], half, ZI_WARP));
    zi_encode_block_thread(n_states, &job, block, thread, &part);
}

typedef void update_kernel(zi_cuda_job job);

/* A thread block takes tile_elems. */
const struct update_row {
    zi_unit unit;
    zi_rule rule;
    update_kernel *kernel;
    uint64_t tile_elems;
} update_rows[] = {
#define ELEMENT_ROW(NAME, function, states) \
    {ZI_UNIT_ELEMENT, ZI_RULE_##NAME, update<ZI_RULE_##NAME, states>, ZI_UPDATE_TILE},
#define BLOCK_ROW(NAME, function, states) \
    {ZI_UNIT_BLOCK, ZI_RULE_##NAME, update_blocks<ZI_RULE_##NAME, states>, WARPS * ZI_BLOCK},
    ZI_RULE_LIST(ELEMENT_ROW) ZI_BLOCK_RULE_LIST(BLOCK_ROW)};

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

cudaError_t start_update(cudaStream_t stream, const zi_variant *variant, const zi_cuda_job &job)
{
    for (const update_row &row : update_rows)
        if (row.unit == variant->unit && row.rule == variant->rule)
            return start(row.kernel, tiles(job.n_elems, row.tile_elems), stream, job);
    return cudaErrorInvalidDeviceFunction;
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
        return start_update(stream, launch->variant, job);
    }
    return cudaErrorInvalidValue;
}
