/* See caller.h. One event each way is enough: an event that is recorded again does not touch who
 * waits for it already. */
#include "zero/caller.h"

#include <string.h>

#include "base/status.h"
#include "zero/zero.h"

static zopt_status create_events(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (z->caller.of_stream == NULL)
        ZI_TRY(device->event_create(z->queue, &z->caller.of_stream));
    if (z->caller.of_queue == NULL)
        ZI_TRY(device->event_create(z->queue, &z->caller.of_queue));
    return ZOPT_OK;
}

zopt_status zi_caller_set(zi_zero *z, void *stream, int none)
{
    const zi_device_ops *device = z->config.device;
    zi_caller *caller = &z->caller;
    zi_queue *adopted = NULL;
    if (device->on_host)
        return none ? ZOPT_OK
                    : ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "zopt_set_stream: device %s has no streams",
                              device->name);
    ZI_TRY(create_events(z));
    if (!none)
        ZI_TRY(device->adopt(z->queue, stream, &adopted));
    zi_caller_join(z);
    device->close(caller->stream);
    caller->stream = adopted;
    caller->n_exchanges = caller->n_updates = 0;
    memset(z->waited, 0, z->layout.n_buckets * sizeof *z->waited); /* another one did */
    return ZOPT_OK;
}

void zi_caller_free(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (z->caller.of_stream == NULL)
        return;
    device->event_destroy(z->caller.of_stream);
    device->event_destroy(z->caller.of_queue);
    device->close(z->caller.stream);
}

void zi_caller_join_now(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (z->caller.stream == NULL)
        return;
    device->event_record(z->caller.stream, z->caller.of_stream);
    device->event_await(z->queue, z->caller.of_stream);
    z->caller.is_ahead = 0;
}

void zi_caller_join(zi_zero *z)
{
    if (z->caller.is_ahead)
        zi_caller_join_now(z);
}

zopt_status zi_caller_follow(zi_zero *z, uint64_t *seen, uint64_t count)
{
    const zi_device_ops *device = z->config.device;
    if (z->caller.stream == NULL)
        return device->wait(z->queue);
    if (*seen == count + 1)
        return ZOPT_OK;
    device->event_record(z->queue, z->caller.of_queue);
    device->event_await(z->caller.stream, z->caller.of_queue);
    *seen = count + 1;
    return ZOPT_OK;
}
