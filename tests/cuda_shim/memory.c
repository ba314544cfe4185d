/* Device memory of the shim: pages that fault on the host's touch, but while a stream runs; those
 * that another process may open move to an anonymous file first. And page-locked memory of the
 * host, which is only remembered. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory.h"
#include "shim.h"

/* In the page behind the pages of a file. */
typedef struct sharing {
    _Atomic int n_open; /* by other processes */
} sharing;

typedef struct region {
    struct region *next;
    char *pages, *memory;
    size_t page_bytes, bytes;
    sharing *sharing; /* NULL: no other process knows it */
    int fd;           /* of what this process shares */
    int is_foreign;   /* 1: another process's */
} region;

/* CUDA's own alignment of what cudaMalloc returns. */
enum { ALIGNMENT = 256 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static region *regions;
static region *locked; /* without pages of its own */
static size_t in_use;
static int n_running; /* streams */

size_t shim_bytes_in_use(void)
{
    pthread_mutex_lock(&mutex);
    size_t bytes = in_use;
    pthread_mutex_unlock(&mutex);
    return bytes;
}

static void protect(int protection)
{
    for (region *r = regions; r != NULL; r = r->next)
        if (mprotect(r->pages, r->page_bytes, protection) != 0)
            abort();
}

void shim_enter(void)
{
    pthread_mutex_lock(&mutex);
    if (n_running++ == 0)
        protect(PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&mutex);
}

void shim_leave(void)
{
    pthread_mutex_lock(&mutex);
    if (--n_running == 0)
        protect(PROT_NONE);
    pthread_mutex_unlock(&mutex);
}

static int is_in(region *const *list, const void *address)
{
    int found = 0;
    pthread_mutex_lock(&mutex);
    for (region *r = *list; r != NULL; r = r->next)
        found |= (const char *)address >= r->memory && (const char *)address < r->memory + r->bytes;
    pthread_mutex_unlock(&mutex);
    return found;
}

int shim_is_device(const void *address)
{
    return is_in(&regions, address);
}

int shim_is_locked(const void *address)
{
    return is_in(&locked, address);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address)
{
    attributes->type = shim_is_device(address)   ? cudaMemoryTypeDevice
                       : shim_is_locked(address) ? cudaMemoryTypeHost
                                                 : cudaMemoryTypeUnregistered;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = shim.memory_bytes;
    *free_bytes = shim.memory_bytes - shim_bytes_in_use();
    return cudaSuccess;
}

/* Ends where a page ends, so that a kernel that runs on faults too. */
cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t page_bytes = (rounded + page - 1) / page * page;
    *memory = NULL;
    if (bytes > shim.memory_bytes - shim_bytes_in_use())
        return cudaErrorMemoryAllocation;
    region *r = malloc(sizeof *r);
    char *pages = mmap(NULL, page_bytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r == NULL || pages == MAP_FAILED)
        abort();
    *r = (region){.pages = pages,
                  .memory = pages + page_bytes - rounded,
                  .page_bytes = page_bytes,
                  .bytes = bytes};
    pthread_mutex_lock(&mutex);
    r->next = regions;
    regions = r;
    in_use += bytes;
    if (n_running > 0)
        protect(PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&mutex);
    *memory = r->memory;
    return cudaSuccess;
}

/* NULL: it is not there. */
static region *take_out(region **list, const void *memory)
{
    pthread_mutex_lock(&mutex);
    while (*list != NULL && (*list)->memory != memory)
        list = &(*list)->next;
    region *r = *list;
    if (r != NULL) {
        *list = r->next;
        in_use -= r->pages != NULL && !r->is_foreign ? r->bytes : 0;
    }
    pthread_mutex_unlock(&mutex);
    return r;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    (void)flags;
    if (shim.no_locked)
        return cudaErrorMemoryAllocation;
    region *r = malloc(sizeof *r);
    char *bytes_of = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (r == NULL || bytes_of == NULL)
        abort();
    *r = (region){.memory = bytes_of, .bytes = bytes};
    pthread_mutex_lock(&mutex);
    r->next = locked;
    locked = r;
    pthread_mutex_unlock(&mutex);
    *memory = r->memory;
    return cudaSuccess;
}

