/* The machine that the shim pretends to be: its GPUs, their driver and what they can do, as a test
 * has set `shim`. */
#include <stdio.h>

#include "shim.h"

const shim_machine shim_healthy = {
    .n_gpus = 1, .driver_version = 13000, .capability_major = 9, .memory_bytes = (size_t)1 << 32};
shim_machine shim = {
    .n_gpus = 1, .driver_version = 13000, .capability_major = 9, .memory_bytes = (size_t)1 << 32};
static _Thread_local int current;

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation        ? "out of memory"
           : error == cudaErrorIllegalAddress        ? "an illegal memory access was encountered"
           : error == cudaErrorInsufficientDriver    ? "CUDA driver version is insufficient"
           : error == cudaErrorMapBufferObjectFailed ? "mapping of buffer object failed"
                                                     : "unknown error";
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = shim.n_gpus;
    if (shim.driver_version < 13000)
        return cudaErrorInsufficientDriver;
    return shim.n_gpus > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = shim.driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= shim.n_gpus)
        return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    (void)device;
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? shim.capability_major
             : attribute == cudaDevAttrIpcEventSupport      ? !shim.no_ipc
                                                            : 3;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device)
{
    snprintf(id, (size_t)size, "0000:%02x:00.0", shim.first_gpu + device + 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *id)
{
    unsigned place = 0;
    if (sscanf(id, "0000:%2x:00.0", &place) != 1)
        return cudaErrorInvalidDevice;
    *device = (int)place - 1 - shim.first_gpu;
    if (*device < 0 || *device >= shim.n_gpus)
        return cudaErrorInvalidDevice;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    *can = device != peer && !shim.no_peers;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    (void)peer, (void)flags;
    return cudaSuccess;
}
