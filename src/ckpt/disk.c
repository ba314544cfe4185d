/* See disk.h. A file is open twice where direct I/O works: aligned runs go one way, and tails the
 * other, which page cache and disk keep apart because they never share a block. */
#include "ckpt/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"

/* Data are written as they lie in memory. */
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian; this machine is not"
#endif

zopt_status zi_fail_errno(zopt_status status, const char *path, const char *what)
{
    if (errno == EACCES || errno == EPERM || errno == ELOOP || errno == EROFS)
        status = ZOPT_ERR_PERMISSION;
    return ZI_FAIL(status, "%s: %s: %s", path, what, strerror(errno));
}

/* Past the process's limit on file sizes a write raises a signal that would end it, and fails with
 * EFBIG: this is for the failure. */
static void hold_signal(sigset_t *before)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &set, before);
}

static void release_signal(const sigset_t *before)
{
    sigset_t set;
    int error = errno;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    if (!sigismember(before, SIGXFSZ))
        while (sigtimedwait(&set, NULL, &(struct timespec){0}) == SIGXFSZ)
            ;
    pthread_sigmask(SIG_SETMASK, before, NULL);
    errno = error;
}

static zopt_status take_room(int fd, const char *path, uint64_t bytes)
{
    sigset_t before;
    int failed;
    hold_signal(&before);
    do
        failed = posix_fallocate(fd, 0, (off_t)bytes);
    while (failed == EINTR);
    if (failed == EOPNOTSUPP || failed == EINVAL) /* not on this file system */
        failed = ftruncate(fd, (off_t)bytes) != 0 ? errno : 0;
    release_signal(&before);
    errno = failed;
    return failed == 0 ? ZOPT_OK : zi_fail_errno(ZOPT_ERR_WRITE, path, "no room");
}

zopt_status zi_disk_create(int folder, const char *name, const char *path, unsigned mode,
                           uint64_t bytes)
{
    zi_disk_file file = {.direct = -1, .path = path};
    file.fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (file.fd < 0)
        return zi_fail_errno(ZOPT_ERR_WRITE, path, "cannot create");
    zopt_status status = bytes > 0 ? take_room(file.fd, path, bytes) : ZOPT_OK;
    zopt_status closed = zi_disk_close(&file);
    status = status != ZOPT_OK ? status : closed;
    if (status != ZOPT_OK)
        (void)unlinkat(folder, name, 0);
    return status;
}

