/* Arrays and events of one process in others of the machine, by CUDA's IPC handles (CUDA C++
 * Programming Guide, "Interprocess Communication"). A handle of memory is that of the driver's
 * block, which small allocations share: hence share_unit. It names the GPU too, by its place on the
 * PCI bus, which is the same in every process. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "device/cuda_queue.h"

typedef struct shared_array {
    cudaIpcMemHandle_t memory;
    char gpu[16];
} shared_array;

_Static_assert(sizeof(shared_array) <= sizeof(zi_handle), "a handle must hold an array's");
_Static_assert(sizeof(cudaIpcEventHandle_t) <= sizeof(zi_handle), "a handle must hold an event's");

static zopt_status refuse(const zi_queue *q, const char *call, cudaError_t error)
{
    cudaGetLastError(); /* it does not stick */
    return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                   "GPU %d: %s: %s (in containers all ranks need one IPC and one PID namespace)",
                   q->ordinal, call, cudaGetErrorString(error));
}

zopt_status zi_cuda_share(zi_queue *q, void *array, zi_handle *handle)
{
    shared_array shared;
    int can = 0;
    memset(&shared, 0, sizeof shared);
    zi_cuda_enter(q);
    if (cudaDeviceGetAttribute(&can, cudaDevAttrIpcEventSupport, q->ordinal) != cudaSuccess || !can)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "GPU %d cannot share memory between processes (cudaDevAttrIpcEventSupport)",
                       q->ordinal);
    cudaError_t error = cudaIpcGetMemHandle(&shared.memory, array);
    if (error != cudaSuccess)
        return refuse(q, "cudaIpcGetMemHandle", error);
    error = cudaDeviceGetPCIBusId(shared.gpu, sizeof shared.gpu, q->ordinal);
    if (error != cudaSuccess)
        return refuse(q, "cudaDeviceGetPCIBusId", error);
    memcpy(handle->bytes, &shared, sizeof shared);
    return ZOPT_OK;
}

/* A GPU that CUDA_VISIBLE_DEVICES hides here has no number to ask for: opening tells. */
static zopt_status check_access(const zi_queue *q, const char *gpu)
{
    int peer = 0, can = 0;
    if (cudaDeviceGetByPCIBusId(&peer, gpu) != cudaSuccess) {
        cudaGetLastError();
        return ZOPT_OK;
    }
    if (peer == q->ordinal)
        return ZOPT_OK;
    ZI_TRY(zi_cuda_check(cudaDeviceCanAccessPeer(&can, q->ordinal, peer), q->ordinal,
                         "cudaDeviceCanAccessPeer"));
    if (can)
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                   "GPU %d has no P2P access to the memory of GPU %d (%s): see nvidia-smi topo -m",
                   q->ordinal, peer, gpu);
}

zopt_status zi_cuda_reach(zi_queue *q, const zi_handle *handle, void **array)
{
    shared_array shared;
    memcpy(&shared, handle->bytes, sizeof shared);
    *array = NULL;
    zi_cuda_enter(q);
    ZI_TRY(check_access(q, shared.gpu));
    cudaError_t error = cudaIpcOpenMemHandle(array, shared.memory, cudaIpcMemLazyEnablePeerAccess);
    if (error == cudaSuccess)
        return ZOPT_OK;
    *array = NULL;
    return refuse(q, "cudaIpcOpenMemHandle", error);
}

void zi_cuda_leave(zi_queue *q, void *array)
{
    if (zi_cuda_settle(q))
        cudaIpcCloseMemHandle(array);
}

/* ---- events ---- */

static zopt_status allocate(const zi_queue *q, zi_event **out)
{
    zi_event *event = calloc(1, sizeof *event);
    *out = event;
    if (event == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for an event");
    event->ordinal = q->ordinal;
    return ZOPT_OK;
}

static cudaError_t create_shared(zi_event *event, cudaIpcEventHandle_t *shared)
{
    const unsigned flags = (unsigned)cudaEventDisableTiming | (unsigned)cudaEventInterprocess;
    cudaError_t error = cudaEventCreateWithFlags(&event->event, flags);
    if (error != cudaSuccess)
        return error;
    error = cudaIpcGetEventHandle(shared, event->event);
    if (error != cudaSuccess)
        cudaEventDestroy(event->event);
    return error;
}

/* The event is the caller's, or gone where the call that made it failed. */
static zopt_status hand_out(zi_queue *q, const char *call, cudaError_t error, zi_event *event,
                            zi_event **out)
{
    if (error == cudaSuccess) {
        *out = event;
        return ZOPT_OK;
    }
    free(event);
    return refuse(q, call, error);
}

zopt_status zi_cuda_event_share(zi_queue *q, zi_event **out, zi_handle *handle)
{
    cudaIpcEventHandle_t shared;
    zi_event *event;
    *out = NULL;
    memset(&shared, 0, sizeof shared);
    ZI_TRY(allocate(q, &event));
    zi_cuda_enter(q);
    cudaError_t error = create_shared(event, &shared);
    memcpy(handle->bytes, &shared, sizeof shared);
    return hand_out(q, "cudaIpcGetEventHandle", error, event, out);
}

zopt_status zi_cuda_event_reach(zi_queue *q, const zi_handle *handle, zi_event **out)
{
    cudaIpcEventHandle_t shared;
    zi_event *event;
    *out = NULL;
    memcpy(&shared, handle->bytes, sizeof shared);
    ZI_TRY(allocate(q, &event));
    zi_cuda_enter(q);
    cudaError_t error = cudaIpcOpenEventHandle(&event->event, shared);
    return hand_out(q, "cudaIpcOpenEventHandle", error, event, out);
}
