/* Run files and overrides that are wrong: refused with a text that says where and what would be
 * right. Part of test_config. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_files.h"

/* ------------------------------------------------------------------ bad run files ----------- */

static const struct {
    const char *text, *error; /* the error follows the name of the file */
} bad_files[] = {
    {"{\"train_steps\": 5,}", ":1:19: string or '}' expected near '}'"},
    {"{\"seed\": 1,\n \"seed\": 2}", ":2:7: duplicate object key near '\"seed\"'"},
    {"{\"seed\": 1} {}", ":1:13: end of file expected near '{'"},
    {"[1]", ":1:1: a run file is a JSON object: { ... }"},
    {"", ":1:0: '[' or '{' expected near end of file"},
    {"{\"gradient_clipping\": NaN}", ":1:25: invalid token near 'NaN'"},
    {"{\"gradient_clipping\": Infinity}", ":1:30: invalid token near 'Infinity'"},
    {"{\"gradient_clipping\": 1e999}", ":1:27: real number overflow near '1e999'"},
    {"{\"seed\": 99999999999999999999}", ":1:29: too big integer near '99999999999999999999'"},

    {"{\n \"train_stpes\": 5}", ":2: train_stpes: unknown key; did you mean 'train_steps'?"},
    {"{\"optimiser\": {}}", ":1: optimiser: unknown key; did you mean 'optimizer'?"},
    {"{\"fp16\": {\n\"enable\": true}}",
     ":2: fp16.enable: unknown key; did you mean 'fp16.enabled'?"},
    {"{\"optimizer\": {\n\"lr\": 1}}",
     ":2: optimizer.lr: unknown key; did you mean 'optimizer.params.lr'?"},
    {"{\"optimizer\": {\"params\": {\"weight_deacy\": 1}}}",
     ":1: optimizer.params.weight_deacy: AdamW has no such setting; did you mean "
     "'optimizer.params.weight_decay'?"},
    {"{\"scheduler\": {\"params\": {\"xyzzy\": 1}}}",
     ":1: scheduler.params.xyzzy: constant has no such setting"},
    {"{\"xyzzy\": 1}", ":1: xyzzy: unknown key"},
    {"{\"fp16.enabled\": true}",
     ": 'fp16.enabled': paths are for --set; in a file, write objects in objects"},
    {"{\"optimizer\": {\"type\": \"AdamWW\"}}",
     ":1: optimizer.type: unknown optimizer 'AdamWW'; did you mean 'AdamW'"},
    {"{\"scheduler\": {\"type\": \"WarmupCosine\"}}",
     ":1: scheduler.type: unknown schedule 'WarmupCosine'; did you mean 'WarmupCosineLR'"},

    {"{\"train_steps\": \"5\"}", ":1: train_steps: got the string \"5\", want an integer"},
    {"{\"train_steps\": 5.5}", ":1: train_steps: got 5.5, want an integer"},
    {"{\"train_steps\": null}", ":1: train_steps: got null, want an integer"},
    {"{\"fp16\": {\"enabled\": \"auto\"}}",
     ":1: fp16.enabled: got the string \"auto\", want true or false"},
    {"{\"fp16\": {\"enabled\": 1}}", ":1: fp16.enabled: got 1, want true or false"},
    {"{\"fp16\": true}", ":1: fp16: got true, want an object"},
    {"{\"gradient_clipping\": {}}", ":1: gradient_clipping: got an object, want a number"},
    {"{\"data\": {\"path\": 5}}", ":1: data.path: got 5, want a string"},
    {"{\"optimizer\": {\"type\": 5}}", ":1: optimizer.type: got 5, want a string"},
    {"{\"optimizer\": {\"params\": {\"betas\": 0.9}}}",
     ":1: optimizer.params.betas: got 0.9, want an array of 2"},
    {"{\"optimizer\": {\"params\": {\"betas\": [0.9]}}}",
     ":1: optimizer.params.betas: got an array of 1, want 2"},
    {"{\"optimizer\": {\"params\": {\"betas\": [0.9, 0.99, 0.5]}}}",
     ":1: optimizer.params.betas: got an array of 3, want 2"},
    {"{\"optimizer\": {\"params\": {\"betas\": [0.9, \"x\"]}}}",
     ":1: optimizer.params.betas[1]: got the string \"x\", want a number"},

    {"{\"train_batch_size\": -16}", ":1: train_batch_size = -16 is outside [1, 1000000]"},
    {"{\"train_steps\": 0}", ":1: train_steps = 0 is outside [1, 1000000000000]"},
    {"{\"gradient_clipping\": -1}", ":1: gradient_clipping = -1 is outside [0, 1e+30]"},
    {"{\"data\": {\"val_fraction\": 1}}", ":1: data.val_fraction = 1 is outside (0, 1)"},
    {"{\"optimizer\": {\"params\": {\"betas\": [0.9, 1]}}}",
     ":1: optimizer.params.betas[1] = 1 is outside [0, 1)"},
    {"{\"zero_optimization\": {\"reduce_bucket_size\": -1}}",
     ":1: zero_optimization.reduce_bucket_size = -1 is outside [1, 1099511627776]"},
    {"{\"zero_optimization\": {\n\"offload_optimizer\": {\n\"device\": \"nvme\"}}}",
     ":3: zero_optimization.offload_optimizer.device = \"nvme\" is not one of: none|cpu"},
    {"{\"zero_optimization\": {\"stage\": 2}}",
     ":1: zero_optimization.stage 2 is not available: 1"},
    {"{\"scheduler\": {\"type\": \"WarmupCosineLR\",\n\"params\": {\"warmup_type\": \"cubic\"}}}",
     ":2: scheduler.params.warmup_type = \"cubic\" is not one of: log|linear"},

    {"{\"fp16\": {\"enabled\": true}, \"bf16\": {\"enabled\": true}}",
     ":1: bf16.enabled and fp16.enabled are both true: choose one"},
    {"{\"model\": {\"n_embd\": 65}}",
     ":1: model.n_embd = 65 is not a multiple of model.n_head = 4"},
    {"{\"train_batch_size\": 16, \"train_micro_batch_size_per_gpu\": 3}",
     ":1: train_batch_size = 16 is not a multiple of train_micro_batch_size_per_gpu = 3"},
    {"{\"train_batch_size\": 16, \"train_micro_batch_size_per_gpu\": 4, \"zopt\": {\"slots\": 2}}",
     ":1: train_batch_size = 16 is not zopt.slots (2) times train_micro_batch_size_per_gpu (4)"},
    {"{\"train_batch_size\": 4, \"zopt\": {\"slots\": 8}}",
     ":1: train_batch_size = 4 is not a multiple of zopt.slots = 8"},

    {"{\"fp16\": {\"loss_scale\": 1000}}",
     ":1: fp16.loss_scale = 1000 is neither 0 nor a power of two from 2^-126 to 2^40"},
    {"{\"fp16\": {\"loss_scale\": 1e-300}}",
     ":1: fp16.loss_scale = 1e-300 is neither 0 nor a power of two from 2^-126 to 2^40"},
    {"{\"fp16\": {\"min_loss_scale\": 3}}", ":1: fp16.min_loss_scale = 3 is not a power of two"},
    {"{\"fp16\": {\"enabled\": true, \"initial_scale_power\": 3, \"min_loss_scale\": 16}}",
     ":1: fp16.min_loss_scale = 16 is above the initial scale, 2 to the fp16.initial_scale_power = "
     "3"},

    {"{\"name\": \"a/b\"}", ":1: name = \"a/b\" is not the name of a folder below runs/"},
    {"{\"name\": \"..\"}", ":1: name = \"..\" is not the name of a folder below runs/"},
    {"{\"name\": \".\"}", ":1: name = \".\" is not the name of a folder below runs/"},
    {"{\"name\": \"\"}", ":1: name = \"\" is not the name of a folder below runs/"},

    {"\xef\xbb\xbf{}", ":1:1: begins with a UTF-8 byte order mark: save it without one"},
    {"{\"seed\": 9007199254740993}",
     ":1: seed = 9007199254740993 is outside [0, 9007199254740992]"},
    {"{\"seed\": -1}", ":1: seed = -1 is outside [0, 9007199254740992]"},
    {"{\"train_steps\": 1e300}", ":1: train_steps = 1e+300 is outside [1, 1000000000000]"},
};

