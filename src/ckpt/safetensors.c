/* The header of a safetensors file of FP32 tensors. Equal dtypes, so the reference writer's order
 * is that of the names. */
#include "ckpt/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

static int by_name(const void *a, const void *b)
{
    const zi_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static json_t *shape_of(const zi_tensor *tensor)
{
    json_t *shape = json_array();
    for (int d = 0; d < tensor->ndim; d++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d]));
    return shape;
}

/* The header's JSON; fills in data_at, from 0. NULL where there is no memory. */
static char *make_json(const zi_tensor *tensors, const zi_tensor *const *sorted, uint32_t n,
                       uint64_t *data_at, uint64_t *data_bytes)
{
    json_t *root = json_object();
    uint64_t at = 0;
    int failed = json_object_set_new(root, "__metadata__", json_pack("{ss}", "format", "pt"));
    for (uint32_t i = 0; i < n; i++) {
        const zi_tensor *tensor = sorted[i];
        uint64_t end = at + tensor->n_elems * sizeof(float);
        failed |=
            json_object_set_new(root, tensor->name,
                                json_pack("{sssos[II]}", "dtype", "F32", "shape", shape_of(tensor),
                                          "data_offsets", (json_int_t)at, (json_int_t)end));
        data_at[tensor - tensors] = at;
        at = end;
    }
    *data_bytes = at;
    char *text = failed ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

/* json: NULL where there was no memory for it. */
static zopt_status add_header(zi_safetensors *file, const char *json)
{
    if (json == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "safetensors: no memory to describe the tensors");
    size_t json_bytes = strlen(json);
    size_t bytes = (sizeof(uint64_t) + json_bytes + ZI_SAFETENSORS_ALIGN - 1) /
                   ZI_SAFETENSORS_ALIGN * ZI_SAFETENSORS_ALIGN;
    file->header = malloc(bytes);
    if (file->header == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "safetensors: no memory for a header of %zu bytes", bytes);
    uint64_t length = bytes - sizeof length;
    for (size_t i = 0; i < sizeof length; i++)
        file->header[i] = (char)(length >> (8 * i) & 0xff);
    memcpy(file->header + sizeof length, json, json_bytes);
    memset(file->header + sizeof length + json_bytes, ' ', length - json_bytes);
    file->header_bytes = bytes;
    return ZOPT_OK;
}

zopt_status zi_safetensors_describe(const zi_tensor *tensors, uint32_t n_tensors,
                                    zi_safetensors *out)
{
    uint64_t data_bytes = 0;
    char *json = NULL;
    memset(out, 0, sizeof *out);
    const zi_tensor **sorted = calloc(n_tensors, sizeof *sorted);
    uint64_t *data_at = calloc(n_tensors, sizeof *data_at);
    if (data_at == NULL) {
        free(sorted);
        return ZI_FAIL(ZOPT_ERR_MEMORY, "safetensors: no memory for %u offsets", n_tensors);
    }
    if (sorted != NULL) {
        for (uint32_t i = 0; i < n_tensors; i++)
            sorted[i] = &tensors[i];
        qsort(sorted, n_tensors, sizeof *sorted, by_name);
        json = make_json(tensors, sorted, n_tensors, data_at, &data_bytes);
    }
    free(sorted);
    zopt_status status = add_header(out, json);
    free(json);
    if (status != ZOPT_OK) {
        free(data_at);
        return status;
    }
    for (uint32_t i = 0; i < n_tensors; i++)
        data_at[i] += out->header_bytes;
    out->data_at = data_at;
    out->file_bytes = out->header_bytes + data_bytes;
    return ZOPT_OK;
}

void zi_safetensors_free(zi_safetensors *file)
{
    free(file->header);
    free(file->data_at);
    memset(file, 0, sizeof *file);
}
