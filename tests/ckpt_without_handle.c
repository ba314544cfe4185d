/* Checkpoints without a handle: opened, read, exported, pruned. Part of test_ckpt_calls. */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "ckpt_calls.h"

static void add_step(void *arg, uint64_t step)
{
    uint64_t *sum = arg;
    *sum = *sum * 10 + step;
}

START_TEST(checkpoints_open_without_a_handle)
{
    h_problem problem;
    zopt_checkpoint *c;
    zopt_checkpoint_tensor t;
    uint64_t steps = 0;
    const char *key, *value;
    h_uneven(&problem, ZOPT_FP16, 0);
    char *dir = path_of("dir");
    problem.options.part_bytes = 10000;
    job j = {.problem = &problem, .dir = dir, .save_every = 1, .last_step = 3};
    h_result want = result_of(&j, 2);
    MUST(zopt_checkpoint_list(dir, add_step, &steps));
    ck_assert_uint_eq(steps, 321);
    MUST(zopt_checkpoint_open(dir, &c));
    ck_assert_uint_eq(zopt_checkpoint_step(c), 3);
    MUST(zopt_checkpoint_verify(c));
    size_t n = 0;
    for (; zopt_checkpoint_tensor_at(c, n, &t) == ZOPT_OK && t.name != NULL; n++)
        if (strcmp(t.name, "n4096") == 0) {
            float *values = malloc(t.bytes);
            ck_assert_uint_eq(t.bytes, 4096 * sizeof(float));
            MUST(zopt_checkpoint_read(c, n, 0, t.bytes, values));
            uint64_t at = 1 + 1 + 255 + 256 + 257 + 4095;
            ck_assert(memcmp(values, want.master + at, t.bytes) == 0);
            expect(zopt_checkpoint_read(c, n, 4, t.bytes, values), ZOPT_ERR_ARGUMENT, "bytes");
            free(values);
        }
    ck_assert_uint_eq(n, 3 * (size_t)problem.n_tensors);
    int found = 0;
    for (size_t i = 0; zopt_checkpoint_text_at(c, i, &key, &value) == ZOPT_OK && key; i++)
        found += strcmp(key, "zopt.note.position") == 0 && strcmp(value, "after step 3") == 0;
    ck_assert_int_eq(found, 1);
    zopt_checkpoint_close(c);
    h_free(&want);
}
END_TEST

/* The same file as the job itself writes of its 16-bit weights, and of its FP32 ones. */
START_TEST(exports_are_those_of_the_handle)
{
    h_problem problem;
    zopt_checkpoint *c;
    zopt *z;
    size_t na, nb;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.part_bytes = 10000;
    MUST(h_create(&problem, &problem.options, &z));
    MUST(h_step(&problem, z, 1));
    MUST(zopt_save(z, path_of("dir")));
    MUST(zopt_export(z, path_of("32")));
    MUST(zopt_export_params(z, path_of("16")));
    zopt_destroy(z);
    MUST(zopt_checkpoint_open(path_of("dir"), &c));
    MUST(zopt_checkpoint_export(c, path_of("from32"), ZOPT_FP32));
    MUST(zopt_checkpoint_export(c, path_of("from16"), ZOPT_FP16));
    zopt_checkpoint_close(c);
    static const char *const pairs[][2] = {{"32", "from32"}, {"16", "from16"}};
    for (int i = 0; i < 2; i++) {
        char *a = read_file(path_of(pairs[i][0]), &na), *b = read_file(path_of(pairs[i][1]), &nb);
        ck_assert_uint_eq(na, nb);
        ck_assert_msg(memcmp(a, b, na) == 0, "%s", pairs[i][0]);
        free(a);
        free(b);
    }
}
END_TEST

static void export_both(zopt *z, const char *path, zopt_status want, const char *text)
{
    zopt_checkpoint *c;
    expect(zopt_export(z, path), want, text);
    MUST(zopt_checkpoint_open(path_of("dir"), &c));
    expect(zopt_checkpoint_export(c, path, ZOPT_FP32), want, text);
    MUST(zopt_checkpoint_verify(c));
    zopt_checkpoint_close(c);
}

/* Neither a checkpoint's files, nor what no file can stand for, nor somebody's FILE.tmp. */
START_TEST(exports_replace_plain_files_and_nothing_else)
{
    static const char *const own[] = {"dir/step-00000001/model.safetensors",
                                      "link/new",
                                      "dir/lock",
                                      "dir/latest",
                                      "dir/step-00000009",
                                      "step-00000002.tmp/new"};
    h_problem problem;
    struct stat info;
    size_t n;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    MUST(h_create(&problem, &problem.options, &z));
    MUST(h_step(&problem, z, 1));
    MUST(zopt_save(z, path_of("dir")));
    ck_assert_int_eq(symlink("dir/step-00000001", path_of("link")), 0);
    ck_assert_int_eq(mkdir(path_of("step-00000002.tmp"), 0777), 0);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        export_both(z, path_of(own[i]), ZOPT_ERR_ARGUMENT, "export to somewhere else");
    ck_assert_int_eq(n_entries(path_of("dir")), 3);

    ck_assert_int_eq(mkfifo(path_of("fifo"), 0600), 0);
    ck_assert_int_eq(symlink("lock", path_of("to")), 0);
    export_both(z, path_of("fifo"), ZOPT_ERR_ARGUMENT, "is not a plain file");
    export_both(z, path_of("to"), ZOPT_ERR_ARGUMENT, "is not a plain file");
    export_both(z, path_of("dir"), ZOPT_ERR_ARGUMENT, "is not a plain file");
    ck_assert(lstat(path_of("fifo"), &info) == 0 && S_ISFIFO(info.st_mode));
    ck_assert(lstat(path_of("to"), &info) == 0 && S_ISLNK(info.st_mode));

    FILE *mine = fopen(path_of("out.tmp"), "w");
    ck_assert(mine != NULL && fputs("mine", mine) >= 0 && fclose(mine) == 0);
    int before = n_entries(root);
    export_both(z, path_of("out"), ZOPT_OK, "");
    ck_assert_int_eq(n_entries(root), before + 1);
    char *text = read_file(path_of("out.tmp"), &n);
    ck_assert_str_eq(text, "mine");
    free(text);
    zopt_destroy(z);
}
END_TEST

