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
    int any = strcmp(name, "auto") == 0;
    const char *missing = NULL;
    *out = NULL;
    for (size_t i = 0; i < zi_n_devices; i++) {
        if (!any && strcmp(name, zi_devices[i]->name) != 0)
            continue;
        missing = zi_devices[i]->missing();
        if (missing == NULL) {
            *out = zi_devices[i];
            return ZOPT_OK;
        }
    }
    if (missing != NULL)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "device '%s': %s", name, missing);
    return ZI_FAIL(ZOPT_ERR_CONFIG, "unknown device '%s'; there is '%s'", name,
                   zi_devices[0]->name);
}
