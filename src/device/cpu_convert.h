/* A block of 16-bit elements to and from FP32 inside the CPU kernels: the machine's conversion
 * instructions where the variant has them, the portable ones of base/dtype.h elsewhere; the same
 * bits. Every function converts ZI_BLOCK elements. */
#ifndef ZI_DEVICE_CPU_CONVERT_H
#define ZI_DEVICE_CPU_CONVERT_H

#include "base/dtype.h"
#include "device/device.h"

#if defined(__AVX512F__)
#include <immintrin.h>

static inline void widen_half(float *dst, const uint16_t *src)
{
    for (size_t i = 0; i < ZI_BLOCK; i += 16)
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(src + i))));
}

static inline void narrow_half(uint16_t *dst, const float *src)
{
    const __m256i nan = _mm256_set1_epi16(0x7fff);
    for (size_t i = 0; i < ZI_BLOCK; i += 16) {
        __m512 x = _mm512_loadu_ps(src + i);
        __m256i half = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        _mm256_storeu_si256((void *)(dst + i), _mm256_mask_blend_epi16(is_nan, half, nan));
    }
}

#elif defined(__F16C__) && defined(__AVX2__)
#include <immintrin.h>

static inline void widen_half(float *dst, const uint16_t *src)
{
    for (size_t i = 0; i < ZI_BLOCK; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(src + i))));
}

static inline void narrow_half(uint16_t *dst, const float *src)
{
    const __m128i nan = _mm_set1_epi16(0x7fff);
    for (size_t i = 0; i < ZI_BLOCK; i += 8) {
        __m256 x = _mm256_loadu_ps(src + i);
        __m128i half = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __m256i wide_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        __m128i is_nan = _mm_packs_epi32(_mm256_castsi256_si128(wide_nan),
                                         _mm256_extracti128_si256(wide_nan, 1));
        _mm_storeu_si128((void *)(dst + i), _mm_blendv_epi8(half, nan, is_nan));
    }
}

#else

static inline void widen_half(float *dst, const uint16_t *src)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        dst[i] = zi_half_to_float(src[i]);
}

static inline void narrow_half(uint16_t *dst, const float *src)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        dst[i] = zi_float_to_half(src[i]);
}

#endif

static inline void widen_bf16(float *dst, const uint16_t *src)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        dst[i] = zi_bf16_to_float(src[i]);
}

static inline void narrow_bf16(uint16_t *dst, const float *src)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        dst[i] = zi_float_to_bf16(src[i]);
}

#endif
