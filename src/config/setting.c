/* Named settings against their rows: defaults, ranges, words. */
#include "config/setting.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

enum { MAX_ROWS = 32 };

void zi_settings_default(const zi_setting_row *rows, size_t n_rows, double *values)
{
    for (size_t i = 0; i < n_rows; i++)
        values[i] = rows[i].fallback;
}

static int in_range(const zi_setting_row *row, double value)
{
    if (!isfinite(value))
        return 0;
    int above = row->lo_open ? value > row->lo : value >= row->lo;
    int below = row->hi_open ? value < row->hi : value <= row->hi;
    return above && below;
}

static zopt_status choose(const char *owner, const zi_setting_row *row, const zopt_setting *setting,
                          double *value)
{
    char known[256] = "";
    for (size_t i = 0; row->choices[i] != NULL; i++) {
        if (setting->text != NULL && strcmp(setting->text, row->choices[i]) == 0) {
            *value = (double)i;
            return ZOPT_OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", row->choices[i]);
    }
    return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: %s = '%s' is not one of: %s", owner, row->name,
                   setting->text ? setting->text : "(no word)", known);
}

static zopt_status apply_one(const char *owner, const zi_setting_row *rows, size_t n_rows,
                             const zopt_setting *setting, double *values)
{
    if (setting->name == NULL)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%s: a setting without a name", owner);
    for (size_t i = 0; i < n_rows; i++) {
        const zi_setting_row *row = &rows[i];
        if (strcmp(row->name, setting->name) != 0)
            continue;
        if (row->choices != NULL)
            return choose(owner, row, setting, &values[i]);
        if (setting->text != NULL)
            return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: %s = '%s' is no number", owner, row->name,
                           setting->text);
        if (row->only_default != NULL && setting->value != row->fallback)
            return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: %s = %g is not available: %s", owner, row->name,
                           setting->value, row->only_default);
        if ((row->is_flag || row->only_bounds) && setting->value != row->lo &&
            setting->value != row->hi)
            return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: %s = %g is neither %g nor %g", owner, row->name,
                           setting->value, row->lo, row->hi);
        if (!in_range(row, setting->value))
            return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: %s = %g is outside %c%g, %g%c", owner, row->name,
                           setting->value, row->lo_open ? '(' : '[', row->lo, row->hi,
                           row->hi_open ? ')' : ']');
        values[i] = setting->value;
        return ZOPT_OK;
    }
    const char *near =
        n_rows == 0 ? NULL : zi_nearest(setting->name, &rows[0].name, n_rows, sizeof *rows);
    return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: unknown setting '%s'%s%s%s", owner, setting->name,
                   near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

zopt_status zi_settings_apply(const char *owner, const zi_setting_row *rows, size_t n_rows,
                              const zopt_setting *settings, size_t n_settings, double *values)
{
    double next[MAX_ROWS];
    if (n_rows > MAX_ROWS)
        return ZI_FAIL(ZOPT_ERR_FAILURE, "%s: more than %d settings in a table", owner, MAX_ROWS);
    memcpy(next, values, n_rows * sizeof *next);
    for (size_t i = 0; i < n_settings; i++)
        ZI_TRY(apply_one(owner, rows, n_rows, &settings[i], next));
    memcpy(values, next, n_rows * sizeof *next);
    return ZOPT_OK;
}
