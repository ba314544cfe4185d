/* Symmetric windows of nccl.h. Registering is of all ranks, with one size; where the GPUs have none
 * a plain handle is given all the same, and a device communicator cannot be made, as in NCCL 2.28;
 * or no handle, as from 2.29 on.
 * Memory must be ncclMemAlloc's, and a window be taken back before its memory is freed. */
#include "shim.h"
#include "work.h"

typedef struct allocation {
    struct allocation *next;
    char *data;
    size_t bytes;
    int n_windows;
} allocation;

static allocation *allocations;

static allocation *allocation_of(const void *data, size_t bytes)
{
    const char *first = data;
    allocation *a = allocations;
    while (a != NULL && (first < a->data || first + bytes > a->data + a->bytes))
        a = a->next;
    return a;
}

ncclResult_t ncclMemAlloc(void **memory, size_t bytes)
{
    allocation *a = calloc(1, sizeof *a);
    MUST(a != NULL && bytes > 0);
    if (cudaMalloc(memory, bytes) != cudaSuccess) {
        free(a);
        return ncclUnhandledCudaError;
    }
    *a = (allocation){.next = allocations, .data = *memory, .bytes = bytes};
    allocations = a;
    nccl_shim.n_allocated++;
    return ncclSuccess;
}

ncclResult_t ncclMemFree(void *memory)
{
    allocation **link = &allocations;
    while (*link != NULL && (*link)->data != memory)
        link = &(*link)->next;
    allocation *a = *link;
    MUST(a != NULL && a->n_windows == 0);
    *link = a->next;
    free(a);
    nccl_shim.n_freed++;
    return cudaFree(memory) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

/* The sizes of all ranks meet in the communicator's shared memory: one that differs is the second
 * to come. */
static void compare_sizes(ncclComm_t comm, size_t bytes)
{
    uint64_t none = 0, nth = comm->n_windows_ever++;
    _Atomic uint64_t *place = &comm->all->window_bytes[nth % MAX_WINDOWS];
    uint64_t mine = nth << 40 | bytes;
    if (!atomic_compare_exchange_strong(place, &none, mine) && none >> 40 == nth)
        MUST(none == mine);
    atomic_store(place, mine);
}

ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *data, size_t bytes, ncclWindow_t *out,
                                    int flags)
{
    allocation *a = allocation_of(data, bytes);
    window *w = calloc(1, sizeof *w);
    MUST(!comm->is_aborted && !comm->in_progress && bytes > 0 && a != NULL && w != NULL);
    MUST(flags == NCCL_WIN_COLL_SYMMETRIC);
    compare_sizes(comm, bytes);
    int version;
    (void)ncclGetVersion(&version);
    *out = NULL;
    if (nccl_shim.no_windows && version >= NCCL_VERSION(2, 29, 0)) {
        free(w);
        return ncclSuccess;
    }
    *w = (window){.next = comm->windows, .data = data, .bytes = bytes};
    comm->windows = w;
    a->n_windows++;
    nccl_shim.n_registered++;
    memcpy(out, &w, sizeof *out);
    return ncclSuccess;
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t handle)
{
    window **link = &comm->windows, *w;
    memcpy(&w, &handle, sizeof w);
    while (*link != NULL && *link != w)
        link = &(*link)->next;
    MUST(!comm->is_aborted && *link == w && w != NULL);
    *link = w->next;
    allocation_of(w->data, w->bytes)->n_windows--;
    free(w);
    nccl_shim.n_deregistered++;
    return ncclSuccess;
}

/* An error stays with its communicator. */
ncclResult_t ncclDevCommCreate(ncclComm_t comm, const void *requirements, void *made)
{
    MUST(!comm->is_aborted && !comm->in_progress && requirements != NULL);
    memset(made, 1, 512);
    if (nccl_shim.no_windows)
        comm->error = ncclInvalidUsage;
    return comm->error;
}

ncclResult_t ncclDevCommDestroy(ncclComm_t comm, const void *made)
{
    MUST(!comm->is_aborted && *(const char *)made == 1);
    return ncclSuccess;
}

uint64_t window_place(ncclComm_t comm, const void *data, size_t bytes)
{
    const char *first = data;
    const window *w = comm->windows;
    if (w == NULL)
        return 0;
    while (w != NULL && (first < w->data || first + bytes > w->data + w->bytes))
        w = w->next;
    MUST(w != NULL); /* a window must cover it */
    nccl_shim.n_windowed++;
    return (uint64_t)(first - w->data) + 1;
}
