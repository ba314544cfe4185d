/* The CUDA device: one stream of one GPU for each rank, its memory, and launches of the kernels.
 * The kernels themselves: cuda_tile.h and cuda_kernels.cu. */
#include "device/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "device/cuda_graph.h"
#include "device/cuda_queue.h"

enum {
    LEAST_MAJOR = 8,        /* compute capability that kernels are compiled for */
    TAKEN_ALONG = 64 << 10, /* bytes; CUDA Runtime API, "API synchronization behavior" */
};

/* ---- life ---- */

static const char *missing(void)
{
    static _Thread_local char text[192];
    int n = 0, driver = 0, runtime = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error == cudaSuccess && n > 0)
        return NULL;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (error == cudaErrorInsufficientDriver && driver > 0)
        snprintf(text, sizeof text, "the driver is for CUDA %d.%d, zopt was built with %d.%d",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (error == cudaErrorInsufficientDriver)
        snprintf(text, sizeof text, "no NVIDIA driver is installed here");
    else if (error == cudaSuccess || error == cudaErrorNoDevice)
        snprintf(text, sizeof text, "no GPU, or CUDA_VISIBLE_DEVICES hides all");
    else
        snprintf(text, sizeof text, "%s", cudaGetErrorString(error));
    return text;
}

/* Threads of one process read and write each other's memory, on other GPUs too where these can. */
static void reach_peers(int ordinal, int n_gpus)
{
    for (int peer = 0; peer < n_gpus; peer++) {
        int can = 0;
        if (peer != ordinal && cudaDeviceCanAccessPeer(&can, ordinal, peer) == cudaSuccess && can)
            cudaDeviceEnablePeerAccess(peer, 0); /* an error if it is on already */
    }
    cudaGetLastError();
}

static zopt_status open_stream(zi_queue *q)
{
    ZI_TRY(zi_cuda_check(cudaSetDevice(q->ordinal), q->ordinal, "cudaSetDevice"));
    return zi_cuda_check(cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), q->ordinal,
                         "cudaStreamCreateWithFlags");
}

static zopt_status open_gpu(zi_queue *q)
{
    int major = 0;
    ZI_TRY(
        zi_cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, q->ordinal),
                      q->ordinal, "cudaDeviceGetAttribute"));
    if (major < LEAST_MAJOR)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "GPU %d has compute capability %d.x; zopt's kernels need %d.0", q->ordinal,
                       major, LEAST_MAJOR);
    ZI_TRY(zi_cuda_check(
        cudaDeviceGetAttribute(&q->n_processors, cudaDevAttrMultiProcessorCount, q->ordinal),
        q->ordinal, "cudaDeviceGetAttribute"));
    return open_stream(q);
}

/* Ranks of a node take its GPUs in turn; several may share one. */
static zopt_status open_queue(int local_rank, zi_queue **out)
{
    int n_gpus = 0;
    *out = NULL;
    const char *why = missing();
    if (why != NULL || cudaGetDeviceCount(&n_gpus) != cudaSuccess)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "device cuda: %s", why ? why : "no GPU");
    zi_queue *q = calloc(1, sizeof *q);
    if (q == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a queue");
    q->ordinal = local_rank % n_gpus;
    zopt_status status = open_gpu(q);
    if (status != ZOPT_OK) {
        free(q);
        return status;
    }
    reach_peers(q->ordinal, n_gpus);
    *out = q;
    return ZOPT_OK;
}

static zopt_status open_beside(const zi_queue *q, zi_queue **out)
{
    *out = NULL;
    zi_queue *beside = calloc(1, sizeof *beside);
    if (beside == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a queue");
    *beside = (zi_queue){.ordinal = q->ordinal, .n_processors = q->n_processors, .guard = q->guard};
    zopt_status status = open_stream(beside);
    if (status != ZOPT_OK)
        free(beside);
    else
        *out = beside;
    return status;
}

static void close_queue(zi_queue *q)
{
    if (q == NULL)
        return;
    cudaSetDevice(q->ordinal);
    if (!q->is_adopted)
        cudaStreamDestroy(q->stream);
    free(q);
}

/* ---- what is enqueued ---- */

static void zero(zi_queue *q, void *dst, size_t bytes)
{
    if (bytes > 0 && zi_cuda_enter(q))
        zi_cuda_note(q, cudaMemsetAsync(dst, 0, bytes, q->stream), "cudaMemsetAsync");
}

static int is_pageable(const void *address)
{
    struct cudaPointerAttributes attributes;
    return cudaPointerGetAttributes(&attributes, address) == cudaSuccess &&
           attributes.type == cudaMemoryTypeUnregistered;
}

/* 1: a copy that returns when what was enqueued before is done: one to pageable memory of the host,
 * and one from it that does not fit into what CUDA takes along. */
static int waits(const void *dst, const void *src, size_t bytes)
{
    return is_pageable(dst) || (bytes > TAKEN_ALONG && is_pageable(src));
}

/* From pageable host memory CUDA copies to a buffer of its own before it returns. */
static void copy(zi_queue *q, void *dst, const void *src, size_t bytes)
{
    if (bytes > 0 && q->guard != NULL && waits(dst, src, bytes) && zi_cuda_wait(q) != ZOPT_OK)
        return;
    if (bytes > 0 && zi_cuda_enter(q))
        zi_cuda_note(q, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, q->stream),
                     "cudaMemcpyAsync");
}

