/* The passes over what this rank owns, from exposed gradients to published parameters, for the
 * files of this room: reduce.c (what kernels read), slot_group.c, round.c (sums, and what follows
 * from them; statistics.c, locate.c), update.c (offload.c, where the state is not with the
 * gradients). */
#ifndef ZI_ZERO_PASSES_H
#define ZI_ZERO_PASSES_H

#include "zero/zero.h"

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
/* Enqueue its kernel. */
void zi_update_enqueue(zi_zero *z, const zi_bucket *bucket, const zi_job *job);
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

/* offload.c: master weights and states with the host, gradients and parameters on a device. */
int zi_is_offloaded(const zi_zero *z);
/* At commit; nothing where they are not. Errors: ERR_MEMORY. */
zopt_status zi_offload_create(zi_zero *z);
void zi_offload_destroy(zi_zero *z);
/* A round's add_slice on every bucket, on the host. */
zopt_status zi_offload_pass(zi_zero *z, const zi_round *round);
/* Update every bucket and publish it, in the order of parameters. */
zopt_status zi_offload_update(zi_zero *z);

#endif
