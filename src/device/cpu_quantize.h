/* A block of 8-bit states to and from FP32 inside the CPU kernels. What a code means is written in
 * optim/quantize.h. With AVX2 the same arithmetic is done 8 elements at once, bit for bit: the
 * constants of a decade come out of a register by a permutation, where selecting them one after the
 * other would take longer than the rest of the update. */
#ifndef ZI_DEVICE_CPU_QUANTIZE_H
#define ZI_DEVICE_CPU_QUANTIZE_H

#include "device/device.h"
#include "optim/quantize.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

/* The seven decades, and last what is above them. */
#define ENTRY(constant, ten, first) constant(ten, first),
#define TABLE(constant, last)               \
    {                                       \
        ZI_Q8_DECADES(ENTRY, constant) last \
    }
static const float value_slope[8] = TABLE(ZI_Q8_VALUE_SLOPE, 0.0f);
static const float value_offset[8] = TABLE(ZI_Q8_VALUE_OFFSET, 1.0f);
static const float f_slope[8] = TABLE(ZI_Q8_F_SLOPE, 0.0f);
static const float f_offset[8] = TABLE(ZI_Q8_F_OFFSET, ZI_Q8_F_ONE);
static const float f_end[8] = TABLE(ZI_Q8_F_END, ZI_Q8_F_ONE);
static const float begin_signed[8] = TABLE(ZI_Q8_BEGIN_SIGNED, ZI_Q8_BEGIN_ONE_SIGNED);
static const float begin_unsigned[8] = TABLE(ZI_Q8_BEGIN_UNSIGNED, ZI_Q8_BEGIN_ONE_UNSIGNED);
#undef TABLE
#undef ENTRY

static inline __m256 pick(const float table[8], __m256i index)
{
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
}

/* zi_q8_value for f >= 2, whose exponent counts the decades. */
static inline __m256 value8(__m256 f)
{
    __m256i exponent = _mm256_srli_epi32(_mm256_castps_si256(f), 23);
    __m256 product = _mm256_mul_ps(pick(value_slope, exponent), f);
    return _mm256_add_ps(product, pick(value_offset, exponent));
}

static inline void decode_signed(float *dst, const uint8_t *code, float absmax)
{
    const __m256 scale = _mm256_set1_ps(absmax), minus = _mm256_set1_ps(-0.0f);
    for (size_t i = 0; i < ZI_BLOCK; i += 8) {
        __m128i index = _mm_add_epi8(_mm_loadl_epi64((const void *)(code + i)), _mm_set1_epi8(127));
        __m256i k = _mm256_sub_epi32(_mm256_cvtepu8_epi32(index), _mm256_set1_epi32(127));
        __m256i zero = _mm256_cmpeq_epi32(k, _mm256_setzero_si256());
        __m256i middle = _mm256_slli_epi32(_mm256_abs_epi32(k), 1);
        middle = _mm256_add_epi32(middle, _mm256_set1_epi32(1));
        __m256 value = _mm256_mul_ps(value8(_mm256_cvtepi32_ps(middle)), scale);
        value = _mm256_xor_ps(value, _mm256_and_ps(_mm256_castsi256_ps(k), minus));
        _mm256_storeu_ps(dst + i, _mm256_andnot_ps(_mm256_castsi256_ps(zero), value));
    }
}

static inline void decode_unsigned(float *dst, const uint8_t *code, float absmax)
{
    const __m256 scale = _mm256_set1_ps(absmax);
    for (size_t i = 0; i < ZI_BLOCK; i += 8) {
        __m256i k = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(code + i)));
        __m256i zero = _mm256_cmpeq_epi32(k, _mm256_setzero_si256());
        __m256 middle = _mm256_add_ps(_mm256_cvtepi32_ps(k), _mm256_set1_ps(1.5f));
        __m256 value = _mm256_mul_ps(value8(middle), scale);
        _mm256_storeu_ps(dst + i, _mm256_andnot_ps(_mm256_castsi256_ps(zero), value));
    }
}

/* zi_q8_nearest, after zi_q8_in_range. The bits of a float, taken for an integer, are its logarithm
 * but for 0.09 octaves: they tell the decade, or the next one. Added to 2^23, its number is in the
 * low bits of the sum. */
static inline __m256 nearest8(__m256 ratio, const float begin[8])
{
    const __m256 one = _mm256_set1_ps(1.0f), least = _mm256_set1_ps(ZI_Q8_LEAST);
    const __m256 decades = _mm256_set1_ps(0.30103f * 0x1p-23f); /* log10(2) */
    const __m256 shift = _mm256_set1_ps(0x1p23f - 31.5f);       /* 127 octaves less 7 decades, +- */
    ratio = _mm256_max_ps(_mm256_min_ps(ratio, one), least);
    __m256 bits = _mm256_cvtepi32_ps(_mm256_castps_si256(ratio));
    __m256i decade = _mm256_castps_si256(_mm256_fmadd_ps(bits, decades, shift));
    __m256 before = _mm256_cmp_ps(ratio, pick(begin, decade), _CMP_LT_OQ);
    decade = _mm256_add_epi32(decade, _mm256_castps_si256(before));
    __m256 f = _mm256_mul_ps(pick(f_slope, decade), ratio);
    f = _mm256_add_ps(f, pick(f_offset, decade));
    return _mm256_min_ps(f, pick(f_end, decade));
}

