/* A block of 8-bit states to and from FP32 inside the CPU kernels. What a code means is written in
 * optim/quantize.h. With AVX2 the same arithmetic is done 8 elements at once, bit for bit: the
 * constants of a decade come out of a table by a permutation, where selecting them one after the
 * other would take longer than the rest of the update. */
#ifndef ZI_DEVICE_CPU_QUANTIZE_H
#define ZI_DEVICE_CPU_QUANTIZE_H

#include "base/dtype.h"
#include "device/device.h"
#include "optim/quantize.h"

/* A block of a state on its way to codes. */
typedef struct encoding {
    uint8_t *code;
    const float *x;
    float inverse; /* of absmax */
    int is_plain;  /* 1: x is finite and, where the map has no signs, not below zero */
} encoding;

static float largest_by_rule(const float *x)
{
    float lane[ZI_LANES] = {0};
    for (size_t first = 0; first < ZI_BLOCK; first += ZI_LANES)
        for (size_t i = 0; i < ZI_LANES; i++)
            lane[i] = zi_q8_larger(lane[i], x[first + i]);
    for (size_t half = ZI_LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lane[i] = zi_q8_larger(lane[i], lane[i + half]);
    return lane[0];
}

static void encode_by_rule(zi_form form, const encoding *e)
{
    for (size_t i = 0; i < ZI_BLOCK; i++)
        e->code[i] = form == ZI_FORM_Q8_SIGNED ? zi_q8_encode_signed(e->x[i], e->inverse)
                                               : zi_q8_encode_unsigned(e->x[i], e->inverse);
}

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

/* ---- from codes ---- */

/* A map's lines from k to values, by the exponent of k, modulo 8; k = 0 of the signed map, whose
 * sign is 0, may have any. */
typedef struct value_lines {
    _Alignas(32) float slope[8], offset[8];
} value_lines;

#define SIGNED_ENTRY(constant, ten, first) \
    [(126 + __builtin_ctz(first)) % 8] = constant(ten, first),
#define UNSIGNED_ENTRY(constant, ten, first) \
    [(127 + __builtin_ctz(first)) % 8] = constant(ten, first),
static const value_lines signed_values = {
    .slope = {ZI_Q8_DECADES(SIGNED_ENTRY, ZI_Q8_VALUE_SLOPE_SIGNED)[(127 + 7) % 8] =
                  ZI_Q8_ENDS_SLOPE_SIGNED},
    .offset = {ZI_Q8_DECADES(SIGNED_ENTRY, ZI_Q8_VALUE_OFFSET_SIGNED)[(127 + 7) % 8] =
                   ZI_Q8_ENDS_OFFSET_SIGNED},
};
static const value_lines unsigned_values = {
    .slope = {ZI_Q8_DECADES(UNSIGNED_ENTRY, ZI_Q8_VALUE_SLOPE_UNSIGNED)[(127 + 8) % 8] =
                  ZI_Q8_ENDS_SLOPE_UNSIGNED},
    .offset = {ZI_Q8_DECADES(UNSIGNED_ENTRY, ZI_Q8_VALUE_OFFSET_UNSIGNED)[(127 + 8) % 8] =
                   ZI_Q8_ENDS_OFFSET_UNSIGNED},
};
#undef SIGNED_ENTRY
#undef UNSIGNED_ENTRY

/* table[index mod 8] */
static inline __m256 pick(const float table[8], __m256i index)
{
    return _mm256_permutevar8x32_ps(_mm256_load_ps(table), index);
}

static inline __m256i exponent8(__m256 x)
{
    return _mm256_srli_epi32(_mm256_castps_si256(x), 23);
}

/* A sign changes none of the lower bits of the exponent. */
static inline void decode_signed(float *dst, const uint8_t *code, float absmax)
{
    const __m256 scale = _mm256_set1_ps(absmax);
    const __m256i one = _mm256_set1_epi32(1);
    for (size_t i = 0; i < ZI_BLOCK; i += 8) {
        __m256i integer = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(code + i)));
        __m256 k = _mm256_cvtepi32_ps(integer);
        __m256 sign = _mm256_cvtepi32_ps(_mm256_sign_epi32(one, integer));
        __m256i line = exponent8(k);
        __m256 offset = _mm256_mul_ps(pick(signed_values.offset, line), sign);
        __m256 value = _mm256_fmadd_ps(pick(signed_values.slope, line), k, offset);
        _mm256_storeu_ps(dst + i, _mm256_mul_ps(value, scale));
    }
}