START_TEST(bad_file_is_refused_with_file_line_key_and_remedy)
{
    zopt_config *config;
    char want[512];
    write_file(bad_files[_i].text, strlen(bad_files[_i].text));
    zopt_status status = zopt_config_load(file_path, &config);
    if (status == ZOPT_OK)
        status = zopt_config_resolve(config);
    snprintf(want, sizeof want, "%s%s", file_path, bad_files[_i].error);
    ck_assert_str_eq(zopt_last_error(), want);
    ck_assert_int_eq(status, ZOPT_ERR_CONFIG);
    zopt_config_destroy(config);
}
END_TEST

START_TEST(unreadable_files_are_read_errors)
{
    static const char *const paths[] = {"/nonexistent/run.json", "/", "/proc/self/mem"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        zopt_config *config = (zopt_config *)&i;
        ck_assert_int_eq(zopt_config_load(paths[i], &config), ZOPT_ERR_READ);
        ck_assert_ptr_null(config);
        ck_assert_ptr_nonnull(strstr(zopt_last_error(), paths[i]));
    }
}
END_TEST

START_TEST(huge_and_deep_and_binary_files_are_refused)
{
    enum { N = (1 << 20) + 1 };
    zopt_config *config;
    char *text = malloc(N);
    ck_assert_ptr_nonnull(text);
    memset(text, ' ', N);
    write_file(text, N);
    ck_assert_int_eq(zopt_config_load(file_path, &config), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "longer than 1048576 bytes"));
    memset(text, '[', N);
    write_file(text, N - 1);
    ck_assert_int_eq(zopt_config_load(file_path, &config), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "maximum parsing depth reached"));
    write_file("{\"a\": \"\0\"}", 11);
    ck_assert_int_eq(zopt_config_load(file_path, &config), ZOPT_ERR_CONFIG);
    write_file("{\"name\": \"\xff\"}", 13);
    ck_assert_int_eq(zopt_config_load(file_path, &config), ZOPT_ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "unable to decode byte 0xff"));
    free(text);
}
END_TEST

