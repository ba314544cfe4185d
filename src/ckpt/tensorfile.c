/* Safetensors, writing: order, places and the header's text. Two writers that describe the same
 * tensors make the same bytes. Reading is in tensorfile_read.c. */
#include "ckpt/tensorfile.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
#define ROW(name, bytes) [ZI_FILE_##name] = {#name, bytes},
    ZI_FILE_DTYPE_LIST(ROW)
#undef ROW
};

const char *zi_file_dtype_name(zi_file_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t zi_file_dtype_bytes(zi_file_dtype dtype)
{
    return dtypes[dtype].bytes;
}

static int by_size_and_name(const void *a, const void *b)
{
    const zi_file_tensor *x = a, *y = b;
    size_t x_bytes = zi_file_dtype_bytes(x->dtype), y_bytes = zi_file_dtype_bytes(y->dtype);
    if (x_bytes != y_bytes)
        return x_bytes > y_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static uint64_t n_elems(const zi_file_tensor *tensor)
{
    uint64_t n = 1;
    for (int d = 0; d < tensor->ndim; d++)
        n *= tensor->shape[d];
    return n;
}

void zi_tensorfile_order(zi_tensorfile *file)
{
    uint64_t at = 0;
    if (file->n_tensors > 0)
        qsort(file->tensor, file->n_tensors, sizeof *file->tensor, by_size_and_name);
    for (uint32_t i = 0; i < file->n_tensors; i++) {
        zi_file_tensor *tensor = &file->tensor[i];
        tensor->begin = at;
        at += n_elems(tensor) * zi_file_dtype_bytes(tensor->dtype);
        tensor->end = at;
    }
}

static json_t *describe(const zi_file_tensor *tensor)
{
    json_t *shape = json_array();
    for (int d = 0; d < tensor->ndim; d++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d]));
    return json_pack("{sssos[II]}", "dtype", zi_file_dtype_name(tensor->dtype), "shape", shape,
                     "data_offsets", (json_int_t)tensor->begin, (json_int_t)tensor->end);
}

/* NULL: no memory, or a text that is not UTF-8. */
static char *make_json(const zi_tensorfile *file)
{
    json_t *root = json_object(), *texts = json_object();
    int failed = 0;
    for (uint32_t i = 0; i < file->n_texts; i++)
        failed |= json_object_set_new(texts, file->text[i].key, json_string(file->text[i].value));
    failed |= json_object_set_new(root, "__metadata__", texts);
    for (uint32_t i = 0; i < file->n_tensors; i++)
        failed |= json_object_set_new(root, file->tensor[i].name, describe(&file->tensor[i]));
    char *text = failed ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

static zopt_status pad(const char *json, char **header, size_t *bytes)
{
    size_t json_bytes = strlen(json);
    uint64_t length =
        (sizeof length + json_bytes + ZI_FILE_ALIGN - 1) / ZI_FILE_ALIGN * ZI_FILE_ALIGN -
        sizeof length;
    if (length > ZI_FILE_MAX_HEADER)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                       "a safetensors header of %zu bytes; the format ends at %d", json_bytes,
                       ZI_FILE_MAX_HEADER);
    *bytes = sizeof length + length;
    *header = malloc(*bytes);
    if (*header == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a header of %zu bytes", *bytes);
    for (size_t i = 0; i < sizeof length; i++)
        (*header)[i] = (char)(length >> (8 * i) & 0xff);
    memcpy(*header + sizeof length, json, json_bytes);
    memset(*header + sizeof length + json_bytes, ' ', length - json_bytes);
    return ZOPT_OK;
}

zopt_status zi_tensorfile_encode(zi_tensorfile *file, char **header)
{
    *header = NULL;
    if (file->n_tensors > ZI_FILE_MAX_TENSORS)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%u tensors in one file; write parts of at most %d",
                       file->n_tensors, ZI_FILE_MAX_TENSORS);
    char *json = make_json(file);
    if (json == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to describe %u tensors", file->n_tensors);
    size_t bytes = 0;
    zopt_status status = pad(json, header, &bytes);
    free(json);
    file->data_at = bytes;
    file->bytes = bytes + (file->n_tensors > 0 ? file->tensor[file->n_tensors - 1].end : 0);
    return status;
}

void zi_tensorfile_free(zi_tensorfile *file)
{
    free(file->tensor);
    free(file->text);
    free(file->pool);
    memset(file, 0, sizeof *file);
}

const zi_file_tensor *zi_tensorfile_find(const zi_tensorfile *file, const char *name)
{
    for (uint32_t i = 0; i < file->n_tensors; i++)
        if (strcmp(file->tensor[i].name, name) == 0)
            return &file->tensor[i];
    return NULL;
}

const char *zi_tensorfile_text(const zi_tensorfile *file, const char *key)
{
    for (uint32_t i = 0; i < file->n_texts; i++)
        if (strcmp(file->text[i].key, key) == 0)
            return file->text[i].value;
    return NULL;
}
