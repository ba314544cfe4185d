/* What the files of test_device_step share. */
#ifndef TESTS_DEVICE_STEP_H
#define TESTS_DEVICE_STEP_H

#include "on_devices.h" /* whose rules have names that ckpt_runs.h makes global */

#include "ckpt_runs.h"

/* Every row of the table of devices that is here and is not the host. */
#define FOR_DEVICES(device)                               \
    for (size_t d = 0; d < zi_n_devices; d++)             \
        for (const zi_device_ops *device = zi_devices[d]; \
             device != NULL && !device->on_host && device_is_here(device); device = NULL)

/* Two groups, a schedule, clipping, a scale that moves, and 2 slots on the one rank. */
void make_small(h_problem *problem, zopt_dtype dtype, int n_steps);

void add_streams(TCase *tcase);

#endif