/* As CUDA does, behind the work that was enqueued, but for what waits for others. */
cudaError_t cudaFreeHost(void *memory)
{
    shim_push();
    region *r = take_out(&locked, memory);
    if (r == NULL)
        return cudaErrorInvalidValue;
    free(r->memory);
    free(r);
    return cudaSuccess;
}

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void unmap(region *r)
{
    if (r->sharing != NULL)
        munmap(r->sharing, page_size());
    munmap(r->pages, r->page_bytes + page_size());
    free(r);
}

cudaError_t cudaFree(void *memory)
{
    shim_push();
    region *r = take_out(&regions, memory);
    if (r == NULL || r->is_foreign)
        return cudaErrorInvalidValue;
    if (r->sharing != NULL && r->sharing->n_open > 0) {
        fprintf(stderr, "cuda shim: memory is freed that another process has open\n");
        abort();
    }
    if (r->sharing != NULL)
        close(r->fd);
    unmap(r);
    return cudaSuccess;
}

/* ------------------------------------------------------------------ other processes ---------- */

/* What a handle says. */
typedef struct offer {
    pid_t pid;
    int fd;
    size_t page_bytes, bytes, offset;
} offer;

_Static_assert(sizeof(offer) <= sizeof(cudaIpcMemHandle_t), "a handle must hold an offer");

static int protection(void)
{
    return n_running > 0 ? PROT_READ | PROT_WRITE : PROT_NONE;
}

static void *map_file(void *where, size_t bytes, int prot, int fd, size_t offset)
{
    int flags = MAP_SHARED | (where != NULL ? MAP_FIXED : 0);
    void *memory = mmap(where, bytes, prot, flags, fd, (off_t)offset);
    if (memory == MAP_FAILED)
        abort();
    return memory;
}

/* Where it lies, with its contents. The mutex is held. */
static void move_to_file(region *r)
{
    r->fd = memfd_create("cuda shim", MFD_CLOEXEC);
    if (r->fd < 0 || ftruncate(r->fd, (off_t)(r->page_bytes + page_size())) != 0 ||
        mprotect(r->pages, r->page_bytes, PROT_READ) != 0 ||
        pwrite(r->fd, r->pages, r->page_bytes, 0) != (ssize_t)r->page_bytes)
        abort();
    map_file(r->pages, r->page_bytes, protection(), r->fd, 0);
    r->sharing = map_file(NULL, page_size(), PROT_READ | PROT_WRITE, r->fd, r->page_bytes);
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *memory)
{
    pthread_mutex_lock(&mutex);
    region *r = regions;
    while (r != NULL && r->memory != memory)
        r = r->next;
    if (r != NULL && !r->is_foreign && r->sharing == NULL)
        move_to_file(r);
    pthread_mutex_unlock(&mutex);
    if (r == NULL || r->is_foreign)
        return cudaErrorInvalidValue;
    const offer mine = {getpid(), r->fd, r->page_bytes, r->bytes, (size_t)(r->memory - r->pages)};
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &mine, sizeof mine);
    return cudaSuccess;
}

/* A page that faults comes behind it, as behind this process's own. */
cudaError_t cudaIpcOpenMemHandle(void **memory, cudaIpcMemHandle_t handle, unsigned flags)
{
    char path[64];
    offer theirs;
    memcpy(&theirs, &handle, sizeof theirs);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)theirs.pid, theirs.fd);
    if (theirs.pid == getpid() || flags != cudaIpcMemLazyEnablePeerAccess)
        return cudaErrorInvalidValue;
    int fd = shim.no_opening ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return cudaErrorMapBufferObjectFailed;
    region *r = calloc(1, sizeof *r);
    size_t all = theirs.page_bytes + page_size();
    char *pages = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r == NULL || pages == MAP_FAILED)
        abort();
    *r = (region){.pages = pages,
                  .memory = pages + theirs.offset,
                  .page_bytes = theirs.page_bytes,
                  .bytes = theirs.bytes,
                  .is_foreign = 1};
    pthread_mutex_lock(&mutex);
    map_file(pages, theirs.page_bytes, protection(), fd, 0);
    r->sharing = map_file(NULL, page_size(), PROT_READ | PROT_WRITE, fd, theirs.page_bytes);
    r->sharing->n_open++;
    r->next = regions;
    regions = r;
    pthread_mutex_unlock(&mutex);
    close(fd);
    *memory = r->memory;
    return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void *memory)
{
    region *r = take_out(&regions, memory);
    if (r == NULL || !r->is_foreign)
        return cudaErrorInvalidValue;
    r->sharing->n_open--;
    unmap(r);
    return cudaSuccess;
}
