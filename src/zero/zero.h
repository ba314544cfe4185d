/* ZeRO stage 1: the local sharded optimizer. Each rank holds all parameters and one slot's
 * gradients, and master weights and state of the elements it owns.
 *
 * A gradient's path through this room: bucket.c (arrivals, exposure) -> reduce.c (tables of
 * sources; slot_group.c: their sums by groups) -> owner.c (the first pass, while backward goes on)
 * -> round.c (exact sums) -> device/control.h (one decision) -> update.c (update, publish;
 * offload.c, where the state is not with the gradients). handle.h has the handle, passes.h what
 * only this room calls. */
#ifndef ZI_ZERO_ZERO_H
#define ZI_ZERO_ZERO_H

#include "zero/handle.h"

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

/* step.c */
zopt_status zi_micro_end(zi_zero *z, double loss);
/* The thread rests: its caller wakes it, for the parameters that are on their way. */
zopt_status zi_zero_step(zi_zero *z);
/* How steps are made, in words that live until the next call. */
const char *zi_step_path(zi_zero *z);
/* ERR_NUMERICS with the words for z->report. */
zopt_status zi_give_up(const zi_zero *z);
/* ERR_DISAGREE: ranks do not take the step alike. */
zopt_status zi_disagree(uint64_t step, int rank);
/* The caller's stream, or the host, waits for the tensor's parameters. _wait: the host, always. */
zopt_status zi_param_acquire(zi_zero *z, int id, const void **param);
zopt_status zi_param_wait(zi_zero *z, const zi_tensor *tensor);

/* master.c: whole tensors of owned data. */
zopt_status zi_set_master(zi_zero *z, int id, uint64_t offset, uint64_t n, const float *values);
/* The master weights have changed behind the parameters' back: round them anew on every rank.
 * Collective. */
zopt_status zi_params_from_master(zi_zero *z);
/* state: as zi_state_find has it, -1 for the master weights. Collective. */
zopt_status zi_get_owned(zi_zero *z, int state, int id, uint64_t offset, uint64_t n, float *values);

#endif
