/* ZeRO stage 1: the local sharded optimizer. Each rank holds all parameters and one slot's
 * gradients, and master weights and state of the elements it owns.
 *
 * A gradient's path through this room: bucket.c (arrivals, exposure) -> reduce.c (tables of
 * sources; slot_group.c: their sums by groups) -> owner.c (the first pass, while backward goes on)
 * -> round.c (exact sums) -> device/control.h (one decision) -> update.c (update, publish;
 * offload.c, where the state is not with the gradients). */
#ifndef ZI_ZERO_ZERO_H
#define ZI_ZERO_ZERO_H

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

/* What was waited for last in a bucket: n_exchanges and n_updates as they were then. Its other
 * tensors need not wait again, nor ask the clock, which costs more than a small tensor does. */
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
    double *all_losses;    /* [world * (n_micro + 1)] */
    uint64_t bytes_before; /* comm->bytes_sent when the last step ended */
    int phase;             /* under way, else -1 */
    double phase_since_ms;
    double phase_ms[ZOPT_N_PHASES]; /* since the last report; gather: of that step's parameters */
    zopt_step_report report;        /* of the newest step that the host has heard of */
    char path[256];                 /* zi_step_path's */
};

/* Book the time since the last call to the phase under way and begin another (-1: none); returns
 * the one that ended. Also tells the comm, for the text of a hang. */
int zi_phase(zi_zero *z, int phase);

/* zero.c: life. The comm and mem are lent. */
zopt_status zi_zero_create(const zi_zero_config *config, zi_comm *comm, zi_mem *mem, zi_zero **out);
/* Parameters and gradients stay with the comm, which peers may still touch them through. */
void zi_zero_destroy(zi_zero *z);
zopt_status zi_zero_commit(zi_zero *z);

/* group.c: hyper-parameters. */
/* Settings for `value` of the handle's defaults. Errors: ERR_CONFIG. */
zopt_status zi_group_defaults(zi_zero_config *config, const zopt_setting *settings, size_t n);
/* The handle's defaults overridden by these. Errors: ERR_CONFIG. */
zopt_status zi_group_read(zi_zero *z, const zopt_setting *settings, size_t n, zi_group *group);
zopt_status zi_group_set_lr(zi_zero *z, uint32_t group, double lr);
/* The rate of a group in good step t. */
double zi_group_lr(const zi_zero *z, uint32_t group, uint64_t t);
/* The update's scalars of every group for the n-th good step from here. */
void zi_group_foresee(const zi_zero *z, unsigned n, float (*scalars)[ZI_MAX_SCALARS]);
/* What statistics of the group's tensors are settled with in good step t; of an optimizer that has
 * such. */
void zi_group_terms(const zi_zero *z, uint32_t group, uint64_t t, zi_terms *terms);
/* A good step was made: move the groups' powers on. */
void zi_group_advance(zi_zero *z);

/* state.c: the optimizer's states of the owned elements, in home's memory. */
zopt_status zi_states_alloc(zi_zero *z);
void zi_states_free(zi_zero *z);
/* Fill them with what they begin at. */
void zi_states_start(zi_zero *z);
/* The job of this rank's slice of a bucket where it is updated: all but sources and destinations.
 */
zi_job zi_home_job(const zi_zero *z, const zi_bucket *bucket);
/* Bytes that they take on every rank. */
uint64_t zi_states_bytes(const zi_zero *z);
/* Whether any tensor has the state of that name, an index in the optimizer's state_name. */
int zi_state_used(const zi_zero *z, int name);
/* Where the tensor's variant has it; -1: it does not. */
int zi_state_find(const zi_tensor *tensor, int name);
/* How many values the tensor has in a state, as zi_state_find has it. */
uint64_t zi_state_elems(const zi_tensor *tensor, int state);
/* A state of rows or columns, which every rank has whole; NULL where it is one of elements. */
const float *zi_state_factors(const zi_zero *z, int id, int state);
/* What is at owned element `at` of the space, in its variant's state i; rows and columns: all. */
zi_state_slice zi_state_at(const zi_zero *z, uint32_t space, int i, uint64_t at);
/* n owned elements from `owned_at` on, as floats on the host. */
zopt_status zi_state_read(const zi_zero *z, const zi_tensor *tensor, int state, uint64_t owned_at,
                          uint64_t n, float *values);

