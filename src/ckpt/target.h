/* Where an export goes: a file that is written under a temporary name beside it and renamed when it
 * is whole. Nothing that is there is lost, but a plain file of that name, and that only then. */
#ifndef ZI_CKPT_TARGET_H
#define ZI_CKPT_TARGET_H

#include "ckpt/disk.h"

typedef struct zi_target {
    char folder[ZI_PATH_BYTES], tmp[ZI_PATH_BYTES];
    const char *path; /* borrowed */
    const char *name; /* tmp without its folder */
    int fd;           /* of the folder; -1: not open */
    int created;      /* 1: tmp is this process's to remove */
    int lock;         /* on tmp, where it has created it; -1: none */
} zi_target;

/* Errors: ERR_ARGUMENT where `path` is there and no plain file, is in a checkpoint, or has a name
 * that a directory of checkpoints uses itself; ERR_WRITE. To be closed either way. */
zopt_status zi_target_open(const char *path, zi_target *out);
/* Make the file, of this size, under a temporary name that is free: tmp number *number. One that an
 * export left which was killed is removed: it is marked, and nobody locks it. The header, to be
 * written over the mark, makes the file valid. */
zopt_status zi_target_create(zi_target *target, uint64_t bytes, int64_t *number);
/* The same name for ranks that have not created it. */
void zi_target_name(zi_target *target, int64_t number);
/* Give it its name, on disk. */
zopt_status zi_target_finish(zi_target *target);
/* Remove what is not finished. */
void zi_target_close(zi_target *target);

#endif
