/* Suites over the rows of the table of devices: what is not here is skipped with its reason, which
 * launch/test.sh counts. ZOPT_REQUIRE_GPU=1 makes a failure of it. */
#ifndef TESTS_ON_DEVICES_H
#define TESTS_ON_DEVICES_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/device.h"

static inline int device_is_here(const zi_device_ops *device)
{
    static int is_told;
    const char *missing = device->missing(), *required = getenv("ZOPT_REQUIRE_GPU");
    if (missing == NULL)
        return 1;
    if (is_told++ == 0)
        printf("SKIP: device %s: %s\n", device->name, missing);
    ck_assert_msg(required == NULL || required[0] != '1', "ZOPT_REQUIRE_GPU=1, but device %s: %s",
                  device->name, missing);
    return 0;
}

#endif
