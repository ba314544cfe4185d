/* One file of a checkpoint on disk: created whole, written and read in aligned pieces past the page
 * cache where the file system allows that, synced once. Errors, with the path and the system's
 * text: ERR_PERMISSION where the system says so (a symbolic link in the way among it), else
 * ERR_WRITE or ERR_READ. Several ranks write one file. Next: writer.c, which writes behind. */
#ifndef ZI_CKPT_DISK_H
#define ZI_CKPT_DISK_H

#include <stddef.h>
#include <stdint.h>
#include <zopt/zopt.h>

enum { ZI_DISK_ALIGN = 4096, ZI_PATH_BYTES = 4096 };

typedef struct zi_disk_file {
    int fd;           /* -1: not open */
    int direct;       /* the same without page cache; -1: there is no such thing here */
    const char *path; /* for error texts, borrowed */
} zi_disk_file;

/* "%s: what: strerror(errno)" as ERR_PERMISSION, or as `status`. */
zopt_status zi_fail_errno(zopt_status status, const char *path, const char *what);

/* Make a file of this size in a folder (an open directory). It must not exist. All its room is
 * taken, so that a full disk shows here, and then there is no file. */
enum { ZI_DISK_PRIVATE = 0600, ZI_DISK_PUBLIC = 0666 };
zopt_status zi_disk_create(int folder, const char *name, const char *path, unsigned mode,
                           uint64_t bytes);

typedef enum zi_disk_mode { ZI_DISK_READ, ZI_DISK_WRITE } zi_disk_mode;
zopt_status zi_disk_open(int folder, const char *name, const char *path, zi_disk_mode mode,
                         zi_disk_file *out);

/* All of it, whatever signals come. Faster where data, `at` and bytes are multiples of
 * ZI_DISK_ALIGN. A read past the end is ERR_READ. */
zopt_status zi_disk_write(zi_disk_file *file, const void *data, size_t bytes, uint64_t at);
zopt_status zi_disk_read(zi_disk_file *file, void *data, size_t bytes, uint64_t at);

/* ERR_READ. */
zopt_status zi_disk_size(const zi_disk_file *file, uint64_t *bytes);

/* To the disk, and never again after a failure: what it lost stays lost. */
zopt_status zi_disk_sync(zi_disk_file *file);

/* Some file systems report a failed write only here. Fine on a file that is not open. */
zopt_status zi_disk_close(zi_disk_file *file);

/* A small file, all of it, NUL behind it; the caller frees it. ERR_DATA past max_bytes. */
zopt_status zi_disk_read_small(int folder, const char *name, const char *path, size_t max_bytes,
                               char **text, size_t *bytes);
/* Create, write, sync and close one. */
zopt_status zi_disk_write_small(int folder, const char *name, const char *path, const void *data,
                                size_t bytes);

#endif
