/* Dotted paths through JSON trees, and JSON values as text. Knows nothing of keys: check.c does. */
#include "config/tree.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/locale.h"
#include "base/status.h"

enum { MAX_INDEX = 1024 };

/* A dot is followed by a name; an index may be, and needs no dot before it. */
static int finish(const char **path, const char *at)
{
    if (*at == '.' && (at[1] == '\0' || at[1] == '['))
        return -1;
    *path = *at == '.' ? at + 1 : at;
    return 1;
}

static int step_index(const char **path, long *index)
{
    char *end;
    if (!isdigit((unsigned char)(*path)[1]))
        return -1;
    *index = strtol(*path + 1, &end, 10);
    if (*end != ']' || *index >= MAX_INDEX || strchr(".[", end[1]) == NULL)
        return -1;
    return finish(path, end + 1);
}

int zi_tree_step(const char **path, char name[ZI_TREE_NAME], long *index)
{
    const char *at = *path;
    if (*at == '\0')
        return 0;
    if (*at == '[')
        return step_index(path, index);
    size_t length = strcspn(at, ".[");
    if (length == 0 || length >= ZI_TREE_NAME)
        return -1;
    memcpy(name, at, length);
    name[length] = '\0';
    *index = -1;
    return finish(path, at + length);
}

int zi_tree_path_ok(const char *path)
{
    char name[ZI_TREE_NAME];
    long index;
    int step, n = 0;
    if (*path == '[' || strlen(path) >= ZI_TREE_PATH)
        return 0;
    while ((step = zi_tree_step(&path, name, &index)) > 0)
        n++;
    return step == 0 && n > 0;
}

static json_t *child(json_t *node, const char *name, long index)
{
    return index < 0 ? json_object_get(node, name) : json_array_get(node, (size_t)index);
}

json_t *zi_tree_get(json_t *root, const char *path)
{
    char name[ZI_TREE_NAME];
    long index;
    json_t *node = root;
    while (node != NULL && *path != '\0') {
        if (zi_tree_step(&path, name, &index) < 0)
            return NULL;
        node = child(node, name, index);
    }
    return node;
}

static zopt_status set_child(json_t *node, const char *name, long index, const char *path,
                             json_t *value)
{
    if (value == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: out of memory", path);
    if (index < 0 ? !json_is_object(node) : !json_is_array(node)) {
        json_decref(value);
        return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: what holds %s%s is not an %s", path,
                       index < 0 ? "" : "the index", index < 0 ? name : "",
                       index < 0 ? "object" : "array");
    }
    size_t size = json_array_size(node);
    if (index >= 0 && (size_t)index > size) {
        json_decref(value);
        return ZI_FAIL(ZOPT_ERR_CONFIG, "%s: index %ld of an array of %zu", path, index, size);
    }
    int failed = index < 0               ? json_object_set_new(node, name, value)
                 : (size_t)index == size ? json_array_append_new(node, value)
                                         : json_array_set_new(node, (size_t)index, value);
    return failed ? ZI_FAIL(ZOPT_ERR_CONFIG, "%s: not UTF-8, or out of memory", path) : ZOPT_OK;
}

zopt_status zi_tree_put(json_t *root, const char *path, json_t *value)
{
    char name[ZI_TREE_NAME];
    long index;
    json_t *node = root;
    const char *rest = path;
    for (;;) {
        if (zi_tree_step(&rest, name, &index) <= 0) {
            json_decref(value);
            return ZI_FAIL(ZOPT_ERR_CONFIG, "'%s' is not a key path", path);
        }
        if (*rest == '\0')
            return set_child(node, name, index, path, value);
        json_t *next = child(node, name, index);
        if (next == NULL) {
            next = *rest == '[' ? json_array() : json_object();
            zopt_status status = set_child(node, name, index, path, next);
            if (status != ZOPT_OK) {
                json_decref(value);
                return status;
            }
        }
        node = next;
    }
}

void zi_number_text(double value, char text[32])
{
    locale_t callers = zi_locale_enter();
    int digits = 15;
    do
        snprintf(text, 32, "%.*g", digits, value);
    while (strtod(text, NULL) != value && ++digits <= 17);
    zi_locale_leave(callers);
}

char *zi_json_text(const json_t *value)
{
    if (!json_is_real(value))
        return json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    char text[32];
    zi_number_text(json_real_value(value), text);
    return strdup(text);
}

void zi_json_describe(const json_t *value, char text[64])
{
    if (json_is_object(value) || json_is_array(value)) {
        snprintf(text, 64, "%s", json_is_object(value) ? "an object" : "an array");
        return;
    }
    char *json = zi_json_text(value);
    snprintf(text, 64, "%s%.40s", json_is_string(value) ? "the string " : "", json ? json : "?");
    free(json);
}
