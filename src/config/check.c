/* What is written in a run file against the tables of keys: names first, then types and ranges,
 * then what spans keys. Every error names the file, the line, the key, and what would be right. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "config/config.h"

/* ------------------------------------------------------------------ where ------------------- */

/* The place of `"name" :` in a text, or NULL. */
static const char *find_name(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = text; (at = strstr(at, name)) != NULL; at++) {
        if (at == text || at[-1] != '"' || at[length] != '"')
            continue;
        if (at[length + 1 + strspn(at + length + 1, " \t\r\n")] == ':')
            return at;
    }
    return NULL;
}

/* The line of a key in the file: each name of its path is looked for behind the one before it.
 * 0: not in the file. */
static int line_of(const char *text, const char *path)
{
    char name[ZI_TREE_NAME];
    long index;
    const char *at = text;
    while (zi_tree_step(&path, name, &index) > 0) {
        if (index >= 0) { /* of an array of objects: on to that object */
            for (long i = 0; *path != '\0' && i <= index && at != NULL; i++)
                at = strchr(at + 1, '{');
            if (at == NULL)
                return 0;
            continue;
        }
        at = find_name(at, name);
        if (at == NULL)
            return 0;
    }
    int line = 1;
    for (const char *c = text; c < at; c++)
        line += *c == '\n';
    return line;
}

/* Whether `path` is `below` or leads to it. */
static int holds(const char *path, const char *below)
{
    size_t length = strlen(path);
    return strncmp(path, below, length) == 0 && strchr(".[", below[length]) != NULL;
}

/* Whether the path comes from zopt_config_set: it, what it lies in, or, where the file does not
 * have it, something below it. */
static int is_overridden(const zopt_config *config, const char *path)
{
    const char *set;
    json_t *unused;
    int in_file = line_of(config->text, path) > 0;
    json_object_foreach(config->overridden, set, unused)
    {
        if (holds(set, path) || (!in_file && holds(path, set)))
            return 1;
    }
    return 0;
}

zopt_status zi_config_fail(const zopt_config *config, const char *key, const char *format, ...)
{
    char text[512], place[32] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (is_overridden(config, key))
        return ZI_FAIL(ZOPT_ERR_CONFIG, "--set %s%s", key, text);
    int line = line_of(config->text, key);
    if (line > 0)
        snprintf(place, sizeof place, ":%d", line);
    return ZI_FAIL(ZOPT_ERR_CONFIG, "%s%s: %s%s", config->source, place, key, text);
}

/* ------------------------------------------------------------------ names ------------------- */

static int starts_with(const char *path, const char *prefix, size_t length)
{
    return strncmp(path, prefix, length) == 0;
}

/* The nearest known name beside an unknown one, or of any key, whole path: "" if none is near. */
static void suggest(const zopt_config *config, const char *path, char *suggestion, size_t size)
{
    char names[ZI_MAX_KEYS][ZI_TREE_NAME];
    const char *beside[ZI_MAX_KEYS], *last[ZI_MAX_KEYS];
    const char *dot = strrchr(path, '.');
    const char *word = dot ? dot + 1 : path;
    size_t parent = (size_t)(word - path), n_beside = 0;
    for (size_t i = 0; i < config->n_keys; i++) {
        const char *key = config->keys[i].path, *key_dot = strrchr(key, '.');
        last[i] = key_dot ? key_dot + 1 : key;
        if (!starts_with(key, path, parent))
            continue;
        snprintf(names[n_beside], ZI_TREE_NAME, "%.*s", (int)strcspn(key + parent, ".["),
                 key + parent);
        beside[n_beside] = names[n_beside];
        n_beside++;
    }
    const char *near = zi_nearest(word, beside, n_beside, sizeof *beside);
    if (near != NULL) {
        snprintf(suggestion, size, "; did you mean '%.*s%s'?", (int)parent, path, near);
        return;
    }
    near = zi_nearest(word, last, config->n_keys, sizeof *last);
    suggestion[0] = '\0';
    for (size_t i = 0; i < config->n_keys && near != NULL; i++)
        if (last[i] == near)
            snprintf(suggestion, size, "; did you mean '%s'?", config->keys[i].path);
}

static zopt_status unknown(const zopt_config *config, const char *path)
{
    char suggestion[ZI_TREE_PATH + 32];
    suggest(config, path, suggestion, sizeof suggestion);
    for (size_t i = 0; i < config->n_sections; i++) {
        const zi_section *section = &config->sections[i];
        size_t length = strlen(section->name);
        if (starts_with(path, section->name, length) && path[length] == '.')
            return zi_config_fail(config, path, ": %s has no such setting%s", section->owner,
                                  suggestion);
    }
    return zi_config_fail(config, path, ": unknown key%s", suggestion);
}

