/* Values made from a table of one period. Next: rule.c, which computes what must come of them. */
#include "bench/data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"

/* Where in the period slots and start values begin. */
enum { SLOT_STRIDE = 8191, START_AT = 31337 };

static uint32_t scramble(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

void bench_data_make(zopt_dtype dtype, bench_data *data)
{
    data->dtype = dtype;
    for (uint32_t i = 0; i < BENCH_PERIOD; i++)
        data->wide[i] = (float)((int)(scramble(i) & 255u) - 128) / 32;
    zi_convert(data->narrow, dtype, data->wide, ZOPT_FP32, BENCH_PERIOD);
}

static size_t phase(int slot, uint64_t e)
{
    return (size_t)((e + (uint64_t)slot * SLOT_STRIDE) % BENCH_PERIOD);
}

float bench_gradient(const bench_data *data, int slot, uint64_t e)
{
    return data->wide[phase(slot, e)];
}

uint16_t bench_gradient_bits(const bench_data *data, int slot, uint64_t e)
{
    uint16_t bits;
    zi_convert(&bits, data->dtype, &data->wide[phase(slot, e)], ZOPT_FP32, 1);
    return bits;
}

float bench_start(const bench_data *data, uint64_t e)
{
    return data->wide[phase(0, e + START_AT)] / 8;
}

void bench_data_spoil(bench_data *data, int slot, uint64_t e)
{
    data->narrow[phase(slot, e)] ^= 0x100;
}

static void repeat(const void *table, size_t element_bytes, size_t at, uint64_t n, char *dst)
{
    while (n > 0) {
        size_t run = BENCH_PERIOD - at < n ? BENCH_PERIOD - at : (size_t)n;
        memcpy(dst, (const char *)table + at * element_bytes, run * element_bytes);
        dst += run * element_bytes;
        n -= run;
        at = 0;
    }
}

void bench_fill(const bench_data *data, int slot, uint64_t first, uint64_t n, void *dst)
{
    repeat(data->narrow, sizeof data->narrow[0], phase(slot, first), n, dst);
}

void bench_fill_wide(const bench_data *data, int slot, uint64_t first, uint64_t n, float *dst)
{
    repeat(data->wide, sizeof data->wide[0], phase(slot, first), n, (char *)dst);
}

void bench_fill_start(const bench_data *data, uint64_t first, uint64_t n, float *dst)
{
    for (uint64_t i = 0; i < n; i++)
        dst[i] = bench_start(data, first + i);
}

double bench_norm(const bench_data *data, int slots, uint64_t n)
{
    double sum = 0;
    for (uint64_t i = 0; i < BENCH_PERIOD && i < n; i++) {
        uint64_t times = n / BENCH_PERIOD + (i < n % BENCH_PERIOD ? 1 : 0);
        double g = 0;
        for (int slot = 0; slot < slots; slot++)
            g += bench_gradient(data, slot, i);
        sum += (double)times * g * g;
    }
    return sqrt(sum) / slots;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

void bench_sample_make(uint64_t n_elems, bench_sample *sample)
{
    enum { EDGE = 256 };
    uint64_t state = n_elems;
    int all = n_elems <= BENCH_SAMPLE;
    sample->n = all ? (int)n_elems : BENCH_SAMPLE;
    for (int i = 0; i < sample->n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sample->element[i] = all || i < EDGE ? (uint64_t)i
                             : i < 2 * EDGE  ? n_elems - 1 - (uint64_t)(i - EDGE)
                                             : (state >> 16) % n_elems;
    }
    qsort(sample->element, (size_t)sample->n, sizeof sample->element[0], ascending);
}
