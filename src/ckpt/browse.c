/* Checkpoints for one process without a handle: what the command needs to show, verify, compare,
 * export and prune them. Data are read in pieces. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/dtype.h"
#include "base/status.h"
#include "ckpt/bundle.h"
#include "ckpt/folder.h"
#include "ckpt/target.h"

struct zopt_checkpoint {
    char path[ZI_PATH_BYTES];
    uint64_t step;
    int folder;
    zi_bundle bundle;
    char *piece; /* memory for one, aligned */
    size_t piece_bytes;
    zi_disk_file file; /* the open one */
    uint32_t file_index;
    char shown[ZI_PATH_BYTES];
};

#define NEED(pointer)                                                                \
    do {                                                                             \
        if ((pointer) == NULL)                                                       \
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%s: %s is NULL", __func__, #pointer); \
    } while (0)

/* ------------------------------------------------------------------ life --------------------- */

/* The newest step of a directory. */
static zopt_status newest(const char *root, uint64_t *step)
{
    uint64_t *steps;
    size_t n;
    int folder;
    ZI_TRY(zi_folder_open(root, ZI_FOLDER_READ, &folder));
    zopt_status status = zi_folder_scan(folder, root, &steps, &n);
    close(folder);
    ZI_TRY(status);
    *step = n > 0 ? steps[0] : 0;
    free(steps);
    return n > 0 ? ZOPT_OK : zi_folder_none(root);
}

static zopt_status open_step(zopt_checkpoint *c, const char *root)
{
    char name[ZI_STEP_NAME_BYTES], *blob;
    size_t bytes;
    int folder;
    zi_step_name(c->step, name);
    snprintf(c->path, sizeof c->path, "%.*s/%s", (int)(sizeof c->path - sizeof name - 1), root,
             name);
    ZI_TRY(zi_folder_open(root, ZI_FOLDER_READ, &folder));
    zopt_status status = zi_folder_open_below(folder, root, name, ZI_FOLDER_READ, &c->folder);
    close(folder);
    ZI_TRY(status);
    ZI_TRY(zi_bundle_load(c->folder, c->path, &blob, &bytes));
    status = zi_bundle_decode(blob, bytes, c->path, &c->bundle);
    free(blob);
    ZI_TRY(status);
    ZI_TRY(zi_bundle_check_step(&c->bundle, c->step, c->path));
    c->piece_bytes = zi_bundle_piece_bytes(&c->bundle);
    size_t room = (c->piece_bytes + ZI_DISK_ALIGN - 1) / ZI_DISK_ALIGN * ZI_DISK_ALIGN;
    c->piece = aligned_alloc(ZI_DISK_ALIGN, room);
    return c->piece != NULL ? ZOPT_OK
                            : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a piece of %zu bytes", room);
}

zopt_status zopt_checkpoint_open(const char *path, zopt_checkpoint **out)
{
    char root[ZI_PATH_BYTES];
    NEED(out);
    *out = NULL;
    NEED(path);
    zopt_checkpoint *c = calloc(1, sizeof *c);
    if (c == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory to open it", path);
    c->folder = c->file.fd = c->file.direct = -1;
    zopt_status status = zi_step_split(path, root, &c->step) ? ZOPT_OK : newest(root, &c->step);
    if (status == ZOPT_OK)
        status = open_step(c, root);
    if (status != ZOPT_OK) {
        zopt_checkpoint_close(c);
        return status;
    }
    *out = c;
    return ZOPT_OK;
}

void zopt_checkpoint_close(zopt_checkpoint *c)
{
    if (c == NULL)
        return;
    (void)zi_disk_close(&c->file);
    if (c->folder >= 0)
        close(c->folder);
    zi_bundle_free(&c->bundle);
    free(c->piece);
    free(c);
}

const char *zopt_checkpoint_path(const zopt_checkpoint *c)
{
    return c != NULL ? c->path : "";
}

uint64_t zopt_checkpoint_step(const zopt_checkpoint *c)
{
    return c != NULL ? c->step : 0;
}

/* ------------------------------------------------------------------ what it has -------------- */

/* Tensor i of all files; *file is where. NULL: past the last. */
static const zi_file_tensor *find(const zopt_checkpoint *c, size_t i, uint32_t *file)
{
    for (*file = 0; *file < c->bundle.n_files; (*file)++) {
        const zi_tensorfile *head = &c->bundle.file[*file].head;
        if (i < head->n_tensors)
            return &head->tensor[i];
        i -= head->n_tensors;
    }
    return NULL;
}

zopt_status zopt_checkpoint_tensor_at(const zopt_checkpoint *checkpoint, size_t i,
                                      zopt_checkpoint_tensor *tensor)
{
    uint32_t file;
    NEED(checkpoint);
    NEED(tensor);
    const zi_file_tensor *found = find(checkpoint, i, &file);
    *tensor = (zopt_checkpoint_tensor){.name = NULL};
    if (found != NULL)
        *tensor = (zopt_checkpoint_tensor){.file = checkpoint->bundle.file[file].name,
                                           .name = found->name,
                                           .dtype = zi_file_dtype_name(found->dtype),
                                           .ndim = found->ndim,
                                           .shape = found->shape,
                                           .bytes = found->end - found->begin};
    return ZOPT_OK;
}

zopt_status zopt_checkpoint_text_at(const zopt_checkpoint *checkpoint, size_t i, const char **key,
                                    const char **value)
{
    NEED(checkpoint);
    NEED(key);
    NEED(value);
    const zi_tensorfile *head = zi_bundle_head(&checkpoint->bundle, ZI_STEM_OPTIMIZER);
    *key = i < head->n_texts ? head->text[i].key : NULL;
    *value = i < head->n_texts ? head->text[i].value : NULL;
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ its data ----------------- */

static zopt_status open_file(zopt_checkpoint *c, uint32_t file)
{
    if (c->file.fd >= 0 && c->file_index == file)
        return ZOPT_OK;
    (void)zi_disk_close(&c->file);
    snprintf(c->shown, sizeof c->shown, "%.*s/%s", (int)(sizeof c->shown - ZI_FILE_NAME_BYTES - 1),
             c->path, c->bundle.file[file].name);
    c->file_index = file;
    return zi_disk_open(c->folder, c->bundle.file[file].name, c->shown, ZI_DISK_READ, &c->file);
}

zopt_status zopt_checkpoint_read(zopt_checkpoint *checkpoint, size_t i, uint64_t offset,
                                 size_t bytes, void *data)
{
    uint32_t file;
    NEED(checkpoint);
    const zi_file_tensor *tensor = find(checkpoint, i, &file);
    if (tensor == NULL || (data == NULL && bytes > 0))
        return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                       "zopt_checkpoint_read: there is no tensor %zu, or no "
                       "memory to read it to",
                       i);
    uint64_t have = tensor->end - tensor->begin;
    if (offset > have || bytes > have - offset)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_checkpoint_read: '%s' has %" PRIu64 " bytes",
                       tensor->name, have);
    ZI_TRY(open_file(checkpoint, file));
    return zi_disk_read(&checkpoint->file, data, bytes,
                        checkpoint->bundle.file[file].head.data_at + tensor->begin + offset);
}

/* Read piece after piece, verified, of files [first, end), and hand it on. */
typedef zopt_status piece_user(void *arg, const char *data, const zi_bundle_piece *piece);

static zopt_status each_piece(zopt_checkpoint *c, uint32_t first, uint32_t end, piece_user *use,
                              void *arg)
{
    for (uint32_t f = first; f < end; f++) {
        const zi_bundle_file *file = &c->bundle.file[f];
        for (uint64_t i = 0; i < zi_n_pieces(&file->head); i++) {
            zi_bundle_piece piece = {f, i, zi_piece_of(&file->head, i)};
            if (piece.run.bytes == 0)
                continue;
            ZI_TRY(open_file(c, f));
            ZI_TRY(zi_disk_read(&c->file, c->piece, piece.run.bytes, piece.run.at));
            ZI_TRY(zi_seal_check_piece(&file->head, i, c->piece, c->shown));
            if (use != NULL)
                ZI_TRY(use(arg, c->piece, &piece));
        }
    }
    return ZOPT_OK;
}

zopt_status zopt_checkpoint_verify(zopt_checkpoint *checkpoint)
{
    NEED(checkpoint);
    return each_piece(checkpoint, 0, checkpoint->bundle.n_files, NULL, NULL);
}

/* ------------------------------------------------------------------ export ------------------- */

typedef struct export
{
    const zopt_checkpoint *c;
    zopt_dtype dtype;
    zi_file_text text;
    zi_tensorfile out; /* its tensors by name, as the parts' are */
    uint64_t *data_at; /* [n_files] of elements of the parts before */
    zi_disk_file file;
    char *converted; /* a piece at most */
}
export;

/* All parts are of F32 and in one order, so that elements keep their places. */
static zopt_status write_converted(void *arg, const char *data, const zi_bundle_piece *piece)
{
    export *e = arg;
    const zi_tensorfile *head = &e->c->bundle.file[piece->file].head;
    size_t n = piece->run.bytes / sizeof(float), bytes = zopt_dtype_bytes(e->dtype);
    uint64_t first = e->data_at[piece->file] + (piece->run.at - head->data_at) / sizeof(float);
    zi_convert(e->converted, e->dtype, data, ZOPT_FP32, n);
    return zi_disk_write(&e->file, e->converted, n * bytes, e->out.data_at + first * bytes);
}

static zopt_status describe(export *e)
{
    static const zi_file_dtype dtypes[] = {
        [ZOPT_FP16] = ZI_FILE_F16, [ZOPT_BF16] = ZI_FILE_BF16, [ZOPT_FP32] = ZI_FILE_F32};
    const zi_bundle *bundle = &e->c->bundle;
    uint64_t n_elems = 0;
    for (uint32_t f = 0; f < bundle->n_parts[ZI_STEM_MODEL]; f++) {
        const zi_tensorfile *head = &bundle->file[f].head;
        e->data_at[f] = n_elems;
        n_elems += (head->bytes - head->data_at) / sizeof(float);
        for (uint32_t i = 0; i < head->n_tensors; i++) {
            e->out.tensor[e->out.n_tensors] = head->tensor[i];
            if (head->tensor[i].dtype != ZI_FILE_F32)
                return ZI_FAIL(ZOPT_ERR_DATA, "%s: tensor '%s' is not F32", e->c->path,
                               head->tensor[i].name);
            e->out.tensor[e->out.n_tensors++].dtype = dtypes[e->dtype];
        }
    }
    zi_tensorfile_order(&e->out);
    return ZOPT_OK;
}

static zopt_status write_file(export *e, zopt_checkpoint *c, zi_target *t, const char *header)
{
    int64_t number;
    ZI_TRY(zi_target_create(t, e->out.bytes, &number));
    ZI_TRY(zi_disk_open(t->fd, t->name, t->tmp, ZI_DISK_WRITE, &e->file));
    zopt_status status = each_piece(c, 0, c->bundle.n_parts[ZI_STEM_MODEL], write_converted, e);
    if (status == ZOPT_OK)
        status = zi_disk_write(&e->file, header, e->out.data_at, 0);
    if (status == ZOPT_OK)
        status = zi_disk_sync(&e->file);
    zopt_status closed = zi_disk_close(&e->file);
    ZI_TRY(status);
    ZI_TRY(closed);
    return zi_target_finish(t);
}

static zopt_status export_to(export *e, zopt_checkpoint *c, zi_target *t)
{
    char *header;
    e->text = (zi_file_text){"format", "pt"};
    e->out.text = &e->text;
    e->out.n_texts = 1;
    if (e->out.tensor == NULL || e->data_at == NULL || e->converted == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to export %s", c->path);
    ZI_TRY(describe(e));
    ZI_TRY(zi_tensorfile_encode(&e->out, &header));
    zopt_status status = write_file(e, c, t, header);
    free(header);
    return status;
}

zopt_status zopt_checkpoint_export(zopt_checkpoint *checkpoint, const char *path, zopt_dtype dtype)
{
    NEED(checkpoint);
    NEED(path);
    if (zopt_dtype_bytes(dtype) == 0)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_checkpoint_export: unknown dtype");
    size_t n = 1;
    zi_target target;
    for (uint32_t f = 0; f < checkpoint->bundle.n_parts[ZI_STEM_MODEL]; f++)
        n += checkpoint->bundle.file[f].head.n_tensors;
    export e = {.c = checkpoint, .dtype = dtype, .file = {.fd = -1, .direct = -1}};
    e.out.tensor = calloc(n, sizeof *e.out.tensor);
    e.data_at = calloc(checkpoint->bundle.n_files, sizeof *e.data_at);
    e.converted = malloc(checkpoint->piece_bytes);
    zopt_status status = zi_target_open(path, &target);
    if (status == ZOPT_OK)
        status = export_to(&e, checkpoint, &target);
    zi_target_close(&target);
    free(e.out.tensor);
    free(e.data_at);
    free(e.converted);
    return status;
}
