/* The handle of stage 1 and what it is made of: its configuration, this rank's memory, and where it
 * stands in a micro-step and a step. zero.h has the calls on it. */
#ifndef ZI_ZERO_HANDLE_H
#define ZI_ZERO_HANDLE_H

#include "comm/comm.h"
#include "device/device.h"
#include "zero/caller.h"
#include "zero/layout.h"
#include "zero/spans.h"

/* What every group has beside the optimizer's settings. */
enum { ZI_GROUP_LR_MULT, ZI_GROUP_FROZEN, ZI_N_GROUP_SETTINGS };
extern const zi_setting_row zi_group_settings[ZI_N_GROUP_SETTINGS];

typedef struct zi_group {
    double value[ZI_MAX_SETTINGS]; /* by the optimizer's settings */
    double own[ZI_N_GROUP_SETTINGS];
    double power[ZI_MAX_POWERS]; /* running products over the good steps */
} zi_group;

/* What the caller waited for last in a bucket: n_exchanges and n_updates as they were then. Its
 * other tensors need not wait again, nor ask the clock, which costs more than a small tensor does.
 */
typedef struct zi_waited {
    uint64_t n_exchanges, n_updates;
} zi_waited;

/* Where a tensor's gradient of this micro-step is. */
typedef enum zi_grad_state { ZI_GRAD_ABSENT, ZI_GRAD_ACQUIRED, ZI_GRAD_READY } zi_grad_state;

/* A round of a step: a pass over the owned gradients that sums, and what follows from the totals.
 * What clipping needs, and what optimizers with statistics need. */
typedef struct zi_zero zi_zero;
typedef struct zi_round {
    size_t (*n_words)(const zi_zero *z); /* int64 words that are summed; NULL: there is no pass */
    void (*begin)(zi_zero *z);
    /* NULL, and begin too: the owner's first pass, as buckets fill. */
    void (*add_slice)(zi_zero *z, const zi_bucket *bucket, const zi_job *job);
    zopt_status (*end)(zi_zero *z); /* waits for the kernels; writes z->sums, this rank's share */
    /* z->sums has the totals, the same on all ranks. May set control.skip, and is then the last. */
    zopt_status (*act)(zi_zero *z);
} zi_round;

enum { ZI_MAX_ROUNDS = 4 };

/* Who takes buckets to update: the caller, and the progress thread beside it. */
enum { ZI_CALLERS_HAND, ZI_THREADS_HAND, ZI_N_HANDS };
typedef struct zi_hand {
    int is_full;       /* 1: has a bucket, which is not all stored */
    uint32_t k;        /* its place in the order of parameters */
    zi_job job;        /* with the tables below */
    zi_source *source; /* [world + 1] */
    zi_dest *dest;     /* [world] */
} zi_hand;

/* Whether slots are summed by groups, and how that falls on micro-steps. */
typedef enum zi_slot_groups { ZI_GROUPS_NONE, ZI_GROUPS_WITHIN, ZI_GROUPS_SPAN } zi_slot_groups;

/* This rank's memory of a space, but for the master weights. */
typedef struct zi_space_memory {
    zi_symmetric params, grads;          /* the whole space; frozen: no gradients */
    zi_state_slice state[ZI_MAX_STATES]; /* by the variant's states: of owned elements, or all */
                                         /* rows or columns of the space's tensors */
} zi_space_memory;

/* Tables and sums as kernels see them: in the device's memory, and behind these, home's. */
typedef struct zi_placed {
    float (*scalars)[ZI_MAX_SCALARS];
    zi_control *control;
    zi_norm_sums *norm;
    zi_span *span;
    /* Where a variant has statistics: */
    zi_tensor_statistics *statistics; /* [n_tensors], with addresses of what follows */
    zi_tensor_statistics *image;      /* the host's memory that they are copied from */
    float *rows[ZI_MAX_SPACES], *cols[ZI_MAX_SPACES], *row_means;
    int64_t *sums; /* [n_sums] */
} zi_placed;

/* What steps that were traced have hidden behind backward passes, summed up (trace.h). */
typedef struct zi_overlap {
    uint64_t n_steps, n_micro;      /* with a backward pass of this rank */
    uint64_t n_buckets;             /* of these micro-steps */
    uint64_t n_exchanged, n_passed; /* of them, while it went on */
    uint64_t n_awaited;             /* buckets whose parameters the caller has waited for */
} zi_overlap;

/* One line that ranks must agree on beside the options. */
typedef struct zi_agreed {
    char *key, *value;
    int changes_result; /* 1: checkpoints tell it too */
} zi_agreed;

