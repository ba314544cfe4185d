/* The trainer's data: what is not UTF-8 or too short is refused, the vocabulary and the split
 * follow from the text, windows from (seed, step, slot) alone; and the n-gram yardsticks. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/data.h"
#include "train/ngram.h"
#include "train/params.h"
#include "train/random.h"
#include "train/train.h"

static zopt_status from_text(const char *text, size_t n, double val_fraction, int context, data *d)
{
    return data_from_bytes("text", (const unsigned char *)text, n, val_fraction, context, d);
}

static const struct {
    const char *bytes;
    size_t n, bad_at;
} invalid[] = {
    {"ab\x80", 3, 2},               /* a continuation byte first */
    {"abc\xc3", 4, 3},              /* cut off */
    {"\xe2\x82", 2, 0},             /* cut off */
    {"a\xc0\xaf", 3, 1},            /* overlong, 2 bytes */
    {"a\xe0\x80\xaf", 4, 1},        /* overlong, 3 bytes */
    {"\xf0\x80\x80\xaf", 4, 0},     /* overlong, 4 bytes */
    {"\xc3\xa9\xed\xa0\x80", 5, 2}, /* surrogate */
    {"\xf4\x90\x80\x80", 4, 0},     /* above U+10FFFF */
    {"\xf8\x88\x80\x80\x80", 5, 0}, /* five bytes */
    {"abcdef\xff", 7, 6},           /* never valid */
    {"\xc3\x28", 2, 0},             /* not a continuation */
};

START_TEST(what_is_not_utf8_is_refused_with_its_offset)
{
    data d;
    char where[64];
    ck_assert_int_eq(from_text(invalid[_i].bytes, invalid[_i].n, 0.5, 1, &d), ZOPT_ERR_DATA);
    snprintf(where, sizeof where, "not UTF-8 at byte %zu ", invalid[_i].bad_at);
    ck_assert_msg(strstr(train_last_error(), where) != NULL, "%s", train_last_error());
    ck_assert_ptr_null(d.tokens);
}
END_TEST

START_TEST(tokens_are_code_points_in_ascending_order)
{
    static const char text[] =
        "z\xf0\x9f\x99\x82\xc3\xa9 a\xe2\x82\xac\0za"; /* z U+1F642 e' a euro */
    static const uint32_t vocab[] = {0, ' ', 'a', 'z', 0xe9, 0x20ac, 0x1f642};
    static const token tokens[] = {3, 6, 4, 1, 2, 5, 0, 3, 2};
    data d;
    ck_assert_int_eq(from_text(text, sizeof text - 1, 0.4, 2, &d), ZOPT_OK);
    ck_assert_int_eq(d.n_vocab, 7);
    ck_assert_mem_eq(d.vocab, vocab, sizeof vocab);
    ck_assert_uint_eq(d.n_train, 6);
    ck_assert_uint_eq(d.n_val, 3);
    ck_assert_mem_eq(d.tokens, tokens, sizeof tokens);
    token encoded[9];
    size_t n;
    ck_assert_int_eq(data_encode(&d, "z\xf0\x9f\x99\x82\xc3\xa9 a\xe2\x82\xac", encoded, 9, &n),
                     ZOPT_OK);
    ck_assert_uint_eq(n, 6);
    ck_assert_mem_eq(encoded, tokens, 6 * sizeof(token));
    char character[5];
    data_decode(&d, 6, character);
    ck_assert_str_eq(character, "\xf0\x9f\x99\x82");
    data_decode(&d, 5, character);
    ck_assert_str_eq(character, "\xe2\x82\xac");
    ck_assert_int_eq(data_encode(&d, "zq", encoded, 9, &n), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(train_last_error(), "no character U+0071"));
    data_free(&d);
}
END_TEST

/* 20 characters, 5 held out: both parts fill contexts of up to 4. */
START_TEST(a_text_shorter_than_the_context_is_refused)
{
    static const char text[] = "abcdefghijklmnopqrst";
    data d;
    ck_assert_int_eq(from_text(text, 20, 0.25, 4, &d), ZOPT_OK);
    ck_assert_uint_eq(data_val_windows(&d, 4), 1);
    data_free(&d);
    ck_assert_int_eq(from_text(text, 20, 0.25, 5, &d), ZOPT_ERR_DATA);
    ck_assert_ptr_nonnull(strstr(train_last_error(), "15 to train on and 5 held out"));
    ck_assert_int_eq(from_text(text, 20, 0.8, 4, &d), ZOPT_ERR_DATA);
    ck_assert_int_eq(from_text("", 0, 0.1, 1, &d), ZOPT_ERR_DATA);
    ck_assert_int_eq(from_text(text, 20, 0.001, 1, &d), ZOPT_ERR_DATA);
}
END_TEST

