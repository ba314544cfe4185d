/* The base room: conversions between dtypes against an independent computation in doubles, counted
 * memory, statuses and their texts. Exact sums are in test_exact.c. */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"
#include "base/status.h"
#include "reference/random.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
/* Asked once: CPUID is slow in a virtual machine. */
static int have_f16c(void)
{
    static int known = -1;
    unsigned eax, ebx, ecx, edx;
    if (known < 0)
        known = __builtin_cpu_supports("avx") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
                (ecx & bit_F16C) != 0;
    return known;
}
__attribute__((target("f16c"))) static uint16_t machine_to_half(float x)
{
    return (uint16_t)_mm_extract_epi16(
        _mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), 0);
}
__attribute__((target("f16c"))) static float machine_to_float(uint16_t half)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}
#else
static int have_f16c(void)
{
    return 0;
}
static uint16_t machine_to_half(float x)
{
    return x > 0;
}
static float machine_to_float(uint16_t half)
{
    return half;
}
#endif

/* ------------------------------------------------------------------ dtypes ------------------ */

typedef struct format {
    int precision, min_exponent; /* significand bits with the implicit one; of the least normal */
    uint32_t infinity, nan;
} format;

static const format half_format = {11, -14, 0x7c00, 0x7fff};
static const format bf16_format = {8, -126, 0x7f80, 0x7fc0};

/* The value of a finite encoding, by the definition of the format. */
static double decode(const format *f, uint32_t bits)
{
    int fraction_bits = f->precision - 1;
    uint32_t magnitude = bits & 0x7fff, fraction = magnitude & ((1u << fraction_bits) - 1);
    int field = (int)(magnitude >> fraction_bits);
    double significand = field == 0 ? fraction : fraction + (1u << fraction_bits);
    double value =
        ldexp(significand, (field == 0 ? 1 : field) - 1 + f->min_exponent - fraction_bits);
    return bits & 0x8000 ? -value : value;
}

/* Nearest even: the significand is scaled to an integer and rounded as a double. */
static uint32_t encode(const format *f, double x)
{
    uint32_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x))
        return f->nan;
    if (x == 0 || isinf(x))
        return sign | (x == 0 ? 0 : f->infinity);
    int exponent = ilogb(x) > f->min_exponent ? ilogb(x) : f->min_exponent;
    int fraction_bits = f->precision - 1;
    double integer = rint(ldexp(fabs(x), fraction_bits - exponent));
    /* A significand that rounds up to 2^precision carries into the exponent field by itself. */
    double bits = ldexp(exponent - f->min_exponent, fraction_bits) + integer;
    return sign | (bits < f->infinity ? (uint32_t)bits : f->infinity);
}

/* Conversions of x to 16 bits that disagree with encode(). */
static int n_wrong(float x)
{
    return (zi_float_to_half(x) != encode(&half_format, x)) +
           (zi_float_to_bf16(x) != encode(&bf16_format, x)) +
           (have_f16c() && !isnan(x) && machine_to_half(x) != zi_float_to_half(x));
}

/* Around x: itself and a float ulp on both sides, both signs. */
static int n_wrong_around(float x)
{
    const float near[3] = {x, nextafterf(x, -INFINITY), nextafterf(x, INFINITY)};
    int wrong = 0;
    for (int i = 0; i < 3; i++)
        wrong += n_wrong(near[i]) + n_wrong(-near[i]);
    return wrong;
}

