/* The formats of a checkpoint: safetensors headers, their checksums, the index of parts and
 * `latest`. What is malformed is refused with the right status, and says what is wrong. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "ckpt/folder.h"
#include "ckpt/index.h"
#include "ckpt/seal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ------------------------------------------------------------------ safetensors -------------- */

static zopt_status decode(const char *json, size_t n, uint64_t data_bytes)
{
    zi_tensorfile file;
    zopt_status status = zi_tensorfile_decode(json, n, 8 + n + data_bytes, "file", &file);
    if (status == ZOPT_OK)
        zi_tensorfile_free(&file);
    return status;
}

/* One F32 tensor of two elements, and what replaces its entry's fields. */
#define ENTRY(dtype, shape, offsets) \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define F32 "\"F32\""

typedef struct bad_case {
    const char *json;
    uint64_t data_bytes;
    const char *text; /* part of what is said */
} bad_case;

static const bad_case bad_headers[] = {
    {"", 0, "begin with '{'"},
    {" {}", 0, "begin with '{'"},
    {"\xef\xbb\xbf{}", 0, "begin with '{'"},
    {"[]", 0, "begin with '{'"},
    {"{", 0, "byte"},
    {"{}x", 0, "byte"},
    {"{\"__metadata__\":{},}", 0, "byte"},
    {"{\"__metadata__\":[]}", 0, "not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "'a' is not a string"},
    {"{\"__metadata__\":{\"a\":{}}}", 0, "'a' is not a string"},
    {"{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0, "duplicate"},
    {"{\"__metadata__\":{\"a\":\"\\u0000\"}}", 0, "byte"},
    {"{\"__metadata__\":{\"\xff\":\"\"}}", 0, "byte"},
    {"{\"__metadata__\":{\"\xc0\x80\":\"\"}}", 0, "byte"},
    {"{\"__metadata__\":{\"\\ud800\":\"\"}}", 0, "byte"},
    {"{}", 1, "0 bytes, and the file 1"},
    {"{\"a\":1}", 0, "tensor 'a': want exactly"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 0, "tensor 'a': want exactly"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offset\":[0,4]}}", 4, "data_offsets is not"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "want exactly"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "duplicate"},
    {ENTRY("\"F31\"", "[2]", "[0,8]"), 8, "dtype F31 is not known"},
    {ENTRY("\"f32\"", "[2]", "[0,8]"), 8, "dtype f32 is not known"},
    {ENTRY("32", "[2]", "[0,8]"), 8, "dtype (no string) is not known"},
    {ENTRY("\"F64\"", "[2]", "[0,8]"), 8, "its shape has 16 bytes"},
    {ENTRY(F32, "2", "[0,8]"), 8, "shape is not an array"},
    {ENTRY(F32, "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, "shape is not an array of at most 8"},
    {ENTRY(F32, "[2.0]", "[0,8]"), 8, "shape[0] is not a whole number"},
    {ENTRY(F32, "[-2]", "[0,8]"), 8, "shape[0] is not a whole number"},
    {ENTRY(F32, "[null]", "[0,8]"), 8, "shape[0] is not a whole number"},
    {ENTRY(F32, "[9223372036854775808]", "[0,8]"), 8, "byte"},
    {ENTRY(F32, "[4611686018427387904]", "[0,0]"), 0, "more bytes than 64 bits"},
    {ENTRY(F32, "[4294967296,4294967296]", "[0,0]"), 0, "more bytes than 64 bits"},
    {ENTRY(F32, "[3]", "[0,8]"), 8, "its shape has 12 bytes"},
    {ENTRY(F32, "[2]", "[0,8,8]"), 8, "data_offsets is not an array of two"},
    {ENTRY(F32, "[2]", "[0,8.0]"), 8, "data_offsets[1] is not a whole number"},
    {ENTRY(F32, "[2]", "[8,0]"), 8, "data_offsets [8, 0)"},
    {ENTRY(F32, "[2]", "[0,8]"), 7, "data_offsets [0, 8) in 7 bytes"},
    {ENTRY(F32, "[2]", "[0,8]"), 9, "8 bytes, and the file 9"},
    {ENTRY(F32, "[2]", "[4,12]"), 12, "a hole behind 0"},
    {ENTRY(F32, "[2]", "[0,9223372036854775807]"), 8, "in 8 bytes"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
     4, "duplicate"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
     3, "tensor 'b' begins at byte 1 of the data, but the one before ends at 2"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}",
     5, "a hole behind 2"},
    {"{\"a\":[[[[[0]]]]]}", 0, "nested deeper than 3"},
};

START_TEST(malformed_headers_are_refused)
{
    const bad_case *bad = &bad_headers[_i];
    ck_assert_msg(decode(bad->json, strlen(bad->json), bad->data_bytes) == ZOPT_ERR_DATA,
                  "accepted: %s", bad->json);
    ck_assert_msg(strstr(zopt_last_error(), bad->text) != NULL, "'%s' is not in '%s', of %s",
                  bad->text, zopt_last_error(), bad->json);
}
END_TEST

START_TEST(what_the_format_allows_is_read)
{
    static const struct {
        const char *json;
        uint64_t data_bytes;
    } good[] = {
        {"{}", 0},
        {"{}   ", 0},
        {"{\"__metadata__\":{}}", 0},
        {ENTRY(F32, "[]", "[0,4]"), 4},
        {ENTRY(F32, "[0,5]", "[0,0]"), 0},
        {ENTRY("\"BF16\"", "[1,1,1,1,1,1,1,4]", "[0,8]"), 8},
        {"{\"b\":{\"data_offsets\":[4,5],\"shape\":[1],\"dtype\":\"I8\"},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":[0,4]}}",
         5},
    };
    for (size_t i = 0; i < COUNT(good); i++)
        ck_assert_msg(decode(good[i].json, strlen(good[i].json), good[i].data_bytes) == ZOPT_OK,
                      "%s: %s", good[i].json, zopt_last_error());
}
END_TEST

START_TEST(nul_behind_the_json_is_refused)
{
    ck_assert_int_eq(decode("{}\0", 3, 0), ZOPT_ERR_DATA);
    ck_assert_int_eq(decode("{\0}", 3, 0), ZOPT_ERR_DATA);
}
END_TEST

START_TEST(lengths_are_compared_with_the_file)
{
    static const struct {
        uint64_t length, file_bytes;
        zopt_status want;
    } cases[] = {
        {0, 0, ZOPT_ERR_DATA},
        {2, 7, ZOPT_ERR_DATA},
        {0, 100, ZOPT_ERR_DATA},
        {93, 100, ZOPT_ERR_DATA},
        {92, 100, ZOPT_OK},
        {UINT64_C(1) << 63, 100, ZOPT_ERR_DATA},
        {UINT64_MAX, 100, ZOPT_ERR_DATA},
        {UINT64_MAX - 7, UINT64_MAX, ZOPT_ERR_DATA},
        {100000000, UINT64_C(1) << 40, ZOPT_OK},
        {100000001, UINT64_C(1) << 40, ZOPT_ERR_DATA},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        unsigned char first[8];
        size_t got;
        for (int b = 0; b < 8; b++)
            first[b] = (unsigned char)(cases[i].length >> (8 * b));
        ck_assert_msg(zi_tensorfile_length(first, cases[i].file_bytes, "file", &got) ==
                          cases[i].want,
                      "case %zu: %s", i, zopt_last_error());
        if (cases[i].want == ZOPT_OK)
            ck_assert_uint_eq(got, cases[i].length);
    }
}
END_TEST

static long peak_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* {"a":[[[...]]]} and ten million entries: refused before a parser could run out of anything. What
 * it may take beside the header itself is a tenth of it. */
START_TEST(deep_and_endless_headers_are_refused_at_once)
{
    static const char unit[] = "\"a\":0,";
    size_t n = 60u << 20, unit_bytes = sizeof unit - 1;
    char *json = malloc(n);
    memset(json, '[', n);
    memcpy(json, "{\"a\":", 5);
    long before = peak_kib();
    ck_assert_int_eq(decode(json, n, 0), ZOPT_ERR_DATA);
    for (size_t i = 1; i + unit_bytes <= n; i += unit_bytes)
        memcpy(json + i, unit, unit_bytes);
    json[0] = '{';
    ck_assert_int_eq(decode(json, n, 0), ZOPT_ERR_DATA);
    ck_assert_msg(strstr(zopt_last_error(), "more values than") != NULL, "%s", zopt_last_error());
    ck_assert_int_lt(peak_kib() - before, (long)(n >> 10) / 10);
    free(json);
}
END_TEST

/* ------------------------------------------------------------------ written and read --------- */

static const zi_file_tensor tensors[] = {
    {.name = "z", .dtype = ZI_FILE_F32, .ndim = 2, .shape = {3, 5}},
    {.name = "codes", .dtype = ZI_FILE_U8, .ndim = 1, .shape = {257}},
    {.name = "a\"\\\xc3\xa4", .dtype = ZI_FILE_F32, .ndim = 0},
    {.name = "big", .dtype = ZI_FILE_F32, .ndim = 1, .shape = {5u << 20}},
};

static zi_tensorfile make(zi_file_tensor *tensor, zi_file_text *text)
{
    memcpy(tensor, tensors, sizeof tensors);
    text[0] = (zi_file_text){"format", "pt"};
    text[1] = (zi_file_text){"note", "\"zopt.header_xxh3\":\"\n"};
    zi_tensorfile file = {
        .tensor = tensor, .n_tensors = COUNT(tensors), .text = text, .n_texts = 2};
    zi_tensorfile_order(&file);
    return file;
}

START_TEST(what_is_written_is_read_back)
{
    zi_file_tensor tensor[COUNT(tensors)];
    zi_file_text text[2 + ZI_SEAL_TEXTS];
    zi_tensorfile file = make(tensor, text), got;
    char *header, *seals;
    static const char *const order[] = {"a\"\\\xc3\xa4", "big", "z", "codes"};
    ck_assert_int_eq(zi_seal_encode(&file, &header, &seals), ZOPT_OK);
    ck_assert_uint_eq(file.data_at % ZI_FILE_ALIGN, 0);
    ck_assert_int_eq(zi_tensorfile_decode(header + 8, file.data_at - 8, file.bytes, "file", &got),
                     ZOPT_OK);
    ck_assert_uint_eq(got.data_at, file.data_at);
    for (uint32_t i = 0; i < got.n_tensors; i++) {
        ck_assert_str_eq(got.tensor[i].name, order[i]);
        ck_assert_uint_eq(got.tensor[i].begin, file.tensor[i].begin);
        ck_assert_uint_eq(got.tensor[i].end, file.tensor[i].end);
    }
    ck_assert_str_eq(zi_tensorfile_text(&got, "note"), text[1].value);
    ck_assert_ptr_eq(zi_tensorfile_text(&got, "nothing"), NULL);
    ck_assert_ptr_eq(zi_tensorfile_find(&got, "nothing"), NULL);
    ck_assert_int_eq(zi_tensorfile_find(&got, "codes")->dtype, ZI_FILE_U8);
    zi_tensorfile_free(&got);
    free(header);
    free(seals);
}
END_TEST

START_TEST(checksums_cover_every_byte)
{
    zi_file_tensor tensor[COUNT(tensors)];
    zi_file_text text[2 + ZI_SEAL_TEXTS];
    zi_tensorfile file = make(tensor, text), got;
    char *header, *seals;
    ck_assert_int_eq(zi_seal_encode(&file, &header, &seals), ZOPT_OK);
    uint64_t n = zi_n_pieces(&file), covered = 0, hash[8];
    ck_assert_uint_eq(n, 3);
    char *data = calloc(1, file.bytes);
    for (uint64_t i = 0; i < n; i++) {
        zi_file_piece piece = zi_piece_of(&file, i);
        ck_assert_uint_eq(piece.at, file.data_at + covered);
        covered += piece.bytes;
        hash[i] = zi_seal_hash(data + piece.at, piece.bytes);
    }
    ck_assert_uint_eq(file.data_at + covered, file.bytes);
    zi_seal_header(&file, header, hash, 0);

    memcpy(data, header, file.data_at);

    /* Every bit of the header. */
    for (uint64_t bit = 0; bit < file.data_at * 8; bit++) {
        data[bit / 8] ^= (char)(1 << bit % 8);
        size_t length;
        zopt_status status =
            zi_tensorfile_length((unsigned char *)data, file.bytes, "file", &length);
        if (status == ZOPT_OK && (status = zi_tensorfile_decode(data + 8, length, file.bytes,
                                                                "file", &got)) == ZOPT_OK) {
            status = zi_seal_check_header(&got, data, "file");
            zi_tensorfile_free(&got);
        }
        ck_assert_msg(status == ZOPT_ERR_DATA, "bit %d of the header does not matter", (int)bit);
        data[bit / 8] ^= (char)(1 << bit % 8);
    }
    ck_assert_int_eq(zi_tensorfile_decode(data + 8, file.data_at - 8, file.bytes, "file", &got),
                     ZOPT_OK);
    ck_assert_int_eq(zi_seal_check_header(&got, data, "file"), ZOPT_OK);
    for (uint64_t i = 0; i < n; i++) {
        zi_file_piece piece = zi_piece_of(&got, i);
        char *last = data + piece.at + piece.bytes - 1;
        ck_assert_int_eq(zi_seal_check_piece(&got, i, data + piece.at, "file"), ZOPT_OK);
        *last ^= 4;
        ck_assert_int_eq(zi_seal_check_piece(&got, i, data + piece.at, "file"), ZOPT_ERR_DATA);
        *last ^= 4;
    }
    zi_tensorfile_free(&got);
    free(data);
    free(header);
    free(seals);
}
END_TEST

/* More checksums than fit the first guess of a header: they move the data, which adds pieces. */
START_TEST(many_pieces_fit_their_header)
{
    zi_file_tensor tensor = {.name = "t", .dtype = ZI_FILE_U8, .ndim = 1};
    zi_file_text text[ZI_SEAL_TEXTS];
    for (uint64_t n = 60000; n < 60600; n++) {
        char *header, *seals;
        tensor.shape[0] = n * ZI_PIECE_BYTES / 256 - 777;
        zi_tensorfile file = {.tensor = &tensor, .n_tensors = 1, .text = text};
        zi_tensorfile_order(&file);
        ck_assert_int_eq(zi_seal_encode(&file, &header, &seals), ZOPT_OK);
        ck_assert_uint_ge(strlen(text[1].value), zi_n_pieces(&file) * 16);
        ck_assert_uint_lt(strlen(text[1].value), zi_n_pieces(&file) * 16 + 17);
        free(header);
        free(seals);
    }
}
END_TEST

/* ------------------------------------------------------------------ index and latest --------- */

START_TEST(parts_of_an_index_are_counted)
{
    zi_file_tensor one = tensors[0], two = tensors[1];
    zi_tensorfile parts[2] = {{.tensor = &one, .n_tensors = 1, .bytes = 60},
                              {.tensor = &two, .n_tensors = 1, .bytes = 257}};
    uint32_t n;
    char *json;
    ck_assert_int_eq(zi_index_encode("model", parts, 2, &json), ZOPT_OK);
    ck_assert_str_eq(json, "{\"metadata\":{\"total_size\":317},\"weight_map\":{"
                           "\"z\":\"model-00001-of-00002.safetensors\","
                           "\"codes\":\"model-00002-of-00002.safetensors\"}}");
    ck_assert_int_eq(zi_index_decode(json, strlen(json), "model", "index", &n), ZOPT_OK);
    ck_assert_uint_eq(n, 2);
    ck_assert_int_eq(zi_index_decode(json, strlen(json), "optimizer", "index", &n), ZOPT_ERR_DATA);
    free(json);
    two = one;
    ck_assert_int_eq(zi_index_encode("model", parts, 2, &json), ZOPT_ERR_DATA);
    ck_assert_msg(strstr(zopt_last_error(), "in two of its parts") != NULL, "%s",
                  zopt_last_error());
}
END_TEST

#define MAP(map)   "{\"metadata\":{},\"weight_map\":" map "}"
#define PART(i, n) "model-0000" #i "-of-0000" #n ".safetensors"

START_TEST(malformed_indexes_are_refused)
{
    static const char *const bad[] = {
        "",
        "{}",
        "[]",
        "{\"weight_map\":{}}",
        MAP("[]"),
        MAP("{}"),
        MAP("{\"a\":1}"),
        MAP("{\"a\":\"\"}"),
        MAP("{\"a\":\"model.safetensors\"}"),
        MAP("{\"a\":\"../" PART(1, 2) "\",\"b\":\"" PART(2, 2) "\"}"),
        MAP("{\"a\":\"" PART(1, 2) "\"}"),
        MAP("{\"a\":\"" PART(1, 2) "\",\"b\":\"" PART(3, 2) "\"}"),
        MAP("{\"a\":\"" PART(1, 2) "\",\"b\":\"" PART(2, 3) "\"}"),
        MAP("{\"a\":\"" PART(1, 2) "\",\"a\":\"" PART(2, 2) "\"}"),
        MAP("{\"a\":\"" PART(1, 2) "\",\"b\":\"" PART(2, 2) "x\"}"),
        MAP("{\"a\":\"model-1-of-2.safetensors\",\"b\":\"" PART(2, 2) "\"}"),
        MAP("{\"a\":\"model-00001-of-99999999999999999999.safetensors\"}"),
        MAP("{\"a\":{\"b\":{}}}"),
    };
    uint32_t n;
    for (size_t i = 0; i < COUNT(bad); i++)
        ck_assert_msg(zi_index_decode(bad[i], strlen(bad[i]), "model", "index", &n) ==
                          ZOPT_ERR_DATA,
                      "accepted: %s", bad[i]);
}
END_TEST

START_TEST(latest_names_a_step_and_nothing_else)
{
    static const char *const bad[] = {
        "",
        "\n",
        "step-",
        "step-1",
        "step-000001234",
        "step-0000000a",
        "step-00000001x",
        "../step-00000001",
        "step-00000001/..",
        "/etc/passwd",
        "step--0000001",
        "step-+0000001",
        " step-00000001",
        "step-00000001\n\n",
        "step-99999999999999999999",
        "step-00000001                                                                        ",
    };
    uint64_t step;
    for (size_t i = 0; i < COUNT(bad); i++)
        ck_assert_msg(zi_latest_parse(bad[i], strlen(bad[i]), "dir", &step) == ZOPT_ERR_DATA,
                      "accepted: '%s'", bad[i]);
    ck_assert_int_eq(zi_latest_parse("step-00000001\0", 14, "dir", &step), ZOPT_ERR_DATA);
    ck_assert_int_eq(zi_latest_parse("step-00000123\n", 14, "dir", &step), ZOPT_OK);
    ck_assert_uint_eq(step, 123);
    ck_assert_int_eq(zi_latest_parse("step-123456789", 14, "dir", &step), ZOPT_OK);
    ck_assert_uint_eq(step, 123456789);
}
END_TEST

START_TEST(pruning_keeps_what_the_rules_say)
{
    static const uint64_t steps[] = {70, 60, 50, 40, 30, 20, 10};
    static const struct {
        zi_keep rules;
        const char *want;
    } cases[] = {
        {{0, 0, UINT64_MAX, UINT64_MAX}, "1111111"},
        {{1, 0, UINT64_MAX, UINT64_MAX}, "1000000"},
        {{3, 0, UINT64_MAX, UINT64_MAX}, "1110000"},
        {{1, 20, UINT64_MAX, UINT64_MAX}, "1101010"},
        {{2, 0, 20, UINT64_MAX}, "1100010"},
        {{100, 0, UINT64_MAX, UINT64_MAX}, "1111111"},
        {{1, 0, 40, 50}, "1111000"},
        {{2, 0, 30, 50}, "1111100"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char keep[COUNT(steps)], text[COUNT(steps) + 1] = "";
        zi_folder_choose(&cases[i].rules, steps, COUNT(steps), keep);
        for (size_t s = 0; s < COUNT(steps); s++)
            text[s] = keep[s] ? '1' : '0';
        ck_assert_str_eq(text, cases[i].want);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_format");
    TCase *tests = tcase_create("format");
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, malformed_headers_are_refused, 0, (int)COUNT(bad_headers));
    tcase_add_test(tests, what_the_format_allows_is_read);
    tcase_add_test(tests, nul_behind_the_json_is_refused);
    tcase_add_test(tests, lengths_are_compared_with_the_file);
    tcase_add_test(tests, deep_and_endless_headers_are_refused_at_once);
    tcase_add_test(tests, what_is_written_is_read_back);
    tcase_add_test(tests, checksums_cover_every_byte);
    tcase_add_test(tests, many_pieces_fit_their_header);
    tcase_add_test(tests, parts_of_an_index_are_counted);
    tcase_add_test(tests, malformed_indexes_are_refused);
    tcase_add_test(tests, latest_names_a_step_and_nothing_else);
    tcase_add_test(tests, pruning_keeps_what_the_rules_say);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
