/* Element types and their conversions, one element at a time and in bulk. The rules, for every
 * device: round to nearest even; a NaN becomes the canonical 0x7fff (FP16) or 0x7fc0 (BF16). */
#ifndef ZI_BASE_DTYPE_H
#define ZI_BASE_DTYPE_H

#include <stdint.h>
#include <string.h>
#include <zopt/zopt.h>

enum { ZI_N_DTYPES = 3 };

/* "fp16", "bf16", "fp32". */
const char *zi_dtype_name(zopt_dtype dtype);

static inline uint32_t zi_float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float zi_bits_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Branch-free, so that loops over them vectorize. Subnormals: a half's is the float whose exponent
 * is that of 2^-14 with the implicit bit taken off again; the subtraction is exact. */
static inline float zi_half_to_float(uint16_t h)
{
    uint32_t sign = ((uint32_t)h & 0x8000u) << 16;
    uint32_t magnitude = ((uint32_t)h & 0x7fffu) << 13;
    uint32_t exponent = magnitude & 0x0f800000u;
    uint32_t normal = magnitude + 0x38000000u;  /* bias 127 - 15 */
    uint32_t special = magnitude + 0x70000000u; /* exponent 31 -> 255 */
    uint32_t tiny = zi_float_bits(zi_bits_float(magnitude + 0x38800000u) - 0x1p-14f);
    uint32_t out = exponent == 0x0f800000u ? special : normal;
    out = exponent == 0 ? tiny : out;
    return zi_bits_float(sign | out);
}

/* Subnormals: adding 0.5 aligns the float so that its low bits are multiples of 2^-24, the
 * smallest half, rounded to nearest even by the addition itself. */
static inline uint16_t zi_float_to_half(float x)
{
    uint32_t u = zi_float_bits(x);
    uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t magnitude = u & 0x7fffffffu;
    uint32_t tiny = zi_float_bits(zi_bits_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t out = magnitude < 0x38800000u ? tiny : normal;
    out = magnitude >= 0x477ff000u ? 0x7c00u : out; /* >= 65520 rounds to infinity */
    out |= sign;
    return (uint16_t)(magnitude > 0x7f800000u ? 0x7fffu : out);
}

static inline float zi_bf16_to_float(uint16_t b)
{
    return zi_bits_float((uint32_t)b << 16);
}

static inline uint16_t zi_float_to_bf16(float x)
{
    uint32_t u = zi_float_bits(x);
    uint32_t out = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : out);
}

/* dst[i] = src[i] converted; equal dtypes are copied. Ranges do not overlap. */
void zi_convert(void *dst, zopt_dtype dst_dtype, const void *src, zopt_dtype src_dtype, size_t n);

#endif