/* ------------------------------------------------------------------ overrides --------------- */

static const struct {
    const char *assignment;
    zopt_status status;
    const char *error;
} bad_sets[] = {
    {"train_steps", ZOPT_ERR_ARGUMENT, "--set 'train_steps': want key=value"},
    {"=5", ZOPT_ERR_ARGUMENT, "--set '=5': '' is not a key, want e.g. a.b or a.b[0]"},
    {"a..b=5", ZOPT_ERR_ARGUMENT, "--set 'a..b=5': 'a..b' is not a key, want e.g. a.b or a.b[0]"},
    {"a.=5", ZOPT_ERR_ARGUMENT, "--set 'a.=5': 'a.' is not a key, want e.g. a.b or a.b[0]"},
    {"a[x]=5", ZOPT_ERR_ARGUMENT, "--set 'a[x]=5': 'a[x]' is not a key, want e.g. a.b or a.b[0]"},
    {"[0]=5", ZOPT_ERR_ARGUMENT, "--set '[0]=5': '[0]' is not a key, want e.g. a.b or a.b[0]"},
    {"train_stepz=5", ZOPT_ERR_CONFIG,
     "--set train_stepz: unknown key; did you mean 'train_steps'?"},
    {"train_steps=many", ZOPT_ERR_CONFIG,
     "--set train_steps: got the string \"many\", want an integer"},
    {"gradient_clipping=nan", ZOPT_ERR_CONFIG,
     "--set gradient_clipping: got the string \"nan\", want a number"},
    {"gradient_clipping=-inf", ZOPT_ERR_CONFIG,
     "--set gradient_clipping: got the string \"-inf\", want a number"},
    {"train_steps=", ZOPT_ERR_CONFIG, "--set train_steps: got the string \"\", want an integer"},
    {"train_steps=-3", ZOPT_ERR_CONFIG, "--set train_steps = -3 is outside [1, 1000000000000]"},
    {"train_steps.x=3", ZOPT_ERR_CONFIG, "train_steps.x: what holds x is not an object"},
    {"fp16=true", ZOPT_ERR_CONFIG, "--set fp16: got true, want an object"},
    {"optimzer.params.lr=1", ZOPT_ERR_CONFIG,
     "--set optimzer: unknown key; did you mean 'optimizer'?"},
    {"a.b.c=1", ZOPT_ERR_CONFIG, "--set a: unknown key"},
    {"fp16.loss_scale=3", ZOPT_ERR_CONFIG,
     "--set fp16.loss_scale = 3 is neither 0 nor a power of two from 2^-126 to 2^40"},
    {"gradient_clipping=1e400", ZOPT_ERR_CONFIG,
     "--set gradient_clipping=1e400: the number is out of range"},
    {"seed=99999999999999999999", ZOPT_ERR_CONFIG,
     "--set seed=99999999999999999999: the number is out of range"},
    {"optimizer.params.betas=[0.9,", ZOPT_ERR_CONFIG,
     "--set optimizer.params.betas=[0.9,: ']' expected near end of file"},
    {"optimizer.params.betas[3]=0.9", ZOPT_ERR_CONFIG,
     "optimizer.params.betas[3]: index 3 of an array of 0"},
    {"name=\"x", ZOPT_ERR_CONFIG, "--set name=\"x: premature end of input near '\"x'"},
    {"name=\xff", ZOPT_ERR_CONFIG, "--set name: the value is not UTF-8"},
};

