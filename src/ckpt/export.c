/* See export.h. Until the header is written the file begins with a zero length, which no reader
 * accepts. */
#include "ckpt/export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "ckpt/parts.h"

typedef struct target {
    char folder[ZI_PATH_BYTES], tmp[ZI_PATH_BYTES];
    const char *name; /* tmp without its folder */
    int fd;           /* of the folder */
    int created;
} target;

static zopt_status open_target(const char *path, target *t)
{
    if (strlen(path) + sizeof ".tmp" >= sizeof t->tmp)
        return ZI_FAIL(ZOPT_ERR_WRITE, "a path of %zu bytes is too long", strlen(path));
    const char *slash = strrchr(path, '/');
    size_t n = slash != NULL ? (size_t)(slash - path) : 0;
    snprintf(t->folder, sizeof t->folder, "%.*s", slash != NULL ? (int)(n > 0 ? n : 1) : 1,
             slash != NULL ? path : ".");
    snprintf(t->tmp, sizeof t->tmp, "%s.tmp", path);
    t->name = slash != NULL ? t->tmp + n + 1 : t->tmp;
    return zi_folder_open(t->folder, 0, &t->fd) == ZOPT_OK
               ? ZOPT_OK
               : ZI_FAIL(ZOPT_ERR_WRITE, "%s", zopt_last_error());
}

static zopt_status create(target *t, const zi_tensorfile *head)
{
    /* NOLINTNEXTLINE: prepare() has set the name */
    if (unlinkat(t->fd, t->name, 0) != 0 && errno != ENOENT)
        return zi_fail_errno(ZOPT_ERR_WRITE, t->tmp, "cannot replace");
    /* NOLINTNEXTLINE: and described the file */
    zopt_status status = zi_disk_create(t->fd, t->name, t->tmp, ZI_DISK_PUBLIC, head->bytes);
    t->created = faccessat(t->fd, t->name, F_OK, 0) == 0;
    return status;
}

static zopt_status describe(const zi_zero *z, zi_array model, zi_bundle *bundle)
{
    zi_file_text text = {"format", "pt"};
    const zi_texts texts = {.text = &text, .n = 1};
    const zi_contents contents = {.model = model, .texts = {&texts}};
    ZI_TRY(zi_contents_describe(z, &contents, bundle));
    if (bundle->n_files > 1)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "%u tensors do not fit one safetensors file",
                       z->n_tensors);
    return ZOPT_OK;
}

static zopt_status prepare(const zi_zero *z, const char *path, zi_array model, target *t,
                           zi_bundle *bundle)
{
    ZI_TRY(open_target(path, t));
    return describe(z, model, bundle);
}

static zopt_status write_pieces(zi_ckpt *ckpt, const zi_bundle *bundle, const target *t)
{
    zi_zero *z = ckpt->z;
    zi_writer *writer = NULL;
    zi_shuffle shuffle = {.z = z};
    uint64_t *hash = calloc(bundle->n_pieces + 1, sizeof *hash); /* nobody looks at them */
    const zi_pieces *pieces = zi_pieces_for(ckpt, bundle);
    zopt_status mine = hash != NULL ? zi_save_buffers(z, 0, bundle, pieces, &writer, &shuffle)
                                    : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for checksums");
    shuffle.bundle = bundle;
    if (mine == ZOPT_OK)
        mine = zi_writer_start(writer, t->fd, t->folder, &t->name);
    zopt_status status = zi_comm_agree(z->comm, mine);
    if (status == ZOPT_OK)
        status = zi_send_pieces(pieces, 0, &shuffle, writer, hash);
    if (status == ZOPT_OK)
        status = zi_comm_agree(z->comm, zi_writer_finish(writer));
    zi_writer_destroy(writer);
    zi_shuffle_destroy(&shuffle);
    free(hash);
    return status;
}

/* The header makes the file valid, the rename makes it seen. */
static zopt_status finish(const target *t, const zi_bundle_file *part, const char *path)
{
    zi_disk_file file;
    ZI_TRY(zi_disk_open(t->fd, t->name, t->tmp, ZI_DISK_WRITE, &file));
    zopt_status status = zi_disk_write(&file, part->header, part->head.data_at, 0);
    if (status == ZOPT_OK)
        status = zi_disk_sync(&file);
    zopt_status closed = zi_disk_close(&file);
    ZI_TRY(status);
    ZI_TRY(closed);
    if (rename(t->tmp, path) != 0)
        return zi_fail_errno(ZOPT_ERR_WRITE, path, "cannot rename to it");
    return fsync(t->fd) == 0 ? ZOPT_OK : zi_fail_errno(ZOPT_ERR_WRITE, t->folder, "fsync");
}

zopt_status zi_export_model(zi_ckpt *ckpt, const char *path, zi_array model)
{
    zi_zero *z = ckpt->z;
    int first = z->comm->rank == 0;
    target t = {.fd = -1};
    zi_bundle bundle = {0};
    zopt_status status = zi_comm_agree(z->comm, prepare(z, path, model, &t, &bundle));
    if (status == ZOPT_OK)
        status = zi_comm_agree(z->comm, first ? create(&t, &bundle.file[0].head) : ZOPT_OK);
    if (status == ZOPT_OK)
        status = write_pieces(ckpt, &bundle, &t);
    if (status == ZOPT_OK)
        status = zi_comm_agree(z->comm, first ? finish(&t, &bundle.file[0], path) : ZOPT_OK);
    if (status != ZOPT_OK && t.created)
        unlinkat(t.fd, t.name, 0);
    if (t.fd >= 0)
        close(t.fd);
    zi_bundle_free(&bundle);
    return status;
}
