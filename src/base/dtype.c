/* Bulk conversions between element types, portable C. Kernels have their own vectorized loops;
 * these serve set_master, exports and the public zopt_convert. */
#include "base/dtype.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[ZI_N_DTYPES] = {
    [ZOPT_FP16] = {"fp16", 2},
    [ZOPT_BF16] = {"bf16", 2},
    [ZOPT_FP32] = {"fp32", 4},
};

size_t zopt_dtype_bytes(zopt_dtype dtype)
{
    return (unsigned)dtype < ZI_N_DTYPES ? dtypes[dtype].bytes : 0;
}

const char *zi_dtype_name(zopt_dtype dtype)
{
    return (unsigned)dtype < ZI_N_DTYPES ? dtypes[dtype].name : "unknown";
}

static void widen(float *dst, const void *src, zopt_dtype dtype, size_t n)
{
    const uint16_t *half = src;
    if (dtype == ZOPT_FP16)
        for (size_t i = 0; i < n; i++)
            dst[i] = zi_half_to_float(half[i]);
    else if (dtype == ZOPT_BF16)
        for (size_t i = 0; i < n; i++)
            dst[i] = zi_bf16_to_float(half[i]);
    else
        memcpy(dst, src, n * sizeof *dst);
}

static void narrow(void *dst, zopt_dtype dtype, const float *src, size_t n)
{
    uint16_t *half = dst;
    if (dtype == ZOPT_FP16)
        for (size_t i = 0; i < n; i++)
            half[i] = zi_float_to_half(src[i]);
    else if (dtype == ZOPT_BF16)
        for (size_t i = 0; i < n; i++)
            half[i] = zi_float_to_bf16(src[i]);
    else
        memcpy(dst, src, n * sizeof *src);
}

void zi_convert(void *dst, zopt_dtype dst_dtype, const void *src, zopt_dtype src_dtype, size_t n)
{
    enum { CHUNK = 256 };
    float wide[CHUNK];
    if (dst_dtype == src_dtype) {
        memcpy(dst, src, n * zopt_dtype_bytes(dst_dtype));
        return;
    }
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t m = n - i < CHUNK ? n - i : CHUNK;
        const char *from = (const char *)src + i * zopt_dtype_bytes(src_dtype);
        char *to = (char *)dst + i * zopt_dtype_bytes(dst_dtype);
        widen(wide, from, src_dtype, m);
        narrow(to, dst_dtype, wide, m);
    }
}
