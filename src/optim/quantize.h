/* Block-wise 8-bit states: a value x of a block of 256 is kept as the code of the map value nearest
 * to x / absmax, absmax being the block's largest magnitude, kept in FP32. Compiles as C11 and as
 * CUDA C++, without tables. Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization;
 * the 256 values of each map are, but for rounding, those of bitsandbytes' create_dynamic_map. */
#ifndef ZI_OPTIM_QUANTIZE_H
#define ZI_OPTIM_QUANTIZE_H

#include <float.h>
#include <stdint.h>

#include "optim/rule.h"

/* [1e-7, 1) is cut into 7 decades, each into twice as many equal steps as the one below: 1, 2, ...
 * 64 steps (signed) or 2, 4, ... 128 (unsigned). A step's value is its middle; 0 and 1 are extra.
 * In either map a decade is a line over f: the one that ends at `ten` has f in [first, 2 first) and
 * the values ten (0.9 f / first - 0.8). A step is 1 long in f (unsigned) or 2 (signed).
 *
 *              code        value                    bitsandbytes' index      middle of the step
 *   signed     0           0                        127                      (k = 0)
 *              1..127      k = code, > 0            code + 127               f = 2 k + 1
 *              128         1                        255                      (k = 128)
 *              255..129    -(value of 256 - code)   code - 129
 *   unsigned   0           0                        0                        (k = 1)
 *              1..254      k = code + 1             code                     f = k + 0.5
 *              255         1                        255                      (k = 256)
 *
 * A value is a line over k too: the exponent of k tells the decade, and 0 and 1 have a line of
 * their own. As its sign is taken, code 128, an int8_t's -128, becomes 1: it is -1 before.
 *
 * So zeroed memory holds zeros, and bitsandbytes' index is (code + 127) mod 256, or the code.
 *
 * Nearest means so up to rounding: within 2^-13 of a gap from the middle of two values either may
 * be taken, the same one by every device. Only zeros become zero: what is nearer to zero than to
 * the smallest value takes that, with its own sign. So the sign of exp_avg is kept, as bitsandbytes
 * keeps it (but there tiny positive values become zero), and exp_avg_sq never vanishes under an
 * exp_avg that does not. -1 is not in the map: -absmax comes back as -0.993 absmax. A NaN is kept
 * as zero and an infinity as the largest float, so that the rest of the block lives on; the
 * parameter itself saw what they were. */

/* X(constant, ten, first), ascending; `constant` is one of those below. */
#define ZI_Q8_DECADES(X, constant) \
    X(constant, 1e-6, 2)           \
    X(constant, 1e-5, 4)           \
    X(constant, 1e-4, 8)           \
    X(constant, 1e-3, 16)          \
    X(constant, 1e-2, 32)          \
    X(constant, 1e-1, 64)          \
    X(constant, 1e-0, 128)

/* From k to the value. */
#define ZI_Q8_VALUE_SLOPE_SIGNED(ten, first)    (float)(1.8 * (ten) / (first))
#define ZI_Q8_VALUE_SLOPE_UNSIGNED(ten, first)  (float)(0.9 * (ten) / (first))
#define ZI_Q8_VALUE_OFFSET_SIGNED(ten, first)   (float)((ten) * (0.9 / (first)-0.8))
#define ZI_Q8_VALUE_OFFSET_UNSIGNED(ten, first) (float)((ten) * (0.45 / (first)-0.8))
#define ZI_Q8_VALUE_BEGIN_SIGNED(first)         (0.5f * (first))
#define ZI_Q8_VALUE_BEGIN_UNSIGNED(first)       (1.0f * (first))
#define ZI_Q8_ENDS_SLOPE_SIGNED                 (-1.0f / 128)
#define ZI_Q8_ENDS_SLOPE_UNSIGNED               (1.0f / 255)
#define ZI_Q8_ENDS_OFFSET_SIGNED                0.0f
#define ZI_Q8_ENDS_OFFSET_UNSIGNED              (-1.0f / 255)
#define ZI_Q8_LAST_SIGNED                       128.0f
#define ZI_Q8_LAST_UNSIGNED                     256.0f

/* From |x| / absmax, the ratio, to c: k (signed) or the code (unsigned), and a fraction. */
#define ZI_Q8_C_SLOPE_SIGNED(ten, first)    (float)(0.5 * (first) / (0.9 * (ten)))
#define ZI_Q8_C_SLOPE_UNSIGNED(ten, first)  (float)((first) / (0.9 * (ten)))
#define ZI_Q8_C_OFFSET_SIGNED(ten, first)   (float)(0.4 / 0.9 * (first))
#define ZI_Q8_C_OFFSET_UNSIGNED(ten, first) (float)(0.8 / 0.9 * (first)-1)
#define ZI_Q8_C_LAST_SIGNED                 128.0f
#define ZI_Q8_C_LAST_UNSIGNED               255.0f
/* In the decade's last step, where the next one has not begun. */
#define ZI_Q8_C_END_SIGNED(ten, first)   (0.9995f * (first))
#define ZI_Q8_C_END_UNSIGNED(ten, first) (1.999f * (first)-1)
/* Half way between a decade's first value and the one below, whose step is five times shorter, so
 * that the decade begins a fifth of a step late; at last, half way between the last value and 1. */
