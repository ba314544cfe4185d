/* See folder.h. Names, scan, `latest`, and the moves that make and unmake a step. The lock is in
 * folder_lock.c. */
#include "ckpt/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"
#include "ckpt/disk.h"

enum { LATEST_MAX_BYTES = 64, FIRST_ROOM = 64, MAX_DEPTH = 32 };

void zi_step_name(uint64_t step, char name[ZI_STEP_NAME_BYTES])
{
    snprintf(name, ZI_STEP_NAME_BYTES, "step-%08" PRIu64, step);
}

void zi_step_tmp_name(uint64_t step, char name[ZI_STEP_NAME_BYTES])
{
    snprintf(name, ZI_STEP_NAME_BYTES, "step-%08" PRIu64 ".tmp", step);
}

int zi_step_of(const char *name, uint64_t *step)
{
    char same[ZI_STEP_NAME_BYTES];
    if (strncmp(name, "step-", 5) != 0)
        return 0;
    *step = strtoull(name + 5, NULL, 10);
    zi_step_name(*step, same);
    return strcmp(name, same) == 0;
}

int zi_step_split(const char *path, char *root, uint64_t *step)
{
    snprintf(root, ZI_PATH_BYTES, "%s", path);
    size_t n = strlen(root);
    while (n > 1 && root[n - 1] == '/')
        root[--n] = '\0';
    char *slash = strrchr(root, '/');
    if (!zi_step_of(slash != NULL ? slash + 1 : root, step))
        return 0;
    if (slash == root)
        slash[1] = '\0';
    else if (slash != NULL)
        *slash = '\0';
    else
        snprintf(root, ZI_PATH_BYTES, ".");
    return 1;
}

/* What is not there is told as what it would have been, or as why another rank's is not. */
static zopt_status not_opened(const char *path, zi_folder_use use)
{
    int is_absent = errno == ENOENT || errno == ENOTDIR;
    if (use == ZI_FOLDER_READ)
        return zi_fail_errno(ZOPT_ERR_READ, path,
                             is_absent ? "there is no checkpoint" : "cannot open");
    return zi_fail_errno(ZOPT_ERR_WRITE, path,
                         is_absent && use == ZI_FOLDER_WRITE
                             ? "deleted, or not on a file system that all ranks share"
                             : "cannot open");
}

zopt_status zi_folder_open(const char *path, zi_folder_use use, int *fd)
{
    *fd = -1;
    if (use == ZI_FOLDER_MAKE && mkdir(path, 0777) != 0 && errno != EEXIST)
        return zi_fail_errno(ZOPT_ERR_WRITE, path, "cannot create");
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd >= 0 ? ZOPT_OK : not_opened(path, use);
}

zopt_status zi_folder_open_below(int folder, const char *path, const char *name, zi_folder_use use,
                                 int *fd)
{
    *fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd >= 0)
        return ZOPT_OK;
    struct stat info;
    char shown[ZI_PATH_BYTES];
    int error = errno;
    snprintf(shown, sizeof shown, "%s/%s", path, name);
    /* What the system calls a link here depends on its version. */
    if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode))
        error = ELOOP;
    errno = error;
    return not_opened(shown, use);
}

/* ------------------------------------------------------------------ names -------------------- */

static int newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

/* A second view on an open directory, from its first entry. */
static DIR *list(int folder)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL && fd >= 0)
        close(fd);
    return dir;
}

zopt_status zi_folder_scan(int folder, const char *path, uint64_t **steps, size_t *n)
{
    size_t room = 0;
    uint64_t step;
    *steps = NULL;
    *n = 0;
    DIR *dir = list(folder);
    if (dir == NULL)
        return zi_fail_errno(ZOPT_ERR_READ, path, "cannot list");
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (!zi_step_of(entry->d_name, &step))
            continue;
        if (*n == room) {
            room = room > 0 ? 2 * room : FIRST_ROOM;
            uint64_t *more = realloc(*steps, room * sizeof *more);
            if (more == NULL) {
                closedir(dir);
                free(*steps);
                *steps = NULL;
                return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for a list of %zu steps", path,
                               room);
            }
            *steps = more;
        }
        (*steps)[(*n)++] = step;
    }
    closedir(dir);
    if (*n > 0)
        qsort(*steps, *n, sizeof **steps, newest_first);
    return ZOPT_OK;
}

