/* The table of devices, and look-up by name. */
#include "device/device.h"

#include <string.h>

#include "base/status.h"
#include "device/cpu.h"

const zi_device_ops *const zi_devices[] = {
    &zi_device_cpu,
};
const size_t zi_n_devices = sizeof zi_devices / sizeof zi_devices[0];

zopt_status zi_device_find(const char *name, const zi_device_ops **out)
{
    *out = NULL;
    for (size_t i = 0; i < zi_n_devices; i++) {
        const zi_device_ops *device = zi_devices[i];
        const char *missing = device->missing();
        if (strcmp(name, "auto") == 0 && missing == NULL) {
            *out = device;
            return ZOPT_OK;
        }
        if (strcmp(name, device->name) == 0) {
            if (missing != NULL)
                return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "device '%s': %s", name, missing);
            *out = device;
            return ZOPT_OK;
        }
    }
    return ZI_FAIL(ZOPT_ERR_CONFIG, "unknown device '%s'; there is '%s'", name,
                   zi_devices[0]->name);
}
