/* Safetensors, reading. Nothing in a file is believed: sizes are compared with the file's before
 * anything is allocated, depth and number of values are counted before jansson parses, every
 * tensor must fill its place, and the places must fill the data. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "ckpt/tensorfile.h"

/* {"name": {"shape": [..]}} */
enum { MAX_DEPTH = 3 };

/* Of an entry with all dimensions; nothing has more for each tensor. */
enum { MAX_COMMAS = 14 * ZI_FILE_MAX_TENSORS };

zopt_status zi_tensorfile_length(const unsigned char first[8], uint64_t file_bytes,
                                 const char *path, size_t *json_bytes)
{
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | first[i];
    *json_bytes = (size_t)length;
    if (file_bytes < 8)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: %llu bytes are no safetensors file", path,
                       (unsigned long long)file_bytes);
    if (length == 0)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: its header was never written", path);
    if (length > ZI_FILE_MAX_HEADER || length > file_bytes - 8)
        return ZI_FAIL(
            ZOPT_ERR_DATA, "%s: a header of %llu bytes in a file of %llu (and at most %d)", path,
            (unsigned long long)length, (unsigned long long)file_bytes, ZI_FILE_MAX_HEADER);
    return ZOPT_OK;
}

zopt_status zi_json_bound(const char *json, size_t n, size_t max_depth, const char *path)
{
    size_t depth = 0, commas = 0;
    for (size_t i = 0; i < n; i++) {
        char c = json[i];
        if (c == '"') {
            for (i++; i < n && json[i] != '"'; i++)
                i += json[i] == '\\';
            continue;
        }
        commas += c == ',';
        depth += c == '{' || c == '[';
        if (depth > max_depth)
            return ZI_FAIL(ZOPT_ERR_DATA, "%s: nested deeper than %zu, at byte %zu of its JSON",
                           path, max_depth, i);
        depth -= (c == '}' || c == ']') && depth > 0;
        if (commas > MAX_COMMAS)
            return ZI_FAIL(ZOPT_ERR_DATA, "%s: more values than %d tensors have", path,
                           ZI_FILE_MAX_TENSORS);
    }
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ one tensor --------------- */

/* A number of an array. */
static zopt_status read_u64(const json_t *array, size_t i, const char *what, uint64_t *out)
{
    const json_t *value = json_array_get(array, i);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s[%zu] is not a whole number", what, i);
    *out = (uint64_t)json_integer_value(value);
    return ZOPT_OK;
}

static zopt_status read_dtype(const json_t *value, zi_file_dtype *dtype)
{
    const char *name = json_string_value(value);
    for (int i = 0; name != NULL && i < ZI_N_FILE_DTYPES; i++)
        if (strcmp(zi_file_dtype_name((zi_file_dtype)i), name) == 0) {
            *dtype = (zi_file_dtype)i;
            return ZOPT_OK;
        }
    return ZI_FAIL(ZOPT_ERR_DATA, "dtype %.20s is not known", name ? name : "(no string)");
}

/* Also the bytes that it says the tensor has. */
static zopt_status read_shape(const json_t *array, zi_file_tensor *tensor, uint64_t *bytes)
{
    if (!json_is_array(array) || json_array_size(array) > ZI_FILE_MAX_DIMS)
        return ZI_FAIL(ZOPT_ERR_DATA, "shape is not an array of at most %d numbers",
                       ZI_FILE_MAX_DIMS);
    tensor->ndim = (int)json_array_size(array);
    *bytes = zi_file_dtype_bytes(tensor->dtype);
    for (int d = 0; d < tensor->ndim; d++) {
        ZI_TRY(read_u64(array, (size_t)d, "shape", &tensor->shape[d]));
        if (__builtin_mul_overflow(*bytes, tensor->shape[d], bytes))
            return ZI_FAIL(ZOPT_ERR_DATA, "its shape has more bytes than 64 bits can count");
    }
    return ZOPT_OK;
}

static zopt_status read_tensor(const json_t *value, uint64_t data_bytes, zi_file_tensor *tensor)
{
    const json_t *offsets = json_object_get(value, "data_offsets");
    uint64_t bytes = 0;
    if (!json_is_object(value) || json_object_size(value) != 3)
        return ZI_FAIL(ZOPT_ERR_DATA, "want exactly dtype, shape and data_offsets");
    ZI_TRY(read_dtype(json_object_get(value, "dtype"), &tensor->dtype));
    ZI_TRY(read_shape(json_object_get(value, "shape"), tensor, &bytes));
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return ZI_FAIL(ZOPT_ERR_DATA, "data_offsets is not an array of two numbers");
    ZI_TRY(read_u64(offsets, 0, "data_offsets", &tensor->begin));
    ZI_TRY(read_u64(offsets, 1, "data_offsets", &tensor->end));
    if (tensor->begin > tensor->end || tensor->end > data_bytes)
        return ZI_FAIL(ZOPT_ERR_DATA, "data_offsets [%llu, %llu) in %llu bytes of data",
                       (unsigned long long)tensor->begin, (unsigned long long)tensor->end,
                       (unsigned long long)data_bytes);
    if (tensor->end - tensor->begin != bytes)
        return ZI_FAIL(ZOPT_ERR_DATA, "data_offsets [%llu, %llu), but its shape has %llu bytes",
                       (unsigned long long)tensor->begin, (unsigned long long)tensor->end,
                       (unsigned long long)bytes);
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ the whole header --------- */

/* A copy of the text in the pool, which has room for all texts of the JSON that it is from. */
static const char *keep(zi_tensorfile *file, size_t *used, const char *text)
{
    char *copy = file->pool + *used;
    size_t bytes = strlen(text) + 1;
    memcpy(copy, text, bytes);
    *used += bytes;
    return copy;
}

static zopt_status read_texts(json_t *texts, const char *path, zi_tensorfile *file, size_t *used)
{
    const char *key;
    json_t *value;
    if (texts != NULL && !json_is_object(texts))
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: __metadata__ is not an object", path);
    file->text = calloc(json_object_size(texts) + 1, sizeof *file->text);
    if (file->text == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for its metadata", path);
    json_object_foreach(texts, key, value)
    {
        if (!json_is_string(value))
            return ZI_FAIL(ZOPT_ERR_DATA, "%s: __metadata__ '%.200s' is not a string", path, key);
        zi_file_text *text = &file->text[file->n_texts++];
        text->key = keep(file, used, key);
        text->value = keep(file, used, json_string_value(value));
    }
    return ZOPT_OK;
}

static zopt_status read_tensors(json_t *root, const char *path, zi_tensorfile *file, size_t *used)
{
    const char *name;
    json_t *value;
    size_t n = json_object_size(root);
    if (n > ZI_FILE_MAX_TENSORS + 1)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: %zu tensors, more than %d", path, n,
                       ZI_FILE_MAX_TENSORS);
    file->tensor = calloc(n + 1, sizeof *file->tensor);
    if (file->tensor == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for %zu tensors", path, n);
    json_object_foreach(root, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        zi_file_tensor *tensor = &file->tensor[file->n_tensors++];
        zopt_status status = read_tensor(value, file->bytes - file->data_at, tensor);
        if (status != ZOPT_OK)
            return ZI_FAIL(status, "%s: tensor '%.200s': %s", path, name, zopt_last_error());
        tensor->name = keep(file, used, name);
    }
    return ZOPT_OK;
}

static int by_place(const void *a, const void *b)
{
    const zi_file_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* No hole, no overlap, nothing behind the last. */
static zopt_status check_places(const char *path, zi_tensorfile *file)
{
    uint64_t at = 0, data_bytes = file->bytes - file->data_at;
    if (file->n_tensors > 0)
        qsort(file->tensor, file->n_tensors, sizeof *file->tensor, by_place);
    for (uint32_t i = 0; i < file->n_tensors; i++) {
        const zi_file_tensor *tensor = &file->tensor[i];
        if (tensor->begin != at)
            return ZI_FAIL(ZOPT_ERR_DATA,
                           "%s: tensor '%.200s' begins at byte %llu of the data, %s %llu", path,
                           tensor->name, (unsigned long long)tensor->begin,
                           tensor->begin > at ? "a hole behind" : "but the one before ends at",
                           (unsigned long long)at);
        at = tensor->end;
    }
    if (at != data_bytes)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: its tensors have %llu bytes, and the file %llu", path,
                       (unsigned long long)at, (unsigned long long)data_bytes);
    return ZOPT_OK;
}

static zopt_status read_root(json_t *root, const char *path, zi_tensorfile *file)
{
    size_t used = 0;
    ZI_TRY(read_texts(json_object_get(root, "__metadata__"), path, file, &used));
    ZI_TRY(read_tensors(root, path, file, &used));
    return check_places(path, file);
}

zopt_status zi_tensorfile_decode(const char *json, size_t json_bytes, uint64_t file_bytes,
                                 const char *path, zi_tensorfile *out)
{
    json_error_t error;
    *out = (zi_tensorfile){.data_at = 8 + json_bytes, .bytes = file_bytes};
    if (json_bytes == 0 || json[0] != '{')
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: its header does not begin with '{'", path);
    ZI_TRY(zi_json_bound(json, json_bytes, MAX_DEPTH, path));
    out->pool = malloc(json_bytes);
    json_t *root = json_loadb(json, json_bytes, JSON_REJECT_DUPLICATES, &error);
    zopt_status status = out->pool == NULL
                             ? ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for its header", path)
                         : root == NULL ? ZI_FAIL(ZOPT_ERR_DATA, "%s: its header, byte %d: %s",
                                                  path, error.position + 8, error.text)
                                        : read_root(root, path, out);
    json_decref(root);
    if (status != ZOPT_OK)
        zi_tensorfile_free(out);
    return status;
}
