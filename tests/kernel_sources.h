/* Gradient sources for tests of the kernels: tables of every mix of dtypes, filled with ordinary,
 * wide-ranging and special values, and their sum as the design defines it. */
#ifndef KERNEL_SOURCES_H
#define KERNEL_SOURCES_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "device/cpu.h"
#include "kernel_values.h"
#include "reference/adamw_f64.h"

enum { N_BLOCKS = 5, N = N_BLOCKS * ZI_BLOCK, MAX_SOURCES = 5 };

static zi_source source[MAX_SOURCES];
static int n_sources;

static inline float read_element(const void *data, zopt_dtype dtype, size_t i)
{
    uint16_t bits;
    if (dtype == ZOPT_FP32)
        return ((const float *)data)[i];
    memcpy(&bits, (const char *)data + 2 * i, sizeof bits);
    return dtype == ZOPT_FP16 ? zi_half_to_float(bits) : zi_bf16_to_float(bits);
}

/* Exactly as large as needed, so that the address sanitizer sees a kernel that reads on. */
static inline void make_sources(reference_random *random, int content, const zopt_dtype *dtypes,
                                int n)
{
    float wide[N];
    n_sources = n;
    for (int s = 0; s < n; s++) {
        void *data = malloc(N * zopt_dtype_bytes(dtypes[s]));
        ck_assert_ptr_nonnull(data);
        for (size_t i = 0; i < N; i++)
            wide[i] = gradient(random, content, dtypes[s]);
        zi_convert(data, dtypes[s], wide, ZOPT_FP32, N);
        source[s] = (zi_source){data, dtypes[s]};
    }
}

static inline void free_sources(void)
{
    for (int s = 0; s < n_sources; s++)
        free((void *)(uintptr_t)source[s].data);
}

/* Mixes of 0 to 5 sources, an FP32 accumulator first among them. */
static const struct {
    int n;
    zopt_dtype dtype[MAX_SOURCES];
} mixes[] = {
    {0, {ZOPT_FP16}},
    {1, {ZOPT_FP16}},
    {1, {ZOPT_BF16}},
    {1, {ZOPT_FP32}},
    {2, {ZOPT_FP32, ZOPT_FP16}},
    {3, {ZOPT_FP32, ZOPT_BF16, ZOPT_BF16}},
    {4, {ZOPT_FP16, ZOPT_FP16, ZOPT_FP16, ZOPT_FP16}},
    {5, {ZOPT_BF16, ZOPT_FP16, ZOPT_FP32, ZOPT_BF16, ZOPT_FP16}},
};
enum { N_MIXES = sizeof mixes / sizeof mixes[0] };

static inline void each_mix(void (*check)(const zi_cpu_kernels *kernels, reference_random *random))
{
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++)
        for (int content = 0; content < N_CONTENTS; content++)
            for (int m = 0; m < N_MIXES; m++) {
                reference_random random = {(uint64_t)(content * N_MIXES + m + 1)};
                make_sources(&random, content, mixes[m].dtype, mixes[m].n);
                check(*k, &random);
                free_sources();
            }
}

/* Section 5: start, then the sources one after the other in FP32. */
static inline void expected_sum(const float *start, float *sum)
{
    for (size_t i = 0; i < N; i++) {
        volatile float x = start != NULL ? start[i] : 0.0f;
        for (int s = 0; s < n_sources; s++)
            x = x + read_element(source[s].data, source[s].dtype, i);
        sum[i] = x;
    }
}

/* What a run covered; the rest is skipped because this machine or this build lacks it. */
static inline void print_variants(void)
{
    static const char *const all[] = {"portable", "avx2", "avx512"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const zi_cpu_kernels *const *k = zi_cpu_variants();
        while (*k != NULL && strcmp((*k)->name, all[i]) != 0)
            k++;
        printf(*k != NULL ? "kernels %s: tested\n" : "SKIP: kernels %s: not on this machine\n",
               all[i]);
    }
}

#endif