static inline void decode_unsigned(float *dst, const uint8_t *code, float absmax)
{
    const __m256 scale = _mm256_set1_ps(absmax);
    const __m256i one = _mm256_set1_epi32(1);
    for (size_t i = 0; i < ZI_BLOCK; i += 8) {
        __m256i integer = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(code + i)));
        __m256 k = _mm256_cvtepi32_ps(_mm256_add_epi32(integer, one));
        __m256i line = exponent8(k);
        __m256 offset = pick(unsigned_values.offset, line);
        __m256 value = _mm256_fmadd_ps(pick(unsigned_values.slope, line), k, offset);
        _mm256_storeu_ps(dst + i, _mm256_mul_ps(value, scale));
    }
}

static void decode_block(zi_form form, float *dst, const zi_state_slice *state)
{
    if (form == ZI_FORM_Q8_SIGNED)
        decode_signed(dst, state->data, *state->absmax);
    else
        decode_unsigned(dst, state->data, *state->absmax);
}

/* ---- to codes ---- */

/* A map's lines from ratios to c, by the decade; at last, 1. */
typedef struct code_lines {
    _Alignas(32) float begin[8], slope[8], offset[8], end[8];
} code_lines;

#define ENTRY(constant, ten, first) constant(ten, first),
#define CODE_LINES(map, MAP)                                                       \
    static const code_lines map##_codes = {                                        \
        .begin = {ZI_Q8_DECADES(ENTRY, ZI_Q8_BEGIN_##MAP) ZI_Q8_BEGIN_LAST_##MAP}, \
        .slope = {ZI_Q8_DECADES(ENTRY, ZI_Q8_C_SLOPE_##MAP) 0.0f},                 \
        .offset = {ZI_Q8_DECADES(ENTRY, ZI_Q8_C_OFFSET_##MAP) ZI_Q8_C_LAST_##MAP}, \
        .end = {ZI_Q8_DECADES(ENTRY, ZI_Q8_C_END_##MAP) ZI_Q8_C_LAST_##MAP},       \
    };
ZI_Q8_MAPS(CODE_LINES)
#undef CODE_LINES
#undef ENTRY

/* Floats that are not negative are compared as integers: more units of a core can. */
static inline __m256 larger8(__m256 a, __m256 b)
{
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

static inline __m256 smaller8(__m256 a, __m256 b)
{
    return _mm256_castsi256_ps(_mm256_min_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

/* A block between the two halves of zi_q8_nearest_signed, _unsigned, which have a loop each: their
 * steps wait for one another, and one loop with all of them would be longer than what a core can
 * look ahead to find others. */
typedef struct halfway {
    _Alignas(32) float ratio[ZI_BLOCK];
    _Alignas(32) int32_t decade[ZI_BLOCK];
} halfway;

/* The bits of a float, taken for an integer, are its logarithm but for 0.09 octaves: they tell the
 * decade, or the next one. Added to 2^23, its number is in the low bits of the sum. */
static inline __m256i decade8(const code_lines *lines, __m256 ratio)
{
    const __m256 decades = _mm256_set1_ps(0.30103f * 0x1p-23f); /* log10(2) */
    const __m256 shift = _mm256_set1_ps(0x1p23f - 31.5f);       /* 127 octaves less 7 decades, +- */
    __m256 bits = _mm256_cvtepi32_ps(_mm256_castps_si256(ratio));
    __m256i decade = _mm256_castps_si256(_mm256_fmadd_ps(bits, decades, shift));
    __m256i begin = _mm256_castps_si256(pick(lines->begin, decade));
    return _mm256_add_epi32(decade, _mm256_cmpgt_epi32(begin, _mm256_castps_si256(ratio)));
}

/* Magnitudes by the reciprocal of their largest: a little above 1 at most. */
static inline void find_decades(const code_lines *lines, const float *x, float inverse, halfway *h)
{
    const __m256 scale = _mm256_set1_ps(inverse), minus = _mm256_set1_ps(-0.0f);
    const __m256 least = _mm256_set1_ps(ZI_Q8_LEAST);
    for (size_t i = 0; i < ZI_BLOCK; i += 8) {
        __m256 magnitude = _mm256_andnot_ps(minus, _mm256_loadu_ps(x + i));
        __m256 ratio = larger8(_mm256_mul_ps(magnitude, scale), least);
        _mm256_store_ps(h->ratio + i, ratio);
        _mm256_store_si256((void *)(h->decade + i), decade8(lines, ratio));
    }
}

static inline __m256i nearest8(const code_lines *lines, const halfway *h, size_t i)
{
    __m256i decade = _mm256_load_si256((const void *)(h->decade + i));
    __m256 ratio = _mm256_load_ps(h->ratio + i);
    __m256 c = _mm256_fmadd_ps(pick(lines->slope, decade), ratio, pick(lines->offset, decade));
    return _mm256_cvttps_epi32(smaller8(c, pick(lines->end, decade)));
}

/* 32 elements, each a byte, in the order in which packs leave them, which keep to halves of a
 * register: c, and signs of x, which are 0 for +0. */
static inline __m256i nearest32(const code_lines *lines, const halfway *h, size_t i)
{
    __m256i low = _mm256_packs_epi32(nearest8(lines, h, i), nearest8(lines, h, i + 8));
    __m256i high = _mm256_packs_epi32(nearest8(lines, h, i + 16), nearest8(lines, h, i + 24));
    return _mm256_packus_epi16(low, high);
}

static inline __m256i bits8(const float *x)
{
    return _mm256_castps_si256(_mm256_add_ps(_mm256_loadu_ps(x), _mm256_setzero_ps())); /* no -0 */
}

static inline __m256i signs32(const float *x)
{
    return _mm256_packs_epi16(_mm256_packs_epi32(bits8(x), bits8(x + 8)),
                              _mm256_packs_epi32(bits8(x + 16), bits8(x + 24)));
}

static inline void store_codes(uint8_t *code, __m256i bytes)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((void *)code, _mm256_permutevar8x32_epi32(bytes, order));
}

/* x: finite. */
static inline void encode_signed(uint8_t *code, const float *x, float inverse)
{
    halfway h;
    find_decades(&signed_codes, x, inverse, &h);
    for (size_t i = 0; i < ZI_BLOCK; i += 32) {
        __m256i k = nearest32(&signed_codes, &h, i), sign = signs32(x + i);
        /* 255, below zero 127 */
        __m256i most =
            _mm256_xor_si256(_mm256_or_si256(sign, _mm256_set1_epi8(0x7f)), _mm256_set1_epi8(-128));
        store_codes(code + i, _mm256_sign_epi8(_mm256_min_epu8(k, most), sign));
    }
}

/* x: finite and not below zero. */
static inline void encode_unsigned(uint8_t *code, const float *x, float inverse)
{
    halfway h;
    find_decades(&unsigned_codes, x, inverse, &h);
    for (size_t i = 0; i < ZI_BLOCK; i += 32)
        store_codes(code + i, _mm256_sign_epi8(nearest32(&unsigned_codes, &h, i), signs32(x + i)));
}

/* Without their signs, floats are in the order of their bits, infinities and NaNs last; where signs
 * are left, what has one comes behind those. */
static inline uint32_t largest_bits(const float *x, uint32_t kept)
{
    const __m256i mask = _mm256_set1_epi32((int)kept), zero = _mm256_setzero_si256();
    __m256i largest[4] = {zero, zero, zero, zero};
    for (size_t first = 0; first < ZI_BLOCK; first += 32)
        for (size_t i = 0; i < 4; i++) {
            __m256i bits = _mm256_loadu_si256((const void *)(x + first + 8 * i));
            largest[i] = _mm256_max_epu32(largest[i], _mm256_and_si256(bits, mask));
        }
    __m256i all = _mm256_max_epu32(_mm256_max_epu32(largest[0], largest[1]),
                                   _mm256_max_epu32(largest[2], largest[3]));
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(four);
}

static inline float find_largest(zi_form form, encoding *e)
{
    const uint32_t infinity = 0x7f800000u;
    uint32_t bits = largest_bits(e->x, form == ZI_FORM_Q8_SIGNED ? 0x7fffffffu : 0xffffffffu);
    e->is_plain = bits < infinity;
    return e->is_plain ? zi_bits_float(bits) : largest_by_rule(e->x);
}

static inline void encode_end(zi_form form, const encoding *e)
{
    if (!e->is_plain)
        encode_by_rule(form, e);
    else if (form == ZI_FORM_Q8_SIGNED)
        encode_signed(e->code, e->x, e->inverse);
    else
        encode_unsigned(e->code, e->x, e->inverse);
}

#else

static void decode_block(zi_form form, float *dst, const zi_state_slice *state)
{
    const uint8_t *code = state->data;
    for (size_t i = 0; i < ZI_BLOCK; i++)
        dst[i] = form == ZI_FORM_Q8_SIGNED ? zi_q8_decode_signed(code[i], *state->absmax)
                                           : zi_q8_decode_unsigned(code[i], *state->absmax);
}

static inline float find_largest(zi_form form, encoding *e)
{
    (void)form;
    return largest_by_rule(e->x);
}

static inline void encode_end(zi_form form, const encoding *e)
{
    encode_by_rule(form, e);
}

#endif

/* Store absmax. encode_end stores the codes of x, some time later: the reciprocal takes its time.
 */
static inline void encode_begin(zi_form form, const zi_state_slice *state, const float *x,
                                encoding *e)
{
    *e = (encoding){.code = state->data, .x = x};
    float absmax = zi_q8_absmax(find_largest(form, e));
    *state->absmax = absmax;
    e->inverse = zi_q8_inverse(absmax);
}

static void encode_block(zi_form form, const zi_state_slice *state, const float *x)
{
    encoding e;
    encode_begin(form, state, x, &e);
    encode_end(form, &e);
}

#endif
