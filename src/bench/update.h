/* This rank's master weights and states, and the device's update kernel on all of them at once. */
#ifndef BENCH_UPDATE_H
#define BENCH_UPDATE_H

#include "bench/contestant.h"
#include "device/device.h"

typedef struct bench_update {
    const bench_case *c;
    zi_mem mem;
    const zi_device_ops *device;
    bench_rule rule, first; /* of the last step taken; before the first one */
    zi_source source;
    zi_dest dest;
    struct bench_update_tables *tables; /* what the kernel reads beside arrays; the device's */
    zi_job job;
} bench_update;

/* rule: before its first step; its unit is not the tensor. The struct stays where it is. */
zopt_status bench_update_open(const bench_case *c, const bench_rule *rule, bench_update *u);
/* Of a zeroed struct, too. */
void bench_update_close(bench_update *u);

/* Master weights of elements [first, first + n) as they begin, to `master` of the device. */
zopt_status bench_update_place_start(const bench_update *u, uint64_t first, uint64_t n,
                                     float *master);

/* On to the next step, whose kernels the caller enqueues on the crew's queue. */
void bench_update_next(bench_update *u);

/* One step on the sum of n_slots gradients; dest.data NULL: the master weights alone. */
zopt_status bench_update_run(bench_update *u, zi_source source, zi_dest dest);

/* How many sampled elements are wrong after so many steps: masters that this rank owns, and the
 * parameters that it holds, on the device. */
zopt_status bench_update_compare(const bench_update *u, uint64_t steps, const uint16_t *params,
                                 uint64_t *n_wrong);

#endif
