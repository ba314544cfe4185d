/* Compiled once for each instruction set; ZI_VARIANT names it. 32 elements at a time, a line of
 * each 16-bit array; the usual numbers of sources and arrays are constants of the loop, as they are
 * in the kernels that this one is the limit of. */
#include "bench/add.h"

#include <string.h>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#define JOIN2(a, b) a##b
#define JOIN(a, b)  JOIN2(a, b)

enum { LINE = 32 };

typedef struct line {
    _Alignas(64) uint16_t value[LINE];
} line;

/* Past the caches, as the update kernels store. */
static inline void stream(uint16_t *dst, const line *x)
{
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i *)(void *)dst, _mm512_load_si512(x->value));
#elif defined(__AVX2__)
    for (int i = 0; i < LINE; i += 16)
        _mm256_stream_si256((__m256i *)(void *)(dst + i),
                            _mm256_load_si256((const __m256i *)(const void *)(x->value + i)));
#elif defined(__SSE2__)
    for (int i = 0; i < LINE; i += 8)
        _mm_stream_si128((__m128i *)(void *)(dst + i),
                         _mm_load_si128((const __m128i *)(const void *)(x->value + i)));
#else
    memcpy(dst, x, sizeof *x);
#endif
}

/* Order those stores before later ones, of flags. */
static inline void stream_end(void)
{
#ifdef __SSE2__
    _mm_sfence();
#endif
}

static inline __attribute__((always_inline)) void add_lines(const bench_add *a, int n_sources,
                                                            int n_words, int n_bytes, int n_dests)
{
    for (size_t first = 0; first < a->n_elems; first += LINE) {
        line sum = {{0}}, out;
        for (int s = 0; s < n_sources; s++) {
            const uint16_t *restrict x = (const uint16_t *)a->source[s] + first;
            for (int i = 0; i < LINE; i++)
                sum.value[i] = (uint16_t)(sum.value[i] + x[i]);
        }
        out = sum;
        for (int w = 0; w < n_words; w++) {
            uint32_t *restrict x = a->word[w] + first;
            for (int i = 0; i < LINE; i++)
                x[i] += sum.value[i];
            for (int i = 0; i < LINE && w == 0; i++)
                out.value[i] = (uint16_t)x[i];
        }
        for (int b = 0; b < n_bytes; b++) {
            uint8_t *restrict x = a->byte[b] + first;
            for (int i = 0; i < LINE; i++)
                x[i] = (uint8_t)(x[i] + sum.value[i]);
        }
        for (int d = 0; d < n_dests; d++)
            stream((uint16_t *)a->dest[d] + first, &out);
    }
    stream_end();
}

/* n_words and n_bytes are constants. */
static inline __attribute__((always_inline)) void add_arrays(const bench_add *a, int n_words,
                                                             int n_bytes)
{
    int n = a->n_sources == a->n_dests ? a->n_sources : 0;
    if (n == 1)
        add_lines(a, 1, n_words, n_bytes, 1);
    else if (n == 2)
        add_lines(a, 2, n_words, n_bytes, 2);
    else if (n == 4)
        add_lines(a, 4, n_words, n_bytes, 4);
    else
        add_lines(a, a->n_sources, n_words, n_bytes, a->n_dests);
}

void JOIN(bench_add_, ZI_VARIANT)(const bench_add *a)
{
    if (a->n_bytes == 0 && a->n_words == 0)
        add_arrays(a, 0, 0);
    else if (a->n_bytes == 0 && a->n_words == 1)
        add_arrays(a, 1, 0);
    else if (a->n_bytes == 0 && a->n_words == 2)
        add_arrays(a, 2, 0);
    else if (a->n_bytes == 0 && a->n_words == 3)
        add_arrays(a, 3, 0);
    else if (a->n_bytes == 0 && a->n_words == 4)
        add_arrays(a, 4, 0);
    else if (a->n_bytes == 2 && a->n_words == 1)
        add_arrays(a, 1, 2);
    else
        add_arrays(a, a->n_words, a->n_bytes);
}
