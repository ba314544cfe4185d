/* Run files: what is written is found, and what is dumped loads again with the same meaning.
 * config_refusals.c: what is wrong in them. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config_files.h"

static char folder[] = "/tmp/zopt-config-XXXXXX";
char file_path[40];

void write_file(const char *text, size_t length)
{
    FILE *file = fopen(file_path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(text, 1, length, file), length);
    ck_assert_int_eq(fclose(file), 0);
}

zopt_config *load(const char *text)
{
    zopt_config *config;
    write_file(text, strlen(text));
    zopt_status status = zopt_config_load(file_path, &config);
    ck_assert_msg(status == ZOPT_OK, "%s", zopt_last_error());
    return config;
}

static zopt_config *resolve(zopt_config *config)
{
    zopt_status status = zopt_config_resolve(config);
    ck_assert_msg(status == ZOPT_OK, "%s", zopt_last_error());
    return config;
}

static int64_t i64(const zopt_config *config, const char *key)
{
    int64_t value = -1;
    ck_assert_msg(zopt_config_i64(config, key, &value) == ZOPT_OK, "%s", zopt_last_error());
    return value;
}

static double f64(const zopt_config *config, const char *key)
{
    double value = -1;
    ck_assert_msg(zopt_config_f64(config, key, &value) == ZOPT_OK, "%s", zopt_last_error());
    return value;
}

static const char *str(const zopt_config *config, const char *key)
{
    const char *value = NULL;
    ck_assert_msg(zopt_config_str(config, key, &value) == ZOPT_OK, "%s", zopt_last_error());
    return value;
}

/* ------------------------------------------------------------------ overrides --------------- */

START_TEST(overrides_reach_every_kind_of_key)
{
    static const char *const sets[] = {
        "train_steps=1e3",
        "name=2024",
        "fp16.enabled=true",
        "optimizer.type=adamw",
        "optimizer.params.lr=0.5",
        "optimizer.params.betas[0]=0.25",
        "scheduler.type=warmupcosinelr",
        "scheduler.params.warmup_type=linear",
        "data.path=text",
        "sample.prompt=\"a\\nb\"",
    };
    zopt_config *config = load("{\"train_steps\": 7, \"data\": {\"path\": \"x\"},"
                               "\"optimizer\": {\"params\": {\"betas\": [0.9, 0.99]}}}");
    char cwd[4096], want[4200];
    int fp16 = 0;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        ck_assert_msg(zopt_config_set(config, sets[i]) == ZOPT_OK, "%s", zopt_last_error());
    ck_assert_int_eq(i64(config, "train_steps"), 1000);
    resolve(config);
    ck_assert_int_eq(i64(config, "train_steps"), 1000);
    ck_assert_str_eq(str(config, "name"), "2024");
    ck_assert_int_eq(zopt_config_bool(config, "fp16.enabled", &fp16), ZOPT_OK);
    ck_assert_int_eq(fp16, 1);
    ck_assert_str_eq(str(config, "optimizer.type"), "AdamW");
    ck_assert_double_eq(f64(config, "optimizer.params.lr"), 0.5);
    ck_assert_double_eq(f64(config, "optimizer.params.betas[0]"), 0.25);
    ck_assert_double_eq(f64(config, "optimizer.params.betas[1]"), 0.99);
    ck_assert_double_eq(f64(config, "optimizer.params.eps"), 1e-8);
    ck_assert_str_eq(str(config, "scheduler.type"), "WarmupCosineLR");
    ck_assert_str_eq(str(config, "scheduler.params.warmup_type"), "linear");
    ck_assert_str_eq(str(config, "sample.prompt"), "a\nb");
    ck_assert_ptr_nonnull(getcwd(cwd, sizeof cwd));
    snprintf(want, sizeof want, "%s/text", cwd);
    ck_assert_str_eq(str(config, "data.path"), want);
    ck_assert_int_eq(zopt_config_set(config, "train_steps=5"), ZOPT_ERR_ORDER);
    ck_assert_int_eq(zopt_config_resolve(config), ZOPT_ERR_ORDER);
    zopt_config_destroy(config);
}
END_TEST

/* ------------------------------------------------------------------ values ------------------ */

START_TEST(empty_file_means_the_defaults)
{
    zopt_config *config = resolve(load("{}"));
    const char *path;
    zopt_dtype dtype;
    ck_assert_int_eq(i64(config, "train_batch_size"), 16);
    ck_assert_int_eq(i64(config, "train_micro_batch_size_per_gpu"), 16);
    ck_assert_int_eq(i64(config, "zopt.slots"), 1);
    ck_assert_int_eq(i64(config, "zero_optimization.reduce_bucket_size"), 4194304);
    ck_assert_str_eq(str(config, "optimizer.type"), "AdamW");
    ck_assert_str_eq(str(config, "sample.prompt"), "");
    ck_assert_int_eq(zopt_config_dtype(config, &dtype), ZOPT_OK);
    ck_assert_int_eq(dtype, ZOPT_FP32);
    ck_assert_int_eq(zopt_config_str(config, "data.path", &path), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "data.path is not set"));
    zopt_config_destroy(config);
}
END_TEST

