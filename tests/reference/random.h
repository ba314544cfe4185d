/* A small repeatable generator for tests. */
#ifndef REFERENCE_RANDOM_H
#define REFERENCE_RANDOM_H

#include <stdint.h>

typedef struct reference_random {
    uint64_t state;
} reference_random;

/* Source: xorshift64*, Vigna, An Experimental Exploration of Marsaglia's xorshift Generators
 * (2016). The state must not be 0. */
static inline uint64_t reference_u64(reference_random *random)
{
    uint64_t x = random->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    random->state = x;
    return x * 0x2545f4914f6cdd1du;
}

/* In [lo, hi]. */
static inline int64_t reference_between(reference_random *random, int64_t lo, int64_t hi)
{
    return lo + (int64_t)((reference_u64(random) >> 11) % (uint64_t)(hi - lo + 1));
}

#endif
