/* Device memory of the shim: pages that fault on the host's touch, but while a stream runs; and
 * page-locked memory of the host, which is only remembered. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory.h"
#include "shim.h"

typedef struct region {
    struct region *next;
    char *pages, *memory;
    size_t page_bytes, bytes;
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
        in_use -= r->pages != NULL ? r->bytes : 0;
    }
    pthread_mutex_unlock(&mutex);
    return r;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    (void)flags;
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

cudaError_t cudaFreeHost(void *memory)
{
    region *r = take_out(&locked, memory);
    if (r == NULL)
        return cudaErrorInvalidValue;
    free(r->memory);
    free(r);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    region *r = take_out(&regions, memory);
    if (r == NULL)
        return cudaErrorInvalidValue;
    munmap(r->pages, r->page_bytes + (size_t)sysconf(_SC_PAGESIZE));
    free(r);
    return cudaSuccess;
}
