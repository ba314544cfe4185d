/* The kernel that only adds, of benchmarks, thread by thread. */
#include <stdio.h>
#include <stdlib.h>

#include "bench/add_cuda.h"
#include "kernels.h"
#include "memory.h"

static void must_be_device(const void *address)
{
    if (!shim_is_device(address)) {
        fprintf(stderr, "cuda shim: the limit was given %p, which is not the device's\n", address);
        abort();
    }
}

static void run(const void *argument)
{
    const bench_add_job *job = argument;
    for (uint64_t tile = 0; tile * ZI_UPDATE_TILE < job->n_elems; tile++)
        for (uint32_t thread = 0; thread < ZI_CUDA_THREADS; thread++)
            bench_add_thread(job->n_words, job->n_bytes, job, tile, thread);
}

cudaError_t bench_add_launch(cudaStream_t stream, const bench_add_job *job)
{
    for (int i = 0; i < job->n_sources; i++)
        must_be_device(job->source[i]);
    for (int i = 0; i < job->n_dests; i++)
        must_be_device(job->dest[i]);
    for (int i = 0; i < job->n_words; i++)
        must_be_device(job->word[i]);
    for (int i = 0; i < job->n_bytes; i++)
        must_be_device(job->byte[i]);
    return shim_launch(stream, run, job, sizeof *job);
}
