/* What the CPU kernels do with a block: its gradients summed over the sources, its sum of squares,
 * its parameters stored to all destinations. Included where kernels are compiled, once for each
 * instruction set. */
#ifndef ZI_DEVICE_CPU_BLOCK_H
#define ZI_DEVICE_CPU_BLOCK_H

#include "device/cpu_convert.h"

static inline const void *element(const void *base, zopt_dtype dtype, size_t i)
{
    return (const char *)base + i * (dtype == ZOPT_FP32 ? 4u : 2u);
}

/* g[i] += the source's element first + i, for a block. */
static void add_source(float *restrict g, const zi_source *source, size_t first)
{
    float wide[ZI_BLOCK];
    const float *x = wide;
    const void *data = element(source->data, source->dtype, first);
    if (source->dtype == ZOPT_FP16)
        widen_half(wide, data);
    else if (source->dtype == ZOPT_BF16)
        widen_bf16(wide, data);
    else
        x = data;
    for (size_t i = 0; i < ZI_BLOCK; i++)
        g[i] += x[i];
}

static void sum_block(float *restrict g, const zi_job *job, size_t first)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        g[i] = 0.0f;
    for (int s = 0; s < job->n_sources; s++)
        add_source(g, &job->source[s], first);
}

/* The gradients of a block, ready for a rule. */
static void gradient_block(float *restrict g, const zi_job *job, size_t first)
{
    float coef = job->control->coef;
    sum_block(g, job, first);
    for (size_t i = 0; i < ZI_BLOCK; i++)
        g[i] *= coef;
}

/* Element i in lane i mod 32, ascending; lanes combined by halving. The squares are exact. */
static double block_sum_of_squares(const float *restrict g)
{
    double lane[ZI_LANES] = {0};
    for (size_t first = 0; first < ZI_BLOCK; first += ZI_LANES)
        for (size_t i = 0; i < ZI_LANES; i++)
            lane[i] += (double)g[first + i] * (double)g[first + i];
    for (size_t half = ZI_LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

static void store(const zi_job *job, size_t first)
{
    if (job->n_dests == 0)
        return;
    uint16_t half[ZI_BLOCK];
    const float *master = job->master + first;
    zopt_dtype dtype = job->dest[0].dtype;
    const void *out = half;
    if (dtype == ZOPT_FP16)
        narrow_half(half, master);
    else if (dtype == ZOPT_BF16)
        narrow_bf16(half, master);
    else
        out = master;
    size_t bytes = (size_t)ZI_BLOCK * (dtype == ZOPT_FP32 ? 4 : 2);
    for (int d = 0; d < job->n_dests; d++)
        memcpy((char *)job->dest[d].data + first / ZI_BLOCK * bytes, out, bytes);
}

#endif
