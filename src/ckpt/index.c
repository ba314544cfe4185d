/* See index.h. A reader needs the number of parts alone: which tensor is where is in the parts'
 * own headers, and the caller compares the whole index with the one that follows from them. */
#include "ckpt/index.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

/* {"weight_map": {"name": "file"}} */
enum { MAX_DEPTH = 2 };

void zi_part_name(const char *stem, uint32_t part, uint32_t n_parts, char name[ZI_FILE_NAME_BYTES])
{
    if (n_parts == 1)
        snprintf(name, ZI_FILE_NAME_BYTES, "%s.safetensors", stem);
    else
        snprintf(name, ZI_FILE_NAME_BYTES, "%s-%05u-of-%05u.safetensors", stem, part + 1, n_parts);
}

zopt_status zi_index_encode(const char *stem, const zi_tensorfile *parts, uint32_t n_parts,
                            char **json)
{
    json_t *root = json_object(), *map = json_object();
    json_int_t total = 0;
    size_t n_tensors = 0;
    int failed = 0;
    for (uint32_t p = 0; p < n_parts; p++) {
        char name[ZI_FILE_NAME_BYTES];
        zi_part_name(stem, p, n_parts, name);
        total += (json_int_t)(parts[p].bytes - parts[p].data_at);
        n_tensors += parts[p].n_tensors;
        for (uint32_t i = 0; i < parts[p].n_tensors; i++)
            failed |= json_object_set_new(map, parts[p].tensor[i].name, json_string(name));
    }
    int twice = !failed && json_object_size(map) != n_tensors;
    failed |= json_object_set_new(root, "metadata", json_pack("{sI}", "total_size", total));
    failed |= json_object_set_new(root, "weight_map", map);
    *json = failed || twice ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (twice)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: a tensor is in two of its parts", stem);
    return *json != NULL ? ZOPT_OK : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for an index");
}

/* The part's number, from 0, of a name with these many parts; -1: it is none. */
static long part_of(const char *stem, const char *file, uint32_t n_parts)
{
    char want[ZI_FILE_NAME_BYTES];
    size_t length = strlen(stem);
    if (strncmp(file, stem, length) != 0 || file[length] != '-')
        return -1;
    long part = strtol(file + length + 1, NULL, 10) - 1;
    if (part < 0 || part >= (long)n_parts)
        return -1;
    zi_part_name(stem, (uint32_t)part, n_parts, want);
    return strcmp(file, want) == 0 ? part : -1;
}

/* The number of parts that a name like model-00001-of-00003.safetensors tells; 0: none. */
static uint32_t parts_told(const char *file)
{
    const char *of = strstr(file, "-of-");
    long n = of != NULL ? strtol(of + 4, NULL, 10) : 0;
    return n >= 2 && n <= ZI_MAX_PARTS ? (uint32_t)n : 0;
}

static zopt_status read_map(json_t *map, const char *stem, const char *path, uint32_t *n_parts)
{
    static const char wrong[] = "%s: weight_map['%.100s'] is no name of a part";
    const char *name, *file = json_string_value(json_object_iter_value(json_object_iter(map)));
    json_t *value;
    uint32_t n = file != NULL ? parts_told(file) : 0, n_used = 0;
    if (n == 0)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: it names no part", path);
    char *used = calloc(n, 1);
    if (used == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for %u parts", path, n);
    json_object_foreach(map, name, value)
    {
        file = json_string_value(value);
        long part = file != NULL ? part_of(stem, file, n) : -1;
        if (part < 0) {
            free(used);
            return ZI_FAIL(ZOPT_ERR_DATA, wrong, path, name);
        }
        n_used += used[part] == 0;
        used[part] = 1;
    }
    free(used);
    if (n_used != n)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: it has tensors in %u of %u parts", path, n_used, n);
    *n_parts = n;
    return ZOPT_OK;
}

zopt_status zi_index_decode(const char *json, size_t bytes, const char *stem, const char *path,
                            uint32_t *n_parts)
{
    json_error_t error;
    *n_parts = 0;
    if (bytes > ZI_INDEX_MAX_BYTES)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: %zu bytes, more than %d", path, bytes,
                       ZI_INDEX_MAX_BYTES);
    ZI_TRY(zi_json_bound(json, bytes, MAX_DEPTH, path));
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: byte %d: %s", path, error.position, error.text);
    json_t *map = json_object_get(root, "weight_map");
    zopt_status status = json_is_object(map) && json_object_size(root) == 2
                             ? read_map(map, stem, path, n_parts)
                             : ZI_FAIL(ZOPT_ERR_DATA, "%s: want metadata and weight_map", path);
    json_decref(root);
    return status;
}
