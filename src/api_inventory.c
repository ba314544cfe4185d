/* What this build has, row by row of every table, for `zopt doctor`. */
#include <stdio.h>

#include "comm/comm.h"
#include "device/device.h"
#include "optim/optim.h"

typedef void inventory_row(void *arg, const char *kind, const char *name, int usable,
                           const char *note);

static void list_devices(inventory_row *row, void *arg)
{
    for (size_t i = 0; i < zi_n_devices; i++) {
        char note[160];
        const char *missing = zi_devices[i]->missing();
        snprintf(note, sizeof note, "%s; kernels in use: %s", zi_devices[i]->help,
                 zi_devices[i]->variant());
        row(arg, "device", zi_devices[i]->name, missing == NULL, missing ? missing : note);
    }
}

void zopt_inventory(inventory_row *row, void *arg)
{
    if (row == NULL)
        return;
    row(arg, "version", ZOPT_VERSION, 1, "compiled with " __VERSION__);
    for (size_t i = 0; i < zi_n_comms; i++) {
        const char *missing = zi_comms[i]->missing();
        row(arg, "transport", zi_comms[i]->name, missing == NULL,
            missing ? missing : zi_comms[i]->help);
    }
    for (size_t i = 0; i < zi_n_comms; i++)
        if (zi_comms[i]->describe != NULL)
            zi_comms[i]->describe(row, arg);
    list_devices(row, arg);
    for (size_t i = 0; i < zi_n_optims; i++)
        row(arg, "optimizer", zi_optims[i]->name, 1, zi_optims[i]->help);
    for (size_t i = 0; i < zi_n_schedules; i++)
        row(arg, "schedule", zi_schedules[i]->name, 1, zi_schedules[i]->help);
}
