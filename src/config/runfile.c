/* The life of a config: load the file, override keys, read values. What is
 * written is judged only by check.c, once everything that may be written is known. */
#include "config/runfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"
#include "config/config.h"

enum { MAX_FILE_BYTES = 1 << 20, JSON_FLAGS = JSON_REJECT_DUPLICATES };

/* ------------------------------------------------------------------ loading ----------------- */

static zopt_status read_text(const char *path, char **out, size_t *length)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return ZI_FAIL(ZOPT_ERR_READ, "%s: %s", path, strerror(errno));
    char *text = malloc(MAX_FILE_BYTES + 2);
    int error = 0;
    if (text == NULL) {
        fclose(file);
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", path);
    }
    if (fstat(fileno(file), &info) == 0 && S_ISDIR(info.st_mode)) {
        error = EISDIR;
    } else {
        *length = fread(text, 1, MAX_FILE_BYTES + 1, file);
        error = ferror(file) ? errno : 0;
    }
    zopt_status status = ZOPT_OK;
    if (error != 0)
        status = ZI_FAIL(ZOPT_ERR_READ, "%s: %s", path, strerror(error));
    else if (*length > MAX_FILE_BYTES)
        status = ZI_FAIL(ZOPT_ERR_CONFIG, "%s: longer than %d bytes: not a run file", path,
                         MAX_FILE_BYTES);
    fclose(file);
    if (status != ZOPT_OK) {
        free(text);
        return status;
    }
    text[*length] = '\0';
    *out = text;
    return ZOPT_OK;
}

static zopt_status parse_file(zopt_config *config)
{
    json_error_t error;
    size_t length = 0;
    ZI_TRY(read_text(config->source, &config->text, &length));
    if (length >= 3 && memcmp(config->text, "\xef\xbb\xbf", 3) == 0)
        return ZI_FAIL(ZOPT_ERR_CONFIG,
                       "%s:1:1: begins with a UTF-8 byte order mark: save it without one",
                       config->source);
    config->written = json_loadb(config->text, length, JSON_FLAGS, &error);
    if (config->written == NULL)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "%s:%d:%d: %s", config->source, error.line, error.column,
                       error.text);
    if (!json_is_object(config->written))
        return ZI_FAIL(ZOPT_ERR_CONFIG, "%s:1:1: a run file is a JSON object: { ... }",
                       config->source);
    return ZOPT_OK;
}

/* folder + "/" + path, where path is relative; a new string. */
static json_t *absolute(const char *folder, const char *path)
{
    return path[0] == '/' || path[0] == '\0' ? json_string(path)
                                             : json_sprintf("%s/%s", folder, path);
}

/* Paths in the file are relative to its folder. What is not a string is left to the check. */
static zopt_status resolve_paths(zopt_config *config)
{
    char *file = realpath(config->source, NULL);
    if (file == NULL)
        return ZI_FAIL(ZOPT_ERR_READ, "%s: %s", config->source, strerror(errno));
    char *slash = strrchr(file, '/');
    *slash = '\0';
    zopt_status status = ZOPT_OK;
    for (size_t i = 0; i < config->n_keys && status == ZOPT_OK; i++) {
        json_t *value = zi_tree_get(config->written, config->keys[i].path);
        if (config->keys[i].is_path && json_is_string(value))
            status = zi_tree_put(config->written, config->keys[i].path,
                                 absolute(file, json_string_value(value)));
    }
    free(file);
    return status;
}

zopt_status zi_config_declare(zopt_config *config, const zi_key *key)
{
    if (config->n_keys == ZI_MAX_KEYS)
        return ZI_FAIL(ZOPT_ERR_FAILURE, "more than %d keys", ZI_MAX_KEYS);
    config->keys[config->n_keys++] = *key;
    if (key->fallback == NULL)
        return ZOPT_OK;
    json_error_t error;
    json_t *value = json_loads(key->fallback, JSON_DECODE_ANY, &error);
    if (value == NULL)
        return ZI_FAIL(ZOPT_ERR_FAILURE, "default of %s: %s", key->path, error.text);
    return zi_tree_put(config->defaults, key->path, value);
}