START_TEST(bad_override_is_refused)
{
    zopt_config *config = load("{\"train_steps\": 7}");
    zopt_status status = zopt_config_set(config, bad_sets[_i].assignment);
    if (status == ZOPT_OK)
        status = zopt_config_resolve(config);
    ck_assert_str_eq(zopt_last_error(), bad_sets[_i].error);
    ck_assert_int_eq(status, bad_sets[_i].status);
    zopt_config_destroy(config);
}
END_TEST

/* What is wrong in the file stays the file's, also where a key beside it is overridden. */
START_TEST(errors_of_the_file_are_not_blamed_on_overrides)
{
    char want[512];
    zopt_config *config = load("{\"optimzer\": {\"type\": \"AdamW\"}}");
    ck_assert_int_eq(zopt_config_set(config, "optimzer.params.lr=1"), ZOPT_OK);
    ck_assert_int_eq(zopt_config_resolve(config), ZOPT_ERR_CONFIG);
    snprintf(want, sizeof want, "%s:1: optimzer: unknown key; did you mean 'optimizer'?",
             file_path);
    ck_assert_str_eq(zopt_last_error(), want);
    zopt_config_destroy(config);
}
END_TEST

void add_refusals(TCase *tests)
{
    tcase_add_loop_test(tests, bad_file_is_refused_with_file_line_key_and_remedy, 0,
                        COUNT(bad_files));
    tcase_add_test(tests, unreadable_files_are_read_errors);
    tcase_add_test(tests, huge_and_deep_and_binary_files_are_refused);
    tcase_add_loop_test(tests, bad_override_is_refused, 0, COUNT(bad_sets));
    tcase_add_test(tests, errors_of_the_file_are_not_blamed_on_overrides);
}
