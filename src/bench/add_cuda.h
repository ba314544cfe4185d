/* The kernel that only adds (add.h) on a GPU. What one thread does is a function here, C on the
 * host too, where tests run it; add_cuda.cu launches it, and tests put a launcher of their own in
 * its place, as they do for the device's kernels. */
#ifndef BENCH_ADD_CUDA_H
#define BENCH_ADD_CUDA_H

#include "bench/add.h"
#include "device/cuda_tile.h"

/* Tables travel by value. All addresses are the device's. */
typedef struct bench_add_job {
    uint64_t n_elems; /* a multiple of 4 */
    int n_sources, n_dests, n_words, n_bytes;
    uint32_t *word[BENCH_MAX_ARRAYS];
    uint8_t *byte[BENCH_MAX_ARRAYS];
    const void *source[ZI_CUDA_MAX_TABLE];
    void *dest[ZI_CUDA_MAX_TABLE];
} bench_add_job;

#ifdef __cplusplus
extern "C" {
#endif

/* Enqueue on the stream; the job is copied. */
cudaError_t bench_add_launch(cudaStream_t stream, const bench_add_job *job);

#ifdef __cplusplus
}
#endif

/* Four elements on their way. */
typedef struct bench_add_group {
    zi_raw half; /* of source 0 */
    zi_quad word[BENCH_MAX_ARRAYS];
    uint32_t byte[BENCH_MAX_ARRAYS];
} bench_add_group;

/* Its own lane of four 16-bit numbers each, modulo 2^16. */
ZI_TILE uint32_t bench_add_halves(uint32_t a, uint32_t b)
{
    return ((a & 0xffff0000u) + (b & 0xffff0000u)) | ((a + b) & 0xffffu);
}

ZI_TILE void bench_add_store(const bench_add_job *job, int n_words, int n_bytes, uint64_t i,
                             bench_add_group *group)
{
    zi_raw sum = group->half, out;
    ZI_UNROLL_4
    for (int s = 1; s < job->n_sources; s++) {
        zi_raw x = zi_load_raw2((const uint16_t *)job->source[s] + i);
        sum.word[0] = bench_add_halves(sum.word[0], x.word[0]);
        sum.word[1] = bench_add_halves(sum.word[1], x.word[1]);
    }
    out = sum;
    ZI_UNROLL
    for (int w = 0; w < n_words; w++) {
        uint32_t total[ZI_QUAD];
        ZI_UNROLL
        for (int e = 0; e < ZI_QUAD; e++) {
            total[e] =
                zi_float_word(group->word[w].x[e]) + (sum.word[e / 2] >> (16 * (e % 2)) & 0xffffu);
            group->word[w].x[e] = zi_word_float(total[e]);
        }
        zi_store_quad((float *)job->word[w] + i, group->word[w]);
        if (w == 0) {
            out.word[0] = (total[0] & 0xffffu) | total[1] << 16;
            out.word[1] = (total[2] & 0xffffu) | total[3] << 16;
        }
    }
    ZI_UNROLL
    for (int b = 0; b < n_bytes; b++) {
        uint32_t bytes = 0;
        ZI_UNROLL
        for (int e = 0; e < ZI_QUAD; e++) {
            uint32_t x = group->byte[b] >> (8 * e), y = sum.word[e / 2] >> (16 * (e % 2));
            bytes |= ((x + y) & 0xffu) << (8 * e);
        }
        zi_store_word(job->byte[b] + i, bytes);
    }
    for (int d = 0; d < job->n_dests; d++)
        zi_store_raw2((uint16_t *)job->dest[d] + i, out);
}

/* Two groups of four elements for each thread, all loads before the first use, as the update has.
 */
ZI_TILE void bench_add_thread(int n_words, int n_bytes, const bench_add_job *job, uint64_t tile,
                              uint32_t thread)
{
    bench_add_group group[ZI_GROUPS];
    const uint64_t first = tile * ZI_UPDATE_TILE + (uint64_t)thread * ZI_QUAD;
    ZI_UNROLL
    for (int j = 0; j < ZI_GROUPS; j++) {
        uint64_t i = first + (uint64_t)j * ZI_GROUP_PITCH;
        if (i >= job->n_elems)
            continue;
        group[j].half = zi_load_raw2((const uint16_t *)job->source[0] + i);
        ZI_UNROLL
        for (int w = 0; w < n_words; w++)
            group[j].word[w] = zi_load_quad((const float *)job->word[w] + i);
        ZI_UNROLL
        for (int b = 0; b < n_bytes; b++)
            group[j].byte[b] = zi_load_word(job->byte[b] + i);
    }
    ZI_UNROLL
    for (int j = 0; j < ZI_GROUPS; j++)
        if (first + (uint64_t)j * ZI_GROUP_PITCH < job->n_elems)
            bench_add_store(job, n_words, n_bytes, first + (uint64_t)j * ZI_GROUP_PITCH, &group[j]);
}

#endif
