/* The collective write of a model file. Until the header is written the file begins with a zero
 * length, which no reader accepts; it gets its name only when every rank has synced its part. */
#include "ckpt/export.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "ckpt/safetensors.h"

enum { PIECE_ELEMS = 1 << 14 };

/* Data are written as they lie in memory. */
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian; this machine is not"
#endif

static zopt_status fail_errno(const char *what, const char *path)
{
    zopt_status status =
        errno == EACCES || errno == EPERM || errno == ELOOP ? ZOPT_ERR_PERMISSION : ZOPT_ERR_WRITE;
    return ZI_FAIL(status, "%s: %s: %s", path, what, strerror(errno));
}

static zopt_status write_at(int fd, const char *path, const void *data, size_t bytes, uint64_t at)
{
    const char *from = data;
    while (bytes > 0) {
        ssize_t written = pwrite(fd, from, bytes, (off_t)at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written == 0)
            errno = EIO;
        if (written <= 0)
            return fail_errno("write", path);
        from += written;
        at += (uint64_t)written;
        bytes -= (size_t)written;
    }
    return ZOPT_OK;
}

/* Rank 0: a new file of the full size, so that a full disk shows here. */
static zopt_status create_file(const char *path, uint64_t bytes, int *fd)
{
    if (unlink(path) != 0 && errno != ENOENT)
        return fail_errno("cannot replace", path);
    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (*fd < 0)
        return fail_errno("cannot create", path);
    int failed = posix_fallocate(*fd, 0, (off_t)bytes);
    if (failed == EOPNOTSUPP || failed == EINVAL) /* not on this file system */
        failed = ftruncate(*fd, (off_t)bytes) != 0 ? errno : 0;
    if (failed != 0) {
        errno = failed;
        return fail_errno("no room", path);
    }
    return ZOPT_OK;
}

static zopt_status open_file(const char *path, int *fd)
{
    *fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    return *fd < 0 ? fail_errno("cannot open what rank 0 created", path) : ZOPT_OK;
}

/* The pieces of one tensor that this rank owns. */
static zopt_status write_tensor(zi_zero *z, const zi_tensor *tensor, uint64_t data_at, int fd,
                                const char *path)
{
    float buffer[PIECE_ELEMS];
    for (uint64_t at = 0; at < tensor->n_elems;) {
        uint64_t room = tensor->n_elems - at;
        zi_piece piece =
            zi_layout_piece(&z->layout, tensor, at, at + (room < PIECE_ELEMS ? room : PIECE_ELEMS));
        size_t bytes = piece.n_elems * sizeof *buffer;
        if (piece.owner == z->comm->rank) {
            z->config.device->copy(NULL, buffer, z->master + piece.owned_at, bytes);
            ZI_TRY(z->config.device->wait(NULL));
            ZI_TRY(write_at(fd, path, buffer, bytes, data_at + at * sizeof *buffer));
        }
        at += piece.n_elems;
    }
    return ZOPT_OK;
}

/* Some file systems report a failed write only here. */
static zopt_status close_file(int *fd, const char *path)
{
    int failed = close(*fd);
    *fd = -1;
    return failed ? fail_errno("close", path) : ZOPT_OK;
}

/* Rank 0 keeps the file open, for the header. */
static zopt_status write_owned(zi_zero *z, const zi_safetensors *file, int *fd, const char *path)
{
    for (uint32_t i = 0; i < z->n_tensors; i++) /* NOLINTNEXTLINE: prepare() has set data_at */
        ZI_TRY(write_tensor(z, &z->tensors[i], file->data_at[i], *fd, path));
    if (fsync(*fd) != 0)
        return fail_errno("fsync", path);
    return z->comm->rank == 0 ? ZOPT_OK : close_file(fd, path);
}

static zopt_status sync_folder_of(const char *path)
{
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", path);
    const char *folder = dirname(copy);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno("cannot open", folder);
    zopt_status status = fsync(fd) != 0 ? fail_errno("fsync", folder) : ZOPT_OK;
    close(fd);
    return status;
}

/* Rank 0, when all parts are on disk: the header makes the file valid, the rename makes it seen. */
static zopt_status finish(const zi_safetensors *file, int *fd, const char *tmp, const char *path)
{
    ZI_TRY(write_at(*fd, tmp, file->header, file->header_bytes, 0));
    if (fsync(*fd) != 0)
        return fail_errno("fsync", tmp);
    ZI_TRY(close_file(fd, tmp));
    if (rename(tmp, path) != 0)
        return fail_errno("cannot rename to it", path);
    return sync_folder_of(path);
}

/* Every step is agreed before the next, so that no rank waits for one that has failed. */
static zopt_status write_agreed(zi_zero *z, const zi_safetensors *file, const char *tmp,
                                const char *path, int *fd, int *created)
{
    int first = z->comm->rank == 0;
    zopt_status mine = first ? create_file(tmp, file->file_bytes, fd) : ZOPT_OK;
    *created = *fd >= 0;
    ZI_TRY(zi_comm_agree(z->comm, mine));
    ZI_TRY(zi_comm_agree(z->comm, first ? ZOPT_OK : open_file(tmp, fd)));
    ZI_TRY(zi_comm_agree(z->comm, write_owned(z, file, fd, tmp)));
    return zi_comm_agree(z->comm, first ? finish(file, fd, tmp, path) : ZOPT_OK);
}

static zopt_status prepare(const zi_zero *z, const char *path, char *tmp, size_t tmp_bytes,
                           zi_safetensors *file)
{
    memset(file, 0, sizeof *file);
    int needed = snprintf(tmp, tmp_bytes, "%s.tmp", path);
    if (needed < 0 || (size_t)needed >= tmp_bytes)
        return ZI_FAIL(ZOPT_ERR_WRITE, "a path of %zu bytes is too long", strlen(path));
    return zi_safetensors_describe(z->tensors, z->n_tensors, file);
}

zopt_status zi_export_model(zi_zero *z, const char *path)
{
    char tmp[4096];
    zi_safetensors file;
    int fd = -1, created = 0;
    zopt_status status = zi_comm_agree(z->comm, prepare(z, path, tmp, sizeof tmp, &file));
    if (status == ZOPT_OK)
        status = write_agreed(z, &file, tmp, path, &fd, &created);
    if (fd >= 0)
        close(fd);
    if (status != ZOPT_OK && created)
        unlink(tmp);
    zi_safetensors_free(&file);
    return status;
}
