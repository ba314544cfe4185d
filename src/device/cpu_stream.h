/* Non-temporal stores: to memory that is not read again soon, past the caches, so that its lines
 * are not loaded first. Where the instruction set has none they are plain. */
#ifndef ZI_DEVICE_CPU_STREAM_H
#define ZI_DEVICE_CPU_STREAM_H

#include <stddef.h>
#include <string.h>

enum { ZI_LINE_BYTES = 64 };

#if defined(__SSE2__)
#include <immintrin.h>

/* Store 64 bytes; both addresses are multiples of 64. */
static inline void zi_stream_line(void *dst, const void *src)
{
#if defined(__AVX512F__)
    _mm512_stream_si512(dst, _mm512_load_si512(src));
#elif defined(__AVX__)
    for (size_t i = 0; i < 2; i++)
        _mm256_stream_si256((__m256i *)dst + i, _mm256_load_si256((const __m256i *)src + i));
#else
    for (size_t i = 0; i < 4; i++)
        _mm_stream_si128((__m128i *)dst + i, _mm_load_si128((const __m128i *)src + i));
#endif
}

/* Order them before later stores, e.g. of a flag that says they are done. */
static inline void zi_stream_end(void)
{
    _mm_sfence();
}

#else

static inline void zi_stream_line(void *dst, const void *src)
{
    memcpy(dst, src, ZI_LINE_BYTES);
}

static inline void zi_stream_end(void)
{
}

#endif
#endif
