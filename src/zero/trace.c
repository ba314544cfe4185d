/* Moments of a trace: where they are kept, who is asked for the time, and when a step is written.
 * A step's moments on a device are read when its work, and what is around it, is long done. */
#include "zero/trace.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/status.h"
#include "zero/zero.h"

/* ---- tables of moments ---- */

/* Moments up to `end` that a step has as often. */
typedef struct section {
    zi_moment end;
    int by_pass, by_bucket;
} section;

static const section sections[] = {
    {ZI_AT_GRAD_WAITED + 1, 1, 1},
    {ZI_AT_MICRO_ENDED + 1, 1, 0},
    {ZI_AT_PARAM_WAITED + 1, 0, 1},
    {ZI_N_MOMENTS, 0, 0},
};
enum { N_SECTIONS = sizeof sections / sizeof sections[0] };

static void count(const zi_zero *z, const section *s, int *n_passes, uint32_t *n_buckets)
{
    *n_passes = s->by_pass ? z->trace->n_passes : 1;
    *n_buckets = s->by_bucket ? z->layout.n_exchanged : 1;
}

int zi_trace_count(const zi_zero *z, zi_moment moment, int *n_passes, uint32_t *n_buckets)
{
    const section *s = sections;
    while (moment >= s->end)
        s++;
    count(z, s, n_passes, n_buckets);
    return s->by_bucket;
}

size_t zi_trace_place(const zi_zero *z, zi_moment moment, int pass, const zi_bucket *bucket)
{
    size_t at = 0, first = 0;
    for (const section *s = sections; s < sections + N_SECTIONS; s++) {
        int n_passes;
        uint32_t n_buckets;
        count(z, s, &n_passes, &n_buckets);
        size_t width = s->end - first;
        size_t row = (s->by_pass ? (size_t)pass * n_buckets : 0) +
                     (s->by_bucket && bucket != NULL ? bucket->position : 0);
        if (moment < s->end)
            return at + row * width + moment - first;
        at += (size_t)n_passes * n_buckets * width;
        first = s->end;
    }
    return at;
}

/* ---- life ---- */

static int has_events(const zi_zero *z)
{
    return !z->config.device->on_host && !z->comm->planned;
}

static zopt_status create_events(zi_zero *z, zi_traced *kept)
{
    const zi_device_ops *device = z->config.device;
    for (size_t i = 0; i < z->trace->n_moments; i++)
        ZI_TRY(device->event_timed(z->queue, &kept->event[i]));
    return device->event_timed(z->queue, &kept->end);
}

static size_t event_bytes(const zi_zero *z)
{
    return z->config.device->on_host ? 0 : z->trace->n_moments * sizeof(zi_event *);
}

static zopt_status create(zi_zero *z, const zi_trace_config *config)
{
    zi_trace *t;
    ZI_TRY(zi_mem_table(z->mem, sizeof *t, &t));
    z->trace = t;
    t->config = *config;
    t->config.path = NULL; /* it was lent for the call */
    t->n_updates = z->n_updates;
    t->n_kept = z->config.device->on_host ? 2 : ZI_MAX_TRACED;
    t->n_passes = z->n_micro + (z->slot_groups != ZI_GROUPS_NONE);
    t->n_moments = zi_trace_place(z, ZI_N_MOMENTS, 0, NULL);
    t->max_drawn = zi_trace_max_drawn(z);
    ZI_TRY(zi_mem_table(z->mem, t->max_drawn * sizeof *t->drawn, &t->drawn));
    for (int i = 0; i < t->n_kept; i++) {
        ZI_TRY(zi_mem_table(z->mem, t->n_moments * sizeof(double), &t->kept[i].ms));
        ZI_TRY(zi_mem_table(z->mem, event_bytes(z), &t->kept[i].event));
        if (has_events(z))
            ZI_TRY(create_events(z, &t->kept[i]));
    }
    if (!has_events(z))
        return ZOPT_OK;
    ZI_TRY(z->config.device->open_beside(z->queue, &t->queue));
    return z->config.device->event_timed(z->queue, &t->origin);
}

static void destroy_events(const zi_zero *z, const zi_traced *kept)
{
    for (size_t i = 0; kept->event != NULL && i < z->trace->n_moments; i++)
        z->config.device->event_destroy(kept->event[i]);
    z->config.device->event_destroy(kept->end);
}

