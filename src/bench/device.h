/* The device that benchmarks run on. Its memory may be the host's, and then these copy nothing that
 * can be had without. */
#ifndef BENCH_DEVICE_H
#define BENCH_DEVICE_H

#include "bench/add.h"
#include "bench/contestant.h"

/* Copy between host and device, and wait for it. */
zopt_status bench_copy(const bench_crew *crew, void *dst, const void *src, size_t bytes);

/* Write elements [first, first + n) of a slot's gradient to where they begin on the device. */
zopt_status bench_fill_device(const bench_case *c, int slot, uint64_t first, uint64_t n, void *dst);

/* What is at `array` of the device, to be read on the host: *view, of which *copy, NULL where it is
 * the device's own, is the caller's to free. */
zopt_status bench_view(const bench_crew *crew, const void *array, size_t bytes, void **copy,
                       const void **view);

/* The kernel that only adds, on memory of the crew's device, and wait for it. */
zopt_status bench_add_device(const bench_crew *crew, const bench_add *add);

#endif