/* Whether keys lie below a path. */
static int leads_on(const zopt_config *config, const char *path)
{
    size_t length = strlen(path);
    for (size_t i = 0; i < config->n_keys; i++)
        if (starts_with(config->keys[i].path, path, length) && config->keys[i].path[length] == '.')
            return 1;
    for (size_t i = 0; i < config->n_sections; i++)
        if (strcmp(config->sections[i].name, path) == 0)
            return 1;
    return 0;
}

/* How many elements an array at the path has by its keys; 0: no array. */
static size_t n_elements_of(const zopt_config *config, const char *path)
{
    size_t n = 0, length = strlen(path);
    for (size_t i = 0; i < config->n_keys; i++) {
        const char *key = config->keys[i].path;
        if (!starts_with(key, path, length) || key[length] != '[')
            continue;
        size_t index = strtoul(key + length + 1, NULL, 10);
        n = index + 1 > n ? index + 1 : n;
    }
    return n;
}

static zopt_status check_object(const zopt_config *config, json_t *object, const char *path);

static zopt_status check_array(const zopt_config *config, json_t *value, const char *path,
                               size_t n_elements)
{
    char got[64], below[ZI_TREE_PATH + 24];
    zi_json_describe(value, got);
    if (!json_is_array(value))
        return zi_config_fail(config, path, ": got %s, want an array of %zu", got, n_elements);
    if (json_array_size(value) != n_elements)
        return zi_config_fail(config, path, ": got an array of %zu, want %zu",
                              json_array_size(value), n_elements);
    for (size_t i = 0; i < n_elements; i++) {
        snprintf(below, sizeof below, "%s[%zu]", path, i);
        if (zi_config_find(config, below) == NULL)
            ZI_TRY(check_object(config, json_array_get(value, i), below));
    }
    return ZOPT_OK;
}

static zopt_status check_name(const zopt_config *config, json_t *value, const char *path)
{
    char got[64];
    if (zi_config_find(config, path) != NULL)
        return ZOPT_OK;
    zi_json_describe(value, got);
    size_t n_elements = n_elements_of(config, path);
    if (n_elements > 0)
        return check_array(config, value, path, n_elements);
    if (!leads_on(config, path))
        return unknown(config, path);
    if (!json_is_object(value))
        return zi_config_fail(config, path, ": got %s, want an object", got);
    return check_object(config, value, path);
}

/* Every name below `path` ("" for all) is a key, or leads to one. */
static zopt_status check_object(const zopt_config *config, json_t *object, const char *path)
{
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        char below[ZI_TREE_PATH];
        int length =
            snprintf(below, sizeof below, "%s%s%s", path, path[0] != '\0' ? "." : "", name);
        if (strpbrk(name, ".[") != NULL)
            return ZI_FAIL(ZOPT_ERR_CONFIG,
                           "%s: '%s': paths are for --set; in a file, write objects in objects",
                           config->source, name);
        if (length >= ZI_TREE_PATH || name[0] == '\0')
            return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: '%.64s': unknown key", config->source, below);
        ZI_TRY(check_name(config, value, below));
    }
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ values ------------------ */

static zopt_status wrong_type(const zopt_config *config, const zi_key *key, const json_t *value)
{
    static const char *const wants[] = {[ZI_KEY_BOOL] = "true or false",
                                        [ZI_KEY_I64] = "an integer",
                                        [ZI_KEY_F64] = "a number",
                                        [ZI_KEY_STR] = "a string"};
    char got[64];
    zi_json_describe(value, got);
    return zi_config_fail(config, key->path, ": got %s, want %s", got, wants[key->type]);
}

/* Integers are compared as such: as a double, 2^53 + 1 would round onto a bound of 2^53. The bounds
 * of integer keys are whole, and inside. */
static int in_range(const zi_key *key, const json_t *value)
{
    if (key->type == ZI_KEY_I64 && json_is_integer(value)) {
        json_int_t integer = json_integer_value(value);
        return integer >= (json_int_t)key->lo && integer <= (json_int_t)key->hi;
    }
    double number = json_number_value(value);
    if (key->only_bounds)
        return number == key->lo || number == key->hi;
    int above = key->lo_open ? number > key->lo : number >= key->lo;
    int below = key->hi_open ? number < key->hi : number <= key->hi;
    return above && below;
}

