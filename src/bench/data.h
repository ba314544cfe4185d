/* Gradients and start values. They repeat after a prime number of elements, so that a slice in a
 * wrong place is seen, and are small multiples of 1/32, so that a sum over ranks has the same bits
 * in any order: the textbook's sums can be checked as exactly as ours. */
#ifndef BENCH_DATA_H
#define BENCH_DATA_H

#include <stddef.h>
#include <stdint.h>
#include <zopt/zopt.h>

enum { BENCH_PERIOD = 65521, BENCH_SAMPLE = 1024 };

typedef struct bench_data {
    zopt_dtype dtype;
    float wide[BENCH_PERIOD];
    uint16_t narrow[BENCH_PERIOD]; /* the same in dtype: what bench_fill copies */
} bench_data;

void bench_data_make(zopt_dtype dtype, bench_data *data);

/* Element e of the gradient of a slot, of the start values. */
float bench_gradient(const bench_data *data, int slot, uint64_t e);
float bench_start(const bench_data *data, uint64_t e);
/* The bits of the gradient in data->dtype. */
uint16_t bench_gradient_bits(const bench_data *data, int slot, uint64_t e);

/* For tests: from now on bench_fill writes element e, and those a multiple of the period away, with
 * another bit in it. */
void bench_data_spoil(bench_data *data, int slot, uint64_t e);

/* Elements [first, first + n) of a slot's gradient, in data->dtype or, wide, as floats. */
void bench_fill(const bench_data *data, int slot, uint64_t first, uint64_t n, void *dst);
void bench_fill_wide(const bench_data *data, int slot, uint64_t first, uint64_t n, float *dst);
void bench_fill_start(const bench_data *data, uint64_t first, uint64_t n, float *dst);

/* L2 norm of the mean over the slots' gradients, computed from one period. */
double bench_norm(const bench_data *data, int slots, uint64_t n);

/* Elements to look at: the first and last 256 of a space of n, and others all over it; ascending.
 */
typedef struct bench_sample {
    uint64_t element[BENCH_SAMPLE];
    int n;
} bench_sample;

void bench_sample_make(uint64_t n_elems, bench_sample *sample);

#endif
