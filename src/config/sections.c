/* Keys that come from tables of settings: those of the optimizer and schedule that a file names,
 * and one set for each element of param_groups. Declared before the check, read after it. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "config/config.h"

/* ------------------------------------------------------------------ rows -------------------- */

/* A string of the config's own. NULL: out of memory. */
static const char *keep(zopt_config *config, json_t *string)
{
    json_array_append_new(config->strings, string);
    return json_string_value(string);
}

static const char *join_choices(zopt_config *config, const char *const *choices)
{
    const char *all = choices[0];
    for (size_t i = 1; choices[i] != NULL && all != NULL; i++)
        all = keep(config, json_sprintf("%s|%s", all, choices[i]));
    return all;
}

/* A row's default as JSON. */
static const char *fallback_text(zopt_config *config, const zi_setting_row *row)
{
    char number[32];
    if (row->choices != NULL)
        return keep(config, json_sprintf("\"%s\"", row->choices[(size_t)row->fallback]));
    if (row->is_flag)
        return row->fallback != 0 ? "true" : "false";
    zi_number_text(row->fallback, number);
    return keep(config, json_string(number));
}

static zopt_status declare_row(zopt_config *config, const char *section, const zi_setting_row *row,
                               int with_default)
{
    zi_key key = {.type = row->choices   ? ZI_KEY_STR
                          : row->is_flag ? ZI_KEY_BOOL
                                         : ZI_KEY_F64,
                  .lo = row->lo,
                  .hi = row->hi,
                  .lo_open = row->lo_open,
                  .hi_open = row->hi_open,
                  .only_bounds = row->only_bounds,
                  .only_default = row->only_default,
                  .changes_result = 1,
                  .agree = 1,
                  .help = row->help};
    key.path =
        keep(config, json_sprintf("%s.%s", section, row->run_key ? row->run_key : row->name));
    key.choices = row->choices != NULL ? join_choices(config, row->choices) : NULL;
    key.fallback = with_default ? fallback_text(config, row) : NULL;
    if (key.path == NULL || (with_default && key.fallback == NULL) ||
        (row->choices != NULL && key.choices == NULL))
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", section);
    return zi_config_declare(config, &key);
}

static zopt_status add_section(zopt_config *config, const zi_section *section, int with_defaults)
{
    if (config->n_sections == ZI_MAX_SECTIONS)
        return ZI_FAIL(ZOPT_ERR_FAILURE, "more than %d sections", ZI_MAX_SECTIONS);
    zi_section *next = &config->sections[config->n_sections++];
    *next = *section;
    next->first_key = config->n_keys;
    for (size_t i = 0; i < section->n_rows; i++)
        ZI_TRY(declare_row(config, section->name, &section->rows[i], with_defaults));
    return ZOPT_OK;
}

zopt_status zi_config_add_section(zopt_config *config, const char *section, const char *owner,
                                  const zi_setting_row *rows, size_t n_rows)
{
    for (size_t i = 0; i < config->n_sections; i++)
        if (strcmp(config->sections[i].name, section) == 0)
            return ZI_FAIL(ZOPT_ERR_ORDER, "%s: resolved once already", config->source);
    const zi_section next = {.name = section, .owner = owner, .rows = rows, .n_rows = n_rows};
    return add_section(config, &next, 1);
}

/* ------------------------------------------------------------------ param_groups ------------ */

static const char groups_key[] = "param_groups";

/* What is written at param_groups as an array of objects; its length. */
static zopt_status count_groups(zopt_config *config, size_t *n)
{
    char got[64], path[48];
    json_t *element, *groups = zi_tree_get(config->written, groups_key);
    size_t i;
    *n = json_array_size(groups);
    if (groups == NULL)
        return ZOPT_OK;
    zi_json_describe(groups, got);
    if (!json_is_array(groups))
        return zi_config_fail(config, groups_key, ": got %s, want an array of objects", got);
    if (*n > ZI_MAX_PARAM_GROUPS)
        return zi_config_fail(config, groups_key, ": got an array of %zu, want at most %d", *n,
                              ZI_MAX_PARAM_GROUPS);
    json_array_foreach(groups, i, element)
    {
        snprintf(path, sizeof path, "%s[%zu]", groups_key, i);
        zi_json_describe(element, got);
        if (!json_is_object(element))
            return zi_config_fail(config, path, ": got %s, want an object", got);
        if (json_object_get(element, "match") == NULL)
            return zi_config_fail(config, path,
                                  ".match is not set: the names that the group is of");
    }
    if (*n == 0) /* the same as none, and nothing leads there */
        json_object_del(config->written, groups_key);
    return ZOPT_OK;
}

static zopt_status add_group_section(zopt_config *config, size_t i, const char *owner,
                                     size_t n_rows)
{
    const zi_section section = {.name = keep(config, json_sprintf("%s[%d]", groups_key, (int)i)),
                                .owner = owner,
                                .rows = config->group_rows,
                                .n_rows = n_rows};
    const zi_key match = {.path = keep(config, json_sprintf("%s[%d].match", groups_key, (int)i)),
                          .type = ZI_KEY_STR,
                          .changes_result = 1,
                          .agree = 1};
    if (section.name == NULL || match.path == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", groups_key);
    ZI_TRY(zi_config_declare(config, &match));
    return add_section(config, &section, 0);
}

zopt_status zi_config_add_param_groups(zopt_config *config, const char *owner,
                                       const zi_setting_row *rows, size_t n_rows,
                                       const zi_setting_row *own_rows, size_t n_own_rows)
{
    size_t n_groups;
    ZI_TRY(count_groups(config, &n_groups));
    config->group_rows = calloc(n_rows + n_own_rows, sizeof *config->group_rows);
    if (config->group_rows == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", groups_key);
    memcpy(config->group_rows, rows, n_rows * sizeof *rows);
    memcpy(config->group_rows + n_rows, own_rows, n_own_rows * sizeof *rows);
    for (size_t i = 0; i < n_groups; i++)
        ZI_TRY(add_group_section(config, i, owner, n_rows + n_own_rows));
    return ZOPT_OK;
}

zopt_status zopt_config_param_group(const zopt_config *config, size_t i, const char **match,
                                    const zopt_setting **settings, size_t *n_settings)
{
    char path[64];
    *match = NULL;
    *settings = NULL;
    *n_settings = 0;
    if (i >= json_array_size(zi_tree_get(config->resolved, groups_key)))
        return ZOPT_OK;
    snprintf(path, sizeof path, "%s[%zu].match", groups_key, i);
    ZI_TRY(zopt_config_str(config, path, match));
    *strrchr(path, '.') = '\0';
    return zi_config_section(config, path, settings, n_settings);
}

/* ------------------------------------------------------------------ reading ----------------- */

zopt_status zi_config_section(const zopt_config *config, const char *section,
                              const zopt_setting **settings, size_t *n_settings)
{
    for (size_t i = 0; i < config->n_sections; i++)
        if (strcmp(config->sections[i].name, section) == 0) {
            *settings = config->sections[i].settings;
            *n_settings = config->sections[i].n_settings;
            return ZOPT_OK;
        }
    return ZI_FAIL(ZOPT_ERR_ARGUMENT, "there is no section '%s'", section);
}