START_TEST(files_that_cannot_be_read_are_named)
{
    data d;
    ck_assert_int_eq(data_load("/nonexistent/text.txt", 0.1, 4, &d), ZOPT_ERR_READ);
    ck_assert_ptr_nonnull(strstr(train_last_error(), "/nonexistent/text.txt"));
    ck_assert_int_eq(data_load("/", 0.1, 4, &d), ZOPT_ERR_READ);
}
END_TEST

/* What never ends and what does not fit is refused before it is read, or by what came so far. */
START_TEST(devices_and_huge_files_are_refused)
{
    char path[] = "/tmp/zopt-data-XXXXXX";
    data d;
    ck_assert_int_eq(data_load("/dev/zero", 0.1, 4, &d), ZOPT_ERR_DATA);
    ck_assert_ptr_nonnull(strstr(train_last_error(), "/dev/zero: a text is a file or a pipe"));
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, ((off_t)1 << 30) + 1), 0);
    close(fd);
    ck_assert_int_eq(data_load(path, 0.1, 4, &d), ZOPT_ERR_DATA);
    ck_assert_ptr_nonnull(strstr(train_last_error(), "longer than 1073741824 bytes"));
    ck_assert_ptr_null(d.tokens);
    unlink(path);
}
END_TEST

/* Longer than one read, and equal to what memory gives. */
START_TEST(a_file_is_read_whole)
{
    enum { BYTES = 3 * 1024 * 1024 + 17 };
    char path[] = "/tmp/zopt-data-XXXXXX", *text = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i++)
        text[i] = (char)('a' + random_bits(5, 0, i, 0, 0) % 26);
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)write(fd, text, BYTES), BYTES);
    close(fd);
    data a, b;
    ck_assert_int_eq(data_load(path, 0.1, 64, &a), ZOPT_OK);
    ck_assert_int_eq(from_text(text, BYTES, 0.1, 64, &b), ZOPT_OK);
    ck_assert_uint_eq(a.n_train + a.n_val, BYTES);
    ck_assert_uint_eq(a.hash, b.hash);
    ck_assert_mem_eq(a.tokens, b.tokens, BYTES * sizeof(token));
    unlink(path);
    free(text);
    data_free(&a);
    data_free(&b);
}
END_TEST

/* ------------------------------------------------------------------ windows ----------------- */

enum { LENGTH = 1000, CONTEXT = 8, SAMPLES = 4 };

static void counting_text(data *d)
{
    char text[LENGTH];
    for (int i = 0; i < LENGTH; i++)
        text[i] = (char)('a' + i * i % 23);
    ck_assert_int_eq(from_text(text, LENGTH, 0.1, CONTEXT, d), ZOPT_OK);
}

/* The same key gives the same window whatever was drawn before; another step, slot, sample or seed
 * another one (all of 4 * 81 equal by chance: never). */
START_TEST(windows_depend_on_seed_step_slot_and_sample_alone)
{
    data d;
    size_t first[3][3][3], differ[4] = {0};
    counting_text(&d);
    for (int round = 0; round < 2; round++)
        for (int step = 2; step >= 0; step--)
            for (int slot = 0; slot < 3; slot++)
                for (int sample = 0; sample < 3; sample++) {
                    size_t at = data_window(&d, CONTEXT, 1, (uint64_t)step, slot, sample);
                    if (round == 0)
                        first[step][slot][sample] = at;
                    ck_assert_uint_eq(at, first[step][slot][sample]);
                    differ[0] += at != data_window(&d, CONTEXT, 2, (uint64_t)step, slot, sample);
                    differ[1] +=
                        at != data_window(&d, CONTEXT, 1, (uint64_t)step + 1, slot, sample);
                    differ[2] +=
                        at != data_window(&d, CONTEXT, 1, (uint64_t)step, slot + 1, sample);
                    differ[3] +=
                        at != data_window(&d, CONTEXT, 1, (uint64_t)step, slot, sample + 1);
                }
    for (int i = 0; i < 4; i++)
        ck_assert_uint_gt(differ[i], 50);
    data_free(&d);
}
END_TEST