/* ---- memory ---- */

static uint64_t available(zi_queue *q)
{
    size_t free_bytes = 0, total = 0;
    if (!zi_cuda_enter(q) || cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        return UINT64_MAX;
    return free_bytes;
}

static zopt_status out_of_memory(zi_queue *q, const zi_mem *mem, zi_category category, size_t bytes,
                                 cudaError_t error)
{
    cudaGetLastError(); /* it does not stick */
    return ZI_FAIL(error == cudaErrorMemoryAllocation ? ZOPT_ERR_MEMORY : ZOPT_ERR_FAILURE,
                   "%s: no memory for %zu bytes on GPU %d, which has %llu free; %llu bytes already "
                   "in use: %s",
                   zi_category_name(category), bytes, q->ordinal, (unsigned long long)available(q),
                   (unsigned long long)mem->total_bytes, cudaGetErrorString(error));
}

static zopt_status alloc(zi_queue *q, zi_mem *mem, zi_category category, size_t bytes, void *out)
{
    void *array = NULL;
    if (bytes > 0 && !mem->dry) {
        if (!zi_cuda_enter(q))
            return zi_cuda_wait(q);
        cudaError_t error = cudaMalloc(&array, bytes);
        if (error != cudaSuccess) {
            array = NULL;
            memcpy(out, &array, sizeof array);
            return out_of_memory(q, mem, category, bytes, error);
        }
        zero(q, array, bytes);
    }
    memcpy(out, &array, sizeof array);
    zi_mem_count_device(mem, category, bytes);
    return ZOPT_OK;
}

/* Portable: every GPU of the process may copy from it. */
static zopt_status alloc_host(zi_queue *q, zi_mem *mem, zi_category category, size_t bytes,
                              void *out)
{
    void *array = NULL;
    if (bytes > 0 && !mem->dry) {
        if (!zi_cuda_enter(q))
            return zi_cuda_wait(q);
        cudaError_t error = cudaHostAlloc(&array, bytes, cudaHostAllocPortable);
        if (error != cudaSuccess) {
            cudaGetLastError(); /* it does not stick */
            return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for %zu page-locked bytes: %s",
                           zi_category_name(category), bytes, cudaGetErrorString(error));
        }
        memset(array, 0, bytes);
    }
    memcpy(out, &array, sizeof array);
    zi_mem_count(mem, category, bytes);
    return ZOPT_OK;
}

static void free_host(zi_queue *q, zi_mem *mem, zi_category category, void *array, size_t bytes)
{
    if (array == NULL && !(mem->dry && bytes > 0))
        return;
    if (array != NULL && (q == NULL || zi_cuda_settle(q)))
        cudaFreeHost(array);
    zi_mem_uncount(mem, category, bytes);
}

static void free_array(zi_queue *q, zi_mem *mem, zi_category category, void *array, size_t bytes)
{
    if (array == NULL && !(mem->dry && bytes > 0))
        return;
    if (array != NULL && (q == NULL || zi_cuda_settle(q)))
        cudaFree(array);
    zi_mem_uncount_device(mem, category, bytes);
}

/* ---- kernels ---- */

static void launch_kernel(zi_queue *q, const zi_job *job, zi_cuda_launch *launch)
{
    if (job->n_elems == 0 || !zi_cuda_enter(q))
        return;
    if (job->n_sources > ZI_CUDA_MAX_TABLE || job->n_dests > ZI_CUDA_MAX_TABLE) {
        zi_cuda_note(q, cudaErrorInvalidValue, "a job with larger tables than kernels take");
        return;
    }
    zi_cuda_job *to = &launch->job;
    to->n_elems = job->n_elems;
    to->n_spans = job->n_spans;
    to->n_sources = job->n_sources;
    to->n_dests = job->n_dests;
    to->master = job->master;
    to->span = job->span;
    to->control = job->control;
    to->start = job->start;
    to->tensor = job->tensor;
    memcpy(to->source, job->source, (size_t)job->n_sources * sizeof *to->source);
    if (job->n_dests > 0)
        memcpy(to->dest, job->dest, (size_t)job->n_dests * sizeof *to->dest);
    launch->n_processors = q->n_processors;
    zi_cuda_note(q, zi_cuda_launch_kernel(q->stream, launch), "a kernel's launch");
}

