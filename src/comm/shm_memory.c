/* Shared memory between processes: each rank makes an anonymous file (memfd_create) and tells its
 * peers where to open it, /proc/PID/fd/FD, which they may where user and process namespace are the
 * same. The limit of /dev/shm does not apply, and no name outlives the processes. Linux alone. */
#include "comm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where a rank's file can be opened, and what must be found there. */
typedef struct offer {
    int64_t pid, fd; /* fd -1: none */
    uint64_t device, inode;
} offer;

static zopt_status fail(const zi_comm *comm, const char *what, size_t bytes, int error)
{
    int none_left = error == ENOMEM || error == ENOSPC || error == EMFILE || error == ENFILE;
    return ZI_FAIL(none_left ? ZOPT_ERR_MEMORY : ZOPT_ERR_UNSUPPORTED,
                   "rank %d: %zu bytes of shared memory: %s: %s", comm->rank, bytes, what,
                   strerror(error));
}

/* Pages are taken now, while a lack of them is an error and no SIGBUS. */
static zopt_status make(const zi_comm *comm, size_t bytes, offer *out)
{
    struct stat stat;
    int fd = memfd_create("zopt", MFD_CLOEXEC), error;
    *out = (offer){.pid = getpid(), .fd = fd};
    if (fd < 0)
        return fail(comm, "memfd_create", bytes, errno);
    do
        error = posix_fallocate(fd, 0, (off_t)bytes);
    while (error == EINTR);
    if (error != 0)
        return fail(comm, "fallocate", bytes, error);
    if (fstat(fd, &stat) != 0)
        return fail(comm, "fstat", bytes, errno);
    out->device = stat.st_dev;
    out->inode = stat.st_ino;
    return ZOPT_OK;
}

static zopt_status map(const zi_comm *comm, size_t bytes, int fd, void **out)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return fail(comm, "mmap", bytes, errno);
    *out = memory;
    return ZOPT_OK;
}

/* A process number means something else in another namespace: what is opened must be the file. */
static zopt_status map_peer(const zi_comm *comm, size_t bytes, const offer *theirs, void **out)
{
    char path[64];
    struct stat stat;
    snprintf(path, sizeof path, "/proc/%lld/fd/%lld", (long long)theirs->pid,
             (long long)theirs->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return fail(comm, path, bytes, errno);
    zopt_status status;
    if (fstat(fd, &stat) == 0 && stat.st_dev == theirs->device && stat.st_ino == theirs->inode)
        status = map(comm, bytes, fd, out);
    else
        status = fail(comm, path, bytes, ENOENT);
    close(fd);
    return status;
}

static zopt_status map_all(zi_comm *comm, size_t bytes, const offer *mine, zopt_status status,
                           void **peer)
{
    for (int r = 0; r < comm->world; r++) {
        offer theirs = *mine;
        ZI_TRY(comm->ops->broadcast(comm, r, &theirs, sizeof theirs));
        if (status != ZOPT_OK || theirs.fd < 0)
            continue; /* whoever failed says so below */
        status = r == comm->rank ? map(comm, bytes, (int)mine->fd, &peer[r])
                                 : map_peer(comm, bytes, &theirs, &peer[r]);
    }
    return zi_comm_agree(comm, status);
}

zopt_status zi_shared_map(zi_comm *comm, size_t bytes, void **peer)
{
    offer mine;
    memset(peer, 0, (size_t)comm->world * sizeof *peer);
    zopt_status status = make(comm, bytes, &mine);
    status = map_all(comm, bytes, &mine, status, peer);
    if (mine.fd >= 0)
        close((int)mine.fd); /* all peers have opened it, or will not */
    if (status != ZOPT_OK)
        zi_shared_unmap(comm, bytes, peer);
    return status;
}

void zi_shared_unmap(const zi_comm *comm, size_t bytes, void **peer)
{
    for (int r = 0; r < comm->world; r++) {
        if (peer[r] != NULL)
            munmap(peer[r], bytes);
        peer[r] = NULL;
    }
}
