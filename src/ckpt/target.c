/* See target.h. The temporary names are FILE.tmp, FILE.tmp-1, ...: whatever has one of them, a
 * user's file or a living export's, stays as it is. */
#include "ckpt/target.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"
#include "ckpt/folder.h"

enum { MAX_NAMES = 100, SUFFIX_BYTES = sizeof ".tmp-99", MARK_BYTES = 24 };

/* What an unfinished export begins with: a header of no length, which no reader accepts. */
static const char mark[MARK_BYTES + 1] = "\0\0\0\0\0\0\0\0zopt: unfinished";

/* 1: the open folder is a checkpoint, finished or not, whatever the path to it is called. */
static int is_step(const zi_target *t)
{
    char real[PATH_MAX];
    const char *slash = realpath(t->folder, real) != NULL ? strrchr(real, '/') : NULL;
    uint64_t step;
    return slash != NULL && (zi_step_of(slash + 1, &step) || zi_step_tmp_of(slash + 1));
}

static zopt_status check_folder(const zi_target *t)
{
    const char *slash = strrchr(t->path, '/'), *name = slash != NULL ? slash + 1 : t->path;
    uint64_t *steps;
    size_t n;
    if (is_step(t))
        return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                       "%s: this would be a file in a checkpoint; export to somewhere else",
                       t->path);
    if (!zi_folder_uses(name))
        return ZOPT_OK;
    ZI_TRY(zi_folder_scan(t->fd, t->folder, &steps, &n));
    free(steps);
    return n == 0 ? ZOPT_OK
                  : ZI_FAIL(ZOPT_ERR_ARGUMENT,
                            "%s: directories of checkpoints use this name themselves; export to "
                            "somewhere else",
                            t->path);
}

zopt_status zi_target_open(const char *path, zi_target *out)
{
    struct stat info;
    *out = (zi_target){.path = path, .fd = -1, .lock = -1};
    if (strlen(path) + SUFFIX_BYTES > sizeof out->tmp)
        return ZI_FAIL(ZOPT_ERR_WRITE, "a path of %zu bytes is too long", strlen(path));
    if (lstat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                       "%s: is there and is not a plain file; export replaces no other", path);
    const char *slash = strrchr(path, '/');
    size_t n = slash == path ? 1 : slash != NULL ? (size_t)(slash - path) : 0;
    snprintf(out->folder, sizeof out->folder, "%.*s", n > 0 ? (int)n : 1, n > 0 ? path : ".");
    zi_target_name(out, 0);
    out->fd = open(out->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return out->fd >= 0 ? check_folder(out)
                        : zi_fail_errno(ZOPT_ERR_WRITE, out->folder, "cannot open");
}

void zi_target_name(zi_target *target, int64_t number)
{
    char *tmp = target->tmp;
    size_t n = strlen(target->path);
    memcpy(tmp, target->path, n);
    if (number == 0)
        snprintf(tmp + n, sizeof target->tmp - n, ".tmp");
    else
        snprintf(tmp + n, sizeof target->tmp - n, ".tmp-%" PRId64, number);
    const char *slash = strrchr(tmp, '/');
    target->name = slash != NULL ? slash + 1 : tmp;
}

/* 1: the open file is still what has the name. */
static int has_name(const zi_target *t, int fd)
{
    struct stat info, named;
    return fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
           fstatat(t->fd, t->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           info.st_dev == named.st_dev && info.st_ino == named.st_ino;
}

/* 1: the name was that of an export which was killed, and is free now. */
static int remove_dead(const zi_target *t)
{
    char first[MARK_BYTES];
    int fd = openat(t->fd, t->name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return 0;
    int dead = flock(fd, LOCK_EX | LOCK_NB) == 0 && has_name(t, fd) &&
               pread(fd, first, sizeof first, 0) == sizeof first &&
               memcmp(first, mark, sizeof first) == 0 && unlinkat(t->fd, t->name, 0) == 0;
    close(fd);
    return dead;
}

/* Locked before it is marked: nobody takes it for a dead one's. Where there are no locks it is not
 * marked. */
static zopt_status lock_and_mark(zi_target *t)
{
    zi_disk_file file;
    t->lock = openat(t->fd, t->name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (t->lock < 0 || flock(t->lock, LOCK_EX | LOCK_NB) != 0)
        return ZOPT_OK;
    ZI_TRY(zi_disk_open(t->fd, t->name, t->tmp, ZI_DISK_WRITE, &file));
    zopt_status status = zi_disk_write(&file, mark, MARK_BYTES, 0);
    zopt_status closed = zi_disk_close(&file);
    return status != ZOPT_OK ? status : closed;
}

zopt_status zi_target_create(zi_target *target, uint64_t bytes, int64_t *number)
{
    struct stat info;
    for (*number = 0; *number < MAX_NAMES; ++*number) {
        zi_target_name(target, *number);
        if (fstatat(target->fd, target->name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
            !remove_dead(target))
            continue;
        ZI_TRY(zi_disk_create(target->fd, target->name, target->tmp, ZI_DISK_PUBLIC, bytes));
        target->created = 1;
        return lock_and_mark(target);
    }
    return ZI_FAIL(ZOPT_ERR_WRITE, "%s.tmp to %s: all are there; remove what nobody needs",
                   target->path, target->name);
}

zopt_status zi_target_finish(zi_target *target)
{
    if (rename(target->tmp, target->path) != 0)
        return zi_fail_errno(ZOPT_ERR_WRITE, target->path, "cannot rename to it");
    target->created = 0;
    return fsync(target->fd) == 0 ? ZOPT_OK
                                  : zi_fail_errno(ZOPT_ERR_WRITE, target->folder, "fsync");
}

void zi_target_close(zi_target *target)
{
    if (target->created)
        (void)unlinkat(target->fd, target->name, 0);
    if (target->lock >= 0)
        close(target->lock);
    if (target->fd >= 0)
        close(target->fd);
    target->created = 0;
    target->fd = target->lock = -1;
}
