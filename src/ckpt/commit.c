/* The end of a save: all ranks have synced their pieces or say why not; rank 0 writes the checksums
 * and with them the headers, which make the files valid, and then gives the step its name. What
 * the rules no longer keep goes after that. A thread does it: a disk takes its time to delete, and
 * no step waits for it. Source: FACTS.md, "Collective commit". */
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

/* Of rank 0's thread. */
static zopt_status end(void *arg)
{
    zi_ckpt *ckpt = arg;
    zi_save *save = &ckpt->save;
    ZI_TRY(finish(ckpt, save));
    if (zi_ckpt_prune(ckpt, save->step) != ZOPT_OK)
        snprintf(save->not_pruned, sizeof save->not_pruned, "%s", zopt_last_error());
    return ZOPT_OK;
}

static int has_ended(void *background)
{
    return zi_background_is_done(background);
}

zopt_status zi_save_begin_end(zi_ckpt *ckpt, zi_save *save)
{
    zi_comm *comm = ckpt->z->comm;
    ZI_TRY(zi_meet_written(comm, save->writer));
    ZI_TRY(zi_comm_agree(comm, zi_writer_finish(save->writer)));
    /* Each is one rank's, and zero elsewhere. */
    ZI_TRY(comm->ops->all_reduce(comm, ZI_SUM, (int64_t *)save->hash, save->bundle.n_pieces));
    save->ends = 1;
    return zi_comm_agree(comm,
                         comm->rank == 0 ? zi_background_start(&save->ending, end, ckpt) : ZOPT_OK);
}

zopt_status zi_save_end(zi_ckpt *ckpt, zi_save *save)
{
    ZI_TRY(zi_meet_disks(ckpt->z->comm, has_ended, &save->ending));
    ZI_TRY(zi_comm_agree(ckpt->z->comm, zi_background_finish(&save->ending)));
    if (save->not_pruned[0] != '\0')
        zi_ckpt_warn(ckpt, "%s", save->not_pruned);
    return ZOPT_OK;
}