START_TEST(getters_refuse_other_types_and_unknown_keys)
{
    zopt_config *config = resolve(load("{}"));
    double number;
    int64_t integer;
    ck_assert_int_eq(zopt_config_f64(config, "seed", &number), ZOPT_ERR_ARGUMENT);
    ck_assert_int_eq(zopt_config_i64(config, "sead", &integer), ZOPT_ERR_ARGUMENT);
    zopt_config_destroy(config);
}
END_TEST

static void refused(zopt_status status, const char *error)
{
    ck_assert_int_eq(status, ZOPT_ERR_ARGUMENT);
    ck_assert_str_eq(zopt_last_error(), error);
}

START_TEST(null_arguments_are_refused_by_name)
{
    zopt_config *config = resolve(load("{}")), *none = config;
    zopt_options options;
    zopt_dtype dtype;
    int64_t i;
    double f;
    int b;
    const char *text;
    refused(zopt_config_load(NULL, &none), "zopt_config_load: path is NULL");
    ck_assert_ptr_null(none);
    refused(zopt_config_load(file_path, NULL), "zopt_config_load: out is NULL");
    refused(zopt_config_set(NULL, "seed=1"), "zopt_config_set: config is NULL");
    refused(zopt_config_set(config, NULL), "zopt_config_set: assignment is NULL");
    refused(zopt_config_resolve(NULL), "zopt_config_resolve: config is NULL");
    refused(zopt_config_i64(NULL, "seed", &i), "zopt_config_i64: config is NULL");
    refused(zopt_config_i64(config, NULL, &i), "zopt_config_i64: key is NULL");
    refused(zopt_config_i64(config, "seed", NULL), "zopt_config_i64: value is NULL");
    refused(zopt_config_f64(NULL, "gradient_clipping", &f), "zopt_config_f64: config is NULL");
    refused(zopt_config_f64(config, NULL, &f), "zopt_config_f64: key is NULL");
    refused(zopt_config_f64(config, "gradient_clipping", NULL), "zopt_config_f64: value is NULL");
    refused(zopt_config_bool(NULL, "fp16.enabled", &b), "zopt_config_bool: config is NULL");
    refused(zopt_config_bool(config, NULL, &b), "zopt_config_bool: key is NULL");
    refused(zopt_config_bool(config, "fp16.enabled", NULL), "zopt_config_bool: value is NULL");
    refused(zopt_config_str(NULL, "name", &text), "zopt_config_str: config is NULL");
    refused(zopt_config_str(config, NULL, &text), "zopt_config_str: key is NULL");
    refused(zopt_config_str(config, "name", NULL), "zopt_config_str: value is NULL");
    refused(zopt_config_dtype(NULL, &dtype), "zopt_config_dtype: config is NULL");
    refused(zopt_config_dtype(config, NULL), "zopt_config_dtype: dtype is NULL");
    refused(zopt_config_options(NULL, &options), "zopt_config_options: config is NULL");
    refused(zopt_config_options(config, NULL), "zopt_config_options: options is NULL");
    refused(zopt_config_agree(NULL, NULL), "zopt_config_agree: config is NULL");
    refused(zopt_config_agree(config, NULL), "zopt_config_agree: z is NULL");
    refused(zopt_config_dump(NULL, stdout), "zopt_config_dump: config is NULL");
    refused(zopt_config_dump(config, NULL), "zopt_config_dump: file is NULL");
    zopt_config_help(NULL);
    zopt_config_destroy(NULL);
    zopt_config_destroy(config);
}
END_TEST

START_TEST(paths_in_a_file_are_relative_to_its_folder)
{
    char want[64];
    zopt_config *config = resolve(load("{\"data\": {\"path\": \"../kjv.txt\"}}"));
    snprintf(want, sizeof want, "%s/../kjv.txt", folder);
    ck_assert_str_eq(str(config, "data.path"), want);
    zopt_config_destroy(config);
    config = resolve(load("{\"data\": {\"path\": \"/kjv.txt\"}}"));
    ck_assert_str_eq(str(config, "data.path"), "/kjv.txt");
    zopt_config_destroy(config);
}
END_TEST

