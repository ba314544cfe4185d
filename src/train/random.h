/* Counter-based random numbers: a value is a pure function of its key, so that what is drawn does
 * not depend on who draws it, or on what was drawn before. Source of the mixer: splitmix64 (Steele,
 * Lea, Flood, "Fast splittable pseudorandom number generators", 2014). */
#ifndef TRAIN_RANDOM_H
#define TRAIN_RANDOM_H

#include <stdint.h>

/* What the numbers are for: keeps streams of one seed apart. */
enum { RANDOM_WINDOW = 1, RANDOM_INIT, RANDOM_SAMPLE };

static inline uint64_t random_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* 64 random bits for the key (seed, purpose, a, b, c). */
static inline uint64_t random_bits(uint64_t seed, uint64_t purpose, uint64_t a, uint64_t b,
                                   uint64_t c)
{
    uint64_t x = random_mix(seed) ^ purpose;
    x = random_mix(x) ^ a;
    x = random_mix(x) ^ b;
    return random_mix(random_mix(x) ^ c);
}

/* Uniform in [0, 1): 53 bits. */
static inline double random_uniform(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

/* About normal, mean 0 and variance 1, for element `i` of tensor `tensor`: twelve 16-bit uniforms
 * added up. Integers only, so that no libm can make two machines start from other weights; the
 * tails end at 6. */
static inline double random_normal(uint64_t seed, uint64_t tensor, uint64_t i)
{
    uint64_t sum = 0;
    for (uint64_t part = 0; part < 3; part++) {
        uint64_t bits = random_bits(seed, RANDOM_INIT, tensor, i, part);
        sum += (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    }
    return ((double)sum - 12 * 32767.5) * 0x1p-16;
}

#endif
