/* Claiming a directory of checkpoints for the life of the handle: made if it is not there, locked
 * by every rank, cleaned of what dead jobs left; and deleting what its rules no longer keep. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/status.h"
#include "ckpt/parts.h"

zopt_status zi_same_everywhere(zi_comm *comm, uint64_t value, const char *what)
{
    int64_t most[2] = {(int64_t)(value >> 1), -(int64_t)(value >> 1)};
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MAX, most, 2));
    if (most[0] == -most[1])
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_DISAGREE, "ranks disagree on %s", what);
}

static void release(zi_ckpt *ckpt)
{
    if (ckpt->lock >= 0)
        close(ckpt->lock);
    if (ckpt->folder >= 0)
        close(ckpt->folder);
    ckpt->folder = ckpt->lock = -1;
    ckpt->path[0] = '\0';
}

static zopt_status take(zi_ckpt *ckpt, const char *path)
{
    int first = ckpt->z->comm->rank == 0;
    ZI_TRY(zi_folder_open(path, first ? ZI_FOLDER_MAKE : ZI_FOLDER_WRITE, &ckpt->folder));
    return zi_folder_lock(ckpt->folder, path, first, zi_folder_clean, &ckpt->lock);
}

zopt_status zi_ckpt_claim(zi_ckpt *ckpt, const char *path)
{
    zi_comm *comm = ckpt->z->comm;
    int first = comm->rank == 0;
    zopt_status mine =
        strlen(path) + ZI_STEP_NAME_BYTES + ZI_FILE_NAME_BYTES < ZI_PATH_BYTES
            ? ZOPT_OK
            : ZI_FAIL(ZOPT_ERR_WRITE, "a path of %zu bytes is too long", strlen(path));
    ZI_TRY(zi_comm_agree(comm, mine));
    ZI_TRY(
        zi_same_everywhere(comm, XXH3_64bits(path, strlen(path)), "the directory of checkpoints"));
    if (strcmp(ckpt->path, path) == 0)
        return ZOPT_OK;
    release(ckpt);
    zopt_status status = zi_comm_agree(comm, first ? take(ckpt, path) : ZOPT_OK);
    if (status == ZOPT_OK)
        status = zi_comm_agree(comm, first ? ZOPT_OK : take(ckpt, path));
    if (status != ZOPT_OK) {
        release(ckpt);
        return status;
    }
    snprintf(ckpt->path, sizeof ckpt->path, "%s", path);
    return ZOPT_OK;
}

zopt_status zi_ckpt_prune(const zi_ckpt *ckpt, uint64_t committed)
{
    const zi_keep rules = {ckpt->config.keep_last, ckpt->config.keep_every, ckpt->validated,
                           committed};
    zopt_status status = ZOPT_OK;
    char why[512] = "";
    uint64_t *steps;
    size_t n;
    ZI_TRY(zi_folder_scan(ckpt->folder, ckpt->path, &steps, &n));
    char *keep = malloc(n + 1);
    if (keep != NULL)
        zi_folder_choose(&rules, steps, n, keep);
    for (size_t i = 0; keep != NULL && i < n; i++) {
        zopt_status deleted =
            keep[i] ? ZOPT_OK : zi_folder_delete(ckpt->folder, ckpt->path, steps[i]);
        if (deleted != ZOPT_OK && status == ZOPT_OK) {
            status = deleted;
            snprintf(why, sizeof why, "%s", zopt_last_error());
        }
    }
    free(keep);
    free(steps);
    return status == ZOPT_OK ? ZOPT_OK : ZI_FAIL(status, "%s", why);
}
