/* A resolved config written out, and the reference of all keys: both from the rows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "config/config.h"

/* The tree is as deep as the deepest key: the recursion is bounded by the table. */
static int write_value(FILE *file, const json_t *value, int indent)
{
    const char *name, *separator = "";
    json_t *child;
    size_t i;
    if (json_is_object(value)) {
        fputs("{", file);
        json_object_foreach((json_t *)value, name, child)
        {
            fprintf(file, "%s\n%*s\"%s\": ", separator, indent + 2, "", name);
            if (write_value(file, child, indent + 2) != 0)
                return -1;
            separator = ",";
        }
        fprintf(file, "\n%*s}", indent, "");
    } else if (json_is_array(value)) {
        fputs("[", file);
        json_array_foreach(value, i, child)
        {
            fputs(i > 0 ? ", " : "", file);
            if (write_value(file, child, indent) != 0)
                return -1;
        }
        fputs("]", file);
    } else {
        char *text = zi_json_text(value);
        if (text == NULL)
            return -1;
        fputs(text, file);
        free(text);
    }
    return ferror(file) ? -1 : 0;
}

zopt_status zopt_config_dump(const zopt_config *config, FILE *file)
{
    ZI_NEED(config);
    ZI_NEED(file);
    if (config->resolved == NULL)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s: not resolved yet", config->source);
    if (write_value(file, config->resolved, 0) != 0 || fputc('\n', file) == EOF)
        return ZI_FAIL(ZOPT_ERR_WRITE, "%s: cannot write the keys", config->source);
    return ZOPT_OK;
}

zopt_status zi_config_each(const zopt_config *config,
                           zopt_status (*each)(void *arg, const zi_key *key, const char *json),
                           void *arg)
{
    for (size_t i = 0; i < config->n_keys; i++) {
        const json_t *value = zi_tree_get(config->resolved, config->keys[i].path);
        if (value == NULL)
            continue;
        char *text = zi_json_text(value);
        if (text == NULL)
            return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", config->keys[i].path);
        zopt_status status = each(arg, &config->keys[i], text);
        free(text);
        ZI_TRY(status);
    }
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ reference --------------- */

static void help_row(FILE *file, const char *name, const char *type, const char *range,
                     const char *fallback, const char *help)
{
    fprintf(file, "  %-36s %-6s %-22s %s\n%42s%s\n", name, type, range,
            fallback != NULL ? fallback : "-", "", help);
}

/* Limits of counts are told to the last digit: 15 show every one up to 1e15. */
static void range_text(char *text, size_t size, double lo, double hi, int lo_open, int hi_open)
{
    char lowest[32], highest[32];
    zi_number_text(lo, lowest);
    zi_number_text(hi, highest);
    snprintf(text, size, "%c%s, %s%c", lo_open ? '(' : '[', lowest, highest, hi_open ? ')' : ']');
}

void zi_config_help_keys(FILE *file)
{
    static const char *const types[] = {[ZI_KEY_BOOL] = "bool",
                                        [ZI_KEY_I64] = "int",
                                        [ZI_KEY_F64] = "number",
                                        [ZI_KEY_STR] = "text"};
    fprintf(file, "Keys of a run file: type, range, default.\n\n");
    for (size_t i = 0; i < zi_n_keys; i++) {
        const zi_key *key = &zi_keys[i];
        char range[80] = "";
        if (key->type == ZI_KEY_I64 || key->type == ZI_KEY_F64)
            range_text(range, sizeof range, key->lo, key->hi, key->lo_open, key->hi_open);
        if (key->choices != NULL)
            snprintf(range, sizeof range, "%s", key->choices);
        help_row(file, key->path, types[key->type], range, key->fallback, key->help);
    }
}

void zi_config_help_section(FILE *file, const char *section, const char *owner, const char *help,
                            const zi_setting_row *rows, size_t n_rows)
{
    fprintf(file, "\n%s of %s: %s\n", section, owner, help);
    for (size_t i = 0; i < n_rows; i++) {
        const zi_setting_row *row = &rows[i];
        char range[80] = "", fallback[32];
        zi_number_text(row->fallback, fallback);
        if (row->is_flag) {
            snprintf(fallback, sizeof fallback, "%s", row->fallback != 0 ? "true" : "false");
        } else if (row->only_bounds) {
            snprintf(range, sizeof range, "%g|%g", row->lo, row->hi);
        } else if (row->choices == NULL) {
            range_text(range, sizeof range, row->lo, row->hi, row->lo_open, row->hi_open);
        } else {
            for (size_t c = 0; row->choices[c] != NULL; c++)
                snprintf(range + strlen(range), sizeof range - strlen(range), "%s%s",
                         c > 0 ? "|" : "", row->choices[c]);
            snprintf(fallback, sizeof fallback, "\"%s\"", row->choices[(size_t)row->fallback]);
        }
        help_row(file, row->run_key ? row->run_key : row->name,
                 row->choices   ? "text"
                 : row->is_flag ? "bool"
                                : "number",
                 range, fallback, row->help);
    }
}
