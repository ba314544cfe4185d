/* 32 elements at a time, a line of each 16-bit array; the usual numbers of sources and arrays are
 * constants of the loop, as they are in the kernels that this one is the limit of. */
#include "bench/add.h"

#include <string.h>

#ifdef __SSE2__
#include <immintrin.h>
#endif

enum { LINE = 32 };

typedef struct line {
    _Alignas(64) uint16_t value[LINE];
} line;

/* Past the caches, as the update kernels store. */
static inline void stream(uint16_t *dst, const line *x)
{
#ifdef __SSE2__
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

void bench_add_run(const bench_add *a)
{
    int n = a->n_sources == a->n_dests ? a->n_sources : 0;
    if (a->n_words == 3 && a->n_bytes == 0 && n == 1)
        add_lines(a, 1, 3, 0, 1);
    else if (a->n_words == 3 && a->n_bytes == 0 && n == 2)
        add_lines(a, 2, 3, 0, 2);
    else if (a->n_words == 3 && a->n_bytes == 0 && n == 4)
        add_lines(a, 4, 3, 0, 4);
    else
        add_lines(a, a->n_sources, a->n_words, a->n_bytes, a->n_dests);
}
