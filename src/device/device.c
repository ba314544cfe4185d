/* The table of devices, and look-up by name. */
#include "device/device.h"

#include <string.h>

#include "base/status.h"
#include "device/cpu.h"

extern const zi_device_ops zi_device_cuda;

/* "auto" is the first: a program that does not ask for a GPU expects the host's memory. */
const zi_device_ops *const zi_devices[] = {
    &zi_device_cpu,
    &zi_device_cuda,
};
const size_t zi_n_devices = sizeof zi_devices / sizeof zi_devices[0];

#ifndef ZI_HAVE_CUDA
static const char *built_without(void)
{
    return "built without CUDA (ZOPT_CUDA=OFF, or no nvcc was found)";
}

static const char *no_variant(void)
{
    return "none";
}

const zi_device_ops zi_device_cuda = {
    .name = "cuda",
    .help = "NVIDIA GPUs",
    .missing = built_without,
    .variant = no_variant,
};
#endif

const zi_device_ops *zi_device_row(const char *name)
{
    if (strcmp(name, "auto") == 0)
        return zi_devices[0];
    for (size_t i = 0; i < zi_n_devices; i++)
        if (strcmp(name, zi_devices[i]->name) == 0)
            return zi_devices[i];
    return NULL;
}

zopt_status zi_device_find(const char *name, int planned, const zi_device_ops **out)
{
    const zi_device_ops *row = zi_device_row(name);
    *out = NULL;
    if (row == NULL)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "unknown device '%s'; there are 'cpu' and 'cuda'", name);
    int counts_only = planned && row->alloc != NULL;
    const char *missing = counts_only ? NULL : row->missing();
    if (missing != NULL)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "device '%s': %s", row->name, missing);
    *out = row;
    return ZOPT_OK;
}
