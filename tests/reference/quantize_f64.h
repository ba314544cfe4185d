/* The dynamic maps in float64 as quantize_map.py made them from their definition, and nearest
 * values by looking through them. Shares nothing with src/optim/quantize.h, but for the order of
 * codes and the rule that only zeros become zero, which are choices. */
#ifndef REFERENCE_QUANTIZE_F64_H
#define REFERENCE_QUANTIZE_F64_H

#include <check.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>

enum { MAP_SIGNED, MAP_UNSIGNED, N_MAPS, MAP_VALUES = 256 };

/* By bitsandbytes' index, ascending. */
static double reference_map[N_MAPS][MAP_VALUES];
static const int map_zero[N_MAPS] = {127, 0};

/* How far off optim/quantize.h may be, in gaps between two values, where it decides which one is
 * nearer: f <= 256 has five roundings of at most 2^-24 relative behind it (inverse, ratio, slope,
 * offset, sum), of which the inverse's is 2^-22 where absmax is above 2^126: 2^-13. */
#define MAP_SLACK 0x1p-13
/* Relative error of a decoded value: 0.9 f / first - 0.8 with f / first < 2 and a result above 0.1:
 * the roundings of slope and offset are 1.8 + 0.8 of 0.1, that of the sum and of the product with
 * absmax 2 more, in 2^-24. */
#define MAP_ERROR (28 * 0x1p-24)

static inline void read_maps(void)
{
    FILE *file = fopen(ZOPT_TESTS_DIR "/reference/quantize_map.txt", "r");
    char line[128];
    int index, n = 0;
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file) != NULL) {
        if (line[0] == '#')
            continue;
        ck_assert(n < MAP_VALUES);
        ck_assert_int_eq(sscanf(line, "%d %la %la", &index, &reference_map[MAP_SIGNED][n],
                                &reference_map[MAP_UNSIGNED][n]),
                         3);
        ck_assert_int_eq(index, n++);
    }
    fclose(file);
    ck_assert_int_eq(n, MAP_VALUES);
}

/* bitsandbytes' index of a code. */
static inline int map_index(int map, uint8_t code)
{
    return map == MAP_SIGNED ? (code + 127) % 256 : code;
}

/* Half way between value i and the next. */
static inline double map_middle(int map, int i)
{
    return (reference_map[map][i] + reference_map[map][i + 1]) / 2;
}

static inline double map_gap(int map, int i)
{
    return reference_map[map][i + 1] - reference_map[map][i];
}

/* The indices *lo..*hi that may be the nearest of a ratio that is known to +-e. */
static inline void nearest_indices(int map, double ratio, double e, int *lo, int *hi)
{
    int zero = map_zero[map];
    *lo = 0;
    while (*lo < MAP_VALUES - 1 && ratio - e > map_middle(map, *lo) + MAP_SLACK * map_gap(map, *lo))
        ++*lo;
    *hi = MAP_VALUES - 1;
    while (*hi > 0 && ratio + e < map_middle(map, *hi - 1) - MAP_SLACK * map_gap(map, *hi - 1))
        --*hi;
    if (ratio == 0 && e == 0)
        return;
    if (ratio > e) { /* surely positive: not zero */
        *lo = *lo <= zero ? zero + 1 : *lo;
        *hi = *hi <= zero ? zero + 1 : *hi;
    } else if (ratio < -e) {
        *lo = *lo >= zero ? zero - 1 : *lo;
        *hi = *hi >= zero ? zero - 1 : *hi;
    } else {
        *lo = *lo >= zero && zero > 0 ? zero - 1 : *lo;
        *hi = *hi <= zero ? zero + 1 : *hi;
    }
}

#endif