zopt_status zi_folder_none(const char *path)
{
    char other[ZI_PATH_BYTES];
    struct stat info;
    uint64_t step;
    if (zi_step_split(path, other, &step))
        return ZI_FAIL(ZOPT_ERR_READ, "%s: there is no checkpoint in it; it is one of %s", path,
                       other);
    snprintf(other, sizeof other, "%.*s/checkpoints", (int)(sizeof other - sizeof "/checkpoints"),
             path);
    if (stat(other, &info) == 0 && S_ISDIR(info.st_mode))
        return ZI_FAIL(ZOPT_ERR_READ, "%s: there is no checkpoint; look in %s", path, other);
    return ZI_FAIL(ZOPT_ERR_READ, "%s: there is no checkpoint", path);
}

zopt_status zi_latest_parse(const char *text, size_t bytes, const char *path, uint64_t *step)
{
    char name[LATEST_MAX_BYTES + 1] = "";
    *step = 0;
    if (bytes > 0 && text[bytes - 1] == '\n')
        bytes--;
    if (bytes > LATEST_MAX_BYTES)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s/latest: %zu bytes are no name of a step", path, bytes);
    if (bytes > 0)
        memcpy(name, text, bytes);
    if (strlen(name) != bytes || !zi_step_of(name, step))
        return ZI_FAIL(ZOPT_ERR_DATA, "%s/latest: '%s' is no name of a step", path, name);
    return ZOPT_OK;
}

