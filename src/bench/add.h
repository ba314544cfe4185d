/* A kernel that only adds: what moving the bytes of a step costs at least. It reads 16-bit sources,
 * reads and writes 32-bit and 8-bit arrays, and stores 16-bit results as the update kernels do. */
#ifndef BENCH_ADD_H
#define BENCH_ADD_H

#include <stddef.h>
#include <stdint.h>
#include <zopt/zopt.h>

enum { BENCH_MAX_ARRAYS = 5 };

/* Addresses are multiples of 64. */
typedef struct bench_add {
    size_t n_elems; /* a multiple of 32 */
    const void **source;
    int n_sources;
    void **dest;
    int n_dests;
    uint32_t *word[BENCH_MAX_ARRAYS];
    int n_words;
    uint8_t *byte[BENCH_MAX_ARRAYS];
    int n_bytes;
} bench_add;

/* sum = source 0 + source 1 + ..., modulo 2^16; word[i] += sum; byte[i] += sum; every destination =
 * the low half of word[0], or sum where there is none. */
typedef void bench_add_run(const bench_add *add);

/* With the instructions of the kernels in use, on the host. */
bench_add_run *bench_add_kernel(void);

bench_add_run bench_add_portable, bench_add_avx2, bench_add_avx512;

#ifndef __cplusplus
struct zi_queue;
/* add_cuda.c: the same on a queue of the device cuda, and wait for it. Arrays: 0 to 4 words, or a
 * word and two bytes. */
zopt_status bench_add_cuda(struct zi_queue *q, const bench_add *add);
#endif

#endif
