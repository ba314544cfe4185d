/* What the host makes and kernels read, and what kernels sum and the host reads, as it lies in the
 * device's memory. Where that is the host's, both are one and nothing is copied. */
#include <string.h>

#include "base/status.h"
#include "zero/zero.h"

static size_t scalars_bytes(const zi_zero *z)
{
    return z->n_groups * sizeof *z->control.scalars;
}

static size_t span_bytes(const zi_zero *z)
{
    return z->spans.first != NULL ? z->spans.first[z->layout.n_buckets] * sizeof *z->spans.span : 0;
}

static zopt_status place(zi_zero *z, void *host, size_t bytes, void *out)
{
    const zi_device_ops *device = z->config.device;
    void *placed = host;
    if (!device->on_host) {
        ZI_TRY(device->alloc(z->queue, z->mem, ZI_MEM_TABLES, bytes, &placed));
        if (placed != NULL)
            device->copy(z->queue, placed, host, bytes);
    }
    memcpy(out, &placed, sizeof placed);
    return ZOPT_OK;
}

static void unplace(zi_zero *z, void *placed, size_t bytes)
{
    if (!z->config.device->on_host)
        z->config.device->free(z->queue, z->mem, ZI_MEM_TABLES, placed, bytes);
}

zopt_status zi_place_tables(zi_zero *z)
{
    ZI_TRY(place(z, z->spans.span, span_bytes(z), &z->placed.span));
    ZI_TRY(place(z, z->control.scalars, scalars_bytes(z), &z->placed.scalars));
    ZI_TRY(place(z, &z->control, sizeof z->control, &z->placed.control));
    return place(z, &z->norm, sizeof z->norm, &z->placed.norm);
}

void zi_unplace_tables(zi_zero *z)
{
    unplace(z, z->placed.span, span_bytes(z));
    unplace(z, z->placed.scalars, scalars_bytes(z));
    unplace(z, z->placed.control, sizeof z->control);
    unplace(z, z->placed.norm, sizeof z->norm);
}

void zi_place_control(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (device->on_host)
        return;
    zi_control control = z->control;
    control.scalars = z->placed.scalars;
    device->copy(z->queue, z->placed.scalars, z->control.scalars, scalars_bytes(z));
    device->copy(z->queue, z->placed.control, &control, sizeof control);
}

void zi_norm_clear(zi_zero *z)
{
    z->config.device->zero(z->queue, z->placed.norm, sizeof z->norm);
}

zopt_status zi_norm_fetch(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (!device->on_host)
        device->copy(z->queue, &z->norm, z->placed.norm, sizeof z->norm);
    return device->wait(z->queue);
}