static inline __m256i encode8_signed(const float *x, __m256 inverse)
{
    const __m256 minus = _mm256_set1_ps(-0.0f);
    __m256 value = _mm256_loadu_ps(x), magnitude = _mm256_andnot_ps(minus, value);
    __m256 f = nearest8(_mm256_mul_ps(magnitude, inverse), begin_signed);
    __m256i k = _mm256_cvttps_epi32(_mm256_mul_ps(f, _mm256_set1_ps(0.5f)));
    __m256i sign = _mm256_or_si256(_mm256_castps_si256(value), _mm256_set1_epi32(1));
    __m256 any = _mm256_cmp_ps(magnitude, _mm256_setzero_ps(), _CMP_GT_OQ);
    k = _mm256_max_epi32(_mm256_sign_epi32(k, sign), _mm256_set1_epi32(-127));
    k = _mm256_and_si256(k, _mm256_castps_si256(any));
    return _mm256_and_si256(k, _mm256_set1_epi32(255));
}

static inline __m256i encode8_unsigned(const float *x, __m256 inverse)
{
    __m256 value = _mm256_loadu_ps(x);
    __m256i k = _mm256_cvttps_epi32(nearest8(_mm256_mul_ps(value, inverse), begin_unsigned));
    __m256 any = _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_GT_OQ);
    return _mm256_and_si256(_mm256_sub_epi32(k, _mm256_set1_epi32(1)), _mm256_castps_si256(any));
}

/* 32 integers of 0..255 as bytes. A pack keeps to halves of a register: the permutation undoes it.
 */
static inline void store_codes(uint8_t *code, const __m256i k[4])
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i low = _mm256_packs_epi32(k[0], k[1]), high = _mm256_packs_epi32(k[2], k[3]);
    __m256i all = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    _mm256_storeu_si256((void *)code, all);
}

static inline void encode_signed(uint8_t *code, const float *x, float inverse)
{
    const __m256 scale = _mm256_set1_ps(inverse);
    for (size_t i = 0; i < ZI_BLOCK; i += 32) {
        __m256i k[4];
        for (size_t j = 0; j < 4; j++)
            k[j] = encode8_signed(x + i + 8 * j, scale);
        store_codes(code + i, k);
    }
}

static inline void encode_unsigned(uint8_t *code, const float *x, float inverse)
{
    const __m256 scale = _mm256_set1_ps(inverse);
    for (size_t i = 0; i < ZI_BLOCK; i += 32) {
        __m256i k[4];
        for (size_t j = 0; j < 4; j++)
            k[j] = encode8_unsigned(x + i + 8 * j, scale);
        store_codes(code + i, k);
    }
}

#else

static inline void decode_signed(float *dst, const uint8_t *code, float absmax)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        dst[i] = zi_q8_decode_signed(code[i], absmax);
}

static inline void decode_unsigned(float *dst, const uint8_t *code, float absmax)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        dst[i] = zi_q8_decode_unsigned(code[i], absmax);
}

static inline void encode_signed(uint8_t *code, const float *x, float inverse)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        code[i] = zi_q8_encode_signed(x[i], inverse);
}

static inline void encode_unsigned(uint8_t *code, const float *x, float inverse)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        code[i] = zi_q8_encode_unsigned(x[i], inverse);
}

#endif

static inline float block_absmax(const float *x)
{
    float lane[ZI_LANES] = {0};
    for (size_t first = 0; first < ZI_BLOCK; first += ZI_LANES)
        for (size_t i = 0; i < ZI_LANES; i++)
            lane[i] = zi_q8_larger(lane[i], x[first + i]);
    for (size_t half = ZI_LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lane[i] = zi_q8_larger(lane[i], lane[i + half]);
    return zi_q8_absmax(lane[0]);
}

/* A block of a state in an 8-bit form, which begins at `state`. */
static inline void decode_block(zi_form form, float *dst, const zi_state_slice *state)
{
    if (form == ZI_FORM_Q8_SIGNED)
        decode_signed(dst, state->data, *state->absmax);
    else
        decode_unsigned(dst, state->data, *state->absmax);
}

static inline void encode_block(zi_form form, const zi_state_slice *state, const float *x)
{
    float absmax = block_absmax(x), inverse = zi_q8_inverse(absmax);
    *state->absmax = absmax;
    if (form == ZI_FORM_Q8_SIGNED)
        encode_signed(state->data, x, inverse);
    else
        encode_unsigned(state->data, x, inverse);
}

#endif
