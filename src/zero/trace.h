/* A trace of steps (zopt_trace): moments in the life of each bucket, kept for the few steps that
 * may be under way, and drawn as spans into one file of all ranks once their work is known to be
 * done. On a device a moment is an event with a time, recorded where the work is enqueued and read
 * steps later: nothing waits for it. Without a trace there are no events, and no clock is read.
 * trace.c keeps moments, trace_spans.c makes spans of them, trace_file.c writes these. */
#ifndef ZI_ZERO_TRACE_H
#define ZI_ZERO_TRACE_H

#include "zero/handle.h"

typedef enum zi_moment {
    /* Of a bucket in a micro-step. */
    ZI_AT_EXPOSE,    /* this rank's gradients are written */
    ZI_AT_FOUND,     /* its owner has found all ranks' */
    ZI_AT_PASSED,    /* and made its first pass over them */
    ZI_AT_GRAD_WAIT, /* where the caller has no stream */
    ZI_AT_GRAD_WAITED,
    /* Of a micro-step. */
    ZI_AT_BACKWARD,     /* the first zopt_grad_acquire */
    ZI_AT_BACKWARD_END, /* the last zopt_grad_ready begins */
    ZI_AT_MICRO_END,
    ZI_AT_MICRO_ENDED,
    /* Of a bucket's parameters. */
    ZI_AT_UPDATE,
    ZI_AT_UPDATED,
    ZI_AT_UPDATE_BESIDE, /* by the progress thread */
    ZI_AT_UPDATED_BESIDE,
    ZI_AT_PUBLISH,
    ZI_AT_GATHERED,     /* the caller has found all ranks' */
    ZI_AT_PARAM_WAIT,   /* the caller, or its stream, looks for them */
    ZI_AT_PARAM_WAITED, /* where it has none */
    /* Of a step. */
    ZI_AT_STEP,
    ZI_AT_STEPPED,
    ZI_AT_GRAPH, /* one CUDA graph has all updates and gathers */
    ZI_AT_GRAPH_END,
    ZI_N_MOMENTS
} zi_moment;

/* A step's moments, in tables by zi_trace_place. */
typedef struct zi_traced {
    uint64_t step;
    double *ms;       /* of CLOCK_MONOTONIC; 0: it has not come; < 0: its event has the time */
    zi_event **event; /* NULL: the device is the host */
    zi_event *end;    /* of the step, on the handle's queue */
} zi_traced;

/* Two steps may be under way, and what is around a step is done when the next one is. */
enum { ZI_MAX_TRACED = 4, ZI_N_LANES = 7 };

/* A span of the file. */
typedef struct zi_drawn {
    const char *name;
    int lane;
    double since_ms, begin_ms, end_ms; /* since: where a transfer waited for those before it */
    int micro;                         /* -1: it is the step's */
    const zi_bucket *bucket;           /* NULL: it is no bucket's */
    int is_whole;                      /* 1: all slices of it; 0: this rank's */
} zi_drawn;

typedef struct zi_trace_config {
    const char *path;
    uint64_t n_steps;                                /* that are traced */
    void (*on_warning)(void *arg, const char *text); /* as in zopt_options */
    void *on_warning_arg;
} zi_trace_config;

typedef struct zi_trace {
    zi_trace_config config;
    uint64_t n, n_written; /* steps that have ended since, and those in the file */
    uint64_t n_updates;    /* of the handle, and the step that made the last, + 1 */
    uint64_t updated;
    int n_kept;
    int n_passes;     /* over the gradients in a step */
    size_t n_moments; /* of a step */
    zi_traced kept[ZI_MAX_TRACED];
    zi_drawn *drawn; /* [max_drawn] */
    size_t max_drawn;
    double lane_ms[ZI_N_LANES]; /* where the last span of each has ended */
    /* Of a device: */
    zi_queue *queue;  /* waits for what has a time and nothing of the handle's waits for */
    zi_event *origin; /* at origin_ms */
    double origin_ms;
    /* The file: */
    FILE *file;
    double zero_ms; /* from where it counts */
    uint64_t id;    /* in its first line, for ranks to know it by */
    int is_set;     /* 1: this rank is on another machine than rank 0 */
} zi_trace;

/* ---- trace.c ---- */

/* Trace from the next step on; what goes on already is ended. Between steps, while the progress
 * thread rests. *Collective.* Errors, the same on all ranks: those of zi_trace_open, ERR_MEMORY,
 * ERR_DISAGREE where path or n_steps differ, and then nothing is ended. */
zopt_status zi_trace_begin(zi_zero *z, const zi_trace_config *config);
/* Wait for the device, write what there is, and free it all; nothing without a trace. Errors: what
 * could not be written. */
zopt_status zi_trace_end(zi_zero *z);
/* The same with a warning in the place of the error. */
void zi_trace_close(zi_zero *z);
/* A step has ended: write the one that is done by now, and close the trace behind its last. */
void zi_trace_step_end(zi_zero *z);

/* It is when the queue comes here, or, where that is NULL, now. The first time counts, but of ends
 * of backward passes. bucket: of a moment of a bucket. */
void zi_trace_add(zi_zero *z, const zi_bucket *bucket, zi_moment moment, zi_queue *queue);
/* The caller has waited for a bucket's parameters, of that ordinal. Errors: the comm's. */
zopt_status zi_trace_add_gathered(zi_zero *z, const zi_bucket *bucket, uint64_t ordinal);

static inline void zi_trace_mark(zi_zero *z, const zi_bucket *bucket, zi_moment moment,
                                 zi_queue *queue)
{
    if (z->trace != NULL)
        zi_trace_add(z, bucket, moment, queue);
}

static inline zopt_status zi_trace_gathered(zi_zero *z, const zi_bucket *bucket, uint64_t ordinal)
{
    return z->trace != NULL ? zi_trace_add_gathered(z, bucket, ordinal) : ZOPT_OK;
}

/* Where a moment is in a step's tables; of ZI_N_MOMENTS: how many they hold. pass: of moments of a
 * micro-step, or, where sums are passed over, n_micro. */
size_t zi_trace_place(const zi_zero *z, zi_moment moment, int pass, const zi_bucket *bucket);
/* How often a step has it; returns 1 where that is for each bucket. */
int zi_trace_count(const zi_zero *z, zi_moment moment, int *n_passes, uint32_t *n_buckets);

/* ---- trace_spans.c ---- */

/* Spans that a step may have. */
size_t zi_trace_max_drawn(const zi_zero *z);
/* Draw a step whose times are all in kept->ms, by their ends, and add it to z->overlap and
 * *overlap; returns how many spans. */
size_t zi_trace_draw(zi_zero *z, const zi_traced *kept, zi_overlap *overlap);
/* No two spans of a lane overlap. */
extern const char *const zi_lane_names[ZI_N_LANES];

/* ---- trace_file.c ---- */

/* Make the file on rank 0, then open it on the others. It is whole from here on after each call.
 * Collective. Errors, the same on all ranks: ERR_WRITE, also where a rank finds another file there,
 * which it leaves alone; ERR_PERMISSION; ERR_ARGUMENT for what is no plain file. */
zopt_status zi_trace_open(zi_zero *z, const char *path);
/* Add a step. Errors: ERR_WRITE; the file is as it was. */
zopt_status zi_trace_write(zi_zero *z, uint64_t step, size_t n_drawn, const zi_overlap *overlap);

#endif