static const struct {
    const char *text;
    int64_t batch, micro, slots;
} batches[] = {
    {"{\"train_batch_size\": 24}", 24, 24, 1},
    {"{\"train_batch_size\": 24, \"train_micro_batch_size_per_gpu\": 4}", 24, 4, 6},
    {"{\"train_batch_size\": 24, \"zopt\": {\"slots\": 3}}", 24, 8, 3},
    {"{\"train_micro_batch_size_per_gpu\": 4}", 16, 4, 4},
    {"{\"train_micro_batch_size_per_gpu\": 4, \"zopt\": {\"slots\": 5}}", 20, 4, 5},
    {"{\"zopt\": {\"slots\": 16}}", 16, 1, 16},
    {"{\"train_batch_size\": 8.0, \"train_micro_batch_size_per_gpu\": 2e0}", 8, 2, 4},
};

START_TEST(batch_micro_batch_and_slots_follow_from_each_other)
{
    zopt_config *config = resolve(load(batches[_i].text));
    ck_assert_int_eq(i64(config, "train_batch_size"), batches[_i].batch);
    ck_assert_int_eq(i64(config, "train_micro_batch_size_per_gpu"), batches[_i].micro);
    ck_assert_int_eq(i64(config, "zopt.slots"), batches[_i].slots);
    zopt_config_destroy(config);
}
END_TEST

START_TEST(options_follow_the_file)
{
    zopt_options options;
    zopt_config *config = resolve(load(
        "{\"train_micro_batch_size_per_gpu\": 4, \"gradient_clipping\": 0.5,"
        "\"optimizer\": {\"params\": {\"lr\": 3e-3, \"betas\": [0.9, 0.75]}},"
        "\"scheduler\": {\"type\": \"WarmupCosineLR\", \"params\": {\"warmup_type\": \"log\"}},"
        "\"fp16\": {\"enabled\": true, \"initial_scale_power\": 10, \"hysteresis\": 3},"
        "\"zero_optimization\": {\"reduce_bucket_size\": 1000,"
        "\"offload_optimizer\": {\"device\": \"cpu\"}},"
        "\"zopt\": {\"cuda_graph\": 0},"
        "\"comm\": {\"transport\": \"self\", \"deadline_s\": 1.5, \"between_nodes\": \"mpi\","
        "\"nccl_windows\": \"copy-engines\"}}"));
    memset(&options, 0x5a, sizeof options);
    ck_assert_int_eq(zopt_config_options(config, &options), ZOPT_OK);
    ck_assert_uint_eq(options.struct_size, sizeof options);
    ck_assert_ptr_null(options.on_hang);
    ck_assert_str_eq(options.transport, "self");
    ck_assert_str_eq(options.optimizer, "AdamW");
    ck_assert_int_eq(options.slots, 4);
    ck_assert_uint_eq(options.bucket_elems, 1000);
    ck_assert_str_eq(options.offload_optimizer, "cpu");
    ck_assert_double_eq(options.clip_norm, 0.5);
    ck_assert_int_eq(options.dynamic_loss_scale, 1);
    ck_assert_double_eq(options.loss_scale, 1024.0);
    ck_assert_int_eq(options.hysteresis, 3);
    ck_assert_int_eq(options.growth_interval, 1000);
    ck_assert_int_eq(options.deadline_ms, 1500);
    ck_assert_int_eq(options.cuda_graph, 0);
    ck_assert_str_eq(options.between_nodes, "mpi");
    ck_assert_str_eq(options.nccl_windows, "copy-engines");
    ck_assert_uint_eq(options.n_settings, 3);
    ck_assert_str_eq(options.settings[0].name, "lr");
    ck_assert_double_eq(options.settings[0].value, 3e-3);
    ck_assert_str_eq(options.settings[2].name, "beta2");
    ck_assert_double_eq(options.settings[2].value, 0.75);
    ck_assert_uint_eq(options.n_schedule_settings, 1);
    ck_assert_str_eq(options.schedule_settings[0].text, "log");
    zopt_config_destroy(config);
}
END_TEST

static const struct {
    const char *text;
    zopt_dtype dtype;
    int dynamic;
    double scale;
    int check;
} scales[] = {
    {"{}", ZOPT_FP32, 0, 1.0, -1},
    {"{\"fp16\": {\"enabled\": true}}", ZOPT_FP16, 1, 65536.0, -1},
    {"{\"fp16\": {\"enabled\": true, \"loss_scale\": 128}}", ZOPT_FP16, 0, 128.0, -1},
    {"{\"fp16\": {\"loss_scale\": 128}}", ZOPT_FP32, 0, 1.0, -1},
    {"{\"bf16\": {\"enabled\": true}}", ZOPT_BF16, 0, 1.0, -1},
    {"{\"bf16\": {\"enabled\": true, \"check_grad_overflow\": true}}", ZOPT_BF16, 0, 1.0, 1},
};

