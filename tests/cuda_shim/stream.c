/* Streams of the shim, and its launcher: what is enqueued is kept, and runs in order once the
 * stream is waited for. Kernels run thread by thread; what threads of a team do together by
 * shuffles is done here on all of them at once. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda_block.h"
#include "device/cuda_tensor.h"
#include "memory.h"
#include "shim.h"

typedef enum work_kind { COPY, ZERO, KERNEL } work_kind;

typedef struct work {
    struct work *next;
    work_kind kind;
    void *dst;
    const void *src; /* NULL: `bytes` follow */
    size_t n_bytes;
    zi_cuda_launch launch;
    char bytes[];
} work;

struct shim_stream {
    work *first, **last;
    cudaError_t error;
};

const shim_machine shim_healthy = {
    .n_gpus = 1, .driver_version = 13000, .capability_major = 9, .memory_bytes = (size_t)1 << 32};
shim_machine shim = {
    .n_gpus = 1, .driver_version = 13000, .capability_major = 9, .memory_bytes = (size_t)1 << 32};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int n_launches;
static _Thread_local int current;

int shim_n_launches(void)
{
    pthread_mutex_lock(&mutex);
    int n = n_launches;
    pthread_mutex_unlock(&mutex);
    return n;
}

/* ------------------------------------------------------------------ the machine -------------- */

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation     ? "out of memory"
           : error == cudaErrorIllegalAddress     ? "an illegal memory access was encountered"
           : error == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient"
                                                  : "unknown error";
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = shim.n_gpus;
    if (shim.driver_version < 13000)
        return cudaErrorInsufficientDriver;
    return shim.n_gpus > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = shim.driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= shim.n_gpus)
        return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    (void)device;
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? shim.capability_major : 3;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    *can = device != peer;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    (void)peer, (void)flags;
    return cudaSuccess;
}

/* ------------------------------------------------------------------ streams ------------------ */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    if (*stream == NULL)
        return cudaErrorMemoryAllocation;
    (*stream)->last = &(*stream)->first;
    return cudaSuccess;
}

static work *enqueue(cudaStream_t stream, work_kind kind, size_t n_bytes)
{
    work *w = calloc(1, sizeof *w + n_bytes);
    if (w == NULL)
        abort();
    w->kind = kind;
    *stream->last = w;
    stream->last = &w->next;
    return w;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    if (value != 0 || !shim_is_device(dst))
        return cudaErrorInvalidValue;
    work *w = enqueue(stream, ZERO, 0);
    w->dst = dst;
    w->n_bytes = bytes;
    return stream->error;
}

/* Host memory is read at once, as CUDA does where it is pageable. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind;
    int from_device = shim_is_device(src);
    work *w = enqueue(stream, COPY, from_device ? 0 : bytes);
    w->dst = dst;
    w->n_bytes = bytes;
    if (from_device)
        w->src = src;
    else
        memcpy(w->bytes, src, bytes);
    return stream->error;
}

static void must_be_device(const void *address)
{
    if (address != NULL && !shim_is_device(address)) {
        fprintf(stderr, "cuda shim: a kernel was given %p, which is not the device's\n", address);
        abort();
    }
}

static void check_addresses(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    for (int i = 0; i < job->n_sources; i++)
        must_be_device(job->source[i].data);
    for (int i = 0; i < job->n_dests; i++)
        must_be_device(job->dest[i].data);
    for (int i = 0; i < ZI_MAX_STATES; i++) {
        must_be_device(job->state[i].data);
        must_be_device(job->state[i].absmax);
    }
    const void *const others[] = {job->master, job->span,   job->control, job->tensor,
                                  launch->acc, launch->sum, launch->n_bad};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        must_be_device(others[i]);
}

cudaError_t zi_cuda_launch_kernel(cudaStream_t stream, const zi_cuda_launch *launch)
{
    check_addresses(launch);
    enqueue(stream, KERNEL, 0)->launch = *launch;
    pthread_mutex_lock(&mutex);
    n_launches++;
    if (shim.fail_at_launch > 0 && --shim.fail_at_launch == 0)
        stream->error = cudaErrorIllegalAddress; /* comes out of the next wait */
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}

/* ------------------------------------------------------------------ kernels ------------------ */

static void run_update_elements(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    uint64_t n_tiles = (job->n_elems + ZI_UPDATE_TILE - 1) / ZI_UPDATE_TILE;
    for (uint64_t tile = 0; tile < n_tiles; tile++)
        for (uint32_t thread = 0; thread < ZI_CUDA_THREADS; thread++)
            zi_update_thread(launch->variant->rule, launch->variant->n_states, job, tile, thread);
}

static void run_update_blocks(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    const zi_variant *v = launch->variant;
    for (uint64_t block = 0; block < job->n_elems / ZI_BLOCK; block++) {
        zi_block_part part[ZI_WARP];
        float largest[ZI_MAX_STATES] = {0};
        int goes_on = 1;
        for (uint32_t t = 0; t < ZI_WARP; t++)
            goes_on &= zi_update_block_thread(v->rule, v->n_states, job, block, t, &part[t]);
        for (int t = 0; t < ZI_WARP && goes_on; t++)
            for (int s = 0; s < v->n_states; s++)
                largest[s] = zi_q8_larger(largest[s], part[t].largest[s]);
        for (uint32_t t = 0; t < ZI_WARP && goes_on; t++) {
            memcpy(part[t].largest, largest, sizeof largest);
            zi_encode_block_thread(v->n_states, job, block, t, &part[t]);
        }
    }
}

