/* See checkpoint.h. The library locks the directory, finds the newest whole checkpoint and compares
 * configurations; this file says which directory, when, and what must not be mixed. */
#include "train/checkpoint.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/fail.h"
#include "train/rundir.h"

/* The newest step that a directory has a checkpoint of, by the names that the library gives; 0:
 * none. */
static uint64_t newest_in(const char *path)
{
    uint64_t newest = 0;
    DIR *folder = opendir(path);
    if (folder == NULL)
        return 0;
    for (struct dirent *e = readdir(folder); e != NULL; e = readdir(folder)) {
        char name[32];
        unsigned long long step;
        if (sscanf(e->d_name, "step-%llu", &step) != 1)
            continue;
        snprintf(name, sizeof name, "step-%08llu", step);
        if (strcmp(name, e->d_name) == 0 && step > newest)
            newest = step;
    }
    closedir(folder);
    return newest;
}

/* Checkpoints of another run, or of a later step, would be gone on from the next time. */
static zopt_status refuse_newer(const trainer *t, const char *path)
{
    uint64_t newest = t->rank == 0 ? newest_in(path) : 0;
    if (newest <= t->done)
        return ZOPT_OK;
    return train_fail(ZOPT_ERR_WRITE,
                      "%s has a checkpoint of step %llu already, which this run, beginning after "
                      "step %llu, would be mixed with: go on with --resume auto, or remove it",
                      path, (unsigned long long)newest, (unsigned long long)t->done);
}

static zopt_status load(trainer *t, const char *path)
{
    const char *from = t->request->resume;
    int resumed = 0;
    int is_auto = from == NULL || strcmp(from, "auto") == 0;
    if (is_auto)
        TRAIN_ZOPT(zopt_resume(t->z, path, &resumed));
    else if (strcmp(from, "never") != 0)
        TRAIN_ZOPT(zopt_load(t->z, from));
    t->done = zopt_steps(t->z);
    /* What is newer than the one that "auto" took is damaged, and will be saved anew. */
    return is_auto ? ZOPT_OK : trainer_agree(t, refuse_newer(t, path));
}

zopt_status checkpoint_resume(trainer *t)
{
    char path[PATH_MAX];
    rundir_checkpoints(t->out, path);
    TRAIN_TRY(load(t, path));
    if (t->done > (uint64_t)t->s.steps)
        return train_fail(ZOPT_ERR_CONFIG,
                          "the checkpoint is of step %llu, and train_steps is %lld",
                          (unsigned long long)t->done, (long long)t->s.steps);
    return ZOPT_OK;
}

static zopt_status save(trainer *t, uint64_t step)
{
    char path[PATH_MAX];
    rundir_checkpoints(t->out, path);
    TRAIN_ZOPT(zopt_save(t->z, path));
    t->saved = step;
    return ZOPT_OK;
}

zopt_status checkpoint_after(trainer *t, uint64_t step)
{
    uint64_t interval = (uint64_t)t->s.checkpoint_interval;
    if (interval == 0 || (step % interval != 0 && step != (uint64_t)t->s.steps))
        return ZOPT_OK;
    return save(t, step);
}

zopt_status checkpoint_last(trainer *t, uint64_t step)
{
    if (t->saved != step)
        TRAIN_TRY(save(t, step));
    TRAIN_ZOPT(zopt_save_wait(t->z));
    return ZOPT_OK;
}
