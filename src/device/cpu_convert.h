/* A line of 16-bit elements, 64 bytes, to and from FP32 inside the CPU kernels: the machine's
 * conversion instructions where the variant has them, the portable ones of base/dtype.h elsewhere;
 * the same bits. What goes from one to the next stays in registers: a store and a load of another
 * width at the same address would wait for each other. */
#ifndef ZI_DEVICE_CPU_CONVERT_H
#define ZI_DEVICE_CPU_CONVERT_H

#include "base/dtype.h"
#include "device/device.h"

enum { ZI_LINE = 32 };

static inline size_t element_bytes(zopt_dtype dtype)
{
    return dtype == ZOPT_FP32 ? 4 : 2;
}

#if defined(__AVX512F__)
#include <immintrin.h>

enum { VECTOR = 16, VECTORS = ZI_LINE / VECTOR };
typedef __m512 vector;
typedef __m512i packed; /* a line of 16-bit elements */

static inline vector widen(const void *data, zopt_dtype dtype)
{
    if (dtype == ZOPT_FP32)
        return _mm512_loadu_ps(data);
    __m256i bits = _mm256_loadu_si256(data);
    if (dtype == ZOPT_FP16)
        return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

static inline vector add(vector a, vector b)
{
    return _mm512_add_ps(a, b);
}

static inline void put_times(float *dst, vector x, float k)
{
    _mm512_storeu_ps(dst, _mm512_mul_ps(x, _mm512_set1_ps(k)));
}

static inline __m256i narrow16(const float *src)
{
    __m512 x = _mm512_loadu_ps(src);
    __m256i half = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm256_mask_blend_epi16(is_nan, half, _mm256_set1_epi16(0x7fff));
}

static inline packed narrow_half(const float *src)
{
    __m512i low = _mm512_castsi256_si512(narrow16(src));
    return _mm512_inserti64x4(low, narrow16(src + 16), 1);
}

static inline __m256i narrow16_bf16(const float *src)
{
    __m512 x = _mm512_loadu_ps(src);
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    u = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff));
    __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __m256i bits = _mm512_cvtepi32_epi16(_mm512_srli_epi32(u, 16));
    return _mm256_mask_blend_epi16(is_nan, bits, _mm256_set1_epi16(0x7fc0));
}

static inline packed narrow_bf16(const float *src)
{
    __m512i low = _mm512_castsi256_si512(narrow16_bf16(src));
    return _mm512_inserti64x4(low, narrow16_bf16(src + 16), 1);
}

/* Past the caches where dst is the beginning of a line of theirs. */
static inline void store_packed(void *dst, packed x)
{
    if ((uintptr_t)dst % 64 == 0)
        _mm512_stream_si512(dst, x);
    else
        _mm512_storeu_si512(dst, x);
}

/* Order these stores before later ones, e.g. of a flag that says they are done. */
static inline void store_end(void)
{
    _mm_sfence();
}

#elif defined(__F16C__) && defined(__AVX2__)
#include <immintrin.h>

enum { VECTOR = 8, VECTORS = ZI_LINE / VECTOR };
typedef __m256 vector;
typedef struct packed {
    __m256i half[2];
} packed;

static inline vector widen(const void *data, zopt_dtype dtype)
{
    if (dtype == ZOPT_FP32)
        return _mm256_loadu_ps(data);
    __m128i bits = _mm_loadu_si128(data);
    if (dtype == ZOPT_FP16)
        return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

static inline vector add(vector a, vector b)
{
    return _mm256_add_ps(a, b);
}

static inline void put_times(float *dst, vector x, float k)
{
    _mm256_storeu_ps(dst, _mm256_mul_ps(x, _mm256_set1_ps(k)));
}

static inline __m128i narrow8(const float *src)
{
    return _mm256_cvtps_ph(_mm256_loadu_ps(src), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* NaNs are found among the halves, which are fewer. */
static inline __m256i narrow16(const float *src)
{
    __m256i half = _mm256_set_m128i(narrow8(src + 8), narrow8(src));
    __m256i magnitude = _mm256_and_si256(half, _mm256_set1_epi16(0x7fff));
    __m256i is_nan = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(0x7c00));
    return _mm256_blendv_epi8(half, _mm256_set1_epi16(0x7fff), is_nan);
}

static inline packed narrow_half(const float *src)
{
    return (packed){{narrow16(src), narrow16(src + 16)}};
}

static inline __m256i narrow8_bf16(const float *src)
{
    __m256 x = _mm256_loadu_ps(src);
    __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    u = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7fff));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x7fc0), is_nan);
}

/* A pack keeps to halves of a register: the permutation undoes it. */
static inline __m256i narrow16_bf16(const float *src)
{
    __m256i both = _mm256_packus_epi32(narrow8_bf16(src), narrow8_bf16(src + 8));
    return _mm256_permute4x64_epi64(both, 0xd8);
}

static inline packed narrow_bf16(const float *src)
{
    return (packed){{narrow16_bf16(src), narrow16_bf16(src + 16)}};
}

static inline void store_packed(void *dst, packed x)
{
    __m256i *to = dst;
    for (int i = 0; i < 2; i++)
        if ((uintptr_t)dst % 64 == 0)
            _mm256_stream_si256(to + i, x.half[i]);
        else
            _mm256_storeu_si256(to + i, x.half[i]);
}

static inline void store_end(void)
{
    _mm_sfence();
}

#else

/* As long as a line, so that the compiler sees loops worth vectorizing. */
enum { VECTOR = ZI_LINE, VECTORS = 1 };
typedef struct vector {
    float lane[VECTOR];
} vector;
typedef struct packed {
    uint16_t bits[ZI_LINE];
} packed;

static inline vector widen(const void *data, zopt_dtype dtype)
{
    uint16_t bits[VECTOR];
    vector x;
    memcpy(dtype == ZOPT_FP32 ? (void *)x.lane : (void *)bits, data, VECTOR * element_bytes(dtype));
    if (dtype == ZOPT_FP16)
        for (size_t i = 0; i < VECTOR; i++)
            x.lane[i] = zi_half_to_float(bits[i]);
    else if (dtype == ZOPT_BF16)
        for (size_t i = 0; i < VECTOR; i++)
            x.lane[i] = zi_bf16_to_float(bits[i]);
    return x;
}

static inline vector add(vector a, vector b)
{
    for (size_t i = 0; i < VECTOR; i++)
        a.lane[i] += b.lane[i];
    return a;
}

static inline void put_times(float *dst, vector x, float k)
{
    for (size_t i = 0; i < VECTOR; i++)
        dst[i] = x.lane[i] * k;
}

static inline packed narrow_half(const float *src)
{
    packed x;
    for (size_t i = 0; i < ZI_LINE; i++)
        x.bits[i] = zi_float_to_half(src[i]);
    return x;
}

static inline packed narrow_bf16(const float *src)
{
    packed x;
    for (size_t i = 0; i < ZI_LINE; i++)
        x.bits[i] = zi_float_to_bf16(src[i]);
    return x;
}

static inline void store_packed(void *dst, packed x)
{
    memcpy(dst, &x, sizeof x);
}

static inline void store_end(void)
{
}

#endif
#endif