/* The addresses that a kernel finds in the tensors' statistics. */
static void check_tensors(const zi_cuda_job *job)
{
    for (uint64_t s = 0; s < job->n_spans; s++) {
        const zi_tensor_statistics *t = &job->tensor[job->span[s].tensor];
        const void *const all[] = {t->row,     t->col,     t->row_mean, t->sum,
                                   t->row_sum, t->col_sum, job->tensor};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            must_be_device(all[i]);
    }
}

static void run_update_tensors(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    uint64_t n_tiles = (job->n_elems + ZI_UPDATE_TILE - 1) / ZI_UPDATE_TILE;
    check_tensors(job);
    for (uint64_t tile = 0; tile < n_tiles; tile++)
        for (uint32_t thread = 0; thread < ZI_CUDA_THREADS; thread++)
            zi_update_tensor_thread(job->is_factored, job->n_states, job, tile, thread);
}

static void (*const run_update_of_unit[ZI_N_UNITS])(const zi_cuda_launch *launch) = {
    [ZI_UNIT_ELEMENT] = run_update_elements,
    [ZI_UNIT_BLOCK] = run_update_blocks,
    [ZI_UNIT_TENSOR] = run_update_tensors,
};

static void run_update(const zi_cuda_launch *launch)
{
    must_be_device(launch->job.control->scalars);
    run_update_of_unit[launch->variant->unit](launch);
}

/* What team_sum does: each step adds the lanes of the thread `half` further on. */
static double team_sum(double lane[ZI_TEAM][ZI_QUAD])
{
    for (int half = ZI_TEAM / 2; half > 0; half /= 2)
        for (int t = 0; t < half; t++)
            for (int e = 0; e < ZI_QUAD; e++)
                lane[t][e] += lane[t + half][e];
    return (lane[0][0] + lane[0][2]) + (lane[0][1] + lane[0][3]);
}

static void add_squares(int64_t limb[ZI_EXACT_LIMBS], int64_t *n_bad, double squares)
{
    if (!isfinite(squares)) {
        ++*n_bad;
    } else if (squares > 0) {
        zi_exact_parts parts = zi_exact_split(squares);
        for (int i = 0; i < 3; i++)
            limb[parts.first + i] += parts.part[i];
    }
}

static void run_norm(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    for (uint64_t block = 0; block < job->n_elems / ZI_BLOCK; block++) {
        double lane[ZI_TEAM][ZI_QUAD] = {{0}};
        for (uint32_t thread = 0; thread < ZI_TEAM; thread++)
            zi_norm_thread(job, block, thread, lane[thread]);
        add_squares(launch->sum->limb, launch->n_bad, team_sum(lane));
    }
}

static void run_squares_of_tensors(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    for (uint64_t block = 0; block < job->n_elems / ZI_BLOCK; block++)
        for (zi_block_run run = zi_before_block(job, block); zi_next_in_block(block, &run);) {
            int64_t *sum = job->tensor[run.span->tensor].sum;
            double lane[ZI_TEAM][ZI_QUAD] = {{0}};
            for (uint32_t t = 0; t < ZI_TEAM; t++)
                zi_squares_thread(launch->round, job, block, &run, t, lane[t]);
            add_squares(sum, &sum[ZI_EXACT_LIMBS], team_sum(lane));
        }
}

/* The last warp first: the order in which they run is none of the result's. */
static void run_statistics(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    uint64_t n_warps = (job->n_elems + ZI_WARP_ELEMS - 1) / ZI_WARP_ELEMS;
    check_tensors(job);
    for (uint64_t w = n_warps; w-- > 0 && launch->round == ZI_STATISTICS_MOMENTS;)
        for (uint32_t thread = 0; thread < ZI_WARP; thread++)
            zi_grid_sums_thread(job, w, thread);
    run_squares_of_tensors(launch);
}

static void run_accumulate(const zi_cuda_launch *launch)
{
    const zi_cuda_job *job = &launch->job;
    for (uint64_t block = 0; block < job->n_elems / ZI_BLOCK; block++) {
        int bad = 0;
        for (uint32_t thread = 0; thread < ZI_TEAM; thread++)
            bad |= zi_accumulate_thread(job, block, thread, launch->acc);
        *launch->n_bad += bad;
    }
}

static void (*const run_kernel[])(const zi_cuda_launch *launch) = {
    [ZI_CUDA_ACCUMULATE] = run_accumulate,
    [ZI_CUDA_NORM] = run_norm,
    [ZI_CUDA_STATISTICS] = run_statistics,
    [ZI_CUDA_UPDATE] = run_update,
};

static void run(const work *w)
{
    if (w->kind == COPY)
        memcpy(w->dst, w->src != NULL ? w->src : w->bytes, w->n_bytes);
    else if (w->kind == ZERO)
        memset(w->dst, 0, w->n_bytes);
    else
        run_kernel[w->launch.kernel](&w->launch);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    shim_enter();
    while (stream->first != NULL) {
        work *w = stream->first;
        stream->first = w->next;
        if (stream->error == cudaSuccess)
            run(w);
        free(w);
    }
    stream->last = &stream->first;
    shim_leave();
    return stream->error;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaStreamSynchronize(stream);
    free(stream);
    return cudaSuccess;
}
