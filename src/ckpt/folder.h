/* A directory of checkpoints, by one process:
 *
 *   lock               held by every rank of the job that saves here, while it lives
 *   latest             "step-00000123": the newest, as a hint for people and tools
 *   step-00000123/     whole, or it would not have its name
 *   step-00000124.tmp/ being written, or left by a job that died, or being deleted
 *
 * A scan of the names says what there is; `latest` never decides. Paths are for error texts, all
 * access goes through open directories and follows no symbolic links below them. */
#ifndef ZI_CKPT_FOLDER_H
#define ZI_CKPT_FOLDER_H

#include <stddef.h>
#include <stdint.h>
#include <zopt/zopt.h>

enum { ZI_STEP_NAME_BYTES = 40 };

/* "step-00000123", at least 8 digits; ".tmp" behind it. */
void zi_step_name(uint64_t step, char name[ZI_STEP_NAME_BYTES]);
void zi_step_tmp_name(uint64_t step, char name[ZI_STEP_NAME_BYTES]);
/* 1: exactly such a name, and *step is its step. */
int zi_step_of(const char *name, uint64_t *step);
int zi_step_tmp_of(const char *name);
/* 1: a name of something that a directory of checkpoints has. */
int zi_folder_uses(const char *name);

/* "runs/a/step-00000123/" is the directory runs/a and a step; 0: another path, which is the
 * directory itself. root has ZI_PATH_BYTES. */
int zi_step_split(const char *path, char *root, uint64_t *step);

/* Open a directory: ERR_READ; to write there: ERR_WRITE. ZI_FOLDER_MAKE: it is made first if it is
 * not there (its parent must be), which another rank has done for ZI_FOLDER_WRITE. */
typedef enum zi_folder_use { ZI_FOLDER_READ, ZI_FOLDER_WRITE, ZI_FOLDER_MAKE } zi_folder_use;
zopt_status zi_folder_open(const char *path, zi_folder_use use, int *fd);
/* Open a directory in it, which is there and must not be a symbolic link. */
zopt_status zi_folder_open_below(int folder, const char *path, const char *name, zi_folder_use use,
                                 int *fd);

/* All steps, newest first; *steps is the caller's to free. */
zopt_status zi_folder_scan(int folder, const char *path, uint64_t **steps, size_t *n);

/* ERR_READ: no step is there, with a hint at where it may be. */
zopt_status zi_folder_none(const char *path);

/* The step that `latest` names. ERR_DATA with the reason where it is missing, too long, no step
 * (a path, say) or a step that is not there. */
zopt_status zi_folder_latest(int folder, const char *path, uint64_t *step);
/* The same of the file's text; also for the fuzzer. */
zopt_status zi_latest_parse(const char *text, size_t bytes, const char *path, uint64_t *step);

/* Take the lock for this process; *lock is to be closed. The first rank comes first, and alone: it
 * waits a moment for a job that is just dying, then fails with ERR_WRITE and the holder's name. It
 * calls `alone` while nobody else can be there. The other ranks follow. */
zopt_status zi_folder_lock(int folder, const char *path, int first,
                           zopt_status (*alone)(int folder, const char *path), int *lock);

/* Remove what dead jobs left: *.tmp, with all that is in it but mounts. A symbolic link of such a
 * name stays, for zi_folder_begin to refuse. */
zopt_status zi_folder_clean(int folder, const char *path);

/* Make step-N.tmp, removing an old one, and open it. ERR_PERMISSION where it is a link. */
zopt_status zi_folder_begin(int folder, const char *path, uint64_t step, int *tmp);

/* Give step-N.tmp its name, replacing a step-N that is there, and move `latest`. When it returns,
 * both are on disk. */
zopt_status zi_folder_commit(int folder, const char *path, uint64_t step);

/* Remove step-N.tmp after a failure. Best effort. */
void zi_folder_abandon(int folder, uint64_t step);

/* Delete step-N; at no time is there half of it under its name. */
zopt_status zi_folder_delete(int folder, const char *path, uint64_t step);

/* keep[i] = 1 for those of n steps, newest first, that stay: the newest keep_last of them (0: all),
 * multiples of keep_every (0: none), and `validated`, the last that somebody has read back whole
 * (UINT64_MAX: none). Always the newest. Steps behind `committed`, the one that has just been saved
 * (UINT64_MAX: none), stay and do not count: the run went on from an older one, because these could
 * not be loaded. */
typedef struct zi_keep {
    uint64_t keep_last, keep_every, validated, committed;
} zi_keep;
void zi_folder_choose(const zi_keep *rules, const uint64_t *steps, size_t n, char *keep);

#endif
