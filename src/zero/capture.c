/* A step recorded once and replayed: from the sums over all ranks to the last parameters on their
 * way. Its passes over the gradients are launched as buckets fill, and are not in it. What it is
 * made of does not change from step to step, but for what the decision reads and writes; addresses
 * are compared all the same. All ranks record in the same step, and replay what they have all
 * recorded, or nothing: a transport's work in a graph meets its peers' only in theirs. */
#include <stdio.h>
#include <xxhash.h>

#include "base/status.h"
#include "zero/ahead.h"
#include "zero/passes.h"
#include "zero/trace.h"

static uint64_t add(uint64_t hash, const void *address)
{
    return XXH3_64bits_withSeed(&address, sizeof address, hash);
}

/* The addresses that the step's kernels are given. */
static zopt_status hash_addresses(zi_zero *z, uint64_t *hash)
{
    *hash = z->layout.n_exchanged;
    for (uint32_t i = z->layout.n_exchanged; i-- > 0;) {
        zi_job job;
        ZI_TRY(zi_update_job(z, &z->layout.bucket[z->layout.order[i]], &job));
        for (int s = 0; s < job.n_sources; s++)
            *hash = add(*hash, job.source[s].data);
        for (int d = 0; d < job.n_dests; d++)
            *hash = add(*hash, job.dest[d].data);
    }
    return ZOPT_OK;
}

static zopt_status publish(zi_zero *z, const zi_bucket *bucket)
{
    zi_transfer params = zi_param_transfer(z, bucket);
    zi_trace_mark(z, bucket, ZI_AT_PUBLISH, z->queue);
    return z->comm->ops->publish(z->comm, &params);
}

static zopt_status enqueue(zi_zero *z)
{
    ZI_TRY(zi_ahead_decide(z));
    for (uint32_t i = z->layout.n_exchanged; i-- > 0;) {
        const zi_bucket *bucket = &z->layout.bucket[z->layout.order[i]];
        zi_job job;
        ZI_TRY(zi_update_job(z, bucket, &job));
        zi_update_enqueue(z, bucket, &job);
        ZI_TRY(publish(z, bucket));
    }
    return ZOPT_OK;
}

/* Of several failures the first is told: those behind it follow from it. */
static zopt_status record(zi_zero *z, uint64_t of)
{
    const zi_device_ops *device = z->config.device;
    zi_capture *capture = &z->ahead->capture;
    char first[512];
    ZI_TRY(device->capture_begin(z->queue));
    z->comm->recording = ZI_RECORDING;
    zopt_status status = enqueue(z);
    if (z->comm->ops->record_end != NULL)
        z->comm->ops->record_end(z->comm);
    z->comm->recording = ZI_LIVE;
    snprintf(first, sizeof first, "%s", zopt_last_error());
    zopt_status ended = device->capture_end(z->queue, &capture->graph);
    capture->of = of;
    if (status == ZOPT_OK)
        return ended;
    zi_capture_drop(z);
    return ZI_FAIL(status, "%s", first);
}

/* All ranks have a recording, or none. Where it cannot be had steps go on without, unless it was
 * asked for; zopt_step_path tells why. Where the transport failed no step goes on. */
static zopt_status recorded(zi_zero *z, uint64_t of)
{
    const zi_comm_ops *comm = z->comm->ops;
    zi_capture *capture = &z->ahead->capture;
    zi_capture_free(z);
    if (!capture->is_warm)
        return ZOPT_OK;
    zopt_status status =
        (comm->record_agree != NULL ? comm->record_agree : zi_comm_agree)(z->comm, record(z, of));
    if (status == ZOPT_OK)
        return ZOPT_OK;
    zi_capture_drop(z); /* it has never run */
    if (z->config.cuda_graph == 1 || z->comm->broken)
        return status;
    snprintf(capture->failed, sizeof capture->failed, "%s", zopt_last_error());
    capture->never = capture->failed;
    return ZOPT_OK;
}

static zopt_status replay(zi_zero *z)
{
    zopt_status status = ZOPT_OK;
    zi_trace_mark(z, NULL, ZI_AT_GRAPH, z->queue);
    z->config.device->graph_launch(z->queue, z->ahead->capture.graph);
    zi_trace_mark(z, NULL, ZI_AT_GRAPH_END, z->queue);
    z->comm->recording = ZI_REPLAYED;
    for (uint32_t i = z->layout.n_exchanged; i-- > 0 && status == ZOPT_OK;)
        status = publish(z, &z->layout.bucket[z->layout.order[i]]);
    z->comm->recording = ZI_LIVE;
    return status;
}

zopt_status zi_capture_run(zi_zero *z)
{
    zi_capture *capture = &z->ahead->capture;
    uint64_t of;
    ZI_TRY(z->comm->ops->open(z->comm));
    ZI_TRY(hash_addresses(z, &of));
    if (capture->graph == NULL || capture->of != of)
        ZI_TRY(recorded(z, of));
    ZI_TRY(capture->graph != NULL ? replay(z) : enqueue(z));
    capture->is_warm = 1;
    z->n_updates++;
    return ZOPT_OK;
}

void zi_capture_free(zi_zero *z)
{
    zi_capture *capture = &z->ahead->capture;
    if (capture->graph == NULL)
        return;
    (void)z->config.device->wait(z->queue); /* it may be running */
    zi_capture_drop(z);
}

void zi_capture_drop(void *z)
{
    zi_capture *capture = &((zi_zero *)z)->ahead->capture;
    ((zi_zero *)z)->config.device->graph_destroy(capture->graph);
    capture->graph = NULL;
}