static int is_of_elements(zi_form form)
{
    return form != ZI_FORM_ROWS && form != ZI_FORM_COLS;
}

/* The variant's states of elements. */
static void list_states(const zi_variant *variant, const zi_job *job, zi_cuda_job *to)
{
    for (int s = 0; s < variant->n_states; s++) {
        zi_form form = variant->state[s].form;
        to->is_factored |= !is_of_elements(form);
        if (!is_of_elements(form))
            continue;
        to->state[to->n_states] = job->state[s];
        to->form[to->n_states++] = form;
    }
}

static void accumulate(zi_queue *q, const zi_job *job, float *acc, int64_t *n_bad)
{
    zi_cuda_launch launch = {.kernel = ZI_CUDA_ACCUMULATE, .acc = acc, .n_bad = n_bad};
    launch_kernel(q, job, &launch);
}

static void norm(zi_queue *q, const zi_job *job, zi_exact *sum, int64_t *n_bad)
{
    zi_cuda_launch launch = {.kernel = ZI_CUDA_NORM, .sum = sum, .n_bad = n_bad};
    launch_kernel(q, job, &launch);
}

/* The one state that statistics are made from is the tensors' own second moment, the first. */
static void statistics(zi_queue *q, zi_statistics_round round, const zi_job *job)
{
    zi_cuda_launch launch = {.kernel = ZI_CUDA_STATISTICS, .round = round};
    launch.job.state[0] = job->state[0];
    launch_kernel(q, job, &launch);
}

static void update(zi_queue *q, const zi_variant *variant, const zi_job *job)
{
    zi_cuda_launch launch = {.kernel = ZI_CUDA_UPDATE, .variant = variant};
    list_states(variant, job, &launch.job);
    launch_kernel(q, job, &launch);
}

static void locate(zi_queue *q, const zi_job *job, const zi_search *search)
{
    zi_cuda_launch launch = {.kernel = ZI_CUDA_LOCATE, .search = *search};
    launch_kernel(q, job, &launch);
}

static void decide(zi_queue *q, const zi_decide_job *job)
{
    const zi_cuda_launch launch = {.kernel = ZI_CUDA_DECIDE, .decide = *job};
    if (zi_cuda_enter(q))
        zi_cuda_note(q, zi_cuda_launch_kernel(q->stream, &launch), "a kernel's launch");
}

static void settle(zi_queue *q, const zi_settle_job *job)
{
    const zi_cuda_launch launch = {.kernel = ZI_CUDA_SETTLE, .settle = *job};
    if (zi_cuda_enter(q))
        zi_cuda_note(q, zi_cuda_launch_kernel(q->stream, &launch), "a kernel's launch");
}

static const char *variant(void)
{
    return "sm_80, sm_90, sm_100 and PTX";
}

const zi_device_ops zi_device_cuda = {
    .name = "cuda",
    .help = "NVIDIA GPUs",
    .missing = missing,
    .max_table = ZI_CUDA_MAX_TABLE,
    .open = open_queue,
    .close = close_queue,
    .open_beside = open_beside,
    .guard = zi_cuda_guard,
    .event_create = zi_cuda_event_create,
    .event_destroy = zi_cuda_event_destroy,
    .event_record = zi_cuda_event_record,
    .event_await = zi_cuda_event_await,
    .event_query = zi_cuda_event_query,
    .event_wait = zi_cuda_event_wait,
    .event_timed = zi_cuda_event_timed,
    .event_ms = zi_cuda_event_ms,
    .available = available,
    .alloc = alloc,
    .free = free_array,
    .alloc_host = alloc_host,
    .free_host = free_host,
    .share_unit = 2 << 20, /* whole blocks of the driver's: no other array is in them */
    .share = zi_cuda_share,
    .reach = zi_cuda_reach,
    .leave = zi_cuda_leave,
    .event_share = zi_cuda_event_share,
    .event_reach = zi_cuda_event_reach,
    .zero = zero,
    .wait = zi_cuda_wait,
    .copy = copy,
    .accumulate = accumulate,
    .norm = norm,
    .statistics = statistics,
    .update = update,
    .locate = locate,
    .decide = decide,
    .settle = settle,
    .capture_begin = zi_cuda_capture_begin,
    .capture_end = zi_cuda_capture_end,
    .capture_event = zi_cuda_capture_event,
    .graph_launch = zi_cuda_graph_launch,
    .graph_destroy = zi_cuda_graph_destroy,
    .adopt = zi_cuda_adopt,
    .variant = variant,
};