static zopt_status check_range(const zopt_config *config, const zi_key *key, const json_t *value)
{
    char got[64], lo[32], hi[32];
    if (in_range(key, value))
        return ZOPT_OK;
    zi_json_describe(value, got);
    zi_number_text(key->lo, lo);
    zi_number_text(key->hi, hi);
    if (key->only_bounds)
        return zi_config_fail(config, key->path, " = %s is neither %s nor %s", got, lo, hi);
    if (key->lo == key->hi)
        return zi_config_fail(config, key->path, " %s is not available: %s", got, lo);
    return zi_config_fail(config, key->path, " = %s is outside %c%s, %s%c", got,
                          key->lo_open ? '(' : '[', lo, hi, key->hi_open ? ')' : ']');
}

static zopt_status check_choice(const zopt_config *config, const zi_key *key, const char *word)
{
    size_t length = strlen(word);
    if (key->choices == NULL)
        return ZOPT_OK;
    for (const char *at = key->choices; at != NULL; at = strchr(at, '|')) {
        at += *at == '|';
        if (starts_with(at, word, length) && strchr("|", at[length]) != NULL)
            return ZOPT_OK;
    }
    return zi_config_fail(config, key->path, " = \"%s\" is not one of: %s", word, key->choices);
}

/* A value other than the one that there is. */
static zopt_status check_only(const zopt_config *config, const zi_key *key, const json_t *value)
{
    char got[64];
    json_t *fallback = zi_tree_get(config->defaults, key->path);
    int same = json_is_number(value) ? json_number_value(value) == json_number_value(fallback)
                                     : json_equal(value, fallback);
    if (key->only_default == NULL || same)
        return ZOPT_OK;
    zi_json_describe(value, got);
    return zi_config_fail(config, key->path, " = %s is not available: %s", got, key->only_default);
}

zopt_status zi_config_typed(const zopt_config *config, const zi_key *key, json_t *value,
                            json_t **typed)
{
    double number = json_number_value(value);
    *typed = NULL;
    if (key->only_default != NULL)
        ZI_TRY(check_only(config, key, value));
    switch (key->type) {
    case ZI_KEY_BOOL:
        if (json_is_boolean(value))
            *typed = json_incref(value);
        break;
    case ZI_KEY_STR:
        if (json_is_string(value)) {
            ZI_TRY(check_choice(config, key, json_string_value(value)));
            *typed = json_incref(value);
        }
        break;
    case ZI_KEY_I64:
        if (json_is_integer(value) || (json_is_real(value) && number == floor(number))) {
            ZI_TRY(check_range(config, key, value));
            *typed = json_is_integer(value) ? json_incref(value) : json_integer((json_int_t)number);
        }
        break;
    case ZI_KEY_F64:
        if (json_is_number(value)) {
            ZI_TRY(check_range(config, key, value));
            *typed = json_real(number);
        }
        break;
    }
    return *typed != NULL ? ZOPT_OK : wrong_type(config, key, value);
}

static zopt_status fill_in(zopt_config *config)
{
    for (size_t i = 0; i < config->n_keys; i++) {
        const zi_key *key = &config->keys[i];
        json_t *typed, *value = zi_tree_get(config->written, key->path);
        if (value == NULL)
            value = zi_tree_get(config->defaults, key->path);
        if (value == NULL)
            continue;
        ZI_TRY(zi_config_typed(config, key, value, &typed));
        ZI_TRY(zi_tree_put(config->resolved, key->path, typed));
    }
    return ZOPT_OK;
}

/* A section's settings, those that are written. */
static zopt_status collect(zopt_config *config, zi_section *section)
{
    section->settings = calloc(section->n_rows + 1, sizeof *section->settings);
    if (section->settings == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", section->name);
    for (size_t i = 0; i < section->n_rows; i++) {
        const char *path = config->keys[section->first_key + i].path;
        json_t *value = zi_tree_get(config->resolved, path);
        if (zi_tree_get(config->written, path) == NULL)
            continue;
        section->settings[section->n_settings++] = (zopt_setting){
            .name = section->rows[i].name,
            .value = json_is_boolean(value) ? json_is_true(value) : json_number_value(value),
            .text = json_string_value(value)};
    }
    return ZOPT_OK;
}

static zopt_status check_all(zopt_config *config)
{
    ZI_TRY(check_object(config, config->written, ""));
    ZI_TRY(fill_in(config));
    ZI_TRY(zi_config_derive(config));
    for (size_t i = 0; i < config->n_sections; i++)
        ZI_TRY(collect(config, &config->sections[i]));
    return ZOPT_OK;
}

zopt_status zi_config_check(zopt_config *config)
{
    config->resolved = json_object();
    if (config->resolved == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", config->source);
    zopt_status status = check_all(config);
    if (status != ZOPT_OK) {
        json_decref(config->resolved);
        config->resolved = NULL;
    }
    return status;
}