/* registry.c: before commit. */
zopt_status zi_zero_add_group(zi_zero *z, const zopt_setting *settings, size_t n, int *group);
zopt_status zi_zero_add_tensor(zi_zero *z, const char *name, zopt_dtype dtype, int ndim,
                               const uint64_t *shape, int group, int *id);
zopt_status zi_zero_add_agreed(zi_zero *z, const char *key, const char *value, int changes_result);
void zi_registry_free(zi_zero *z);

/* agree.c: refuse what ranks do not all have alike. Collective. */
zopt_status zi_zero_agree(zi_zero *z);
/* *same = 1 where all ranks passed the same hash. Collective. */
zopt_status zi_all_same(zi_comm *comm, uint64_t hash, int *same);

/* verify.c: refuse to go on where a rank's parameters are not the others'. Between steps, or at the
 * beginning of one; waits for the last one's parameters. Collective. Errors: ERR_NUMERICS on all
 * ranks, with the damaged ranks, the tensor and the element; the handle has failed then. */
zopt_status zi_params_agree(zi_zero *z);
/* The same in parts, for a caller that has a thread for the hash: 1 where that is possible; wait
 * for the last step's parameters; hash them, before they change again; compare, likewise. */
int zi_params_hashable(const zi_zero *z);
zopt_status zi_params_settle(zi_zero *z);
uint64_t zi_params_hash(const zi_zero *z);
zopt_status zi_params_compare(zi_zero *z, uint64_t hash);

/* bucket.c: one micro-step. */
int zi_zero_slot(const zi_zero *z); /* -1: none */
void *zi_grad_address(const zi_zero *z, int id);
zopt_status zi_grad_acquire(zi_zero *z, int id);
/* Its owner's passes are the caller's to make, where they are due. */
zopt_status zi_grad_ready(zi_zero *z, int id);
/* Zeros for what did not arrive, and expose what is left. */
zopt_status zi_bucket_flush(zi_zero *z);
/* The gradients of the micro-step under way are given back: none of the next one's is exposed. */
void zi_bucket_next(zi_zero *z);
/* The transfer of a bucket in the micro-step under way (gradients) or the step (parameters).
 * Parameters go the other way round: what the forward pass needs first comes first, and the
 * gradients that were written last are still in the caches. */
zi_transfer zi_grad_transfer(const zi_zero *z, const zi_bucket *bucket);
zi_transfer zi_param_transfer(const zi_zero *z, const zi_bucket *bucket);
/* The ordinal of a bucket's parameters in update `n_before`, counted from 0. */
uint64_t zi_param_ordinal(const zi_zero *z, const zi_bucket *bucket, uint64_t n_before);

/* reduce.c: what the kernels read. */
/* Wait for a bucket's gradients and describe this rank's slice of it: the job where it is updated,
 * or, if that is elsewhere, what sums need; with sources, without destinations. It is valid until
 * the next call. */
zopt_status zi_reduce_job(zi_zero *z, const zi_bucket *bucket, zi_job *job);
/* The same without a word about it to the report or the text of a hang. */
zopt_status zi_reduce_sources(zi_zero *z, const zi_bucket *bucket, zi_job *job);
/* Enqueue: add the job's sources onto the accumulators. */
void zi_reduce_add(zi_zero *z, const zi_bucket *bucket, const zi_job *job);
/* A micro-step that is not the last, or, by groups, any has ended: finish adding, and give the
 * gradients back. */
zopt_status zi_reduce_accumulate(zi_zero *z);
/* 1: the accumulators hold the whole sum, and the gradients have been given back. */
int zi_reduce_is_done(const zi_zero *z);
/* Give the bucket's gradients back, if they have not been. */
zopt_status zi_reduce_release(zi_zero *z, const zi_bucket *bucket);

