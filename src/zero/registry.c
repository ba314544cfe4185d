/* What a handle is told before commit: groups, tensors, and texts that ranks must agree on. */
#include <jansson.h>
#include <string.h>
#include <xxhash.h>

#include "base/status.h"
#include "zero/zero.h"

enum { MAX_NAME_BYTES = 255, FIRST_ROOM = 16 };

/* Make room for one more row of `bytes` in a table of n, doubling it where it is full. `table` is
 * the address of the pointer to it. */
static zopt_status grow(zi_mem *mem, void *table, uint32_t n, uint32_t *room, size_t bytes)
{
    if (n < *room)
        return ZOPT_OK;
    if (*room > UINT32_MAX / 2)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "more than 2^31 rows in a table");
    uint32_t next_room = *room == 0 ? FIRST_ROOM : *room * 2;
    void *old, *next;
    ZI_TRY(zi_mem_table(mem, next_room * bytes, &next));
    memcpy(&old, table, sizeof old);
    if (n > 0)
        memcpy(next, old, n * bytes);
    zi_mem_free_table(mem, old, *room * bytes);
    memcpy(table, &next, sizeof next);
    *room = next_room;
    return ZOPT_OK;
}

static zopt_status copy_text(zi_mem *mem, const char *text, char **out)
{
    size_t bytes = strlen(text) + 1;
    ZI_TRY(zi_mem_table(mem, bytes, out));
    memcpy(*out, text, bytes);
    return ZOPT_OK;
}

static void free_text(zi_mem *mem, char *text)
{
    if (text != NULL)
        zi_mem_free_table(mem, text, strlen(text) + 1);
}

static zopt_status check_before_commit(const zi_zero *z, const char *call)
{
    if (z->committed)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s after zopt_commit", call);
    return ZOPT_OK;
}

zopt_status zi_zero_add_group(zi_zero *z, const zopt_setting *settings, size_t n, int *group)
{
    zi_group next;
    ZI_TRY(check_before_commit(z, "zopt_add_group"));
    ZI_TRY(zi_group_read(z, settings, n, &next));
    ZI_TRY(grow(z->mem, &z->groups, z->n_groups, &z->room_groups, sizeof *z->groups));
    z->groups[z->n_groups] = next;
    *group = (int)z->n_groups++;
    return ZOPT_OK;
}

static zopt_status check_name(const zi_zero *z, const char *name, uint64_t hash)
{
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > MAX_NAME_BYTES)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "tensor name of %zu bytes, want 1 to %d", bytes,
                       MAX_NAME_BYTES);
    json_t *utf8 = json_string(name);
    json_decref(utf8);
    if (utf8 == NULL || strcmp(name, "__metadata__") == 0)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "tensor name '%s' is %s", name,
                       utf8 == NULL ? "not UTF-8" : "what safetensors files keep for metadata");
    for (uint32_t i = 0; i < z->n_tensors; i++)
        if (z->tensors[i].name_hash == hash && strcmp(z->tensors[i].name, name) == 0)
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, "two tensors named '%s'", name);
    return ZOPT_OK;
}

static zopt_status count_elems(zi_tensor *tensor, const char *name, const uint64_t *shape)
{
    tensor->n_elems = 1;
    for (int d = 0; d < tensor->ndim; d++) {
        if (shape[d] == 0)
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, "tensor '%s': dimension %d is 0", name, d);
        if (shape[d] > ZI_MAX_ELEMS / tensor->n_elems)
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, "tensor '%s': more than 2^56 elements", name);
        tensor->shape[d] = shape[d];
        tensor->n_elems *= shape[d];
    }
    return ZOPT_OK;
}

zopt_status zi_zero_add_tensor(zi_zero *z, const char *name, zopt_dtype dtype, int ndim,
                               const uint64_t *shape, int group, int *id)
{
    zi_tensor tensor = {.dtype = dtype, .group = group, .ndim = ndim};
    ZI_TRY(check_before_commit(z, "zopt_add_tensor"));
    if ((unsigned)dtype >= ZI_N_DTYPES)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "tensor '%s': unknown dtype %d", name, (int)dtype);
    if (ndim < 0 || ndim > ZI_MAX_DIMS)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "tensor '%s': %d dimensions, want 0 to %d", name, ndim,
                       ZI_MAX_DIMS);
    if (group < 0 || (uint32_t)group >= z->n_groups)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "tensor '%s': there is no group %d", name, group);
    tensor.name_hash = XXH3_64bits(name, strlen(name));
    ZI_TRY(check_name(z, name, tensor.name_hash));
    ZI_TRY(count_elems(&tensor, name, shape));
    const zi_shape whole = {ndim, tensor.shape, tensor.n_elems};
    if (z->groups[group].own[ZI_GROUP_FROZEN] == 0)
        tensor.variant = z->config.optim->variant(z->groups[group].value, &whole);
    ZI_TRY(grow(z->mem, &z->tensors, z->n_tensors, &z->room_tensors, sizeof *z->tensors));
    ZI_TRY(copy_text(z->mem, name, &tensor.name));
    z->tensors[z->n_tensors] = tensor;
    *id = (int)z->n_tensors++;
    return ZOPT_OK;
}

zopt_status zi_zero_add_agreed(zi_zero *z, const char *key, const char *value, int changes_result)
{
    zi_agreed next = {.changes_result = changes_result};
    ZI_TRY(check_before_commit(z, "zopt_agree"));
    ZI_TRY(grow(z->mem, &z->agreed, z->n_agreed, &z->room_agreed, sizeof *z->agreed));
    ZI_TRY(copy_text(z->mem, key, &next.key));
    zopt_status status = copy_text(z->mem, value, &next.value);
    if (status != ZOPT_OK) {
        free_text(z->mem, next.key);
        return status;
    }
    z->agreed[z->n_agreed++] = next;
    return ZOPT_OK;
}

void zi_registry_free(zi_zero *z)
{
    for (uint32_t i = 0; i < z->n_tensors; i++)
        free_text(z->mem, z->tensors[i].name);
    for (uint32_t i = 0; i < z->n_agreed; i++) {
        free_text(z->mem, z->agreed[i].key);
        free_text(z->mem, z->agreed[i].value);
    }
    zi_mem_free_table(z->mem, z->tensors, z->room_tensors * sizeof *z->tensors);
    zi_mem_free_table(z->mem, z->groups, z->room_groups * sizeof *z->groups);
    zi_mem_free_table(z->mem, z->agreed, z->room_agreed * sizeof *z->agreed);
}