/* Options as the room uses them: checked, named rows looked up, strings gone. */
typedef struct zi_zero_config {
    const zi_optim *optim;
    double value[ZI_MAX_SETTINGS]; /* defaults of every group */
    const zi_schedule *schedule;
    double schedule_value[ZI_MAX_SETTINGS];
    const zi_device_ops *device; /* has parameters, gradients and their sums */
    /* Has master weights, states and their tables, and updates them: the same one, or, where these
     * are offloaded, the host. */
    const zi_device_ops *home;
    uint64_t bucket_elems;
    zi_scale_rules scale_rules; /* slots among them */
    double loss_scale;
    int check_overflow; /* -1, 0, 1 as in zopt_options */
    int check_params_every;
    int progress_thread;
    int reduce_group;
    int cuda_graph; /* as in zopt_options */
} zi_zero_config;

struct zi_zero {
    zi_mem *mem;
    zi_comm *comm;
    zi_queue *queue;            /* of the device */
    zi_queue *home_queue;       /* of home: the same one, or NULL */
    struct zi_offload *offload; /* where they are two */
    zi_zero_config config;
    int committed;
    int failed; /* 1: commit or a step failed half way; only destroy may follow */

    zi_group *groups;
    uint32_t n_groups, room_groups;
    zi_tensor *tensors;
    uint32_t n_tensors, room_tensors;
    zi_agreed *agreed;
    uint32_t n_agreed, room_agreed;

    /* From commit on. */
    zi_layout layout;
    zi_spans spans;
    zi_space_memory memory[ZI_MAX_SPACES];
    float *master, *accum; /* owned elements; accum, of trained ones: sums of slots so far */
    float *group_sum;      /* [n_group_sums] the group under way: of a piece, or all of it */
    size_t n_group_sums;   /* where groups span micro-steps: as many as accum */
    zi_slot_groups slot_groups;
    int n_micro; /* micro-steps a step: ceil(S / world) */
    int measure; /* 1: every step has a norm round */

    /* One micro-step: arrivals and exposure. */
    struct zi_owner_thread *thread; /* NULL: the caller's makes all passes */
    zi_grad_state *grad_state;      /* [n_tensors] */
    uint32_t *n_missing;            /* [n_buckets] tensors not ready yet */
    zi_waited *waited;              /* [n_buckets] */
    uint32_t n_exposed;             /* buckets exposed so far, in their order */
    uint32_t n_passed;              /* of those, how many have had their owner's first pass */
    uint64_t n_exchanges;           /* micro-steps ended since commit */
    int micro;                      /* 0..n_micro-1; n_micro: all ended, zopt_step comes next */

    /* One step. Of steps that are under way `step` counts all, and what follows from their
     * decisions, good_step, scale and the groups' powers, none. */
    struct zi_ahead *ahead; /* NULL: steps wait for the host */
    zi_caller caller;
    uint64_t step, good_step;
    uint64_t n_updates; /* steps whose parameters were published */
    zi_scale_state scale;
    zi_control control;
    const void **source_at; /* [world] */
    zi_source *source;      /* [world + 1] */
    void **dest_at;         /* [world] */
    zi_dest *dest;          /* [world] */
    /* An update by two hands: under the progress thread's mutex. */
    zi_hand hand[ZI_N_HANDS];
    int sharing;                /* 1: it is under way */
    uint32_t n_taken, n_stored; /* buckets, in the order of parameters; stored: published too */
    const zi_round *rounds[ZI_MAX_ROUNDS];
    int n_rounds;
    size_t n_sums;                    /* words of the largest round */
    int64_t *sums;                    /* [n_sums] of the round under way */
    zi_decision decision;             /* of this step */
    zi_tensor_statistics *statistics; /* [n_tensors] the host's; NULL: no variant has any */
    float *row_means;                 /* of every factored matrix */
    zi_norm_sums norm;                /* this rank's share of the norm round */
    zi_placed placed;
    int64_t bad_key;       /* lowest (tensor, slot) with a non-finite gradient; INT64_MAX: none */
    double *losses;        /* [n_micro + 1] this rank's, and a mark of its settings */
    double *all_losses;    /* [world * (n_micro + 1)]; NULL: they travel enqueued, see ahead.h */
    uint64_t bytes_before; /* comm->bytes_sent when the last step ended */
    int phase;             /* under way, else -1 */
    const char *between;   /* what this rank does where none is: "compute", "save", ... */
    double phase_since_ms;
    double phase_ms[ZOPT_N_PHASES]; /* since the last report; gather: of that step's parameters */
    zopt_step_report report;        /* of the newest step that the host has heard of */
    char path[256];                 /* zi_step_path's */
    struct zi_trace *trace;         /* NULL: nothing is traced */
    int was_traced;
    zi_overlap overlap; /* of the last trace, as far as it is written */
};

#endif