static void destroy(zi_zero *z)
{
    zi_trace *t = z->trace;
    for (int i = 0; i < t->n_kept; i++) {
        if (has_events(z))
            destroy_events(z, &t->kept[i]);
        zi_mem_free_table(z->mem, t->kept[i].event, event_bytes(z));
        zi_mem_free_table(z->mem, t->kept[i].ms, t->n_moments * sizeof(double));
    }
    if (has_events(z)) {
        z->config.device->event_destroy(t->origin);
        z->config.device->close(t->queue);
    }
    zi_mem_free_table(z->mem, t->drawn, t->max_drawn * sizeof *t->drawn);
    if (t->file != NULL)
        fclose(t->file);
    zi_mem_free_table(z->mem, t, sizeof *t);
    z->trace = NULL;
}

/* The host's time for a moment of the device: one before it, so that nothing seems to be later than
 * what has waited for it. */
static zopt_status set_clock(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    zi_trace *t = z->trace;
    if (!has_events(z))
        return ZOPT_OK;
    ZI_TRY(device->wait(z->queue));
    t->origin_ms = zi_now_ms();
    device->event_record(z->queue, t->origin);
    return device->wait(z->queue);
}

static zopt_status begin(zi_zero *z, const zi_trace_config *config)
{
    ZI_TRY(zi_comm_agree(z->comm, create(z, config)));
    if (z->comm->planned)
        return ZOPT_OK;
    ZI_TRY(zi_comm_agree(z->comm, set_clock(z)));
    return zi_trace_open(z, config->path);
}

/* What is taken for a moment later, by a save say, may be taken beside it. All of a handle's traces
 * are alike. */
static void lift_peaks(zi_zero *z, const zi_mem *before)
{
    zi_mem *mem = z->mem;
    uint64_t bytes = mem->total_bytes - before->total_bytes;
    if (z->was_traced)
        return;
    mem->total_peak_bytes = before->total_peak_bytes + bytes;
    mem->row[ZI_MEM_TABLES].peak_bytes = before->row[ZI_MEM_TABLES].peak_bytes + bytes;
    z->was_traced = 1;
}

static zopt_status compare(zi_zero *z, const zi_trace_config *config)
{
    int same = 1;
    uint64_t hash = config->n_steps;
    if (z->comm->planned)
        return ZOPT_OK;
    if (config->n_steps > 0) /* else there may be none */
        hash = XXH3_64bits_withSeed(config->path, strlen(config->path), hash);
    ZI_TRY(zi_all_same(z->comm, hash, &same));
    return same ? ZOPT_OK
                : ZI_FAIL(ZOPT_ERR_DISAGREE, "ranks disagree on the file or the steps of a trace");
}

zopt_status zi_trace_begin(zi_zero *z, const zi_trace_config *config)
{
    ZI_TRY(compare(z, config));
    ZI_TRY(zi_comm_agree(z->comm, zi_trace_end(z)));
    if (config->n_steps == 0)
        return ZOPT_OK;
    const zi_mem before = *z->mem;
    z->overlap = (zi_overlap){0};
    zopt_status status = begin(z, config);
    if (status == ZOPT_OK)
        lift_peaks(z, &before);
    if (status != ZOPT_OK && z->trace != NULL)
        destroy(z);
    return status;
}

/* ---- moments ---- */

/* Of steps that are traced and not written yet. Parameters are those of the last update. */
static zi_traced *kept_for(const zi_zero *z, zi_moment moment)
{
    zi_trace *t = z->trace;
    int of_params = moment >= ZI_AT_GATHERED && moment <= ZI_AT_PARAM_WAITED;
    uint64_t n = of_params ? t->updated - 1 : t->n;
    if (n >= t->config.n_steps || n < t->n_written || z->comm->recording != ZI_LIVE)
        return NULL;
    return &t->kept[n % (uint64_t)t->n_kept];
}

void zi_trace_add(zi_zero *z, const zi_bucket *bucket, zi_moment moment, zi_queue *queue)
{
    zi_traced *kept = kept_for(z, moment);
    int pass = moment == ZI_AT_MICRO_ENDED ? z->micro - 1 : z->micro; /* the next one's turn */
    if (kept == NULL)
        return;
    size_t at = zi_trace_place(z, moment, pass, bucket);
    if (kept->ms[at] != 0 && moment != ZI_AT_BACKWARD_END)
        return;
    kept->ms[at] = queue == NULL ? zi_now_ms() : -1;
    if (queue != NULL)
        z->config.device->event_record(queue, kept->event[at]);
}

