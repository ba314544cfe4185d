/* The update on the host of what is on a device: master weights and states are the host's, with the
 * CPU's kernels; gradients, their sums and parameters stay where they are. A bucket's slice comes
 * down summed and goes up rounded, through one of two rows of page-locked memory. While the CPU
 * updates one bucket, the next one's gradients come down on the device's queue, and parameters of
 * the one before go up on a second queue. The bits are those of an update on the device: a sum that
 * begins at +0 is never -0, so that +0 + sum is the sum. A step waits for the device. */
#include "base/status.h"
#include "zero/passes.h"
#include "zero/trace.h"

enum { N_ROWS = 2 };

/* What a bucket passes through. */
typedef struct staging_row {
    void *grads, *params; /* page-locked */
    zi_source source;     /* grads, as they came */
    zi_event *open;       /* where parameters go may be written to */
    zi_event *came;       /* gradients are here */
    zi_event *left;       /* parameters have gone up */
} staging_row;

typedef struct staging_bytes {
    size_t sum, grads, params; /* of the device's sum; of each row */
} staging_bytes;

typedef struct zi_offload {
    zi_queue *up; /* beside the device's queue, on which gradients come down */
    float *sum;   /* the device's; NULL where there is but one source */
    char *locked; /* of all rows */
    staging_row row[N_ROWS];
    staging_bytes bytes;
} zi_offload;

int zi_is_offloaded(const zi_zero *z)
{
    return z->config.home != z->config.device;
}

/* ---- memory ---- */

/* For the largest slices. One source comes down as it is: the accumulators, or a step's only slot
 * in its own dtype. */
static staging_bytes bytes_of(const zi_zero *z)
{
    int has_one_slot = z->config.scale_rules.slots == 1;
    staging_bytes most = {0};
    for (uint32_t i = 0; i < z->layout.n_exchanged; i++) {
        const zi_bucket *bucket = &z->layout.bucket[z->layout.order[i]];
        size_t params = bucket->slice_elems * zopt_dtype_bytes(bucket->dtype);
        size_t floats = bucket->slice_elems * sizeof(float);
        size_t grads = has_one_slot ? params : floats;
        most.params = params > most.params ? params : most.params;
        most.grads = grads > most.grads ? grads : most.grads;
        if (!has_one_slot && z->slot_groups == ZI_GROUPS_NONE && floats > most.sum)
            most.sum = floats;
    }
    return most;
}

static size_t locked_bytes(const staging_bytes *bytes)
{
    return N_ROWS * (bytes->grads + bytes->params);
}

static zopt_status set_up_row(zi_zero *z, int i)
{
    const zi_device_ops *device = z->config.device;
    const staging_bytes *bytes = &z->offload->bytes;
    staging_row *row = &z->offload->row[i];
    row->grads = z->offload->locked + (size_t)i * (bytes->grads + bytes->params);
    row->params = (char *)row->grads + bytes->grads;
    ZI_TRY(device->event_create(z->queue, &row->open));
    ZI_TRY(device->event_create(z->queue, &row->came));
    return device->event_create(z->queue, &row->left);
}

zopt_status zi_offload_create(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    zi_offload *o;
    if (!zi_is_offloaded(z))
        return ZOPT_OK;
    ZI_TRY(zi_mem_table(z->mem, sizeof *o, &o));
    z->offload = o;
    o->bytes = bytes_of(z);
    size_t locked = locked_bytes(&o->bytes);
    ZI_TRY(device->alloc(z->queue, z->mem, ZI_MEM_STAGING, o->bytes.sum, &o->sum));
    ZI_TRY(device->alloc_host(z->queue, z->mem, ZI_MEM_STAGING, locked, &o->locked));
    if (z->comm->planned)
        return ZOPT_OK;
    for (int i = 0; i < N_ROWS; i++)
        ZI_TRY(set_up_row(z, i));
    return device->open_beside(z->queue, &o->up);
}

void zi_offload_destroy(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    zi_offload *o = z->offload;
    if (o == NULL)
        return;
    if (o->up != NULL)
        (void)device->wait(o->up); /* it reads the rows */
    for (int i = 0; i < N_ROWS; i++) {
        device->event_destroy(o->row[i].open);
        device->event_destroy(o->row[i].came);
        device->event_destroy(o->row[i].left);
    }
    device->close(o->up);
    device->free(z->queue, z->mem, ZI_MEM_STAGING, o->sum, o->bytes.sum);
    device->free_host(z->queue, z->mem, ZI_MEM_STAGING, o->locked, locked_bytes(&o->bytes));
    zi_mem_free_table(z->mem, o, sizeof *o);
    z->offload = NULL;
}

/* ---- gradients ---- */

/* The k-th bucket in the order of parameters. */
static const zi_bucket *bucket_at(const zi_zero *z, uint32_t k)
{
    return &z->layout.bucket[z->layout.order[z->layout.n_exchanged - 1 - k]];
}

static staging_row *row_of(const zi_zero *z, uint32_t k)
{
    return &z->offload->row[k % N_ROWS];
}

