/* What the CPU kernels do with a block: its gradients summed over the sources, its sum of squares,
 * its parameters stored to all destinations. Included where kernels are compiled, once for each
 * instruction set. */
#ifndef ZI_DEVICE_CPU_BLOCK_H
#define ZI_DEVICE_CPU_BLOCK_H

#include "device/cpu_convert.h"

/* What the sources and destinations of a job have alike: constants of the loops over lines. */
typedef enum tables_kind { ALL_FP16, ALL_BF16, MIXED } tables_kind;

static tables_kind kind_of_tables(const zi_job *job)
{
    int n_fp16 = 0, n_bf16 = 0;
    for (int s = 0; s < job->n_sources; s++) {
        n_fp16 += job->source[s].dtype == ZOPT_FP16;
        n_bf16 += job->source[s].dtype == ZOPT_BF16;
    }
    for (int d = 0; d < job->n_dests; d++) {
        n_fp16 += job->dest[d].dtype == ZOPT_FP16;
        n_bf16 += job->dest[d].dtype == ZOPT_BF16;
    }
    int n = job->n_sources + job->n_dests;
    return n_fp16 == n ? ALL_FP16 : n_bf16 == n ? ALL_BF16 : MIXED;
}

static inline __attribute__((always_inline)) zopt_dtype dtype_of(tables_kind kind, zopt_dtype dtype)
{
    return kind == ALL_FP16 ? ZOPT_FP16 : kind == ALL_BF16 ? ZOPT_BF16 : dtype;
}

/* The line of an array that comes FETCHED elements later, into the cache: hardware fetches ahead
 * within a page of 4 KiB alone, and begins anew in the next one of each array. */
enum { FETCHED = 128 };

static inline __attribute__((always_inline)) void fetch_line(const void *now, size_t bytes_each)
{
    const char *later = (const char *)now + FETCHED * bytes_each; /* may be behind the array */
    for (size_t byte = 0; byte < ZI_LINE * bytes_each; byte += 64)
        __builtin_prefetch(later + byte);
}

/* g = (start + source 0 + source 1 + ...) * coef, a line in registers. kind is a constant where
 * this is inlined, and so may n_sources be, which is the job's. */
static inline __attribute__((always_inline)) void sum_line(float *g, const float *start,
                                                           const zi_job *job, tables_kind kind,
                                                           int n_sources, size_t at, float coef)
{
    static const float zeros[ZI_LINE];
    vector sum[VECTORS];
    for (size_t v = 0; v < VECTORS; v++)
        sum[v] = widen((start != NULL ? start : zeros) + v * VECTOR, ZOPT_FP32);
    for (int s = 0; s < n_sources; s++) {
        const zi_source *source = &job->source[s];
        zopt_dtype dtype = dtype_of(kind, source->dtype);
        const char *x = (const char *)source->data + at * element_bytes(dtype);
        fetch_line(x, element_bytes(dtype));
        for (size_t v = 0; v < VECTORS; v++)
            sum[v] = add(sum[v], widen(x + v * VECTOR * element_bytes(dtype), dtype));
    }
    for (size_t v = 0; v < VECTORS; v++)
        put_times(g + v * VECTOR, sum[v], coef);
}

static inline __attribute__((always_inline)) void sum_lines(float *g, const float *start,
                                                            const zi_job *job, tables_kind kind,
                                                            size_t first, float coef)
{
    for (size_t line = 0; line < ZI_BLOCK; line += ZI_LINE)
        sum_line(g + line, start != NULL ? start + line : NULL, job, kind, job->n_sources,
                 first + line, coef);
}

/* The gradients of a block, ready for a rule. */
static void gradient_block(float *g, const zi_job *job, size_t first)
{
    float coef = job->control->coef;
    tables_kind kind = kind_of_tables(job);
    if (kind == ALL_FP16)
        sum_lines(g, NULL, job, ALL_FP16, first, coef);
    else if (kind == ALL_BF16)
        sum_lines(g, NULL, job, ALL_BF16, first, coef);
    else
        sum_lines(g, NULL, job, MIXED, first, coef);
}

/* A float's square is exact in double: fused or not, there is one rounding. Where there is no
 * instruction, fma() would be a call. */
#ifdef __FMA__
#define ADD_SQUARE(sum, x) __builtin_fma(x, x, sum)
#else
#define ADD_SQUARE(sum, x) ((sum) + (x) * (x))
#endif

/* Element i in lane i mod 32, ascending. */
static inline __attribute__((always_inline)) void add_line_squares(double lane[restrict ZI_LANES],
                                                                   const float *restrict g)
{
    for (size_t i = 0; i < ZI_LANES; i++)
        lane[i] = ADD_SQUARE(lane[i], (double)g[i]);
}

static inline __attribute__((always_inline)) void add_half(double lane[ZI_LANES], size_t half)
{
    for (size_t i = 0; i < half; i++)
        lane[i] += lane[i + half];
}

/* Lanes combined by halving, by constants: in a loop each half would wait for the stores of the one
 * before it. */
static inline __attribute__((always_inline)) double sum_of_lanes(double lane[ZI_LANES])
{
    _Static_assert(ZI_LANES == 32, "five halves");
    add_half(lane, 16);
    add_half(lane, 8);
    add_half(lane, 4);
    add_half(lane, 2);
    add_half(lane, 1);
    return lane[0];
}

static double block_sum_of_squares(const float *g)
{
    double lane[ZI_LANES] = {0};
    for (size_t line = 0; line < ZI_BLOCK; line += ZI_LANES)
        add_line_squares(lane, g + line);
    return sum_of_lanes(lane);
}

/* A line of parameters to every destination; kind and n_dests as with sum_line. */
static inline __attribute__((always_inline)) void store_line(const zi_job *job, tables_kind kind,
                                                             int n_dests, size_t at)
{
    if (n_dests == 0)
        return;
    const float *master = job->master + at;
    zopt_dtype dtype = dtype_of(kind, job->dest[0].dtype);
    if (dtype == ZOPT_FP32) {
        for (int d = 0; d < n_dests; d++)
            memcpy((float *)job->dest[d].data + at, master, ZI_LINE * sizeof *master);
        return;
    }
    packed x = dtype == ZOPT_FP16 ? narrow_half(master) : narrow_bf16(master);
    for (int d = 0; d < n_dests; d++)
        store_packed((uint16_t *)job->dest[d].data + at, x);
}

static void store(const zi_job *job, size_t first)
{
    for (size_t line = 0; line < ZI_BLOCK; line += ZI_LINE)
        store_line(job, MIXED, job->n_dests, first + line);
}

#endif
