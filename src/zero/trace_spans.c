/* A step's moments as spans, each between two of them, in lanes that a viewer shows one above the
 * other; and how many buckets were done with before the backward pass was. Transfers of a kind run
 * in order, and their owner sees no more than that one has ended: it is drawn from where the one
 * before it ended, or from its own beginning. */
#include <stdlib.h>

#include "zero/trace.h"

enum lane { BACKWARD, CALLS, EXCHANGE, PHASE_1, UPDATE, UPDATE_BESIDE, GATHER };

const char *const zi_lane_names[ZI_N_LANES] = {
    [BACKWARD] = "backward",
    [CALLS] = "calls",
    [EXCHANGE] = "exchange of gradients",
    [PHASE_1] = "phase 1: sums of owned slices",
    [UPDATE] = "update",
    [UPDATE_BESIDE] = "update by the progress thread",
    [GATHER] = "gather of parameters",
};

/* A call that has waited for less found what it looked for. */
#define LEAST_WAIT_MS 1e-3

typedef struct span_row {
    const char *name; /* NULL: by the pass */
    enum lane lane;
    zi_moment begin, end;
    int is_transfer, is_wait;
} span_row;

static const span_row rows[] = {
    {"backward", BACKWARD, ZI_AT_BACKWARD, ZI_AT_BACKWARD_END, 0, 0},
    {"zopt_micro_end", CALLS, ZI_AT_MICRO_END, ZI_AT_MICRO_ENDED, 0, 0},
    {"zopt_step", CALLS, ZI_AT_STEP, ZI_AT_STEPPED, 0, 0},
    {"wait in zopt_grad_acquire", CALLS, ZI_AT_GRAD_WAIT, ZI_AT_GRAD_WAITED, 0, 1},
    {"wait in zopt_param_acquire", CALLS, ZI_AT_PARAM_WAIT, ZI_AT_PARAM_WAITED, 0, 1},
    {"exchange", EXCHANGE, ZI_AT_EXPOSE, ZI_AT_FOUND, 1, 0},
    {NULL, PHASE_1, ZI_AT_FOUND, ZI_AT_PASSED, 0, 0},
    {"update", UPDATE, ZI_AT_UPDATE, ZI_AT_UPDATED, 0, 0},
    {"update", UPDATE_BESIDE, ZI_AT_UPDATE_BESIDE, ZI_AT_UPDATED_BESIDE, 0, 0},
    {"gather", GATHER, ZI_AT_PUBLISH, ZI_AT_GATHERED, 1, 0},
    {"all updates and gathers: a CUDA graph", UPDATE, ZI_AT_GRAPH, ZI_AT_GRAPH_END, 0, 0},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

size_t zi_trace_max_drawn(const zi_zero *z)
{
    size_t n = 0;
    for (const span_row *row = rows; row < rows + N_ROWS; row++) {
        int n_passes;
        uint32_t n_buckets;
        (void)zi_trace_count(z, row->begin, &n_passes, &n_buckets);
        n += (size_t)n_passes * n_buckets;
    }
    return n;
}

static const char *pass_name(const zi_zero *z, int pass)
{
    int n_added = z->slot_groups == ZI_GROUPS_NONE ? z->n_micro - 1 : z->n_micro;
    return pass < n_added ? "accumulate" : "norm";
}

static double time_of(const zi_zero *z, const zi_traced *kept, zi_moment moment, int pass,
                      const zi_bucket *bucket)
{
    return kept->ms[zi_trace_place(z, moment, pass, bucket)];
}

/* 1: it is there. bucket: NULL where the row is of none. */
static int draw(const zi_zero *z, const zi_traced *kept, const span_row *row, int pass,
                const zi_bucket *bucket, zi_drawn *out)
{
    double begin = time_of(z, kept, row->begin, pass, bucket);
    double end = time_of(z, kept, row->end, pass, bucket);
    if (begin == 0 || end == 0 || (row->is_wait && end - begin < LEAST_WAIT_MS))
        return 0;
    *out = (zi_drawn){.name = row->name != NULL ? row->name : pass_name(z, pass),
                      .lane = (int)row->lane,
                      .since_ms = begin,
                      .begin_ms = begin,
                      .end_ms = end > begin ? end : begin,
                      .micro = row->begin < ZI_AT_UPDATE ? pass : -1,
                      .bucket = bucket,
                      .is_whole = row->is_transfer || row->is_wait};
    return 1;
}

static int by_end(const void *a, const void *b)
{
    double x = ((const zi_drawn *)a)->end_ms, y = ((const zi_drawn *)b)->end_ms;
    return x < y ? -1 : x > y;
}

/* Transfers behind each other. */
static void queue_up(zi_trace *t, size_t n)
{
    for (zi_drawn *d = t->drawn; d < t->drawn + n; d++) {
        double *last = &t->lane_ms[d->lane];
        if (d->lane != EXCHANGE && d->lane != GATHER)
            continue;
        d->begin_ms = *last < d->begin_ms ? d->begin_ms : *last < d->end_ms ? *last : d->end_ms;
        *last = d->end_ms;
    }
}

static const zi_bucket *bucket_at(const zi_zero *z, uint32_t position)
{
    return &z->layout.bucket[z->layout.order[position]];
}

/* One micro-step in which this rank has gradients. A bucket that no pass follows is done with when
 * it is found. */
static void count_hidden(const zi_zero *z, const zi_traced *kept, int pass, zi_overlap *overlap)
{
    double end = time_of(z, kept, ZI_AT_BACKWARD_END, pass, NULL);
    if (end == 0)
        return;
    overlap->n_micro++;
    for (uint32_t i = 0; i < z->layout.n_exchanged; i++) {
        double found = time_of(z, kept, ZI_AT_FOUND, pass, bucket_at(z, i));
        double passed = time_of(z, kept, ZI_AT_PASSED, pass, bucket_at(z, i));
        overlap->n_buckets++;
        overlap->n_exchanged += found != 0 && found <= end;
        overlap->n_passed += found != 0 && (passed != 0 ? passed : found) <= end;
    }
}

static void sum_up(zi_zero *z, const zi_traced *kept, zi_overlap *overlap)
{
    zi_overlap *all = &z->overlap;
    for (int pass = 0; pass < z->n_micro; pass++)
        count_hidden(z, kept, pass, overlap);
    for (uint32_t i = 0; i < z->layout.n_exchanged; i++) {
        double wanted = time_of(z, kept, ZI_AT_PARAM_WAIT, 0, bucket_at(z, i));
        double gathered = time_of(z, kept, ZI_AT_GATHERED, 0, bucket_at(z, i));
        overlap->n_awaited += wanted != 0 && gathered - wanted >= LEAST_WAIT_MS;
    }
    all->n_steps += overlap->n_steps = 1;
    all->n_micro += overlap->n_micro;
    all->n_buckets += overlap->n_buckets;
    all->n_exchanged += overlap->n_exchanged;
    all->n_passed += overlap->n_passed;
    all->n_awaited += overlap->n_awaited;
}

size_t zi_trace_draw(zi_zero *z, const zi_traced *kept, zi_overlap *overlap)
{
    zi_trace *t = z->trace;
    size_t n = 0;
    for (const span_row *row = rows; row < rows + N_ROWS; row++) {
        int n_passes;
        uint32_t n_buckets;
        int is_buckets = zi_trace_count(z, row->begin, &n_passes, &n_buckets);
        for (int pass = 0; pass < n_passes; pass++)
            for (uint32_t i = 0; i < n_buckets; i++)
                n += (size_t)draw(z, kept, row, pass, is_buckets ? bucket_at(z, i) : NULL,
                                  &t->drawn[n]);
    }
    qsort(t->drawn, n, sizeof *t->drawn, by_end);
    queue_up(t, n);
    sum_up(z, kept, overlap);
    return n;
}