START_TEST(every_half_and_bf16_widens_to_its_value)
{
    int wrong = 0;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        float half = zi_half_to_float((uint16_t)bits), bf16 = zi_bf16_to_float((uint16_t)bits);
        uint32_t magnitude = bits & 0x7fff;
        wrong += !signbit(half) != !(bits & 0x8000) || !signbit(bf16) != !(bits & 0x8000);
        if (magnitude < half_format.infinity)
            wrong += half != decode(&half_format, bits);
        else
            wrong += magnitude == half_format.infinity ? !isinf(half) : !isnan(half);
        if (magnitude < bf16_format.infinity)
            wrong += bf16 != decode(&bf16_format, bits);
        else
            wrong += magnitude == bf16_format.infinity ? !isinf(bf16) : !isnan(bf16);
        if (have_f16c() && magnitude <= half_format.infinity)
            wrong += zi_float_bits(half) != zi_float_bits(machine_to_float((uint16_t)bits));
    }
    ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(narrowing_is_right_around_every_value_and_midpoint)
{
    int wrong = 0;
    for (uint32_t bits = 0; bits < half_format.infinity; bits++) {
        double value = decode(&half_format, bits), next = decode(&half_format, bits + 1);
        wrong += n_wrong_around((float)value) + n_wrong_around((float)((value + next) / 2));
    }
    for (uint32_t bits = 0; bits < bf16_format.infinity; bits++)
        wrong += n_wrong_around(zi_bits_float(bits << 16)) +
                 n_wrong_around(zi_bits_float(bits << 16 | 0x8000));
    /* A stride coprime to 2^32 meets every exponent and many fractions, NaNs too. */
    for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += 4099)
        wrong += n_wrong(zi_bits_float((uint32_t)bits));
    ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(narrowing_overflows_underflows_and_cleans_nans_as_stated)
{
    static const struct {
        float x;
        uint16_t half, bf16;
    } rows[] = {
        {0.0f, 0x0000, 0x0000},
        {-0.0f, 0x8000, 0x8000},
        {65504.0f, 0x7bff, 0x4780},
        {0x1.ffdffep15f, 0x7bff, 0x4780}, /* 65519.996, the last float below 65520 */
        {65520.0f, 0x7c00, 0x4780},
        {-65520.0f, 0xfc00, 0xc780},
        {0x1p-24f, 0x0001, 0x3380},
        {0x1p-25f, 0x0000, 0x3300},        /* a tie: to even, which is zero */
        {0x1.000002p-25f, 0x0001, 0x3300}, /* just above it */
        {0x1.ff8p-15f, 0x03ff, 0x3880},    /* 1023 * 2^-24: the largest subnormal, exact */
        {0x1.ffep-15f, 0x0400, 0x3880},    /* 1023.5 * 2^-24: to even, the least normal */
        {0x1.fefffep127f, 0x7c00, 0x7f7f}, /* below the midpoint of bf16's largest and 2^128 */
        {0x1.ffp127f, 0x7c00, 0x7f80},     /* the midpoint */
        {0x1p-149f, 0x0000, 0x0000},
        {0x1p-133f, 0x0000, 0x0001},
        {-INFINITY, 0xfc00, 0xff80},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_uint_eq(zi_float_to_half(rows[i].x), rows[i].half);
        ck_assert_uint_eq(zi_float_to_bf16(rows[i].x), rows[i].bf16);
    }
    static const uint32_t nans[] = {0x7fc00000, 0xffc00000, 0x7f800001, 0xff800001, 0x7fffffff};
    for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++) {
        ck_assert_uint_eq(zi_float_to_half(zi_bits_float(nans[i])), 0x7fff);
        ck_assert_uint_eq(zi_float_to_bf16(zi_bits_float(nans[i])), 0x7fc0);
    }
}
END_TEST

static double element(const void *data, zopt_dtype dtype, size_t i)
{
    uint16_t bits;
    float x;
    if (dtype == ZOPT_FP32) {
        memcpy(&x, (const char *)data + 4 * i, sizeof x);
        return x;
    }
    memcpy(&bits, (const char *)data + 2 * i, sizeof bits);
    return decode(dtype == ZOPT_FP16 ? &half_format : &bf16_format, bits);
}

START_TEST(bulk_conversion_equals_element_by_element_for_every_pair)
{
    enum { N = 513 };
    float source[N], wide[N], target[N + 1];
    reference_random random = {7};
    for (size_t i = 0; i < N; i++)
        source[i] = (float)ldexp((double)reference_between(&random, -4096, 4096),
                                 (int)reference_between(&random, -30, 3));
    static const size_t sizes[] = {0, 1, 255, 256, 257, N};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int pair = 0; pair < 9; pair++) {
            zopt_dtype from = (zopt_dtype)(pair / 3), to = (zopt_dtype)(pair % 3);
            size_t n = sizes[s], bytes = n * zopt_dtype_bytes(to), wrong = 0;
            zi_convert(wide, from, source, ZOPT_FP32, n);
            memset(target, 0xa5, sizeof target);
            zi_convert(target, to, wide, from, n);
            for (size_t i = 0; i < n; i++) {
                double x = element(wide, from, i), want = x;
                if (to != ZOPT_FP32) {
                    const format *f = to == ZOPT_FP16 ? &half_format : &bf16_format;
                    want = decode(f, encode(f, x));
                }
                wrong += element(target, to, i) != want;
            }
            wrong += ((unsigned char *)target)[bytes] != 0xa5;
            ck_assert_msg(wrong == 0, "%s to %s, %zu elements", zi_dtype_name(from),
                          zi_dtype_name(to), n);
        }
    memcpy(target, source, sizeof source);
    zi_convert(target, ZOPT_FP32, target, ZOPT_FP32, N);
    ck_assert_mem_eq(target, source, sizeof source);
    ck_assert_uint_eq(zopt_dtype_bytes((zopt_dtype)3), 0);
}
END_TEST

