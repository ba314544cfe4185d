/* Fences: how the queues of ranks that read and write each other's device memory stay in order. A
 * count of a channel (channel.h) says that its rank has enqueued something; an event, recorded
 * before the count, says when the device has done it. Peers that have seen the count let their own
 * queue await the event, or wait for it themselves; nobody's host waits for its own queue.
 *
 * An event stands for the transfers of one kind with equal ordinals modulo the depth. With as many
 * events as a step has transfers of a kind, none is recorded again before all peers are past it:
 * they await exposures before they count them consumed, and so on. Past ZI_FENCE_DEPTH a peer that
 * comes late awaits a later record, as CUDA has it (cudaStreamWaitEvent takes the most recent one):
 * more than it must, never less, and nothing that could wait for it, being older than its call.
 *
 * So a rank's queue gets on only if its peers' do. Waits for it, wherever they are made, ask a
 * guard (device.h) that has the deadline and names the ranks whose events it is that have not come.
 */
#ifndef ZI_COMM_FENCE_H
#define ZI_COMM_FENCE_H

#include "comm/channel.h"

enum { ZI_FENCE_DEPTH = 256, ZI_N_FENCES = ZI_FORWARDED + 1 };

/* One rank's events, as one process has them. */
struct zi_fences {
    const zi_device_ops *device;
    zi_event *event[ZI_N_FENCES][ZI_FENCE_DEPTH];
};

/* Handles of one rank's events, for other processes. */
struct zi_fence_handles {
    zi_handle event[ZI_N_FENCES][ZI_FENCE_DEPTH];
};

/* Make this rank's events on its queue, for at most n_transfers gradients and parameters together,
 * and guard the queue until zi_fences_leave. Errors: the device's. */
zopt_status zi_fences_create(zi_channel_comm *k, size_t n_transfers);
/* The queue is its owner's alone again. */
void zi_fences_leave(zi_channel_comm *k);
/* Peers must be done with those that this rank has made. */
void zi_fences_destroy(zi_fences *fences);

/* What is on the queue, this rank's or one beside it, comes before what peers do that see its count
 * `which` reach ordinal + 1, which it must not have yet. Where there are no fences, waits for it.
 */
zopt_status zi_fence_set(zi_channel_comm *k, zi_queue *queue, zi_counter which, uint64_t ordinal);

/* What is enqueued there from here on comes behind what the ranks `of` of the node had enqueued
 * before they counted `ordinal`, which all of them have. Never waits. */
zopt_status zi_fence_await(zi_channel_comm *k, zi_queue *queue, zi_counter which, uint64_t ordinal,
                           zi_range of);

/* Wait until all ranks of the node have done it, this one too; or have what is enqueued on `behind`
 * from here on come behind that, which they all have counted. */
zopt_status zi_fence_wait(zi_channel_comm *k, zi_counter which, uint64_t ordinal, zi_queue *behind);

#endif