/* Enqueue the sum of bucket k's gradients and its way down. Non-finite ones were counted before. */
static zopt_status send_down(zi_zero *z, uint32_t k)
{
    const zi_device_ops *device = z->config.device;
    staging_row *row = row_of(z, k);
    zi_job job;
    ZI_TRY(zi_reduce_job(z, bucket_at(z, k), &job));
    zi_source from = job.source[0];
    if (job.n_sources > 1) {
        from = (zi_source){z->offload->sum, ZOPT_FP32};
        device->zero(z->queue, z->offload->sum, job.n_elems * sizeof *z->offload->sum);
        device->accumulate(z->queue, &job, z->offload->sum, &z->placed.norm->n_bad);
    }
    row->source = (zi_source){row->grads, from.dtype};
    device->copy(z->queue, row->grads, from.data, job.n_elems * zopt_dtype_bytes(from.dtype));
    device->event_record(z->queue, row->came);
    return ZOPT_OK;
}

/* Bucket k's job on the host: its gradients are here, those of the next one on their way. Called in
 * the order of k. */
static zopt_status take(zi_zero *z, uint32_t k, zi_job *job)
{
    staging_row *row = row_of(z, k);
    if (k == 0)
        ZI_TRY(send_down(z, 0));
    if (k + 1 < z->layout.n_exchanged)
        ZI_TRY(send_down(z, k + 1));
    int phase = zi_phase(z, ZOPT_PHASE_REDUCE);
    ZI_TRY(z->config.device->event_wait(row->came));
    zi_phase(z, phase);
    *job = zi_home_job(z, bucket_at(z, k));
    job->source = &row->source;
    job->n_sources = 1;
    return ZOPT_OK;
}

zopt_status zi_offload_pass(zi_zero *z, const zi_round *round)
{
    for (uint32_t k = 0; k < z->layout.n_exchanged; k++) {
        zi_job job;
        ZI_TRY(take(z, k, &job));
        round->add_slice(z, bucket_at(z, k), &job);
    }
    return ZOPT_OK;
}

/* ---- parameters ---- */

/* Where bucket k's parameters go. A transport may say so to the device's queue alone, so the way up
 * waits for what is there now, before the next bucket's gradients. */
static zopt_status find_dests(zi_zero *z, uint32_t k, int *n_dests)
{
    const zi_device_ops *device = z->config.device;
    const zi_transfer params = zi_param_transfer(z, bucket_at(z, k));
    zi_phase(z, ZOPT_PHASE_GATHER);
    ZI_TRY(z->comm->ops->dest_wait(z->comm, &params, z->dest_at, n_dests));
    zi_phase(z, ZOPT_PHASE_UPDATE);
    device->event_record(z->queue, row_of(z, k)->open);
    device->event_await(z->offload->up, row_of(z, k)->open);
    return ZOPT_OK;
}

/* Enqueue the way up to this rank's memory, and from there to its peers', which the host is farther
 * from. */
static void send_up(zi_zero *z, uint32_t k, int n_dests)
{
    const zi_device_ops *device = z->config.device;
    const zi_transfer params = zi_param_transfer(z, bucket_at(z, k));
    zi_queue *up = z->offload->up;
    int own = n_dests > 1 ? z->comm->rank - z->comm->node.base : 0;
    device->copy(up, z->dest_at[own], row_of(z, k)->params, params.slice_bytes);
    for (int i = 0; i < n_dests; i++)
        if (i != own)
            device->copy(up, z->dest_at[i], z->dest_at[own], params.slice_bytes);
    device->event_record(up, row_of(z, k)->left);
}

static zopt_status update(zi_zero *z, uint32_t k)
{
    const zi_bucket *bucket = bucket_at(z, k);
    const zi_dest dest = {row_of(z, k)->params, bucket->dtype};
    int n_dests;
    zi_job job;
    ZI_TRY(find_dests(z, k, &n_dests));
    ZI_TRY(take(z, k, &job));
    ZI_TRY(z->config.device->event_wait(row_of(z, k)->left)); /* what the row held before */
    job.dest = &dest;
    job.n_dests = 1;
    zi_trace_mark(z, bucket, ZI_AT_UPDATE, NULL);
    z->config.home->update(z->home_queue, z->layout.space[bucket->space].variant, &job);
    zi_trace_mark(z, bucket, ZI_AT_UPDATED, NULL);
    send_up(z, k, n_dests);
    return ZOPT_OK;
}

/* Behind its way up: what the comm does and what a caller reads come on the device's queue. */
static zopt_status publish(zi_zero *z, uint32_t k)
{
    const zi_transfer params = zi_param_transfer(z, bucket_at(z, k));
    zi_phase(z, ZOPT_PHASE_GATHER);
    z->config.device->event_await(z->queue, row_of(z, k)->left);
    zi_trace_mark(z, bucket_at(z, k), ZI_AT_PUBLISH, z->queue);
    ZI_TRY(z->comm->ops->publish(z->comm, &params));
    zi_phase(z, ZOPT_PHASE_UPDATE);
    return ZOPT_OK;
}

/* A transport may wait for the queue to publish: so each bucket is published when the next one has
 * been updated. Both queues are waited for, as both may have failed. */
zopt_status zi_offload_update(zi_zero *z)
{
    uint32_t n = z->layout.n_exchanged;
    for (uint32_t k = 0; k < n; k++) {
        ZI_TRY(update(z, k));
        if (k > 0)
            ZI_TRY(publish(z, k - 1));
    }
    ZI_TRY(publish(z, n - 1));
    ZI_TRY(z->config.device->wait(z->offload->up));
    return z->config.device->wait(z->queue);
}
