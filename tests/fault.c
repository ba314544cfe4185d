/* Preloaded into a program: makes a system call on a checkpoint's files fail, be cut short or be
 * the last thing that the process does. Everything else is left alone.
 *
 * ZOPT_FAULT="CALL WHAT N[;CALL WHAT N]...": CALL is pwrite, pread, fsync, close, fallocate,
 * openat, renameat or renameat2; WHAT is an errno (a number), "short" (half of the bytes) or "kill"
 * (SIGKILL before it); N is which call, from 1, or 0: every other one. "cut": the file is cut in
 * half first. ZOPT_FAULT_COUNT=FILE: append the number of the first one's calls. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FAULTS = 4 };
static atomic_int n_calls[MAX_FAULTS];

/* Is this descriptor a checkpoint's? */
static int is_ours(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 2);
    if (n < 0)
        return 0;
    path[n] = '/'; /* the directory itself is, too */
    path[n + 1] = '\0';
    return strstr(path, "/zopt-ckpt/") != NULL;
}

static int cut(int fd)
{
    struct stat info;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (fstat(fd, &info) != 0 || truncate(link, info.st_size / 2) != 0)
        abort();
    return 0;
}

/* What fault i does to this call. 0: nothing; 1: half of it is done; else it has failed with errno
 * set. */
static int fault_of(int i, const char *spec, const char *call, int fd)
{
    char want[16], what[16];
    int n;
    if (sscanf(spec, "%15s %15s %d", want, what, &n) != 3 || strcmp(want, call) != 0 ||
        !is_ours(fd))
        return 0;
    int k = ++n_calls[i];
    if (n != 0 ? k != n : k % 2 == 0)
        return 0;
    if (strcmp(what, "kill") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(what, "short") == 0)
        return 1;
    if (strcmp(what, "cut") == 0)
        return cut(fd);
    errno = atoi(what);
    return 2;
}

/* The first fault that does something to this call. */
static int fault(const char *call, int fd)
{
    const char *spec = getenv("ZOPT_FAULT");
    int how = 0;
    for (int i = 0; spec != NULL && how == 0 && i < MAX_FAULTS; i++) {
        how = fault_of(i, spec, call, fd);
        spec = strchr(spec, ';');
        spec = spec != NULL ? spec + 1 : NULL;
    }
    return how;
}

__attribute__((destructor)) static void tell(void)
{
    const char *path = getenv("ZOPT_FAULT_COUNT");
    FILE *file = path != NULL ? fopen(path, "a") : NULL;
    if (file == NULL)
        return;
    fprintf(file, "%d\n", n_calls[0]);
    fclose(file);
}

#define REAL(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

static size_t part(size_t bytes)
{
    return bytes > 1 ? bytes / 2 : bytes;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    int how = fault("pwrite", fd);
    return how == 2 ? -1 : REAL(pwrite)(fd, data, how == 1 ? part(bytes) : bytes, at);
}

ssize_t pread(int fd, void *data, size_t bytes, off_t at)
{
    int how = fault("pread", fd);
    return how == 2 ? -1 : REAL(pread)(fd, data, how == 1 ? part(bytes) : bytes, at);
}

int fsync(int fd)
{
    return fault("fsync", fd) == 2 ? -1 : REAL(fsync)(fd);
}

/* A failed close closes all the same. */
int close(int fd)
{
    int failed = fault("close", fd) == 2, error = errno, result = REAL(close)(fd);
    errno = failed ? error : errno;
    return failed ? -1 : result;
}

int posix_fallocate(int fd, off_t at, off_t bytes)
{
    return fault("fallocate", fd) == 2 ? errno : REAL(posix_fallocate)(fd, at, bytes);
}

int openat(int folder, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fault("openat", folder) == 2 ? -1 : REAL(openat)(folder, path, flags, mode);
}

int renameat(int from, const char *old, int to, const char *name)
{
    return fault("renameat", from) == 2 ? -1 : REAL(renameat)(from, old, to, name);
}

int renameat2(int from, const char *old, int to, const char *name, unsigned flags)
{
    return fault("renameat2", from) == 2 ? -1 : REAL(renameat2)(from, old, to, name, flags);
}