zopt_status zopt_config_load(const char *path, zopt_config **out)
{
    zopt_status status;
    ZI_NEED(out);
    *out = NULL;
    ZI_NEED(path);
    zopt_config *config = calloc(1, sizeof *config);
    if (config == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", path);
    config->source = strdup(path);
    config->defaults = json_object();
    config->overridden = json_object();
    config->strings = json_array();
    if (!config->source || !config->defaults || !config->overridden || !config->strings) {
        status = ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", path);
        goto fail;
    }
    for (size_t i = 0; i < zi_n_keys; i++)
        ZI_TRY_GOTO(zi_config_declare(config, &zi_keys[i]), fail);
    ZI_TRY_GOTO(parse_file(config), fail);
    ZI_TRY_GOTO(resolve_paths(config), fail);
    *out = config;
    return ZOPT_OK;
fail:
    zopt_config_destroy(config);
    return status;
}

void zopt_config_destroy(zopt_config *config)
{
    if (config == NULL)
        return;
    for (size_t i = 0; i < config->n_sections; i++)
        free(config->sections[i].settings);
    free(config->group_rows);
    json_decref(config->written);
    json_decref(config->defaults);
    json_decref(config->resolved);
    json_decref(config->overridden);
    json_decref(config->strings);
    free(config->source);
    free(config->text);
    free(config);
}

/* ------------------------------------------------------------------ overrides --------------- */

/* A word of the command line as a value: JSON, or a string where it is none. A key that wants a
 * string takes any word as it stands, unless it is quoted. */
static zopt_status parse_word(const zi_key *key, const char *path, const char *word, json_t **out)
{
    json_error_t error;
    char folder[4096];
    int is_string = key != NULL && key->type == ZI_KEY_STR;
    *out =
        is_string && word[0] != '"' ? NULL : json_loads(word, JSON_FLAGS | JSON_DECODE_ANY, &error);
    if (*out == NULL && !is_string && json_error_code(&error) == json_error_numeric_overflow)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "--set %s=%s: the number is out of range", path, word);
    if (*out == NULL && word[0] != '\0' && strchr(is_string ? "\"" : "\"[{", word[0]) != NULL)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "--set %s=%s: %s", path, word, error.text);
    if (*out == NULL)
        *out = json_string(word);
    if (*out == NULL)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "--set %s: the value is not UTF-8", path);
    if (key != NULL && key->is_path && json_is_string(*out)) {
        if (getcwd(folder, sizeof folder) == NULL)
            return ZI_FAIL(ZOPT_ERR_READ, "the current folder: %s", strerror(errno));
        json_t *whole = absolute(folder, json_string_value(*out));
        json_decref(*out);
        *out = whole;
    }
    return ZOPT_OK;
}

/* Strings that getters have handed out live on when their key is overridden. */
static zopt_status replace(zopt_config *config, const char *path, json_t *value)
{
    json_t *old = zi_tree_get(config->written, path);
    if (config->resolved != NULL) {
        json_decref(value);
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s: the config is resolved already", path);
    }
    if (old != NULL)
        json_array_append(config->strings, old);
    return zi_tree_put(config->written, path, value);
}

zopt_status zopt_config_set(zopt_config *config, const char *assignment)
{
    ZI_NEED(config);
    ZI_NEED(assignment);
    const char *equals = strchr(assignment, '=');
    char path[ZI_TREE_PATH];
    json_t *value;
    if (equals == NULL || equals - assignment >= ZI_TREE_PATH)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "--set '%s': want key=value", assignment);
    snprintf(path, sizeof path, "%.*s", (int)(equals - assignment), assignment);
    if (!zi_tree_path_ok(path))
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "--set '%s': '%s' is not a key, want e.g. a.b or a.b[0]",
                       assignment, path);
    ZI_TRY(parse_word(zi_config_find(config, path), path, equals + 1, &value));
    ZI_TRY(replace(config, path, value));
    json_object_set_new(config->overridden, path, json_null());
    return ZOPT_OK;
}

zopt_status zi_config_put_str(zopt_config *config, const char *key, const char *value)
{
    return replace(config, key, json_string(value));
}

/* ------------------------------------------------------------------ getters ----------------- */

const zi_key *zi_config_find(const zopt_config *config, const char *path)
{
    for (size_t i = 0; i < config->n_keys; i++)
        if (strcmp(config->keys[i].path, path) == 0)
            return &config->keys[i];
    return NULL;
}

/* The value at a key as its type: a new reference to what the config keeps, or a number. */
static zopt_status get(const zopt_config *config, const char *path, zi_key_type type,
                       json_t **value)
{
    const zi_key *key = zi_config_find(config, path);
    if (key == NULL || key->type != type)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "'%s' is not a key%s", path,
                       key != NULL ? " of that type" : "");
    json_t *found = zi_tree_get(config->resolved ? config->resolved : config->written, path);
    if (found == NULL)
        found = zi_tree_get(config->defaults, path);
    if (found == NULL)
        return zi_config_fail(config, path, " is not set and has no default");
    return zi_config_typed(config, key, found, value);
}

zopt_status zopt_config_i64(const zopt_config *config, const char *key, int64_t *value)
{
    json_t *found = NULL;
    ZI_NEED(config);
    ZI_NEED(key);
    ZI_NEED(value);
    ZI_TRY(get(config, key, ZI_KEY_I64, &found));
    *value = json_integer_value(found);
    json_decref(found);
    return ZOPT_OK;
}

zopt_status zopt_config_f64(const zopt_config *config, const char *key, double *value)
{
    json_t *found = NULL;
    ZI_NEED(config);
    ZI_NEED(key);
    ZI_NEED(value);
    ZI_TRY(get(config, key, ZI_KEY_F64, &found));
    *value = json_number_value(found);
    json_decref(found);
    return ZOPT_OK;
}

zopt_status zopt_config_bool(const zopt_config *config, const char *key, int *value)
{
    json_t *found = NULL;
    ZI_NEED(config);
    ZI_NEED(key);
    ZI_NEED(value);
    ZI_TRY(get(config, key, ZI_KEY_BOOL, &found));
    *value = json_is_true(found);
    json_decref(found);
    return ZOPT_OK;
}

zopt_status zopt_config_str(const zopt_config *config, const char *key, const char **value)
{
    json_t *found = NULL;
    ZI_NEED(config);
    ZI_NEED(key);
    ZI_NEED(value);
    ZI_TRY(get(config, key, ZI_KEY_STR, &found));
    *value = json_string_value(found);
    json_decref(found); /* the tree holds it */
    return ZOPT_OK;
}

zopt_status zi_config_peek(const zopt_config *config, const char *key, const char **value)
{
    return zopt_config_str(config, key, value);
}