#define ZI_Q8_BEGIN_SIGNED(ten, first)   (float)((ten) * (0.1 + 0.36 / (first)))
#define ZI_Q8_BEGIN_UNSIGNED(ten, first) (float)((ten) * (0.1 + 0.18 / (first)))
#define ZI_Q8_BEGIN_LAST_SIGNED          (float)(0.9 * 255.5 / 128 - 0.8)
#define ZI_Q8_BEGIN_LAST_UNSIGNED        (float)(0.9 * 255.75 / 128 - 0.8)
/* In the smallest value's step, of either map. */
#define ZI_Q8_LEAST 3e-7f

/* X(map, MAP): in names of functions and of constants. */
#define ZI_Q8_MAPS(X) X(signed, SIGNED) X(unsigned, UNSIGNED)

/* zi_q8_value_signed, _unsigned: of k >= 0, before the sign is taken. */
#define ZI_Q8_RUNG(MAP, ten, first)                                                            \
    slope = k >= ZI_Q8_VALUE_BEGIN_##MAP(first) ? ZI_Q8_VALUE_SLOPE_##MAP(ten, first) : slope; \
    offset = k >= ZI_Q8_VALUE_BEGIN_##MAP(first) ? ZI_Q8_VALUE_OFFSET_##MAP(ten, first) : offset;
#define ZI_Q8_VALUE(map, MAP)                                                   \
    ZI_RULE float zi_q8_value_##map(float k)                                    \
    {                                                                           \
        float slope = ZI_Q8_ENDS_SLOPE_##MAP, offset = ZI_Q8_ENDS_OFFSET_##MAP; \
        ZI_Q8_DECADES(ZI_Q8_RUNG, MAP)                                          \
        slope = k >= ZI_Q8_LAST_##MAP ? ZI_Q8_ENDS_SLOPE_##MAP : slope;         \
        offset = k >= ZI_Q8_LAST_##MAP ? ZI_Q8_ENDS_OFFSET_##MAP : offset;      \
        return fmaf(slope, k, offset);                                          \
    }
ZI_Q8_MAPS(ZI_Q8_VALUE)
#undef ZI_Q8_VALUE
#undef ZI_Q8_RUNG

ZI_RULE float zi_q8_in_range(float ratio)
{
    ratio = ratio < 1.0f ? ratio : 1.0f;
    return ratio > ZI_Q8_LEAST ? ratio : ZI_Q8_LEAST;
}

/* zi_q8_nearest_signed, _unsigned: a c in the step nearest to a ratio in range. */
#define ZI_Q8_RUNG(MAP, ten, first)                                                              \
    slope = ratio >= ZI_Q8_BEGIN_##MAP(ten, first) ? ZI_Q8_C_SLOPE_##MAP(ten, first) : slope;    \
    offset = ratio >= ZI_Q8_BEGIN_##MAP(ten, first) ? ZI_Q8_C_OFFSET_##MAP(ten, first) : offset; \
    end = ratio >= ZI_Q8_BEGIN_##MAP(ten, first) ? ZI_Q8_C_END_##MAP(ten, first) : end;
#define ZI_Q8_NEAREST(map, MAP)                                         \
    ZI_RULE float zi_q8_nearest_##map(float ratio)                      \
    {                                                                   \
        float slope = 0.0f, offset = 0.0f, end = 0.0f, c;               \
        ZI_Q8_DECADES(ZI_Q8_RUNG, MAP)                                  \
        c = fmaf(slope, ratio, offset);                                 \
        c = c < end ? c : end;                                          \
        return ratio < ZI_Q8_BEGIN_LAST_##MAP ? c : ZI_Q8_C_LAST_##MAP; \
    }
ZI_Q8_MAPS(ZI_Q8_NEAREST)
#undef ZI_Q8_NEAREST
#undef ZI_Q8_RUNG

ZI_RULE float zi_q8_decode_signed(uint8_t code, float absmax)
{
    int k = code < 128 ? (int)code : (int)code - 256;
    float value = zi_q8_value_signed((float)(k < 0 ? -k : k)) * absmax;
    return k < 0 ? -value : value;
}

ZI_RULE float zi_q8_decode_unsigned(uint8_t code, float absmax)
{
    return zi_q8_value_unsigned((float)code + 1.0f) * absmax;
}

/* inverse: zi_q8_inverse(absmax). */
ZI_RULE uint8_t zi_q8_encode_signed(float x, float inverse)
{
    int k = (int)zi_q8_nearest_signed(zi_q8_in_range(fabsf(x) * inverse));
    int negative = k < 127 ? -k : -127;
    k = x < 0.0f ? negative : k;
    return (uint8_t)((fabsf(x) > 0.0f ? k : 0) & 255);
}

/* A negative x, which no mean of squares is, counts as zero. */
ZI_RULE uint8_t zi_q8_encode_unsigned(float x, float inverse)
{
    int code = (int)zi_q8_nearest_unsigned(zi_q8_in_range(x * inverse));
    return (uint8_t)(x > 0.0f ? code : 0);
}

/* The larger magnitude; a NaN is none. Begin with 0. */
ZI_RULE float zi_q8_larger(float largest, float x)
{
    float magnitude = fabsf(x);
    return magnitude > largest ? magnitude : largest;
}

/* The absmax to keep for a block: 0, or a normal float, whose inverse is finite. */
ZI_RULE float zi_q8_absmax(float largest)
{
    float normal = largest > FLT_MIN ? largest : FLT_MIN;
    normal = normal < FLT_MAX ? normal : FLT_MAX;
    return largest > 0.0f ? normal : 0.0f;
}

/* One division for a block, where one for each element would cost as much as the rule. */
ZI_RULE float zi_q8_inverse(float absmax)
{
    return absmax > 0.0f ? 1.0f / absmax : 0.0f;
}

#endif
