/* The codes of 8-bit states: the maps are those of their definition (reference/quantize_map.txt),
 * codes are the nearest, signs and zeros are kept, and every instruction set gives the same ones as
 * optim/quantize.h. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "device/cpu.h"
#include "optim/quantize.h"
#include "reference/quantize_f64.h"
#include "reference/random.h"

/* ck_assert writes to a pipe each time, which millions of checks cannot afford. */
#define MUST(condition, ...)           \
    do {                               \
        if (!(condition))              \
            ck_abort_msg(__VA_ARGS__); \
    } while (0)

static const zi_form forms[N_MAPS] = {ZI_FORM_Q8_SIGNED, ZI_FORM_Q8_UNSIGNED};

static float decode(int map, uint8_t code, float absmax)
{
    return map == MAP_SIGNED ? zi_q8_decode_signed(code, absmax)
                             : zi_q8_decode_unsigned(code, absmax);
}

static uint8_t encode(int map, float x, float absmax)
{
    float inverse = zi_q8_inverse(absmax);
    return map == MAP_SIGNED ? zi_q8_encode_signed(x, inverse) : zi_q8_encode_unsigned(x, inverse);
}

START_TEST(values_are_those_of_the_definition)
{
    for (int code = 0; code < MAP_VALUES; code++) {
        double want = reference_map[_i][map_index(_i, (uint8_t)code)];
        float got = decode(_i, (uint8_t)code, 1.0f);
        MUST(fabs((double)got - want) <= MAP_ERROR * fabs(want), "code %d: %a, want %a", code,
             (double)got, want);
        for (float absmax = 0x1p100f; absmax > 0; absmax *= 0x1p-25f) /* to subnormal results */
            ck_assert_float_eq(decode(_i, (uint8_t)code, absmax), got * absmax);
    }
    ck_assert_int_eq((int)zi_float_bits(decode(_i, 0, 1.0f)), 0);
    ck_assert_float_eq(decode(_i, _i == MAP_SIGNED ? 128 : 255, 0.3f), 0.3f);
}
END_TEST

/* Zeroed memory, absmax included, is a block of zeros. */
START_TEST(every_code_comes_back)
{
    for (int code = 0; code < MAP_VALUES; code++) {
        for (int e = -126; e <= 127; e++) {
            float absmax = ldexpf(1.37f, e);
            float x = decode(_i, (uint8_t)code, absmax);
            if (fabsf(x) < FLT_MIN && code != 0) /* too few bits left to tell codes apart */
                continue;
            MUST(encode(_i, x, absmax) == code, "code %d of %a comes back as %d", code,
                 (double)absmax, encode(_i, x, absmax));
        }
        ck_assert_int_eq(encode(_i, decode(_i, (uint8_t)code, 0.0f), 0.0f), 0);
    }
}
END_TEST

static void check_nearest(int map, float x, float absmax)
{
    int lo, hi, got = map_index(map, encode(map, x, absmax));
    nearest_indices(map, (double)x / (double)absmax, 0, &lo, &hi);
    MUST(got >= lo && got <= hi, "%a of %a: value %d, want %d..%d", (double)x, (double)absmax, got,
         lo, hi);
}

/* Around every decision: the middle of two values, 2^-9 and 2^-12 of their gap beside it, the
 * slack of 2^-13 included, and the values themselves. */
