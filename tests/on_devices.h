/* Suites over the rows of the table of devices: what is not here is skipped with its reason, which
 * launch/test.sh counts. ZOPT_REQUIRE_GPU=1 makes a failure of it. */
#ifndef TESTS_ON_DEVICES_H
#define TESTS_ON_DEVICES_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/device.h"

static inline int gpu_is_required(void)
{
    const char *required = getenv("ZOPT_REQUIRE_GPU");
    return required != NULL && required[0] == '1';
}

static inline void tell_skip(const zi_device_ops *device)
{
    static int is_told;
    if (is_told++ == 0)
        printf("SKIP: device %s: %s\n", device->name, device->missing());
}

static inline int device_is_here(const zi_device_ops *device)
{
    if (device->missing() == NULL)
        return 1;
    tell_skip(device);
    ck_assert_msg(!gpu_is_required(), "ZOPT_REQUIRE_GPU=1, but device %s: %s", device->name,
                  device->missing());
    return 0;
}

#endif
