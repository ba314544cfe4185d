/* Compiled once for each instruction set; ZI_VARIANT names it. 32 elements at a time, a line of
 * each 16-bit array, in vectors of one register's size, which compilers keep in registers; the
 * usual numbers of sources and arrays are constants of the loop, as they are in the kernels that
 * this one is the limit of. It does not fetch ahead as those do: tried, and it was no faster, since
 * it waits for nothing but memory. */
#include "bench/add.h"

#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define JOIN2(a, b) a##b
#define JOIN(a, b)  JOIN2(a, b)

#if defined(__AVX512F__)
enum { LINE = 32, LANES = 16, VECTORS = LINE / LANES };
#elif defined(__AVX2__)
enum { LINE = 32, LANES = 8, VECTORS = LINE / LANES };
#else
enum { LINE = 32, LANES = 4, VECTORS = LINE / LANES };
#endif

typedef uint32_t words __attribute__((vector_size(LANES * sizeof(uint32_t)), may_alias));
typedef uint16_t halves __attribute__((vector_size(LANES * sizeof(uint16_t)), may_alias));
typedef uint16_t half_pair __attribute__((vector_size(2 * sizeof(halves)), may_alias));
typedef uint8_t byte_pair __attribute__((vector_size(2 * LANES), may_alias));

/* Two vectors, past the caches where this variant's update kernels store so (cpu_convert.h). */
static inline __attribute__((always_inline)) void stream(void *dst, const halves *x)
{
#if defined(__AVX512F__)
    __m512i low = _mm512_castsi256_si512((__m256i)x[0]);
    _mm512_stream_si512(dst, _mm512_inserti64x4(low, (__m256i)x[1], 1));
#elif defined(__AVX2__)
    _mm256_stream_si256(dst, _mm256_set_m128i((__m128i)x[1], (__m128i)x[0]));
#else
    memcpy(dst, x, 2 * sizeof *x);
#endif
}

/* Order those stores before later ones, of flags. */
static inline void stream_end(void)
{
#ifdef __AVX2__
    _mm_sfence();
#endif
}

static inline __attribute__((always_inline)) void add_lines(const bench_add *a, int n_sources,
                                                            int n_words, int n_bytes, int n_dests)
{
    for (size_t first = 0; first < a->n_elems; first += LINE) {
        words sum[VECTORS] = {{0}};
        halves out[VECTORS];
        for (int s = 0; s < n_sources; s++) {
            const halves *x = (const void *)((const uint16_t *)a->source[s] + first);
            for (size_t v = 0; v < VECTORS; v++)
                sum[v] += __builtin_convertvector(x[v], words);
        }
        for (size_t v = 0; v < VECTORS; v++) {
            sum[v] &= 0xffff;
            out[v] = __builtin_convertvector(sum[v], halves);
        }
        for (size_t v = 0; v < VECTORS && n_bytes > 0; v += 2) {
            half_pair pair; /* packed together */
            memcpy(&pair, &out[v], sizeof pair);
            byte_pair low = __builtin_convertvector(pair, byte_pair);
            for (int b = 0; b < n_bytes; b++)
                *(byte_pair *)(void *)(a->byte[b] + first + v * LANES) += low;
        }
        for (int w = 0; w < n_words; w++) {
            words *x = (void *)(a->word[w] + first);
            for (size_t v = 0; v < VECTORS; v++) {
                words total = x[v] + sum[v];
                x[v] = total;
                if (w == 0)
                    out[v] = __builtin_convertvector(total, halves);
            }
        }
        for (int d = 0; d < n_dests; d++)
            for (size_t v = 0; v < VECTORS; v += 2)
                stream((uint16_t *)a->dest[d] + first + v * LANES, &out[v]);
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
