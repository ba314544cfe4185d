/* The lock of a directory of checkpoints: flock on the file `lock`, exclusive while the first rank
 * takes it, then shared by all ranks of the job, so that it is free when the last of them is gone,
 * however they went. Its text names the holder, for people. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/status.h"
#include "ckpt/disk.h"
#include "ckpt/folder.h"

/* Ranks outlive a killed mpirun by a second or so. */
enum { PATIENCE_MS = 3000, PAUSE_NS = 50000000 };

static int try_lock(int fd, int how, double until_ms)
{
    for (;;) {
        if (flock(fd, how | LOCK_NB) == 0)
            return 0;
        if ((errno != EWOULDBLOCK && errno != EINTR) || zi_now_ms() > until_ms)
            return -1;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
}

static zopt_status fail_locked(int fd, const char *path)
{
    char holder[256] = "";
    if (errno != EWOULDBLOCK)
        return zi_fail_errno(ZOPT_ERR_WRITE, path, "cannot lock");
    ssize_t n = pread(fd, holder, sizeof holder - 1, 0);
    holder[n > 0 ? strcspn(holder, "\n") : 0] = '\0';
    return ZI_FAIL(ZOPT_ERR_WRITE, "%s: another job saves here: %s", path,
                   holder[0] != '\0' ? holder : "it has not told its name");
}

static zopt_status name_holder(int fd, const char *path)
{
    char host[128] = "?", text[256];
    (void)gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "process %ld on %s\n", (long)getpid(), host);
    zi_disk_file file = {.fd = fd, .direct = -1, .path = path};
    if (ftruncate(fd, 0) != 0)
        return zi_fail_errno(ZOPT_ERR_WRITE, path, "cannot write its lock");
    return zi_disk_write(&file, text, (size_t)n, 0);
}

static zopt_status lock_first(int folder, const char *path, int fd,
                              zopt_status (*alone)(int folder, const char *path))
{
    if (try_lock(fd, LOCK_EX, zi_now_ms() + PATIENCE_MS) != 0)
        return fail_locked(fd, path);
    ZI_TRY(name_holder(fd, path));
    return alone(folder, path);
}

zopt_status zi_folder_lock(int folder, const char *path, int first,
                           zopt_status (*alone)(int folder, const char *path), int *lock)
{
    *lock = openat(folder, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (*lock < 0)
        return zi_fail_errno(ZOPT_ERR_WRITE, path, "cannot open its lock");
    zopt_status status = first ? lock_first(folder, path, *lock, alone) : ZOPT_OK;
    /* Going from exclusive to shared lets go for an instant, in which another job may come. */
    if (status == ZOPT_OK && try_lock(*lock, LOCK_SH, 0) != 0)
        status = fail_locked(*lock, path);
    if (status != ZOPT_OK) {
        close(*lock);
        *lock = -1;
    }
    return status;
}