START_TEST(codes_are_the_nearest)
{
    static const double beside[] = {-0.5, -0x1p-9, -0x1p-12, 0, 0x1p-12, 0x1p-9, 0.5};
    static const float absmax[] = {1.0f, 3e-30f, 0.7f, 1e30f, FLT_MAX, FLT_MIN};
    reference_random random = {7};
    for (int i = 0; i < MAP_VALUES - 1; i++)
        for (size_t b = 0; b < sizeof beside / sizeof beside[0]; b++)
            for (size_t a = 0; a < sizeof absmax / sizeof absmax[0]; a++) {
                double ratio = map_middle(_i, i) + beside[b] * map_gap(_i, i);
                float x = (float)(ratio * (double)absmax[a]);
                if (fabsf(x) >= FLT_MIN) /* subnormal: rounded to another ratio */
                    check_nearest(_i, x, absmax[a]);
            }
    for (int i = 0; i < 200000; i++) { /* ratios of all exponents down to 2^-40 */
        uint64_t r = reference_u64(&random);
        float x = ldexpf((float)(0x800000 + (r & 0x7fffff)), -24 - (int)(r >> 24) % 40);
        check_nearest(_i, _i == MAP_SIGNED && r >> 63 ? -x : x, 1.0f);
    }
}
END_TEST

START_TEST(signs_are_kept_and_only_zeros_become_zero)
{
    static const float tiny[] = {0x1p-149f, 1e-40f, FLT_MIN, 1e-20f, 1e-8f, 2.7e-7f};
    for (size_t i = 0; i < sizeof tiny / sizeof tiny[0]; i++) {
        ck_assert_int_eq(encode(MAP_SIGNED, tiny[i], 1.0f), 1);
        ck_assert_int_eq(encode(MAP_SIGNED, -tiny[i], 1.0f), 255);
    }
    for (size_t i = 0; i < 5; i++)
        ck_assert_int_eq(encode(MAP_UNSIGNED, tiny[i], 1.0f), 1);
    for (int map = 0; map < N_MAPS; map++) {
        ck_assert_int_eq(encode(map, 0.0f, 1.0f), 0);
        ck_assert_int_eq(encode(map, -0.0f, 1.0f), 0);
        ck_assert_int_eq(encode(map, NAN, 1.0f), 0);
        ck_assert_int_eq(encode(map, -NAN, 1.0f), 0);
    }
    ck_assert_int_eq(encode(MAP_SIGNED, 2.0f, 2.0f), 128);
    ck_assert_int_eq(encode(MAP_SIGNED, -2.0f, 2.0f), 129); /* -0.993: there is no -1 */
    ck_assert_int_eq(encode(MAP_UNSIGNED, 2.0f, 2.0f), 255);
    ck_assert_int_eq(encode(MAP_UNSIGNED, -1.0f, 2.0f), 0);
}
END_TEST

/* ---- blocks, on every instruction set ---- */

typedef struct coded {
    uint8_t code[ZI_BLOCK];
    float absmax;
} coded;

static void encode_by(const zi_cpu_kernels *kernels, int map, const float *x, coded *out)
{
    const zi_state_slice state = {out->code, &out->absmax};
    memset(out, 0xa5, sizeof *out);
    kernels->encode(forms[map], &state, x);
}

static void decode_by(const zi_cpu_kernels *kernels, int map, coded *in, float *x)
{
    const zi_state_slice state = {in->code, &in->absmax};
    kernels->decode(forms[map], x, &state);
}

/* Kinds of blocks: one exponent, decades, any finite bits, infinities and NaNs, subnormals. */
enum { N_KINDS = 5 };

static float element(reference_random *random, int kind)
{
    uint64_t r = reference_u64(random);
    float any = zi_bits_float((uint32_t)(r >> 32)), one = (float)(int32_t)(r >> 32);
    switch (kind) {
    case 0:
        return one;
    case 1:
        return ldexpf(one, -(int)(r % 45));
    case 2:
        return isfinite(any) ? any : 0.0f;
    case 3:
        return r % 50 == 0 ? (r & 64 ? NAN : copysignf(INFINITY, one)) : one;
    default:
        return zi_bits_float((uint32_t)(r >> 32) & 0x800000ffu);
    }
}