zopt_status zi_folder_latest(int folder, const char *path, uint64_t *step)
{
    char shown[ZI_PATH_BYTES], name[ZI_STEP_NAME_BYTES], *text;
    size_t bytes;
    struct stat info;
    snprintf(shown, sizeof shown, "%s/latest", path);
    if (zi_disk_read_small(folder, "latest", shown, LATEST_MAX_BYTES, &text, &bytes) != ZOPT_OK)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s", zopt_last_error());
    zopt_status status = zi_latest_parse(text, bytes, path, step);
    free(text);
    ZI_TRY(status);
    zi_step_name(*step, name);
    if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s/latest: %s is not there", path, name);
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ making and unmaking ------ */

/* What is mounted there lies somewhere else. */
static int is_mounted(int fd)
{
    struct statx info;
    return statx(fd, "", AT_EMPTY_PATH, 0, &info) == 0 &&
           (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

/* Remove a directory with all that it holds, folders of others' making to that depth, each of which
 * keeps a descriptor. Links are removed and never followed, and mounts stay: nothing outside is
 * touched. */
static int remove_below(int folder, const char *name, int depth)
{
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 && !is_mounted(fd) ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            unlinkat(dirfd(dir), entry->d_name, 0) != 0 && depth > 0)
            (void)remove_below(dirfd(dir), entry->d_name, depth - 1);
    closedir(dir);
    return unlinkat(folder, name, AT_REMOVEDIR);
}

static int remove_folder(int folder, const char *name)
{
    return remove_below(folder, name, MAX_DEPTH);
}

int zi_step_tmp_of(const char *name)
{
    char plain[ZI_STEP_NAME_BYTES];
    uint64_t step;
    size_t length = strlen(name);
    if (length < 4 || length - 4 >= sizeof plain || strcmp(name + length - 4, ".tmp") != 0)
        return 0;
    snprintf(plain, sizeof plain, "%.*s", (int)(length - 4), name);
    return zi_step_of(plain, &step);
}

static int is_tmp(const char *name)
{
    return strcmp(name, "latest.tmp") == 0 || zi_step_tmp_of(name);
}

int zi_folder_uses(const char *name)
{
    uint64_t step;
    return strcmp(name, "lock") == 0 || strcmp(name, "latest") == 0 || is_tmp(name) ||
           zi_step_of(name, &step);
}

zopt_status zi_folder_clean(int folder, const char *path)
{
    DIR *dir = list(folder);
    if (dir == NULL)
        return zi_fail_errno(ZOPT_ERR_WRITE, path, "cannot list");
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        struct stat info;
        if (!is_tmp(entry->d_name) ||
            fstatat(folder, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISDIR(info.st_mode))
            (void)remove_folder(folder, entry->d_name);
        else if (S_ISREG(info.st_mode))
            (void)unlinkat(folder, entry->d_name, 0);
    }
    closedir(dir);
    return ZOPT_OK;
}

zopt_status zi_folder_begin(int folder, const char *path, uint64_t step, int *tmp)
{
    char name[ZI_STEP_NAME_BYTES], shown[ZI_PATH_BYTES];
    zi_step_tmp_name(step, name);
    snprintf(shown, sizeof shown, "%s/%s", path, name);
    *tmp = -1;
    (void)remove_folder(folder, name);
    if (mkdirat(folder, name, 0700) != 0) {
        struct stat info;
        int is_link =
            fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
        int is_left = !is_link && errno == EEXIST;
        errno = is_link ? ELOOP : errno;
        return zi_fail_errno(ZOPT_ERR_WRITE, shown,
                             is_left ? "cannot create: what is there cannot be removed, or is no "
                                       "folder; remove it by hand"
                                     : "cannot create");
    }
    return zi_folder_open_below(folder, path, name, ZI_FOLDER_WRITE, tmp);
}

static zopt_status sync_folder(int folder, const char *path)
{
    return fsync(folder) == 0 ? ZOPT_OK : zi_fail_errno(ZOPT_ERR_WRITE, path, "fsync");
}

/* Where a step of that name is there already (a damaged one, that a restarted job came to again),
 * the two change places at once; where the file system cannot, the old one steps aside first. */
static int give_name(int folder, const char *tmp, const char *name)
{
    static const char aside[] = "step-18446744073709551615.tmp"; /* no run comes to that step */
    if (renameat(folder, tmp, folder, name) == 0)
        return 0;
    if (errno != EEXIST && errno != ENOTEMPTY)
        return -1;
    if (renameat2(folder, tmp, folder, name, RENAME_EXCHANGE) == 0) {
        (void)remove_folder(folder, tmp);
        return 0;
    }
    (void)remove_folder(folder, aside);
    if (renameat(folder, name, folder, aside) != 0)
        return -1;
    if (renameat(folder, tmp, folder, name) != 0) {
        int error = errno;
        (void)renameat(folder, aside, folder, name);
        errno = error;
        return -1;
    }
    (void)remove_folder(folder, aside);
    return 0;
}

static zopt_status move_latest(int folder, const char *path, const char *name)
{
    char shown[ZI_PATH_BYTES], text[ZI_STEP_NAME_BYTES + 1];
    snprintf(shown, sizeof shown, "%s/latest.tmp", path);
    size_t bytes = (size_t)snprintf(text, sizeof text, "%s\n", name);
    (void)unlinkat(folder, "latest.tmp", 0);
    zopt_status status = zi_disk_write_small(folder, "latest.tmp", shown, text, bytes);
    if (status == ZOPT_OK && renameat(folder, "latest.tmp", folder, "latest") != 0)
        status = zi_fail_errno(ZOPT_ERR_WRITE, shown, "cannot rename to latest");
    if (status != ZOPT_OK)
        (void)unlinkat(folder, "latest.tmp", 0);
    return status == ZOPT_OK ? sync_folder(folder, path) : status;
}

zopt_status zi_folder_commit(int folder, const char *path, uint64_t step)
{
    char tmp[ZI_STEP_NAME_BYTES], name[ZI_STEP_NAME_BYTES], shown[ZI_PATH_BYTES];
    zi_step_tmp_name(step, tmp);
    zi_step_name(step, name);
    snprintf(shown, sizeof shown, "%s/%s", path, tmp);
    if (give_name(folder, tmp, name) != 0)
        return zi_fail_errno(ZOPT_ERR_WRITE, shown, "cannot rename to its step");
    ZI_TRY(sync_folder(folder, path));
    return move_latest(folder, path, name);
}

void zi_folder_abandon(int folder, uint64_t step)
{
    char name[ZI_STEP_NAME_BYTES];
    zi_step_tmp_name(step, name);
    (void)remove_folder(folder, name);
}

zopt_status zi_folder_delete(int folder, const char *path, uint64_t step)
{
    char tmp[ZI_STEP_NAME_BYTES], name[ZI_STEP_NAME_BYTES], shown[ZI_PATH_BYTES];
    zi_step_tmp_name(step, tmp);
    zi_step_name(step, name);
    snprintf(shown, sizeof shown, "%s/%s", path, name);
    (void)remove_folder(folder, tmp);
    if (renameat(folder, name, folder, tmp) != 0 || remove_folder(folder, tmp) != 0)
        return zi_fail_errno(ZOPT_ERR_WRITE, shown, "cannot delete");
    return ZOPT_OK;
}

void zi_folder_choose(const zi_keep *rules, const uint64_t *steps, size_t n, char *keep)
{
    size_t ahead = 0;
    while (ahead < n && steps[ahead] > rules->committed)
        keep[ahead++] = 1;
    for (size_t i = ahead; i < n; i++)
        keep[i] = i == ahead || rules->keep_last == 0 || i - ahead < rules->keep_last ||
                  (rules->keep_every > 0 && steps[i] % rules->keep_every == 0) ||
                  steps[i] == rules->validated;
}
