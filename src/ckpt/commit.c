/* The end of a save: all ranks have synced their pieces or say why not; rank 0 writes the checksums
 * and with them the headers, which make the files valid, and then gives the step its name. What
 * the rules no longer keep goes after that. Source: FACTS.md, "Collective commit". */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "ckpt/parts.h"

static void show(const zi_save *save, const char *name, char shown[ZI_PATH_BYTES])
{
    snprintf(shown, ZI_PATH_BYTES, "%.*s/%s", ZI_PATH_BYTES - ZI_FILE_NAME_BYTES - 1, save->shown,
             name);
}

static zopt_status write_header(const zi_bundle_file *part, zi_disk_file *file)
{
    uint64_t bytes;
    ZI_TRY(zi_disk_write(file, part->header, part->head.data_at, 0));
    ZI_TRY(zi_disk_sync(file));
    ZI_TRY(zi_disk_size(file, &bytes));
    if (bytes != part->head.bytes)
        return ZI_FAIL(ZOPT_ERR_WRITE, "%s: it has %llu bytes, not %llu", file->path,
                       (unsigned long long)bytes, (unsigned long long)part->head.bytes);
    return ZOPT_OK;
}

static zopt_status finish_part(const zi_save *save, const zi_bundle_file *part, uint64_t chain)
{
    char shown[ZI_PATH_BYTES];
    zi_disk_file file;
    show(save, part->name, shown);
    zi_seal_header(&part->head, part->header, save->hash + part->first_piece, chain);
    ZI_TRY(zi_disk_open(save->tmp, part->name, shown, ZI_DISK_WRITE, &file));
    zopt_status status = write_header(part, &file);
    zopt_status closed = zi_disk_close(&file);
    return status != ZOPT_OK ? status : closed;
}

static zopt_status write_indexes(const zi_save *save)
{
    for (int s = 0; s < ZI_N_STEMS; s++) {
        const char *json = save->bundle.index[s];
        char name[ZI_FILE_NAME_BYTES], shown[ZI_PATH_BYTES];
        if (json == NULL)
            continue;
        snprintf(name, sizeof name, "%s.safetensors.index.json", zi_stem_name[s]);
        show(save, name, shown);
        ZI_TRY(zi_disk_write_small(save->tmp, name, shown, json, strlen(json)));
    }
    return ZOPT_OK;
}

static zopt_status finish(const zi_ckpt *ckpt, const zi_save *save)
{
    uint64_t chain = 0;
    for (uint64_t i = 0; i < save->bundle.n_pieces; i++)
        chain = zi_seal_chain(chain, save->hash[i]);
    for (uint32_t f = 0; f < save->bundle.n_files; f++)
        ZI_TRY(finish_part(save, &save->bundle.file[f], chain));
    ZI_TRY(write_indexes(save));
    if (fsync(save->tmp) != 0)
        return zi_fail_errno(ZOPT_ERR_WRITE, save->shown, "fsync");
    return zi_folder_commit(ckpt->folder, ckpt->path, save->step);
}

zopt_status zi_save_commit(zi_ckpt *ckpt, zi_save *save)
{
    zi_comm *comm = ckpt->z->comm;
    ZI_TRY(zi_comm_agree(comm, zi_writer_finish(save->writer)));
    /* Each is one rank's, and zero elsewhere. */
    ZI_TRY(comm->ops->all_reduce(comm, ZI_SUM, (int64_t *)save->hash, save->bundle.n_pieces));
    ZI_TRY(zi_comm_agree(comm, comm->rank == 0 ? finish(ckpt, save) : ZOPT_OK));
    if (comm->rank == 0)
        zi_ckpt_prune(ckpt, save->step);
    return ZOPT_OK;
}