/* slot_group.c: sums of groups of slots, and of these. With groups of one slot, or one group of
 * all, there is nothing to do: the plain sum is the same. */
zi_slot_groups zi_slot_groups_of(const zi_zero *z);
/* Floats that the group under way needs. */
size_t zi_slot_group_sums(const zi_zero *z);
/* Add this micro-step's slots of a bucket onto the accumulators; the job's sources are used up. */
void zi_slot_groups_add(zi_zero *z, const zi_bucket *bucket, const zi_job *job);
/* Where a bucket's sums are, at most two of them: what the accumulators hold, and a group that goes
 * on in the next micro-step. */
int zi_slot_groups_sums(const zi_zero *z, const zi_bucket *bucket, zi_source sum[2]);

/* owner.c: the first pass over the owned slices. */
/* The job of the bucket that is next in order, if all ranks have exposed it; *bucket = NULL: not
 * yet. Never waits. */
zopt_status zi_owner_take(zi_zero *z, const zi_bucket **bucket, zi_job *job);
/* Enqueue the pass over it. Counting it is the caller's. */
void zi_owner_pass(zi_zero *z, const zi_bucket *bucket, const zi_job *job);
/* What the passes of this micro-step, or an update by two hands, are booked as. */
int zi_owner_phase(const zi_zero *z);
/* 1: buckets are exposed whose passes the caller makes. */
int zi_owner_is_due(const zi_zero *z);
/* Take and pass as far as that goes. Never waits. */
zopt_status zi_owner_advance(zi_zero *z);
/* Over all that are left; waits for them. The thread rests. */
zopt_status zi_owner_finish(zi_zero *z);

/* owner_thread.c: the same beside the caller, and a part of the update. Without
 * options.progress_thread there is no thread, and calls do nothing. */
/* At commit. Errors: ERR_MEMORY, ERR_FAILURE where there is no thread to be had. */
zopt_status zi_owner_start(zi_zero *z);
void zi_owner_stop(zi_zero *z);
/* For calls that use the comm while the thread may work. */
void zi_owner_lock(const zi_zero *z);
void zi_owner_unlock(const zi_zero *z);
/* Locked: let it work. */
void zi_owner_wake(zi_zero *z);
/* Wait for the pass that it is in; it does nothing until it is woken. Errors: what it met. */
zopt_status zi_owner_rest(zi_zero *z);
/* What it met, without a wait for a pass. */
zopt_status zi_owner_failure(const zi_zero *z);

/* offload.c: master weights and states with the host, gradients and parameters on a device. */
int zi_is_offloaded(const zi_zero *z);
/* At commit; nothing where they are not. Errors: ERR_MEMORY. */
zopt_status zi_offload_create(zi_zero *z);
void zi_offload_destroy(zi_zero *z);
/* A round's add_slice on every bucket, on the host. */
zopt_status zi_offload_pass(zi_zero *z, const zi_round *round);
/* Update every bucket and publish it, in the order of parameters. */
zopt_status zi_offload_update(zi_zero *z);

/* place.c: tables and sums where kernels see them. */
/* At commit, once the host's are there. Errors: ERR_MEMORY. */
zopt_status zi_place_tables(zi_zero *z);
void zi_unplace_tables(zi_zero *z);
/* Enqueue what z->control says now. */
void zi_place_control(zi_zero *z);
/* Zero what kernels add to; wait for it and read it into z->norm. */
void zi_norm_clear(zi_zero *z);
zopt_status zi_norm_fetch(zi_zero *z);
/* The same for rounds of statistics, and the first n words of z->sums. */
void zi_sums_clear(zi_zero *z, size_t n);
zopt_status zi_sums_fetch(zi_zero *z, size_t n);
/* Enqueue what z->statistics and the rows and columns say now. */
void zi_place_statistics(zi_zero *z);
/* Where steps do not wait, the rows and columns are the device's: read them. */
zopt_status zi_factors_fetch(zi_zero *z);