/* Every start in [0, n_train - context) is drawn, and no other: the last target is the last token
 * of the training part. 892 starts, 20000 draws: one is missed with probability 2e-7. */
START_TEST(windows_cover_the_training_part_and_nothing_else)
{
    data d;
    counting_text(&d);
    char *seen = calloc(LENGTH, 1);
    size_t n = 0, starts = d.n_train - CONTEXT;
    for (uint64_t step = 1; step <= 20000; step++) {
        size_t at = data_window(&d, CONTEXT, 3, step, 0, 0);
        ck_assert_uint_lt(at, starts);
        n += !seen[at];
        seen[at] = 1;
    }
    ck_assert_uint_eq(n, starts);
    free(seen);
    data_free(&d);
}
END_TEST

START_TEST(targets_are_the_next_characters)
{
    data d;
    token inputs[SAMPLES * CONTEXT], targets[SAMPLES * CONTEXT];
    counting_text(&d);
    data_slot which = {.seed = 1, .step = 5, .slot = 2, .samples = SAMPLES, .context = CONTEXT};
    data_fill_slot(&d, &which, inputs, targets);
    for (int i = 0; i < SAMPLES; i++) {
        size_t at = data_window(&d, CONTEXT, 1, 5, 2, i), row = (size_t)i * CONTEXT;
        ck_assert_mem_eq(inputs + row, d.tokens + at, CONTEXT * sizeof(token));
        ck_assert_mem_eq(targets + row, d.tokens + at + 1, CONTEXT * sizeof(token));
    }
    ck_assert_uint_eq(data_val_windows(&d, CONTEXT), 12); /* of 99 targets */
    data_fill_val(&d, CONTEXT, 9, 3, inputs, targets);
    ck_assert_mem_eq(inputs, d.tokens + 900 + 72, 3 * CONTEXT * sizeof(token));
    ck_assert_mem_eq(targets, d.tokens + 900 + 73, 3 * CONTEXT * sizeof(token));
    data_free(&d);
}
END_TEST

/* ------------------------------------------------------------------ n-grams ----------------- */

static double occurrences(const char *text, size_t n, const char *gram, size_t length)
{
    double count = 0;
    for (size_t i = 0; i + length <= n; i++)
        count += memcmp(text + i, gram, length) == 0;
    return count;
}

/* The formula of ngram.h by searching the text. The table counts from the third character on, which
 * changes a count by 2 at most: 1e-2 of a text of 400. */
START_TEST(yardsticks_follow_their_formula)
{
    enum { N = 500, N_TRAIN = 400 };
    char text[N];
    for (size_t i = 0; i < N; i++) {
        int bits = (int)(random_bits(8, 0, i, 0, 0) % 20);
        int next = i ? (text[i - 1] - 'a' + 1) % 5 : 0;
        text[i] = (char)('a' + (bits < 15 ? next : bits - 15));
    }
    data d;
    ck_assert_int_eq(from_text(text, N, 0.2, 8, &d), ZOPT_OK);
    double got[NGRAM_ORDERS], want[NGRAM_ORDERS] = {0};
    ck_assert_int_eq(ngram_losses(&d, got), 1);
    for (size_t i = N_TRAIN; i < N; i++) {
        double p = 0.2;
        for (size_t k = 1; k <= NGRAM_ORDERS; k++) {
            double seen = occurrences(text, N_TRAIN, text + i + 1 - k, k);
            double context = occurrences(text, N_TRAIN, text + i + 1 - k, k - 1);
            p = (seen + p) / ((k == 1 ? N_TRAIN : context) + 1);
            want[k - 1] -= log(p) / (N - N_TRAIN);
        }
    }
    for (int k = 0; k < NGRAM_ORDERS; k++)
        ck_assert_double_eq_tol(got[k], want[k], 1e-2);
    ck_assert_double_lt(got[1], got[0] - 0.3);
    data_free(&d);
}
END_TEST

/* ------------------------------------------------------------------ parameters -------------- */

