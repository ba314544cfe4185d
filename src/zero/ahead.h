/* Steps that are enqueued and not waited for: a kernel decides in the place of the host, which
 * hears of it one step later. Where the device and the transport can; everywhere else steps wait
 * (round.c). capture.c records what such a step enqueues and replays it. */
#ifndef ZI_ZERO_AHEAD_H
#define ZI_ZERO_AHEAD_H

#include "zero/zero.h"

/* A step that the host has not heard of: what it knows by itself. */
typedef struct zi_pending {
    zi_event *done;
    double lr[ZI_MAX_PENDING]; /* group 0's, by row of the scalars that were offered */
    uint64_t bytes_sent;
    double phase_ms[ZOPT_N_PHASES];
} zi_pending;

/* A recorded step. */
typedef struct zi_capture {
    zi_graph *graph;   /* NULL: none yet */
    uint64_t of;       /* hash of the addresses in it */
    int is_warm;       /* 1: every kernel has run once, and may be recorded */
    const char *never; /* why nothing is recorded; NULL: it is */
    char failed[160];  /* `never`, in the device's words */
} zi_capture;

typedef struct zi_ahead {
    zi_pending pending[ZI_MAX_PENDING]; /* step % ZI_MAX_PENDING */
    uint64_t n_heard;                   /* steps that the host knows all about */
    struct {
        zopt_status status; /* of one of them, which the caller is to be told; OK: there is none */
        uint64_t step;
        char text[512];
    } failure;
    zi_capture capture;
    /* In page-locked memory, see control.h. */
    zi_step_slot *slot;
    float (*offered)[ZI_MAX_SCALARS];
    double *offered_losses;  /* [ZI_MAX_PENDING] this rank's, with its mark */
    zi_terms *offered_terms; /* NULL: no statistics are settled */
    /* In the device's memory. */
    zi_standing *standing;
    zi_terms *terms;         /* [n_groups] of the step under way, where there are statistics */
    int64_t *bad_key;        /* [world], and the losses of all ranks: one sum brings both */
    zi_tensor_start *tensor; /* [n_tensors] by space */
    uint32_t first_tensor[ZI_MAX_SPACES + 1];
} zi_ahead;

/* Why steps of this handle wait for the host; NULL: they do not. After comm->reserve. */
const char *zi_ahead_missing(const zi_zero *z);
/* At commit. z->ahead stays NULL where steps wait. Errors: ERR_MEMORY; ERR_UNSUPPORTED where a
 * graph was asked for. */
zopt_status zi_ahead_create(zi_zero *z);
void zi_ahead_destroy(zi_zero *z);
/* Enqueue where the handle's steps stand now: with zi_place_control. */
void zi_ahead_place(zi_zero *z);

/* Enqueue all of a step: sums, decision, update. Waits only where ZI_MAX_PENDING steps are under
 * way. Errors: those of steps before. */
zopt_status zi_ahead_run(zi_zero *z);
/* The kernels up to the update, without the passes that buckets have had. */
zopt_status zi_ahead_decide(zi_zero *z);
/* All of step z->step is enqueued. */
void zi_ahead_note(zi_zero *z);

/* Hear of the steps that have finished; wait: of all. Errors: the device's; where all are waited
 * for, ERR_DISAGREE. Without z->ahead there is nothing to hear. */
zopt_status zi_ahead_hear(zi_zero *z, int wait);
/* Once: ERR_NUMERICS or ERR_DISAGREE of a step that was heard of. Ranks hear sooner or later; they
 * are told in the same call of zopt_step, or where they have waited (waited = 1). */
zopt_status zi_ahead_failure(zi_zero *z, int waited);

/* locate.c: enqueue the search through all gradients of the micro-step under way. */
zopt_status zi_locate_enqueue(zi_zero *z);

/* capture.c: the same as zi_ahead_decide and zi_update_all, from a recording where there is one. */
zopt_status zi_capture_run(zi_zero *z);
void zi_capture_free(zi_zero *z);
/* Of the comm's on_abort, z: the zi_zero: the recording goes, and nothing waits for it. */
void zi_capture_drop(void *z);

#endif