/* ------------------------------------------------------------------ memory ------------------ */

/* The sanitizers' allocators would end the process on the impossible sizes below. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void)
{
    return __asan_default_options();
}

static void allocate_and_free(zi_mem *mem)
{
    char *a, *b, *table;
    ck_assert_int_eq(zi_mem_array(mem, ZI_MEM_PARAMS, 1000, &a), ZOPT_OK);
    ck_assert_int_eq(zi_mem_array(mem, ZI_MEM_STATE + 1, 500, &b), ZOPT_OK);
    ck_assert_int_eq(zi_mem_table(mem, 77, &table), ZOPT_OK);
    ck_assert_int_eq(a == NULL, mem->dry);
    ck_assert_ptr_nonnull(table);
    for (int i = 0; i < 1000 && a != NULL; i++)
        ck_assert(a[i] == 0);
    ck_assert_uint_eq((uintptr_t)a % 64 + (uintptr_t)b % 64 + (uintptr_t)table % 64, 0);
    zi_mem_free_array(mem, ZI_MEM_PARAMS, a, 1000);
    ck_assert_int_eq(zi_mem_array(mem, ZI_MEM_PARAMS, 1200, &a), ZOPT_OK);
    zi_mem_count(mem, ZI_MEM_GRADS, 40);
    zi_mem_free_array(mem, ZI_MEM_STATE + 1, b, 500);
    zi_mem_free_table(mem, table, 77);
    ck_assert_int_eq(zi_mem_array(mem, ZI_MEM_MASTER, 0, &b), ZOPT_OK);
    ck_assert_ptr_null(b);
    zi_mem_free_array(mem, ZI_MEM_MASTER, b, 0);
    zi_mem_free_array(mem, ZI_MEM_PARAMS, a, 1200);
}

START_TEST(a_dry_run_counts_what_a_real_one_allocates)
{
    zi_mem real = {.dry = 0}, dry = {.dry = 1};
    allocate_and_free(&real);
    allocate_and_free(&dry);
    for (int i = 0; i < ZI_N_CATEGORIES; i++) {
        ck_assert_uint_eq(real.row[i].bytes, dry.row[i].bytes);
        ck_assert_uint_eq(real.row[i].peak_bytes, dry.row[i].peak_bytes);
    }
    ck_assert_uint_eq(real.row[ZI_MEM_PARAMS].peak_bytes, 1200);
    ck_assert_uint_eq(real.row[ZI_MEM_STATE + 1].peak_bytes, 500);
    ck_assert_uint_eq(real.row[ZI_MEM_TABLES].peak_bytes, 77);
    ck_assert_uint_eq(real.total_peak_bytes, 1817); /* 1200 + 40 + 500 + 77, after 1577 */
    ck_assert_uint_eq(dry.total_peak_bytes, 1817);
    ck_assert_uint_eq(real.total_bytes, 40);
    ck_assert_uint_eq(dry.total_bytes, 40);
    zi_mem_uncount(&real, ZI_MEM_GRADS, 40);
    ck_assert_uint_eq(real.total_bytes, 0);
}
END_TEST

START_TEST(an_impossible_size_is_an_error_and_is_not_counted)
{
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 4};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        zi_mem mem = {.dry = 0};
        char *array = "not null";
        ck_assert_int_eq(zi_mem_array(&mem, ZI_MEM_STAGING, sizes[i], &array), ZOPT_ERR_MEMORY);
        ck_assert_ptr_null(array);
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), "staging"));
        ck_assert_int_eq(zi_mem_table(&mem, sizes[i], &array), ZOPT_ERR_MEMORY);
        ck_assert_uint_eq(mem.total_peak_bytes, 0);
    }
}
END_TEST