zopt_status zi_disk_open(int folder, const char *name, const char *path, zi_disk_mode mode,
                         zi_disk_file *out)
{
    int flags = (mode == ZI_DISK_READ ? O_RDONLY : O_WRONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    struct stat info;
    *out = (zi_disk_file){.fd = openat(folder, name, flags), .direct = -1, .path = path};
    zopt_status status = mode == ZI_DISK_READ ? ZOPT_ERR_READ : ZOPT_ERR_WRITE;
    if (out->fd < 0)
        return zi_fail_errno(status, path, "cannot open");
    if (fstat(out->fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        (void)zi_disk_close(out);
        return ZI_FAIL(status, "%s: not a plain file", path);
    }
    out->direct = openat(folder, name, flags | O_DIRECT);
    return ZOPT_OK;
}

/* How much of [at, at + bytes) goes past the page cache. */
static size_t direct_bytes(const zi_disk_file *file, const void *data, size_t bytes, uint64_t at)
{
    if (file->direct < 0 || (uintptr_t)data % ZI_DISK_ALIGN != 0 || at % ZI_DISK_ALIGN != 0)
        return 0;
    return bytes / ZI_DISK_ALIGN * ZI_DISK_ALIGN;
}

/* Some file systems open files for direct I/O and then do not do it. 1: it was that; now it is as
 * if there were none. */
static int no_direct(zi_disk_file *file, int fd)
{
    if (fd != file->direct || errno != EINVAL)
        return 0;
    close(file->direct);
    file->direct = -1;
    return 1;
}

static zopt_status write_all(zi_disk_file *file, const char *from, size_t bytes, uint64_t at)
{
    while (bytes > 0) {
        size_t direct = direct_bytes(file, from, bytes, at);
        int fd = direct > 0 ? file->direct : file->fd;
        ssize_t written = pwrite(fd, from, direct > 0 ? direct : bytes, (off_t)at);
        if (written < 0 && (errno == EINTR || no_direct(file, fd)))
            continue;
        if (written == 0)
            errno = EIO;
        if (written <= 0)
            return zi_fail_errno(ZOPT_ERR_WRITE, file->path, "write");
        from += written;
        at += (uint64_t)written;
        bytes -= (size_t)written;
    }
    return ZOPT_OK;
}

zopt_status zi_disk_write(zi_disk_file *file, const void *data, size_t bytes, uint64_t at)
{
    sigset_t before;
    hold_signal(&before);
    zopt_status status = write_all(file, data, bytes, at);
    release_signal(&before);
    return status;
}

zopt_status zi_disk_read(zi_disk_file *file, void *data, size_t bytes, uint64_t at)
{
    char *to = data;
    while (bytes > 0) {
        size_t direct = direct_bytes(file, to, bytes, at);
        int fd = direct > 0 ? file->direct : file->fd;
        ssize_t got = pread(fd, to, direct > 0 ? direct : bytes, (off_t)at);
        if (got < 0 && (errno == EINTR || no_direct(file, fd)))
            continue;
        if (got < 0)
            return zi_fail_errno(ZOPT_ERR_READ, file->path, "read");
        if (got == 0)
            return ZI_FAIL(ZOPT_ERR_READ, "%s: ends at byte %llu, %zu early", file->path,
                           (unsigned long long)at, bytes);
        to += got;
        at += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return ZOPT_OK;
}

zopt_status zi_disk_size(const zi_disk_file *file, uint64_t *bytes)
{
    struct stat info;
    if (fstat(file->fd, &info) != 0)
        return zi_fail_errno(ZOPT_ERR_READ, file->path, "fstat");
    *bytes = (uint64_t)info.st_size;
    return ZOPT_OK;
}

zopt_status zi_disk_sync(zi_disk_file *file)
{
    return fsync(file->fd) == 0 ? ZOPT_OK : zi_fail_errno(ZOPT_ERR_WRITE, file->path, "fsync");
}

zopt_status zi_disk_close(zi_disk_file *file)
{
    int fd = file->fd, failed = 0;
    if (file->direct >= 0)
        failed |= close(file->direct);
    if (fd >= 0)
        failed |= close(fd);
    file->fd = file->direct = -1;
    return failed == 0 ? ZOPT_OK : zi_fail_errno(ZOPT_ERR_WRITE, file->path, "close");
}

static zopt_status read_all(zi_disk_file *file, size_t max_bytes, char **text, size_t *bytes)
{
    uint64_t size = 0; /* for compilers that lose track */
    ZI_TRY(zi_disk_size(file, &size));
    if (size > max_bytes)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: %llu bytes, more than %zu", file->path,
                       (unsigned long long)size, max_bytes);
    *text = malloc((size_t)size + 1);
    if (*text == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for %llu bytes", file->path,
                       (unsigned long long)size);
    *bytes = (size_t)size;
    (*text)[size] = '\0';
    return zi_disk_read(file, *text, (size_t)size, 0);
}

zopt_status zi_disk_read_small(int folder, const char *name, const char *path, size_t max_bytes,
                               char **text, size_t *bytes)
{
    zi_disk_file file;
    *text = NULL;
    ZI_TRY(zi_disk_open(folder, name, path, ZI_DISK_READ, &file));
    zopt_status status = read_all(&file, max_bytes, text, bytes);
    (void)zi_disk_close(&file);
    if (status != ZOPT_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

zopt_status zi_disk_write_small(int folder, const char *name, const char *path, const void *data,
                                size_t bytes)
{
    zi_disk_file file;
    ZI_TRY(zi_disk_create(folder, name, path, ZI_DISK_PRIVATE, bytes));
    ZI_TRY(zi_disk_open(folder, name, path, ZI_DISK_WRITE, &file));
    zopt_status status = zi_disk_write(&file, data, bytes, 0);
    if (status == ZOPT_OK)
        status = zi_disk_sync(&file);
    zopt_status closed = zi_disk_close(&file);
    return status != ZOPT_OK ? status : closed;
}
