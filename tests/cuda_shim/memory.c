/* Device memory of the shim: pages that fault on the host's touch, but while the stream runs. */
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

int shim_is_device(const void *address)
{
    int found = 0;
    pthread_mutex_lock(&mutex);
    for (region *r = regions; r != NULL; r = r->next)
        found |= (const char *)address >= r->memory && (const char *)address < r->memory + r->bytes;
    pthread_mutex_unlock(&mutex);
    return found;
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

cudaError_t cudaFree(void *memory)
{
    pthread_mutex_lock(&mutex);
    region **link = &regions;
    while (*link != NULL && (*link)->memory != memory)
        link = &(*link)->next;
    region *r = *link;
    if (r == NULL) {
        pthread_mutex_unlock(&mutex);
        return cudaErrorInvalidValue;
    }
    *link = r->next;
    in_use -= r->bytes;
    pthread_mutex_unlock(&mutex);
    munmap(r->pages, r->page_bytes + (size_t)sysconf(_SC_PAGESIZE));
    free(r);
    return cudaSuccess;
}
