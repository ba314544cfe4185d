/* See contents.h. */
#include "ckpt/contents.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

/* ------------------------------------------------------------------ tensors of the files ----- */

/* A list under way; the first pass only counts. */
typedef struct listing {
    zi_file_tensor *tensor;
    char *names;
    size_t n, name_bytes;
} listing;

static zi_file_dtype file_dtype(zopt_dtype dtype)
{
    static const zi_file_dtype dtypes[] = {
        [ZOPT_FP16] = ZI_FILE_F16, [ZOPT_BF16] = ZI_FILE_BF16, [ZOPT_FP32] = ZI_FILE_F32};
    return dtypes[dtype];
}

/* A state's own shape: of blocks, or without the dimension that rows or columns sum over. */
static void set_shape(const zi_tensor *tensor, zi_origin origin, zi_file_tensor *out)
{
    out->ndim = tensor->ndim;
    memcpy(out->shape, tensor->shape, sizeof out->shape);
    if (origin.array == ZI_ARRAY_ABSMAX) {
        out->ndim = 1;
        out->shape[0] = (tensor->n_elems + ZI_BLOCK - 1) / ZI_BLOCK;
    } else if (origin.array == ZI_ARRAY_FACTORS) {
        out->ndim = tensor->ndim - 1;
        if (tensor->variant->state[origin.state].form == ZI_FORM_COLS)
            out->shape[out->ndim - 1] = tensor->shape[out->ndim];
    }
}

/* prefix: "" or "exp_avg.". */
static void list_one(const zi_zero *z, listing *l, const char *prefix, zi_file_dtype dtype,
                     zi_origin origin)
{
    const zi_tensor *tensor = &z->tensors[origin.tensor];
    size_t bytes = strlen(prefix) + strlen(tensor->name) + 1;
    if (l->tensor != NULL) {
        zi_file_tensor *out = &l->tensor[l->n];
        char *name = l->names + l->name_bytes;
        snprintf(name, bytes, "%s%s", prefix, tensor->name);
        *out = (zi_file_tensor){.name = name, .dtype = dtype, .tag = zi_origin_tag(origin)};
        set_shape(tensor, origin, out);
    }
    l->n++;
    l->name_bytes += bytes;
}

/* What a form consists of in a file; absmax: an array of scales beside it. */
static const struct {
    zi_array array;
    zi_file_dtype dtype;
    int absmax;
} forms[] = {
    [ZI_FORM_F32] = {ZI_ARRAY_STATE, ZI_FILE_F32, 0},
    [ZI_FORM_Q8_SIGNED] = {ZI_ARRAY_STATE, ZI_FILE_U8, 1},
    [ZI_FORM_Q8_UNSIGNED] = {ZI_ARRAY_STATE, ZI_FILE_U8, 1},
    [ZI_FORM_ROWS] = {ZI_ARRAY_FACTORS, ZI_FILE_F32, 0},
    [ZI_FORM_COLS] = {ZI_ARRAY_FACTORS, ZI_FILE_F32, 0},
};

static void list_states(const zi_zero *z, uint32_t id, listing *l)
{
    const zi_tensor *tensor = &z->tensors[id];
    for (int i = 0; tensor->variant != NULL && i < tensor->variant->n_states; i++) {
        const zi_state_row *row = &tensor->variant->state[i];
        const char *name = z->config.optim->state_name[row->name];
        char prefix[64];
        snprintf(prefix, sizeof prefix, "%s.", name);
        list_one(z, l, prefix, forms[row->form].dtype, (zi_origin){id, forms[row->form].array, i});
        snprintf(prefix, sizeof prefix, "%s_absmax.", name);
        if (forms[row->form].absmax)
            list_one(z, l, prefix, ZI_FILE_F32, (zi_origin){id, ZI_ARRAY_ABSMAX, i});
    }
}

static void list_stem(const zi_zero *z, const zi_contents *contents, zi_stem stem, listing *l)
{
    for (uint32_t id = 0; id < z->n_tensors; id++) {
        if (stem == ZI_STEM_OPTIMIZER)
            list_states(z, id, l);
        else
            list_one(z, l, "",
                     contents->model == ZI_ARRAY_PARAM ? file_dtype(z->tensors[id].dtype)
                                                       : ZI_FILE_F32,
                     (zi_origin){id, contents->model, 0});
    }
}

/* ------------------------------------------------------------------ parts -------------------- */

/* The first of tensors [at, end) that no longer fits a part; at least one does. */
static size_t part_end(const zi_contents *contents, const zi_file_tensor *tensor, size_t at,
                       size_t end)
{
    size_t next = at;
    while (next < end && next - at < ZI_FILE_MAX_TENSORS &&
           (contents->part_bytes == 0 || next == at ||
            tensor[next].end - tensor[at].begin <= contents->part_bytes))
        next++;
    return next;
}

/* Part after part of tensors [first, first + n), which are in order; with out->file == NULL it only
 * counts them. */