START_TEST(parameters_have_the_names_and_shapes_of_pytorch_gpts)
{
    static const struct {
        const char *name;
        uint64_t rows, columns;
    } want[] = {
        {"wte.weight", 11, 8},
        {"wpe.weight", 6, 8},
        {"h.0.ln_1.weight", 8, 0},
        {"h.0.ln_1.bias", 8, 0},
        {"h.0.attn.c_attn.weight", 24, 8},
        {"h.0.attn.c_attn.bias", 24, 0},
        {"h.0.attn.c_proj.weight", 8, 8},
        {"h.0.attn.c_proj.bias", 8, 0},
        {"h.0.ln_2.weight", 8, 0},
        {"h.0.ln_2.bias", 8, 0},
        {"h.0.mlp.c_fc.weight", 32, 8},
        {"h.0.mlp.c_fc.bias", 32, 0},
        {"h.0.mlp.c_proj.weight", 8, 32},
        {"h.0.mlp.c_proj.bias", 8, 0},
        {"ln_f.weight", 8, 0},
        {"ln_f.bias", 8, 0},
    };
    enum { N = sizeof want / sizeof want[0] };
    model_shape shape = {.vocab = 11, .n_layer = 1, .n_head = 2, .n_embd = 8, .n_ctx = 6};
    param params[N];
    size_t offset = 0;
    ck_assert_int_eq(param_count(&shape), N);
    size_t n = params_table(&shape, params);
    for (int i = 0; i < N; i++) {
        ck_assert_str_eq(params[i].name, want[i].name);
        ck_assert_int_eq(params[i].ndim, want[i].columns ? 2 : 1);
        ck_assert_uint_eq(params[i].shape[0], want[i].rows);
        ck_assert_uint_eq(params[i].shape[1], want[i].columns);
        ck_assert_uint_eq(params[i].offset, offset);
        offset += params[i].n;
    }
    ck_assert_uint_eq(n, offset);
}
END_TEST

/* In one go or in pieces, the values are the same; and they are normal: of 65536, the deviation is
 * within 4 / sqrt(2 * 65536) = 1.1 %, the mean within 4 / 256 deviations. */
START_TEST(initial_values_do_not_depend_on_pieces_and_have_the_stated_deviation)
{
    enum { N = 65536 };
    model_shape shape = {.vocab = 11, .n_layer = 2, .n_head = 2, .n_embd = 128, .n_ctx = 6};
    param params[2 + 2 * LAYER_PARAMS + 2];
    params_table(&shape, params);
    float *whole = malloc(N * sizeof *whole), *piece = malloc(N * sizeof *piece);
    int up = param_layer(0, UP_W);
    ck_assert_uint_eq(params[up].n, N);
    params_init(&shape, params, up, 1, 0, N, whole);
    for (size_t at = 0; at < N; at += 1000)
        params_init(&shape, params, up, 1, at, at + 1000 < N ? 1000 : N - at, piece + at);
    ck_assert_mem_eq(whole, piece, N * sizeof *whole);
    double sum = 0, squares = 0, deviation = 1 / sqrt(3.0 * 128);
    for (size_t i = 0; i < N; i++) {
        sum += (double)whole[i] / N;
        squares += (double)whole[i] * (double)whole[i] / N;
    }
    ck_assert_double_eq_tol(sqrt(squares) / deviation, 1, 0.011);
    ck_assert_double_eq_tol(sum / deviation, 0, 4.0 / 256);
    params_init(&shape, params, param_layer(0, DOWN_W), 1, 0, 1, piece);
    params_init(&shape, params, up, 2, 0, 1, piece + 1);
    ck_assert(piece[0] != whole[0] && piece[1] != whole[0]);
    free(whole);
    free(piece);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("data");
    TCase *tests = tcase_create("data");
    suite_add_tcase(suite, tests);
    tcase_add_loop_test(tests, what_is_not_utf8_is_refused_with_its_offset, 0,
                        (int)(sizeof invalid / sizeof invalid[0]));
    tcase_add_test(tests, tokens_are_code_points_in_ascending_order);
    tcase_add_test(tests, a_text_shorter_than_the_context_is_refused);
    tcase_add_test(tests, files_that_cannot_be_read_are_named);
    tcase_add_test(tests, devices_and_huge_files_are_refused);
    tcase_add_test(tests, a_file_is_read_whole);
    tcase_add_test(tests, windows_depend_on_seed_step_slot_and_sample_alone);
    tcase_add_test(tests, windows_cover_the_training_part_and_nothing_else);
    tcase_add_test(tests, targets_are_the_next_characters);
    tcase_add_test(tests, yardsticks_follow_their_formula);
    tcase_add_test(tests, parameters_have_the_names_and_shapes_of_pytorch_gpts);
    tcase_add_test(tests, initial_values_do_not_depend_on_pieces_and_have_the_stated_deviation);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
