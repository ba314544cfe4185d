/* A table of settings: what its rows accept, what they refuse and with which words. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/setting.h"

static const char *const shapes[] = {"log", "linear", NULL};
enum { OPEN, CLOSED, SHAPE, BITS, N_ROWS };
static const zi_setting_row setting_rows[N_ROWS] = {
    [OPEN] = {.name = "open", .fallback = 0.5, .lo = 0, .hi = 1, .lo_open = 1, .hi_open = 1},
    [CLOSED] = {.name = "closed", .fallback = 2, .lo = -1, .hi = 3},
    [SHAPE] = {.name = "shape", .fallback = 1, .choices = shapes},
    [BITS] = {.name = "bits", .fallback = 8, .lo = 8, .hi = 32, .only_bounds = 1},
};

START_TEST(settings_start_at_defaults_and_take_values_to_their_bounds)
{
    double values[N_ROWS];
    zi_settings_default(setting_rows, N_ROWS, values);
    ck_assert(values[OPEN] == 0.5 && values[CLOSED] == 2 && values[SHAPE] == 1);
    const zopt_setting given[] = {{"closed", 7e-1, NULL},
                                  {"shape", 0, "log"},
                                  {"open", 0x1p-1074, NULL},
                                  {"closed", 3, NULL}};
    ck_assert_int_eq(zi_settings_apply("rule", setting_rows, N_ROWS, given, 4, values), ZOPT_OK);
    ck_assert(values[OPEN] == 0x1p-1074 && values[CLOSED] == 3 && values[SHAPE] == 0);
    const zopt_setting low = {"closed", -1, NULL};
    ck_assert_int_eq(zi_settings_apply("rule", setting_rows, N_ROWS, &low, 1, values), ZOPT_OK);
    ck_assert(values[CLOSED] == -1);
    const zopt_setting bits = {"bits", 32, NULL};
    ck_assert_int_eq(zi_settings_apply("rule", setting_rows, N_ROWS, &bits, 1, values), ZOPT_OK);
    ck_assert(values[BITS] == 32);
    ck_assert_int_eq(zi_settings_apply("rule", NULL, 0, NULL, 0, values), ZOPT_OK);
}
END_TEST

START_TEST(bad_settings_are_refused_by_name_and_change_nothing)
{
    static const struct {
        zopt_setting given;
        zopt_status status;
        const char *text;
    } rows[] = {
        {{"open", 0, NULL}, ZOPT_ERR_CONFIG, "rule: open = 0 is outside (0, 1)"},
        {{"open", 1, NULL}, ZOPT_ERR_CONFIG, "(0, 1)"},
        {{"closed", 3.0001, NULL}, ZOPT_ERR_CONFIG, "[-1, 3]"},
        {{"closed", -1.0001, NULL}, ZOPT_ERR_CONFIG, "[-1, 3]"},
        {{"closed", NAN, NULL}, ZOPT_ERR_CONFIG, "nan"},
        {{"closed", INFINITY, NULL}, ZOPT_ERR_CONFIG, "inf"},
        {{"closd", 1, NULL}, ZOPT_ERR_CONFIG, "unknown setting 'closd'; did you mean 'closed'?"},
        {{"momentum", 1, NULL}, ZOPT_ERR_CONFIG, "unknown setting 'momentum'"},
        {{"shape", 0, "cubic"}, ZOPT_ERR_CONFIG, "'cubic' is not one of: log, linear"},
        {{"shape", 0, NULL}, ZOPT_ERR_CONFIG, "(no word)"},
        {{"bits", 16, NULL}, ZOPT_ERR_CONFIG, "rule: bits = 16 is neither 8 nor 32"},
        {{"closed", 1, "one"}, ZOPT_ERR_CONFIG, "rule: closed = 'one' is no number"},
        {{NULL, 0, NULL}, ZOPT_ERR_ARGUMENT, "without a name"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double values[N_ROWS] = {0.25, 0.75, 1, 8};
        const zopt_setting given[2] = {{"open", 0.125, NULL}, rows[i].given};
        ck_assert_int_eq(zi_settings_apply("rule", setting_rows, N_ROWS, given, 2, values),
                         rows[i].status);
        ck_assert_msg(strstr(zopt_last_error(), rows[i].text) != NULL, "'%s' lacks '%s'",
                      zopt_last_error(), rows[i].text);
        ck_assert(values[OPEN] == 0.25 && values[CLOSED] == 0.75 && values[SHAPE] == 1);
    }
    double none[1] = {0};
    const zopt_setting any = {"any", 1, NULL};
    ck_assert_int_eq(zi_settings_apply("rule", NULL, 0, &any, 1, none), ZOPT_ERR_CONFIG);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("setting");
    TCase *tcase = tcase_create("setting");
    tcase_add_test(tcase, settings_start_at_defaults_and_take_values_to_their_bounds);
    tcase_add_test(tcase, bad_settings_are_refused_by_name_and_change_nothing);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
