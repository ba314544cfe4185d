/* See stream.h. Whole lines of 64 bytes go with stores that are combined and bypass the caches,
 * what is before and behind them as usual. */
#include "ckpt/stream.h"

#include <stdint.h>
#include <string.h>

enum { LINE_BYTES = 64 };

#if defined(__SSE2__)
#include <emmintrin.h>

/* `to` is at the beginning of a line. */
static void copy_lines(char *to, const char *from, size_t n_lines)
{
    for (size_t i = 0; i < n_lines; i++, to += LINE_BYTES, from += LINE_BYTES) {
        const __m128i *load = (const __m128i *)(const void *)from;
        __m128i *store = (__m128i *)(void *)to;
        __m128i a = _mm_loadu_si128(load), b = _mm_loadu_si128(load + 1);
        __m128i c = _mm_loadu_si128(load + 2), d = _mm_loadu_si128(load + 3);
        _mm_stream_si128(store, a);
        _mm_stream_si128(store + 1, b);
        _mm_stream_si128(store + 2, c);
        _mm_stream_si128(store + 3, d);
    }
    _mm_sfence();
}
#else
static void copy_lines(char *to, const char *from, size_t n_lines)
{
    memcpy(to, from, n_lines * LINE_BYTES);
}
#endif

void zi_stream_copy(void *to, const void *from, size_t bytes)
{
    char *out = to;
    const char *in = from;
    size_t before = (size_t)(-(uintptr_t)out % LINE_BYTES);
    if (bytes < before + LINE_BYTES) {
        memcpy(out, in, bytes);
        return;
    }
    size_t n_lines = (bytes - before) / LINE_BYTES, done = before + n_lines * LINE_BYTES;
    memcpy(out, in, before);
    copy_lines(out + before, in + before, n_lines);
    memcpy(out + done, in + done, bytes - done);
}
