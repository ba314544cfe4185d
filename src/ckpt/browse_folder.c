/* Directories of checkpoints for one process without a handle: their steps, and pruning. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/status.h"
#include "ckpt/disk.h"
#include "ckpt/folder.h"

zopt_status zopt_checkpoint_list(const char *dir, void (*each)(void *arg, uint64_t step), void *arg)
{
    uint64_t *steps;
    size_t n;
    int folder;
    if (dir == NULL || each == NULL)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_checkpoint_list: an argument is NULL");
    ZI_TRY(zi_folder_open(dir, ZI_FOLDER_READ, &folder));
    zopt_status status = zi_folder_scan(folder, dir, &steps, &n);
    close(folder);
    for (size_t i = 0; i < n; i++)
        each(arg, steps[i]);
    free(steps);
    return status;
}

/* The newest that can be verified. */
static zopt_status find_valid(const char *dir, const uint64_t *steps, size_t n, uint64_t *valid)
{
    for (size_t i = 0; i < n; i++) {
        char name[ZI_STEP_NAME_BYTES], path[ZI_PATH_BYTES];
        zopt_checkpoint *c;
        zi_step_name(steps[i], name);
        snprintf(path, sizeof path, "%.*s/%s", (int)(sizeof path - sizeof name - 1), dir, name);
        zopt_status status = zopt_checkpoint_open(path, &c);
        if (status == ZOPT_OK)
            status = zopt_checkpoint_verify(c);
        zopt_checkpoint_close(c);
        *valid = steps[i];
        if (status == ZOPT_OK)
            return ZOPT_OK;
    }
    return ZI_FAIL(ZOPT_ERR_DATA, "%s: none of %zu checkpoints can be verified: all are kept", dir,
                   n);
}

/* Before anything is made there. */
static zopt_status need_steps(int folder, const char *dir)
{
    uint64_t *steps;
    size_t n;
    ZI_TRY(zi_folder_scan(folder, dir, &steps, &n));
    free(steps);
    return n > 0 ? ZOPT_OK : zi_folder_none(dir);
}

typedef struct pruning {
    zi_keep rules;
    int dry_run;
    void (*each)(void *arg, uint64_t step);
    void *arg;
} pruning;

static zopt_status prune(int folder, const char *dir, pruning *p)
{
    uint64_t *steps;
    size_t n;
    ZI_TRY(zi_folder_scan(folder, dir, &steps, &n));
    char *keep = malloc(n + 1);
    zopt_status status = keep != NULL ? ZOPT_OK : ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory", dir);
    if (status == ZOPT_OK && n > 0)
        status = find_valid(dir, steps, n, &p->rules.validated);
    if (status == ZOPT_OK && keep != NULL)
        zi_folder_choose(&p->rules, steps, n, keep);
    for (size_t i = n; i-- > 0 && status == ZOPT_OK && keep != NULL;) { /* the oldest first */
        if (keep[i])
            continue;
        if (p->each != NULL)
            p->each(p->arg, steps[i]);
        if (!p->dry_run)
            status = zi_folder_delete(folder, dir, steps[i]);
    }
    free(keep);
    free(steps);
    return status;
}

zopt_status zopt_checkpoint_prune(const char *dir, uint64_t keep_last, uint64_t keep_every,
                                  int dry_run, void (*each)(void *arg, uint64_t step), void *arg)
{
    pruning p = {.rules = {keep_last, keep_every, UINT64_MAX, UINT64_MAX},
                 .dry_run = dry_run,
                 .each = each,
                 .arg = arg};
    int folder, lock = -1;
    if (dir == NULL || keep_last == 0)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, dir == NULL ? "zopt_checkpoint_prune: dir is NULL"
                                                      : "zopt_checkpoint_prune: keep_last is 0");
    ZI_TRY(zi_folder_open(dir, ZI_FOLDER_READ, &folder));
    zopt_status status = need_steps(folder, dir);
    if (status == ZOPT_OK && !dry_run)
        status = zi_folder_lock(folder, dir, 1, zi_folder_clean, &lock);
    if (status == ZOPT_OK)
        status = prune(folder, dir, &p);
    if (lock >= 0)
        close(lock);
    close(folder);
    return status;
}
