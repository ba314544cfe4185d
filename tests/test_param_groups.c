/* Settings of a run file beyond numbers: param_groups, flags, and what is not available. Values are
 * handed out as they are written; what is wrong is refused with its line. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zopt/zopt.h>

static char folder[] = "/tmp/zopt-groups-XXXXXX";
static char file_path[sizeof folder + 16];

static zopt_status load(const char *text, zopt_config **config)
{
    FILE *file = fopen(file_path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(zopt_config_load(file_path, config), ZOPT_OK);
    return zopt_config_resolve(*config);
}

static const struct {
    const char *text, *error; /* the error follows the name of the file */
} bad_files[] = {
    {"{\"optimizer\": {\"type\": \"SGD\", \"params\": {\"nesterov\": 1}}}",
     ":1: optimizer.params.nesterov: got 1, want true or false"},
    {"{\"scheduler\": {\"type\": \"OneCycle\",\n\"params\": {\"cycle_momentum\": true}}}",
     ":2: scheduler.params.cycle_momentum = true is not available: momentum is not cycled, the "
     "optimizer's own stays as it is"},
    {"{\"scheduler\": {\"type\": \"OneCycle\", \"params\": {\"cycle_second_stair_count\": 3}}}",
     ":1: scheduler.params.cycle_second_stair_count = 3 is not available: stairs are not offered, "
     "the rate changes every step"},
    {"{\"param_groups\": {\"match\": \"*\"}}",
     ":1: param_groups: got an object, want an array of objects"},
    {"{\"param_groups\": [\n\"*.bias\"]}",
     ":1: param_groups[0]: got the string \"*.bias\", want an object"},
    {"{\"param_groups\": [\n{\"match\": \"*\"},\n{\"lr_mult\": 2}]}",
     ":1: param_groups[1].match is not set: the names that the group is of"},
    {"{\"param_groups\": [{\"match\": 5}]}", ":1: param_groups[0].match: got 5, want a string"},
    {"{\"param_groups\": [{\"match\": \"*\", \"lr_mult\": 1},\n{\"match\": \"b\",\n\"lr_mult\": "
     "-1}]}",
     ":3: param_groups[1].lr_mult = -1 is outside [0, 1000000]"},
    {"{\"param_groups\": [{\"match\": \"*\", \"weight_decai\": 0}]}",
     ":1: param_groups[0].weight_decai: AdamW has no such setting; did you mean "
     "'param_groups[0].weight_decay'?"},
    {"{\"param_groups\": [{\"match\": \"*\", \"betas\": [0.9]}]}",
     ":1: param_groups[0].betas: got an array of 1, want 2"},
    {"{\"optimizer\": {\"type\": \"AdamW8bit\"}, \"param_groups\": [{\"match\": \"*\",\n"
     "\"optim_bits\": 16}]}",
     ":2: param_groups[0].optim_bits = 16 is neither 8 nor 32"},
    {"{\"optimizer\": {\"type\": \"Lion\"}, \"param_groups\": [{\"match\": \"*\", \"alpha\": 1}]}",
     ":1: param_groups[0].alpha: Lion has no such setting"},
};
enum { N_BAD_FILES = sizeof bad_files / sizeof bad_files[0] };

START_TEST(bad_groups_and_settings_are_refused_with_line_key_and_remedy)
{
    zopt_config *config;
    char want[512];
    ck_assert_int_eq(load(bad_files[_i].text, &config), ZOPT_ERR_CONFIG);
    snprintf(want, sizeof want, "%s%s", file_path, bad_files[_i].error);
    ck_assert_str_eq(zopt_last_error(), want);
    zopt_config_destroy(config);
}
END_TEST