/* ------------------------------------------------------------------ status ------------------ */

START_TEST(exit_codes_are_the_documented_ones)
{
    static const struct {
        zopt_status status;
        int code;
    } rows[] = {
        {ZOPT_OK, 0},          {ZOPT_ERR_FAILURE, 1},     {ZOPT_ERR_MISMATCH, 2},
        {ZOPT_ERR_MEMORY, 1},  {ZOPT_ERR_ARGUMENT, 64},   {ZOPT_ERR_DATA, 65},
        {ZOPT_ERR_WRITE, 73},  {ZOPT_ERR_NUMERICS, 70},   {ZOPT_ERR_READ, 74},
        {ZOPT_ERR_CONFIG, 78}, {ZOPT_ERR_PERMISSION, 77}, {ZOPT_ERR_TIMEOUT, 75},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        ck_assert_int_eq(zopt_status_exit_code(rows[i].status), rows[i].code);
    for (zopt_status s = ZOPT_OK; s <= ZOPT_ERR_UNSUPPORTED; s++) {
        ck_assert_uint_gt(strlen(zopt_status_text(s)), 0);
        ck_assert_int_eq(zopt_status_exit_code(s) == 0, s == ZOPT_OK);
    }
    ck_assert_str_eq(zopt_status_text((zopt_status)1000), "unknown status");
    ck_assert_int_eq(zopt_status_exit_code((zopt_status)1000), 1);
}
END_TEST

static void *fail_elsewhere(void *arg)
{
    zi_fail(ZOPT_ERR_DATA, "another thread");
    return arg;
}

START_TEST(last_error_is_this_threads_and_may_quote_itself)
{
    char text[2000];
    pthread_t thread;
    ck_assert_int_eq(ZI_FAIL(ZOPT_ERR_DATA, "tensor %d", 7), ZOPT_ERR_DATA);
    ck_assert_int_eq(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_str_eq(zopt_last_error(), "tensor 7");
    (void)ZI_FAIL(ZOPT_ERR_READ, "file: %s", zopt_last_error());
    ck_assert_str_eq(zopt_last_error(), "file: tensor 7");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    (void)ZI_FAIL(ZOPT_ERR_READ, "%s", text);
    ck_assert_uint_gt(strlen(zopt_last_error()), 500);
    ck_assert_uint_lt(strlen(zopt_last_error()), sizeof text);
}
END_TEST

START_TEST(nearest_name_is_found_within_a_third_of_the_word)
{
    static const char *const names[] = {"lr", "beta1", "beta2", "eps", "weight_decay"};
    static const struct {
        const char *word, *want;
    } rows[] = {
        {"weight_decya", "weight_decay"},
        {"wieght-dekay", "weight_decay"}, /* 4 edits of 12 letters */
        {"beta", "beta1"},                /* as near as beta2: the first */
        {"beta2", "beta2"},
        {"momentum", NULL},
        {"completely_else", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *got = zi_nearest(rows[i].word, names, 5, sizeof names[0]);
        ck_assert_pstr_eq(got, rows[i].want);
    }
    char word[400];
    memset(word, 'q', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    ck_assert_ptr_null(zi_nearest(word, names, 5, sizeof names[0]));
    ck_assert_ptr_null(zi_nearest("lr", names, 0, sizeof names[0]));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base");
    TCase *tcase = tcase_create("base");
    tcase_add_test(tcase, every_half_and_bf16_widens_to_its_value);
    tcase_add_test(tcase, narrowing_is_right_around_every_value_and_midpoint);
    tcase_add_test(tcase, narrowing_overflows_underflows_and_cleans_nans_as_stated);
    tcase_add_test(tcase, bulk_conversion_equals_element_by_element_for_every_pair);
    tcase_add_test(tcase, a_dry_run_counts_what_a_real_one_allocates);
    tcase_add_test(tcase, an_impossible_size_is_an_error_and_is_not_counted);
    tcase_add_test(tcase, exit_codes_are_the_documented_ones);
    tcase_add_test(tcase, last_error_is_this_threads_and_may_quote_itself);
    tcase_add_test(tcase, nearest_name_is_found_within_a_third_of_the_word);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (!have_f16c())
        printf("skipped: comparison with the machine's half conversions, F16C is missing\n");
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
