/* How a CUDA thread reads and writes memory: four elements at a time, 128 bits of floats and 64 of
 * halves, past the caches where nothing comes back to them. As C the same on the host, for tests.
 */
#ifndef ZI_DEVICE_CUDA_MEMORY_H
#define ZI_DEVICE_CUDA_MEMORY_H

#include "base/dtype.h"

enum { ZI_QUAD = 4 };

typedef struct zi_quad {
    float x[ZI_QUAD];
} zi_quad;

/* Four elements as they lie in memory: two words of halves or four of floats. */
typedef struct zi_raw {
    uint32_t word[ZI_QUAD];
} zi_raw;

#ifdef __CUDACC__
#include <cuda_fp16.h>

#define ZI_TILE     static __device__ __forceinline__
#define ZI_UNROLL   _Pragma("unroll")
#define ZI_UNROLL_4 _Pragma("unroll 4")

ZI_TILE zi_quad zi_load_quad(const float *p)
{
    float4 v = __ldcs((const float4 *)p);
    zi_quad q = {{v.x, v.y, v.z, v.w}};
    return q;
}

ZI_TILE void zi_store_quad(float *p, zi_quad q)
{
    __stcs((float4 *)p, make_float4(q.x[0], q.x[1], q.x[2], q.x[3]));
}

ZI_TILE zi_raw zi_load_raw2(const void *p)
{
    uint2 v = __ldcs((const uint2 *)p);
    zi_raw raw = {{v.x, v.y, 0, 0}};
    return raw;
}

ZI_TILE zi_raw zi_load_raw4(const void *p)
{
    uint4 v = __ldcs((const uint4 *)p);
    zi_raw raw = {{v.x, v.y, v.z, v.w}};
    return raw;
}

ZI_TILE uint32_t zi_load_half(const void *p)
{
    return __ldcs((const unsigned short *)p);
}

/* Parameters are read again soon: no hint. */
ZI_TILE void zi_store_raw2(void *p, zi_raw raw)
{
    *(uint2 *)p = make_uint2(raw.word[0], raw.word[1]);
}

ZI_TILE void zi_store_raw4(void *p, zi_raw raw)
{
    *(uint4 *)p = make_uint4(raw.word[0], raw.word[1], raw.word[2], raw.word[3]);
}

/* Four bytes. */
ZI_TILE uint32_t zi_load_word(const void *p)
{
    return __ldcs((const unsigned *)p);
}

ZI_TILE void zi_store_word(void *p, uint32_t word)
{
    __stcs((unsigned *)p, word);
}

ZI_TILE float zi_word_float(uint32_t word)
{
    return __uint_as_float(word);
}

ZI_TILE uint32_t zi_float_word(float x)
{
    return __float_as_uint(x);
}

ZI_TILE float zi_widen_half(uint32_t bits)
{
    return __half2float(__ushort_as_half((unsigned short)bits));
}

/* The conversion instruction gives 0x7fff for a NaN, as base/dtype.h asks for. */
ZI_TILE uint32_t zi_narrow_half(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}

ZI_TILE uint32_t zi_narrow_bf16(float x)
{
    uint32_t u = __float_as_uint(x);
    uint32_t out = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : out & 0xffffu;
}

#else

#define ZI_TILE static inline
#define ZI_UNROLL
#define ZI_UNROLL_4

ZI_TILE zi_quad zi_load_quad(const float *p)
{
    zi_quad q;
    memcpy(&q, p, sizeof q);
    return q;
}

ZI_TILE void zi_store_quad(float *p, zi_quad q)
{
    memcpy(p, &q, sizeof q);
}

ZI_TILE zi_raw zi_load_raw2(const void *p)
{
    zi_raw raw = {{0, 0, 0, 0}};
    memcpy(&raw, p, 2 * sizeof raw.word[0]);
    return raw;
}

ZI_TILE zi_raw zi_load_raw4(const void *p)
{
    zi_raw raw;
    memcpy(&raw, p, sizeof raw);
    return raw;
}

ZI_TILE uint32_t zi_load_half(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return half;
}

ZI_TILE void zi_store_raw2(void *p, zi_raw raw)
{
    memcpy(p, &raw, 2 * sizeof raw.word[0]);
}

ZI_TILE void zi_store_raw4(void *p, zi_raw raw)
{
    memcpy(p, &raw, sizeof raw);
}

ZI_TILE uint32_t zi_load_word(const void *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

ZI_TILE void zi_store_word(void *p, uint32_t word)
{
    memcpy(p, &word, sizeof word);
}

ZI_TILE float zi_word_float(uint32_t word)
{
    return zi_bits_float(word);
}

ZI_TILE uint32_t zi_float_word(float x)
{
    return zi_float_bits(x);
}

ZI_TILE float zi_widen_half(uint32_t bits)
{
    return zi_half_to_float((uint16_t)bits);
}

ZI_TILE uint32_t zi_narrow_half(float x)
{
    return zi_float_to_half(x);
}

ZI_TILE uint32_t zi_narrow_bf16(float x)
{
    return zi_float_to_bf16(x);
}

#endif

/* Elements [i, i + 4) of an array of the dtype. */
ZI_TILE zi_raw zi_load_raw(const void *data, zopt_dtype dtype, uint64_t i)
{
    if (dtype == ZOPT_FP32)
        return zi_load_raw4((const float *)data + i);
    return zi_load_raw2((const uint16_t *)data + i);
}

ZI_TILE void zi_store_raw(void *data, zopt_dtype dtype, uint64_t i, zi_raw raw)
{
    if (dtype == ZOPT_FP32)
        zi_store_raw4((float *)data + i, raw);
    else
        zi_store_raw2((uint16_t *)data + i, raw);
}

/* Element i alone, wherever it lies. */
ZI_TILE float zi_load_one(const void *data, zopt_dtype dtype, uint64_t i)
{
    if (dtype == ZOPT_FP32)
        return zi_word_float(zi_load_word((const float *)data + i));
    uint32_t half = zi_load_half((const uint16_t *)data + i);
    return dtype == ZOPT_FP16 ? zi_widen_half(half) : zi_word_float(half << 16);
}

ZI_TILE zi_quad zi_widen(zi_raw raw, zopt_dtype dtype)
{
    zi_quad q;
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++) {
        uint32_t half = e % 2 == 0 ? raw.word[e / 2] & 0xffffu : raw.word[e / 2] >> 16;
        q.x[e] = dtype == ZOPT_FP32   ? zi_word_float(raw.word[e])
                 : dtype == ZOPT_FP16 ? zi_widen_half(half)
                                      : zi_word_float(half << 16);
    }
    return q;
}

ZI_TILE zi_raw zi_narrow(zi_quad q, zopt_dtype dtype)
{
    zi_raw raw = {{0, 0, 0, 0}};
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++) {
        if (dtype == ZOPT_FP32)
            raw.word[e] = zi_float_word(q.x[e]);
        else
            raw.word[e / 2] |=
                (dtype == ZOPT_FP16 ? zi_narrow_half(q.x[e]) : zi_narrow_bf16(q.x[e]))
                << (e % 2 * 16);
    }
    return raw;
}

#endif