/* round.c: what is summed over all owned elements and all ranks before the update. */
/* Fill in z->rounds and z->n_sums. At commit. */
void zi_rounds_list(zi_zero *z);
/* Run them, up to one that decides to skip. Collective. */
zopt_status zi_rounds_run(zi_zero *z);
/* Enqueue those behind the decision, which the device has made: they do nothing in a step that is
 * skipped. */
zopt_status zi_rounds_enqueue(zi_zero *z);

/* statistics.c: rounds for variants that work on whole tensors. */
extern const zi_round zi_statistics_rounds[ZI_N_STATISTICS];
/* Whether a tensor has such a variant. Its statistics need finite gradients: every step measures.
 */
int zi_statistics_needed(const zi_zero *z);
/* Enqueue what follows from a round's sums: over all ranks, then tensor by tensor. */
zopt_status zi_statistics_settle_enqueue(zi_zero *z, zi_statistics_round round);
/* Matrices of factored tensors. */
uint64_t zi_statistics_n_matrices(const zi_zero *z);
/* Rows or columns of a tensor's matrices; 0 where it is not factored. */
uint64_t zi_factor_floats(const zi_tensor *tensor, zi_form form);
/* Fill in z->statistics. At commit, once tables and states are there. Errors: ERR_ARGUMENT where an
 * extent is too large for the sums. */
zopt_status zi_statistics_describe(zi_zero *z);

/* locate.c: where a non-finite gradient came from. Collective. */
/* Look through all gradients of the micro-step under way; they are not consumed yet. */
zopt_status zi_locate(zi_zero *z);
/* The same in what the comm sums; z: the zi_zero. */
void zi_locate_sum(void *z, const zi_bad_sum *bad);
zopt_status zi_locate_agree(zi_zero *z, zopt_step_report *report);
/* What a key says; INT64_MAX: none. */
void zi_locate_report(const zi_zero *z, int64_t key, zopt_step_report *report);

/* update.c */
/* Update this rank's slices of all buckets, straight into every destination. */
zopt_status zi_update_all(zi_zero *z);
/* What that does to one bucket; destinations too. Valid until the next job. */
zopt_status zi_update_job(zi_zero *z, const zi_bucket *bucket, zi_job *job);
/* Whether the progress thread helps; whether it can now. */
int zi_update_is_shared(const zi_zero *z);
int zi_update_is_left(const zi_zero *z);
/* Locked: take the bucket that is next, or none; _ready: without a wait. */
zopt_status zi_update_take(zi_zero *z, zi_hand *hand);
zopt_status zi_update_take_ready(zi_zero *z, zi_hand *hand);
/* Not locked: its kernel. */
void zi_update_run(zi_zero *z, const zi_hand *hand);
/* Locked: publish what is stored. */
zopt_status zi_update_end(zi_zero *z, zi_hand *hand);

/* step.c */
zopt_status zi_micro_end(zi_zero *z, double loss);
/* The thread rests: its caller wakes it, for the parameters that are on their way. */
zopt_status zi_zero_step(zi_zero *z);
/* How steps are made, in words that live until the next call. */
const char *zi_step_path(zi_zero *z);
/* ERR_NUMERICS with the words for z->report. */
zopt_status zi_give_up(const zi_zero *z);
/* The caller's stream, or the host, waits for the tensor's parameters. */
zopt_status zi_param_acquire(zi_zero *z, int id, const void **param);

/* master.c: whole tensors of owned data. */
zopt_status zi_set_master(zi_zero *z, int id, uint64_t offset, uint64_t n, const float *values);
/* The master weights have changed behind the parameters' back: round them anew on every rank.
 * Collective. */
zopt_status zi_params_from_master(zi_zero *z);
/* state: as zi_state_find has it, -1 for the master weights. Collective. */
zopt_status zi_get_owned(zi_zero *z, int state, int id, uint64_t offset, uint64_t n, float *values);

#endif
