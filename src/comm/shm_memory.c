/* Shared memory between processes: each rank makes an anonymous file (memfd_create) and tells those
 * of its node where to open it, /proc/PID/fd/FD, which they may where user and process namespace
 * are the same. The limit of /dev/shm does not apply, and no name outlives the processes. Linux
 * alone. */
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

static zopt_status make(const zi_comm *comm, size_t bytes, offer *out)
{
    struct stat stat;
    int fd = memfd_create("zopt", MFD_CLOEXEC);
    *out = (offer){.pid = getpid(), .fd = fd};
    if (fd < 0)
        return fail(comm, "memfd_create", bytes, errno);
    if (ftruncate(fd, (off_t)bytes) != 0 || fstat(fd, &stat) != 0)
        return fail(comm, "ftruncate", bytes, errno);
    out->device = stat.st_dev;
    out->inode = stat.st_ino;
    return ZOPT_OK;
}

/* What a rank gives of a file: bytes [first, end). */
typedef struct part {
    size_t first, end;
} part;

/* Pages are taken now, on this rank's node and account, while a lack of them is an error and no
 * SIGBUS. */
static zopt_status take_and_map(const zi_comm *comm, size_t bytes, int fd, part own, void **out)
{
    int error = 0;
    do
        if (own.end > own.first)
            error = posix_fallocate(fd, (off_t)own.first, (off_t)(own.end - own.first));
    while (error == EINTR);
    if (error != 0)
        return fail(comm, "fallocate", bytes, error);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return fail(comm, "mmap", bytes, errno);
    *out = memory;
    return ZOPT_OK;
}

/* A process number means something else in another namespace: what is opened must be the file. */
static zopt_status attach(const zi_comm *comm, size_t bytes, const offer *theirs, part own,
                          void **out)
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
        status = take_and_map(comm, bytes, fd, own, out);
    else
        status = fail(comm, path, bytes, ENOENT);
    close(fd);
    return status;
}

static part part_of(const zi_comm *comm, size_t bytes, int shared, int is_own)
{
    if (shared)
        return (part){zi_share(comm, comm->rank, bytes), zi_share(comm, comm->rank + 1, bytes)};
    return is_own ? (part){0, bytes} : (part){0, 0};
}

/* Tell the rank `step` on, around the node, and hear from the one `step` back. */
static zopt_status shift(zi_comm *comm, int step, offer *mine, offer *theirs)
{
    int n = comm->node.size, base = comm->node.base, i = comm->rank - base;
    const zi_message messages[] = {
        {.peer = base + (i + step) % n, .data = mine, .bytes = sizeof *mine},
        {.peer = base + (i - step + n) % n, .receive = 1, .data = theirs, .bytes = sizeof *theirs},
    };
    *theirs = *mine;
    return step > 0 ? comm->ops->exchange(comm, messages, 2) : ZOPT_OK;
}

/* One file for each rank, or the first one's for all of the node. */
static zopt_status attach_all(zi_comm *comm, size_t bytes, int shared, offer *mine, void **peer)
{
    int n = comm->node.size, i = comm->rank - comm->node.base;
    zopt_status status = !shared || i == 0 ? make(comm, bytes, mine) : ZOPT_OK;
    for (int step = 0; step < n; step++) {
        offer theirs;
        int from = (i - step + n) % n;
        ZI_TRY(shift(comm, step, mine, &theirs));
        if (status == ZOPT_OK && theirs.fd >= 0) /* else whoever failed says so below */
            status =
                attach(comm, bytes, &theirs, part_of(comm, bytes, shared, step == 0), &peer[from]);
    }
    for (int r = 1; shared && r < n; r++)
        peer[r] = peer[0];
    return zi_comm_agree(comm, status);
}

zopt_status zi_shared_map(zi_comm *comm, size_t bytes, int shared, void **peer)
{
    offer mine = {.fd = -1};
    memset(peer, 0, (size_t)comm->node.size * sizeof *peer);
    zopt_status status = attach_all(comm, bytes, shared, &mine, peer);
    if (mine.fd >= 0)
        close((int)mine.fd); /* all peers have opened it, or will not */
    if (status != ZOPT_OK)
        zi_shared_unmap(comm, bytes, peer);
    return status;
}

void zi_shared_unmap(const zi_comm *comm, size_t bytes, void **peer)
{
    void *first = peer[0];
    for (int r = 0; r < comm->node.size; r++) {
        if (peer[r] != NULL && (r == 0 || peer[r] != first))
            munmap(peer[r], bytes);
        peer[r] = NULL;
    }
}
