/* The CUDA kernels: what a thread does is in cuda_tile.h, cuda_block.h and cuda_tensor.h; here is
 * what threads do together, and the launches. Compiled with -fmad=false and IEEE division and
 * square root, so that every bit is the CPU's. */
#include "device/cuda_block.h"
#include "device/cuda_step.h"
#include "device/cuda_tensor.h"
#include "optim/settle.h"

namespace
{

/* Lanes combined by halving, as the CPU does: the team's first thread has the result. mask: of the
 * warp's threads, those that come here together. */
__device__ double team_sum(unsigned mask, double lane[ZI_QUAD])
{
    for (int half = ZI_TEAM / 2; half > 0; half /= 2)
        for (int e = 0; e < ZI_QUAD; e++)
            lane[e] += __shfl_down_sync(mask, lane[e], half, ZI_TEAM);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* A thread block's share, so that few additions reach the device's memory. */
struct shared_sum {
    int64_t limb[ZI_EXACT_LIMBS], n_bad;
};

__device__ void add_block(shared_sum *share, double squares)
{
    if (!isfinite(squares)) {
        zi_add_word(&share->n_bad, 1);
    } else if (squares != 0.0) {
        zi_exact_parts parts = zi_exact_split(squares);
        for (int i = 0; i < 3; i++)
            zi_add_word(&share->limb[parts.first + i], parts.part[i]);
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
        double squares = team_sum(0xffffffffu, lane);
        if (has_block && thread == 0)
            add_block(&share, squares);
    }
    __syncthreads();
    if (threadIdx.x < ZI_EXACT_LIMBS && share.limb[threadIdx.x] != 0)
        zi_add_word(&sum->limb[threadIdx.x], share.limb[threadIdx.x]);
    if (threadIdx.x == ZI_EXACT_LIMBS && share.n_bad != 0)
        zi_add_word(n_bad, share.n_bad);
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
        zi_add_word(n_bad, 1);
}

constexpr int WARPS = ZI_CUDA_THREADS / ZI_WARP; /* in a thread block */

/* Two thread blocks at a time: for more, the compiler would spill sums. */
__global__ void __launch_bounds__(ZI_CUDA_THREADS, 2)
    statistics_grid(const __grid_constant__ zi_cuda_job job)
{
    const uint64_t warp = (uint64_t)blockIdx.x * WARPS + threadIdx.x / ZI_WARP;
    if (warp * ZI_WARP_ELEMS < job.n_elems && !job.control->skip)
        zi_grid_sums_thread(&job, warp, threadIdx.x % ZI_WARP);
}

/* A thread block has blocks in a row: what it sums for the tensor of the first, nearly always that
 * of all, is added at its end. */
template <zi_statistics_round round>
__global__ void __launch_bounds__(ZI_CUDA_THREADS, 2)
    statistics_squares(const __grid_constant__ zi_cuda_job job, uint64_t n_each)
{
    if (job.control->skip)
        return;
    __shared__ shared_sum share;
    int64_t *word = share.limb;
    const uint32_t team = threadIdx.x / ZI_TEAM, thread = threadIdx.x % ZI_TEAM;
    const unsigned mask = 0xffu << (threadIdx.x % ZI_WARP - thread);
    const uint64_t first = blockIdx.x * n_each, n_blocks = job.n_elems / ZI_BLOCK;
    const uint64_t end = first + n_each < n_blocks ? first + n_each : n_blocks;
    const zi_tensor_statistics *own = &job.tensor[zi_find_span(&job, first * ZI_BLOCK)->tensor];
    if (threadIdx.x <= ZI_EXACT_LIMBS)
        word[threadIdx.x] = 0;
    __syncthreads();
    for (uint64_t block = first + team; block < end; block += TEAMS)
        for (zi_block_run run = zi_before_block(&job, block); zi_next_in_block(block, &run);) {
            double lane[ZI_QUAD] = {0, 0, 0, 0};
            zi_squares_thread(round, &job, block, &run, thread, lane);
            double squares = team_sum(mask, lane);
            const zi_tensor_statistics *t = &job.tensor[run.span->tensor];
            if (thread == 0)
                add_block(t == own ? &share : (shared_sum *)t->sum, squares);
        }
    __syncthreads();
    if (threadIdx.x <= ZI_EXACT_LIMBS && word[threadIdx.x] != 0)
        zi_add_word(&own->sum[threadIdx.x], word[threadIdx.x]);
}

template <zi_rule rule, int n_states>
__global__ void __launch_bounds__(ZI_CUDA_THREADS) update(const __grid_constant__ zi_cuda_job job)
{
    zi_update_thread(rule, n_states, &job, blockIdx.x, threadIdx.x);
}

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

template <bool is_factored, int n_states>
__global__ void __launch_bounds__(ZI_CUDA_THREADS)
    update_tensors(const __grid_constant__ zi_cuda_job job)
{
    zi_update_tensor_thread(is_factored, n_states, &job, blockIdx.x, threadIdx.x);
}

__global__ void __launch_bounds__(ZI_CUDA_THREADS)
    locate(const __grid_constant__ zi_cuda_job job, const __grid_constant__ zi_search search)
{
    if (*search.n_bad == 0)
        return;
    const uint64_t first = ((uint64_t)blockIdx.x * ZI_CUDA_THREADS + threadIdx.x) * ZI_QUAD;
    for (uint64_t i = first; i < job.n_elems; i += (uint64_t)gridDim.x * ZI_GROUP_PITCH)
        zi_search_thread(&job, &search, i);
}

__global__ void __launch_bounds__(ZI_CUDA_THREADS) decide(const __grid_constant__ zi_decide_job job)
{
    __shared__ int64_t first;
    if (threadIdx.x == 0)
        first = zi_decide_step(&job);
    __syncthreads();
    zi_take_offer_thread(&job, first, threadIdx.x);
}

constexpr int SETTLE_THREADS = 1024;

/* A thread block for each tensor. */
__global__ void __launch_bounds__(SETTLE_THREADS) settle(const __grid_constant__ zi_settle_job job)
{
    zi_tensor_statistics *t = &job.tensor[blockIdx.x];
    const uint32_t lane = threadIdx.x % ZI_WARP;
    if (job.control->skip || t->sum == NULL)
        return;
    const zi_terms *terms = &job.terms[t->group];
    if (job.round == ZI_STATISTICS_MOMENTS) {
        for (uint64_t i = threadIdx.x; i < zi_settle_n_factors(t); i += SETTLE_THREADS)
            zi_settle_factor(terms, t, i);
        __syncthreads();
        for (uint64_t m = threadIdx.x / ZI_WARP; m < t->n_matrices; m += SETTLE_THREADS / ZI_WARP) {
            double sum = zi_settle_lane(t, m, lane);
            for (int half = ZI_WARP / 2; half > 0; half /= 2)
                sum += __shfl_down_sync(0xffffffffu, sum, half, ZI_WARP);
            if (lane == 0)
                zi_settle_mean(terms, t, m, sum);
        }
    }
    if (threadIdx.x == 0)
        zi_settle_scalars(job.round, terms, job.control->scalars[t->group], t);
}

typedef void update_kernel(zi_cuda_job job);

/* n_states: of elements. A thread block takes tile_elems. */
const struct update_row {
    zi_unit unit;
    zi_rule rule;
    int is_factored, n_states;
    update_kernel *kernel;
    uint64_t tile_elems;
} update_rows[] = {
#define ELEMENT_ROW(NAME, function, states) \
    {ZI_UNIT_ELEMENT, ZI_RULE_##NAME, 0, states, update<ZI_RULE_##NAME, states>, ZI_UPDATE_TILE},
#define BLOCK_ROW(NAME, function, states)                                               \
    {ZI_UNIT_BLOCK,   ZI_RULE_##NAME, 0, states, update_blocks<ZI_RULE_##NAME, states>, \
     WARPS * ZI_BLOCK},
#define TENSOR_ROW(is_factored, states)                                                    \
    {ZI_UNIT_TENSOR, (zi_rule)0, is_factored, states, update_tensors<is_factored, states>, \
     ZI_UPDATE_TILE},
    ZI_RULE_LIST(ELEMENT_ROW) ZI_BLOCK_RULE_LIST(BLOCK_ROW) //
    TENSOR_ROW(0, 1) TENSOR_ROW(0, 2) TENSOR_ROW(1, 0) TENSOR_ROW(1, 1)};

template <typename... Parameters>
cudaError_t start_threads(void (*kernel)(Parameters...), uint64_t n_thread_blocks, int n_threads,
                          cudaStream_t stream, Parameters... parameters)
{
    void *pointers[] = {&parameters...};
    return cudaLaunchKernel((const void *)kernel, dim3((unsigned)n_thread_blocks),
                            dim3((unsigned)n_threads), pointers, 0, stream);
}

template <typename... Parameters>
cudaError_t start(void (*kernel)(Parameters...), uint64_t n_thread_blocks, cudaStream_t stream,
                  Parameters... parameters)
{
    return start_threads(kernel, n_thread_blocks, ZI_CUDA_THREADS, stream, parameters...);
}

uint64_t tiles(uint64_t n_elems, uint64_t tile_elems)
{
    return (n_elems + tile_elems - 1) / tile_elems;
}

cudaError_t start_update(cudaStream_t stream, const zi_variant *variant, const zi_cuda_job &job)
{
    for (const update_row &row : update_rows)
        if (row.unit == variant->unit && row.rule == variant->rule &&
            row.is_factored == job.is_factored && row.n_states == job.n_states)
            return start(row.kernel, tiles(job.n_elems, row.tile_elems), stream, job);
    return cudaErrorInvalidDeviceFunction;
}

/* At least one block for each team, and no more thread blocks than run at once. */
cudaError_t start_statistics(cudaStream_t stream, const zi_cuda_launch *launch, uint64_t resident)
{
    const zi_cuda_job &job = launch->job;
    const uint64_t n_blocks = job.n_elems / ZI_BLOCK;
    const uint64_t n_each = tiles(tiles(n_blocks, resident), TEAMS) * TEAMS;
    if (launch->round == ZI_STATISTICS_UPDATE)
        return start(statistics_squares<ZI_STATISTICS_UPDATE>, tiles(n_blocks, n_each), stream, job,
                     n_each);
    cudaError_t error =
        start(statistics_grid, tiles(job.n_elems, (uint64_t)WARPS * ZI_WARP_ELEMS), stream, job);
    if (error != cudaSuccess)
        return error;
    return start(statistics_squares<ZI_STATISTICS_MOMENTS>, tiles(n_blocks, n_each), stream, job,
                 n_each);
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
    case ZI_CUDA_STATISTICS:
        return start_statistics(stream, launch, resident);
    case ZI_CUDA_UPDATE:
        return start_update(stream, launch->variant, job);
    case ZI_CUDA_LOCATE:
        return start(locate, n_tiles < resident ? n_tiles : resident, stream, job, launch->search);
    case ZI_CUDA_DECIDE:
        return start(decide, 1, stream, launch->decide);
    case ZI_CUDA_SETTLE:
        return start_threads(settle, launch->settle.n_tensors, SETTLE_THREADS, stream,
                             launch->settle);
    }
    return cudaErrorInvalidValue;
}