static void check_block(const zi_cpu_kernels *kernels, int map, const float *x)
{
    coded got;
    float largest = 0, back[ZI_BLOCK];
    encode_by(kernels, map, x, &got);
    decode_by(kernels, map, &got, back);
    for (int i = 0; i < ZI_BLOCK; i++)
        if (fabsf(x[i]) > largest)
            largest = fabsf(x[i]);
    largest = largest > FLT_MAX ? FLT_MAX : largest > 0 && largest < FLT_MIN ? FLT_MIN : largest;
    MUST(got.absmax == largest, "%s: absmax %a, want %a", kernels->name, (double)got.absmax,
         (double)largest);
    for (int i = 0; i < ZI_BLOCK; i++) {
        uint8_t want = encode(map, x[i], largest);
        float value = decode(map, want, largest);
        MUST(got.code[i] == want, "%s: %a of %a has code %d, want %d", kernels->name, (double)x[i],
             (double)largest, got.code[i], want);
        MUST(zi_float_bits(back[i]) == zi_float_bits(value), "%s: code %d is %a, want %a",
             kernels->name, want, (double)back[i], (double)value);
    }
}

START_TEST(every_instruction_set_gives_the_same_codes)
{
    float x[ZI_BLOCK];
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++)
        for (int kind = 0; kind < N_KINDS; kind++) {
            reference_random random = {(uint64_t)kind + 1};
            for (int block = 0; block < 400; block++) {
                for (int i = 0; i < ZI_BLOCK; i++) {
                    x[i] = element(&random, kind);
                    if (_i == MAP_UNSIGNED && x[i] < 0)
                        x[i] = -x[i];
                }
                check_block(*k, _i, x);
            }
        }
}
END_TEST

/* The floats on both sides of every decision, which a ratio's decade or rounding could miss. */
START_TEST(every_instruction_set_decides_alike)
{
    float x[ZI_BLOCK];
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++)
        for (int i = map_zero[_i]; i < MAP_VALUES - 1; i++) {
            uint32_t middle = zi_float_bits((float)map_middle(_i, i));
            x[0] = 1.0f;
            for (uint32_t j = 1; j < ZI_BLOCK; j++) {
                float ratio = zi_bits_float(middle + j - ZI_BLOCK / 2);
                x[j] = _i == MAP_SIGNED && j % 2 ? -ratio : ratio;
            }
            check_block(*k, _i, x);
        }
}
END_TEST

/* The neighbours of a NaN or of an infinity stay finite and keep their signs. */
START_TEST(specials_harm_no_other_element)
{
    float x[ZI_BLOCK], back[ZI_BLOCK];
    coded block;
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++) {
        for (int i = 0; i < ZI_BLOCK; i++)
            x[i] = i % 2 ? -1.0f : 1.0f;
        x[3] = NAN;
        encode_by(*k, MAP_SIGNED, x, &block);
        decode_by(*k, MAP_SIGNED, &block, back);
        ck_assert(back[2] == 1.0f && back[3] == 0.0f && back[5] < -0.99f);
        x[7] = -INFINITY;
        encode_by(*k, MAP_SIGNED, x, &block);
        decode_by(*k, MAP_SIGNED, &block, back);
        ck_assert(block.absmax == FLT_MAX && back[7] < -0.99f * FLT_MAX && isfinite(back[7]));
        ck_assert(back[2] > 0 && back[3] == 0.0f && back[5] < 0 && isfinite(back[2]));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("quantize");
    TCase *tests = tcase_create("quantize");
    tcase_add_unchecked_fixture(tests, read_maps, NULL);
    tcase_add_loop_test(tests, values_are_those_of_the_definition, 0, N_MAPS);
    tcase_add_loop_test(tests, every_code_comes_back, 0, N_MAPS);
    tcase_add_loop_test(tests, codes_are_the_nearest, 0, N_MAPS);
    tcase_add_test(tests, signs_are_kept_and_only_zeros_become_zero);
    tcase_add_loop_test(tests, every_instruction_set_gives_the_same_codes, 0, N_MAPS);
    tcase_add_loop_test(tests, every_instruction_set_decides_alike, 0, N_MAPS);
    tcase_add_test(tests, specials_harm_no_other_element);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