START_TEST(dtype_and_loss_scale_follow_fp16_and_bf16)
{
    zopt_dtype dtype;
    zopt_options options;
    zopt_config *config = resolve(load(scales[_i].text));
    memset(&options, 0x5a, sizeof options);
    ck_assert_int_eq(zopt_config_dtype(config, &dtype), ZOPT_OK);
    ck_assert_int_eq(zopt_config_options(config, &options), ZOPT_OK);
    ck_assert_int_eq(dtype, scales[_i].dtype);
    ck_assert_int_eq(options.dynamic_loss_scale, scales[_i].dynamic);
    ck_assert_double_eq(options.loss_scale, scales[_i].scale);
    ck_assert_int_eq(options.check_overflow, scales[_i].check);
    zopt_config_destroy(config);
}
END_TEST

/* ------------------------------------------------------------------ writing out ------------- */

static char *dump(const zopt_config *config)
{
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(zopt_config_dump(config, file), ZOPT_OK);
    ck_assert_int_eq(fclose(file), 0);
    return text;
}

START_TEST(dump_loads_again_with_the_same_meaning)
{
    zopt_config *config =
        load("{\"train_micro_batch_size_per_gpu\": 4, \"name\": \"a\\n\\\"b\\u00e9\","
             "\"data\": {\"path\": \"text\", \"val_fraction\": 0.1000000000000000055},"
             "\"optimizer\": {\"params\": {\"lr\": 0.30000000000000004, \"betas\": [0.9, 0]}},"
             "\"scheduler\": {\"type\": \"warmupcosinelr\"}, \"fp16\": {\"enabled\": true}}");
    zopt_config *unresolved = load("{}");
    ck_assert_int_eq(zopt_config_dump(unresolved, stdout), ZOPT_ERR_ORDER);
    zopt_config_destroy(unresolved);
    char *first = dump(resolve(config));
    zopt_config *again = resolve(load(first));
    char *second = dump(again);
    ck_assert_str_eq(first, second);
    ck_assert_double_eq(f64(again, "optimizer.params.lr"), 0.30000000000000004);
    ck_assert_double_eq(f64(again, "optimizer.params.betas[1]"), 0.0);
    ck_assert_str_eq(str(again, "scheduler.params.warmup_type"), "log");
    ck_assert_str_eq(str(again, "data.path"), str(config, "data.path"));
    ck_assert_str_eq(str(again, "name"), "a\n\"b\xc3\xa9");
    ck_assert_int_eq(i64(again, "zopt.slots"), 4);
    free(first);
    free(second);
    zopt_config_destroy(config);
    zopt_config_destroy(again);
}
END_TEST

START_TEST(help_names_every_key_and_setting)
{
    static const char *const words[] = {"zero_optimization.reduce_bucket_size",
                                        "[1, 1099511627776]",
                                        "[0, 9007199254740992]",
                                        "train_micro_batch_size_per_gpu",
                                        "betas[1]",
                                        "optimizer.params of AdamW",
                                        "warmup_type",
                                        "log|linear"};
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    ck_assert_ptr_nonnull(file);
    zopt_config_help(file);
    ck_assert_int_eq(fclose(file), 0);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        ck_assert_msg(strstr(text, words[i]) != NULL, "help does not name %s", words[i]);
    free(text);
}
END_TEST

int main(void)
{
    if (mkdtemp(folder) == NULL)
        return EXIT_FAILURE;
    snprintf(file_path, sizeof file_path, "%s/run.json", folder);
    Suite *suite = suite_create("config");
    TCase *tests = tcase_create("config");
    suite_add_tcase(suite, tests);
    add_refusals(tests);
    tcase_add_test(tests, overrides_reach_every_kind_of_key);
    tcase_add_test(tests, empty_file_means_the_defaults);
    tcase_add_test(tests, getters_refuse_other_types_and_unknown_keys);
    tcase_add_test(tests, null_arguments_are_refused_by_name);
    tcase_add_test(tests, paths_in_a_file_are_relative_to_its_folder);
    tcase_add_loop_test(tests, batch_micro_batch_and_slots_follow_from_each_other, 0,
                        COUNT(batches));
    tcase_add_test(tests, options_follow_the_file);
    tcase_add_loop_test(tests, dtype_and_loss_scale_follow_fp16_and_bf16, 0, COUNT(scales));
    tcase_add_test(tests, dump_loads_again_with_the_same_meaning);
    tcase_add_test(tests, help_names_every_key_and_setting);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    unlink(file_path);
    rmdir(folder);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
