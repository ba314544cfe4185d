/* Values for tests of the kernels, ordinary, wide-ranging and special, and what counts as equal. */
#ifndef KERNEL_VALUES_H
#define KERNEL_VALUES_H

#include <math.h>

#include "base/dtype.h"
#include "reference/adamw_f64.h"
#include "reference/random.h"

/* What gradients look like. */
enum { ORDINARY, WIDE, SPECIAL, N_CONTENTS };

/* ORDINARY: about 1e-4..30. WIDE: any finite bit pattern, signed zeros and subnormals too.
 * SPECIAL: in a few places infinities and NaNs as well. */
static inline float gradient(reference_random *random, int content, zopt_dtype dtype)
{
    uint64_t r = reference_u64(random);
    if (content == ORDINARY)
        return (float)reference_number(0, (uint32_t)(r >> 32));
    float x = zi_bits_float((uint32_t)(r >> 32));
    if (dtype == ZOPT_FP16) /* a random half, or nearly all would overflow to infinity */
        x = zi_half_to_float((uint16_t)(r >> 48));
    if (r % 17 == 0)
        x = r & 32 ? 0.0f : -0.0f;
    int special = content == SPECIAL && r / 17 % 1024 == 0;
    return special ? (r & 64 ? NAN : copysignf(INFINITY, r & 128 ? 1.0f : -1.0f))
                   : (isfinite(x) ? x : 0x1p-14f);
}

/* The same bits, or both NaN: which NaN an addition of two gives is not part of the contract. */
static inline size_t n_different(const float *a, const float *b, size_t n)
{
    size_t different = 0;
    for (size_t i = 0; i < n; i++)
        different += zi_float_bits(a[i]) != zi_float_bits(b[i]) && !(isnan(a[i]) && isnan(b[i]));
    return different;
}

#endif