/* Take the checksum over all files out of a file, as older ones are. */
static void make_old(const char *path)
{
    static const char own_key[] = "\"zopt.header_xxh3\":\"", key[] = ",\"zopt.set_xxh3\":\"";
    enum { DIGITS = 16 };
    size_t bytes, gone = sizeof key - 1 + DIGITS + 1;
    uint64_t json_bytes;
    char digits[DIGITS + 1];
    char *text = read_file(path, &bytes);
    memcpy(&json_bytes, text, sizeof json_bytes);
    size_t header_bytes = 8 + (size_t)json_bytes;
    char *from = memmem(text, header_bytes, key, sizeof key - 1);
    ck_assert_ptr_nonnull(from);
    memmove(from, from + gone, (size_t)(text + header_bytes - from) - gone);
    memset(text + header_bytes - gone, ' ', gone);
    char *own = memmem(text, header_bytes, own_key, sizeof own_key - 1);
    ck_assert_ptr_nonnull(own);
    own += sizeof own_key - 1;
    size_t before = (size_t)(own - text);
    uint64_t hash = XXH3_64bits(text, before);
    hash = XXH3_64bits_withSeed(own + DIGITS, header_bytes - before - DIGITS, hash);
    snprintf(digits, sizeof digits, "%016llx", (unsigned long long)hash);
    memcpy(own, digits, DIGITS);
    FILE *file = fopen(path, "wb");
    ck_assert(file != NULL && fwrite(text, 1, bytes, file) == bytes && fclose(file) == 0);
    free(text);
}

static void expect_open(const char *name, zopt_status status)
{
    zopt_checkpoint *c;
    ck_assert_int_eq(zopt_checkpoint_open(path_of(name), &c), status);
    if (status == ZOPT_OK)
        MUST(zopt_checkpoint_verify(c));
    else
        ck_assert_msg(strstr(zopt_last_error(), "not of one checkpoint") != NULL, "%s",
                      zopt_last_error());
    zopt_checkpoint_close(c);
}

/* Two runs with the same settings, at the same step. */
START_TEST(files_of_two_checkpoints_are_not_one)
{
    static const float other = 0.5F;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    MUST(h_create(&problem, &problem.options, &z));
    MUST(h_step(&problem, z, 1));
    MUST(zopt_save(z, path_of("a")));
    MUST(zopt_set_master(z, 0, 0, 1, &other));
    MUST(zopt_save(z, path_of("b")));
    MUST(zopt_save(z, path_of("c")));
    expect_open("a", ZOPT_OK);
    ck_assert_int_eq(rename(path_of("c/step-00000001/model.safetensors"),
                            path_of("a/step-00000001/model.safetensors")),
                     0);
    expect_open("a", ZOPT_ERR_DATA);
    ck_assert_int_eq(zopt_load(z, path_of("a")), ZOPT_ERR_DATA);

    make_old(path_of("b/step-00000001/model.safetensors"));
    expect_open("b", ZOPT_ERR_DATA);
    make_old(path_of("b/step-00000001/optimizer.safetensors"));
    expect_open("b", ZOPT_OK);
    MUST(zopt_load(z, path_of("b")));
    zopt_destroy(z);
}
END_TEST

/* Nothing is made in a directory that is none of checkpoints. */
START_TEST(prunes_need_checkpoints)
{
    h_problem problem;
    char path[256], hint[300];
    make_first(&problem, path);
    char *step = path_of("first/step-00000001");
    int before = n_entries(step);
    for (int dry_run = 0; dry_run < 2; dry_run++) {
        expect(zopt_checkpoint_prune(step, 1, 0, dry_run, NULL, NULL), ZOPT_ERR_READ, path);
        expect(zopt_checkpoint_prune(root, 1, 0, dry_run, NULL, NULL), ZOPT_ERR_READ,
               "there is no checkpoint");
    }
    ck_assert_int_eq(n_entries(step), before);
    ck_assert_int_eq(n_entries(root), 1);
    ck_assert_int_eq(rename(path, path_of("checkpoints")), 0);
    snprintf(hint, sizeof hint, "look in %s/checkpoints", root);
    expect(zopt_checkpoint_prune(root, 1, 0, 0, NULL, NULL), ZOPT_ERR_READ, hint);
    ck_assert_int_eq(n_entries(root), 1);
    MUST(zopt_checkpoint_prune(path_of("checkpoints"), 1, 0, 0, NULL, NULL));
}
END_TEST

void add_without_handle(TCase *tests)
{
    tcase_add_test(tests, checkpoints_open_without_a_handle);
    tcase_add_test(tests, exports_are_those_of_the_handle);
    tcase_add_test(tests, exports_replace_plain_files_and_nothing_else);
    tcase_add_test(tests, files_of_two_checkpoints_are_not_one);
    tcase_add_test(tests, prunes_need_checkpoints);
}