static uint32_t cut(const zi_contents *contents, size_t first, size_t n, zi_bundle *out,
                    uint32_t file)
{
    uint32_t n_parts = 0;
    for (size_t at = 0; at < n || n_parts == 0; n_parts++) {
        size_t end = part_end(contents, out->tensors + first, at, n);
        if (out->file != NULL)
            out->file[file + n_parts].head = (zi_tensorfile){.tensor = out->tensors + first + at,
                                                             .n_tensors = (uint32_t)(end - at)};
        at = end;
        if (n == 0)
            return 1;
    }
    return n_parts;
}

static zopt_status encode_part(const zi_contents *contents, zi_stem stem, zi_file_text *room,
                               zi_bundle_file *file)
{
    const zi_texts *texts = contents->texts[stem];
    zi_tensorfile_order(&file->head); /* places from 0 in each part */
    file->head.text = room;
    file->head.n_texts = texts->n;
    if (texts->n > 0)
        memcpy(room, texts->text, texts->n * sizeof *room);
    return contents->sealed ? zi_seal_encode(&file->head, &file->header, &file->seals)
                            : zi_tensorfile_encode(&file->head, &file->header);
}

static zopt_status encode_stem(const zi_contents *contents, zi_stem stem, zi_bundle *out,
                               uint32_t first, zi_file_text *room)
{
    const char *name = zi_stem_name[stem];
    uint32_t n = out->n_parts[stem];
    if (n > ZI_MAX_PARTS)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%u parts of %s; make them larger", n, name);
    for (uint32_t p = 0; p < n; p++) {
        zi_bundle_file *file = &out->file[first + p];
        zi_part_name(name, p, n, file->name);
        ZI_TRY(encode_part(contents, stem,
                           room + (size_t)p * (contents->texts[stem]->n + ZI_SEAL_TEXTS), file));
    }
    if (n <= 1)
        return ZOPT_OK;
    zi_tensorfile *heads = calloc(n, sizeof *heads);
    if (heads == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for an index of %u parts", n);
    for (uint32_t p = 0; p < n; p++)
        heads[p] = out->file[first + p].head;
    zopt_status status = zi_index_encode(name, heads, n, &out->index[stem]);
    free(heads);
    return status;
}

static size_t n_texts(const zi_contents *contents, const zi_bundle *bundle)
{
    size_t n = 1;
    for (int s = 0; s < ZI_N_STEMS; s++)
        n += bundle->n_parts[s] *
             ((size_t)ZI_SEAL_TEXTS + (contents->texts[s] != NULL ? contents->texts[s]->n : 0));
    return n;
}

static zopt_status describe(const zi_zero *z, const zi_contents *contents, zi_bundle *out)
{
    int n_stems = contents->optimizer ? ZI_N_STEMS : 1;
    size_t first[ZI_N_STEMS + 1] = {0};
    listing l = {0};
    for (int s = 0; s < n_stems; s++)
        list_stem(z, contents, (zi_stem)s, &l);
    out->tensors = l.tensor = calloc(l.n + 1, sizeof *l.tensor);
    out->names = l.names = malloc(l.name_bytes + 1);
    if (l.tensor == NULL || l.names == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to list %zu tensors", l.n);
    l.n = l.name_bytes = 0;
    for (int s = 0; s < n_stems; s++) {
        first[s] = l.n;
        list_stem(z, contents, (zi_stem)s, &l);
        zi_tensorfile all = {.tensor = l.tensor + first[s],
                             .n_tensors = (uint32_t)(l.n - first[s])};
        zi_tensorfile_order(&all);
        out->n_parts[s] = cut(contents, first[s], l.n - first[s], out, 0);
        first[s + 1] = l.n;
    }
    uint32_t n_files = out->n_parts[0] + out->n_parts[1];
    out->file = calloc(n_files, sizeof *out->file);
    out->texts = calloc(n_texts(contents, out), sizeof *out->texts);
    if (out->file == NULL || out->texts == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %u files of a checkpoint", n_files);
    out->n_files = n_files;
    zi_file_text *room = out->texts;
    for (int s = 0; s < n_stems; s++) {
        uint32_t file = s == 0 ? 0 : out->n_parts[0];
        cut(contents, first[s], first[s + 1] - first[s], out, file);
        ZI_TRY(encode_stem(contents, (zi_stem)s, out, file, room));
        room += out->n_parts[s] * ((size_t)contents->texts[s]->n + ZI_SEAL_TEXTS);
    }
    zi_bundle_count(out);
    return ZOPT_OK;
}

zopt_status zi_contents_describe(const zi_zero *z, const zi_contents *contents, zi_bundle *out)
{
    memset(out, 0, sizeof *out);
    out->described = 1;
    zopt_status status = describe(z, contents, out);
    if (status != ZOPT_OK)
        zi_bundle_free(out);
    return status;
}
