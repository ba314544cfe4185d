/* See export.h. Until the header is written the file begins with a zero length, which no reader
 * accepts. */
#include "ckpt/export.h"

#include <stdlib.h>

#include "base/status.h"
#include "ckpt/parts.h"
#include "ckpt/target.h"

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

static zopt_status prepare(const zi_zero *z, const char *path, zi_array model, zi_target *t,
                           zi_bundle *bundle)
{
    ZI_TRY(zi_target_open(path, t));
    return describe(z, model, bundle);
}

/* The first rank's temporary name is everyone's. */
static zopt_status create(zi_comm *comm, const zi_tensorfile *head, zi_target *t)
{
    int64_t number = 0;
    /* NOLINTNEXTLINE: prepare() has described the file */
    zopt_status mine = comm->rank == 0 ? zi_target_create(t, head->bytes, &number) : ZOPT_OK;
    ZI_TRY(zi_comm_agree(comm, mine));
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MAX, &number, 1));
    zi_target_name(t, number);
    return ZOPT_OK;
}

static zopt_status write_pieces(zi_ckpt *ckpt, const zi_bundle *bundle, const zi_target *t)
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
        status = zi_meet_written(z->comm, writer);
    if (status == ZOPT_OK)
        status = zi_comm_agree(z->comm, zi_writer_finish(writer));
    zi_writer_destroy(writer);
    zi_shuffle_destroy(&shuffle);
    free(hash);
    return status;
}

/* The header makes the file valid, the rename makes it seen. */
static zopt_status finish(zi_target *t, const zi_bundle_file *part)
{
    zi_disk_file file;
    ZI_TRY(zi_disk_open(t->fd, t->name, t->tmp, ZI_DISK_WRITE, &file));
    zopt_status status = zi_disk_write(&file, part->header, part->head.data_at, 0);
    if (status == ZOPT_OK)
        status = zi_disk_sync(&file);
    zopt_status closed = zi_disk_close(&file);
    ZI_TRY(status);
    ZI_TRY(closed);
    return zi_target_finish(t);
}

zopt_status zi_export_model(zi_ckpt *ckpt, const char *path, zi_array model)
{
    zi_zero *z = ckpt->z;
    int first = z->comm->rank == 0;
    zi_target t;
    zi_bundle bundle = {0};
    zopt_status status = zi_comm_agree(z->comm, prepare(z, path, model, &t, &bundle));
    if (status == ZOPT_OK)
        status = create(z->comm, &bundle.file[0].head, &t);
    if (status == ZOPT_OK)
        status = write_pieces(ckpt, &bundle, &t);
    if (status == ZOPT_OK)
        status = zi_comm_agree(z->comm, first ? finish(&t, &bundle.file[0]) : ZOPT_OK);
    zi_target_close(&t);
    zi_bundle_free(&bundle);
    return status;
}