START_TEST(groups_hand_out_what_is_written_and_nothing_else)
{
    zopt_config *config;
    const zopt_setting *settings;
    const char *match;
    size_t n;
    zopt_options options;
    ck_assert_int_eq(
        load("{\"optimizer\": {\"type\": \"RMSprop\", \"params\": {\"centered\": true}},"
             "\"param_groups\": [{\"match\": \"*.bias\", \"weight_decay\": 0},"
             "{\"centered\": true, \"lr_mult\": 0.5, \"match\": \"wte\"}]}",
             &config),
        ZOPT_OK);
    ck_assert_int_eq(zopt_config_options(config, &options), ZOPT_OK);
    ck_assert_uint_eq(options.n_settings, 1);
    ck_assert_str_eq(options.settings[0].name, "centered");
    ck_assert_double_eq(options.settings[0].value, 1);
    ck_assert_int_eq(zopt_config_param_group(config, 0, &match, &settings, &n), ZOPT_OK);
    ck_assert_str_eq(match, "*.bias");
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(settings[0].name, "weight_decay");
    ck_assert_double_eq(settings[0].value, 0);
    ck_assert_int_eq(zopt_config_param_group(config, 1, &match, &settings, &n), ZOPT_OK);
    ck_assert_str_eq(match, "wte");
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(settings[0].name, "centered");
    ck_assert_double_eq(settings[0].value, 1);
    ck_assert_str_eq(settings[1].name, "lr_mult");
    ck_assert_double_eq(settings[1].value, 0.5);
    ck_assert_int_eq(zopt_config_param_group(config, 2, &match, &settings, &n), ZOPT_OK);
    ck_assert_ptr_null(match);
    ck_assert_uint_eq(n, 0);
    zopt_config_destroy(config);
}
END_TEST

START_TEST(an_empty_list_is_no_group)
{
    zopt_config *config;
    const zopt_setting *settings;
    const char *match;
    size_t n;
    ck_assert_int_eq(load("{\"param_groups\": []}", &config), ZOPT_OK);
    ck_assert_int_eq(zopt_config_param_group(config, 0, &match, &settings, &n), ZOPT_OK);
    ck_assert_ptr_null(match);
    zopt_config_destroy(config);
}
END_TEST

/* What is dumped loads again, groups included. */
START_TEST(dumped_groups_load_again)
{
    zopt_config *config, *again;
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    ck_assert_int_eq(load("{\"optimizer\": {\"type\": \"adam\", \"params\": {\"amsgrad\": true}},"
                          "\"param_groups\": [{\"match\": \"a*\", \"betas\": [0.5, 0.75]},"
                          "{\"match\": \"b[0-9]\", \"lr\": 0.25}]}",
                          &config),
                     ZOPT_OK);
    ck_assert_int_eq(zopt_config_dump(config, file), ZOPT_OK);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(load(text, &again), ZOPT_OK);
    const zopt_setting *settings;
    const char *match;
    size_t n;
    ck_assert_int_eq(zopt_config_param_group(again, 0, &match, &settings, &n), ZOPT_OK);
    ck_assert_str_eq(match, "a*");
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(settings[1].name, "beta2");
    ck_assert_double_eq(settings[1].value, 0.75);
    ck_assert_int_eq(zopt_config_param_group(again, 1, &match, &settings, &n), ZOPT_OK);
    ck_assert_str_eq(match, "b[0-9]");
    int amsgrad;
    ck_assert_int_eq(zopt_config_bool(again, "optimizer.params.amsgrad", &amsgrad), ZOPT_OK);
    ck_assert_int_eq(amsgrad, 1);
    free(text);
    zopt_config_destroy(config);
    zopt_config_destroy(again);
}
END_TEST

int main(void)
{
    if (mkdtemp(folder) == NULL)
        return EXIT_FAILURE;
    snprintf(file_path, sizeof file_path, "%s/run.json", folder);
    Suite *suite = suite_create("param groups");
    TCase *tests = tcase_create("files");
    tcase_add_loop_test(tests, bad_groups_and_settings_are_refused_with_line_key_and_remedy, 0,
                        N_BAD_FILES);
    tcase_add_test(tests, groups_hand_out_what_is_written_and_nothing_else);
    tcase_add_test(tests, an_empty_list_is_no_group);
    tcase_add_test(tests, dumped_groups_load_again);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    unlink(file_path);
    rmdir(folder);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