/* Behind the transfer, where queues can wait for one: peers are there already. Elsewhere behind the
 * handle's queue, which the caller must wait for. */
zopt_status zi_trace_add_gathered(zi_zero *z, const zi_bucket *bucket, uint64_t ordinal)
{
    zi_queue *queue = z->queue;
    if (kept_for(z, ZI_AT_GATHERED) == NULL)
        return ZOPT_OK;
    if (queue != NULL && z->comm->ops->device_waits) {
        queue = z->trace->queue;
        ZI_TRY(z->comm->ops->publish_wait(z->comm, ordinal, queue));
    }
    zi_trace_add(z, bucket, ZI_AT_GATHERED, queue);
    return ZOPT_OK;
}

/* ---- a step that has ended ---- */

/* What has not been on the device, or not yet, stays out of the trace. The end of this step is the
 * next one's origin: a float of milliseconds is coarse where it has counted for long. */
static void read_times(zi_zero *z, zi_traced *kept)
{
    const zi_device_ops *device = z->config.device;
    zi_trace *t = z->trace;
    double ms;
    int done, is_lost = z->failed || z->comm->broken; /* why, is told already */
    for (size_t i = 0; i < t->n_moments; i++) {
        if (kept->ms[i] >= 0)
            continue;
        kept->ms[i] = 0;
        if (is_lost)
            continue;
        (void)device->event_query(kept->event[i],
                                  &done); /* a driver may hold work back till then */
        if (device->event_ms(t->origin, kept->event[i], &ms) == ZOPT_OK)
            kept->ms[i] = t->origin_ms + ms;
    }
    if (t->origin == NULL || is_lost || device->event_ms(t->origin, kept->end, &ms) != ZOPT_OK)
        return;
    zi_event *old = t->origin;
    t->origin = kept->end;
    t->origin_ms += ms;
    kept->end = old;
}

static zopt_status write_next(zi_zero *z)
{
    zi_trace *t = z->trace;
    zi_traced *kept = &t->kept[t->n_written % (uint64_t)t->n_kept];
    zi_overlap overlap = {0};
    read_times(z, kept);
    size_t n_drawn = zi_trace_draw(z, kept, &overlap);
    t->n_written++;
    for (size_t i = 0; i < t->n_moments; i++)
        kept->ms[i] = 0;
    return zi_trace_write(z, kept->step, n_drawn, &overlap);
}

static void warn(const zi_trace_config *config)
{
    if (config->on_warning != NULL)
        config->on_warning(config->on_warning_arg, zopt_last_error());
    else
        fprintf(stderr, "zopt: warning: %s\n", zopt_last_error());
}

/* All that is enqueued; behind a failure it may never end. */
static void settle(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (!has_events(z) || z->failed || z->comm->broken)
        return;
    (void)device->wait(z->queue);
    (void)device->wait(z->trace->queue);
}

zopt_status zi_trace_end(zi_zero *z)
{
    zi_trace *t = z->trace;
    zopt_status status = ZOPT_OK;
    if (t == NULL)
        return ZOPT_OK;
    if (t->file != NULL)
        settle(z);
    while (t->file != NULL && t->n_written < t->n && t->n_written < t->config.n_steps &&
           status == ZOPT_OK)
        status = write_next(z);
    destroy(z);
    return status;
}

void zi_trace_close(zi_zero *z)
{
    zi_trace_config config = z->trace != NULL ? z->trace->config : (zi_trace_config){0};
    if (zi_trace_end(z) != ZOPT_OK)
        warn(&config);
}

void zi_trace_step_end(zi_zero *z)
{
    zi_trace *t = z->trace;
    zopt_status status = ZOPT_OK;
    if (t == NULL)
        return;
    zi_traced *ended = &t->kept[t->n % (uint64_t)t->n_kept];
    t->updated = z->n_updates != t->n_updates ? t->n + 1 : t->updated;
    t->n_updates = z->n_updates;
    t->n++;
    if (t->n <= t->config.n_steps)
        ended->step = z->step;
    if (t->n - t->n_written >= (uint64_t)t->n_kept)
        status = write_next(z);
    if (t->n <= t->config.n_steps && has_events(z))
        z->config.device->event_record(z->queue, ended->end);
    zi_trace_config config = t->config;
    if (status == ZOPT_OK && t->n_written < config.n_steps)
        return;
    if (status != ZOPT_OK)
        warn(&config);
    destroy(z);
}
