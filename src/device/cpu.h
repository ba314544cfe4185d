/* The CPU device's kernels, once for each instruction set (cpu_kernels.c is compiled with
 * ZI_VARIANT set); cpu.c chooses one at run time. */
#ifndef ZI_DEVICE_CPU_H
#define ZI_DEVICE_CPU_H

#include "device/device.h"

typedef struct zi_cpu_kernels {
    const char *name;
    void (*accumulate)(const zi_job *job, float *acc, int64_t *n_bad);
    void (*norm)(const zi_job *job, zi_exact *sum, int64_t *n_bad);
    void (*statistics)(zi_statistics_round round, const zi_job *job);
    void (*update)(const zi_variant *variant, const zi_job *job);
    /* A block of an 8-bit state, for tests: update does both inside. */
    void (*decode)(zi_form form, float *dst, const zi_state_slice *state);
    void (*encode)(zi_form form, const zi_state_slice *state, const float *x);
} zi_cpu_kernels;

extern const zi_cpu_kernels zi_cpu_kernels_portable;
extern const zi_cpu_kernels zi_cpu_kernels_avx2;
extern const zi_cpu_kernels zi_cpu_kernels_avx512;

/* Variants that run on this machine, best first; NULL-terminated. For tests and `zopt doctor`. */
const zi_cpu_kernels *const *zi_cpu_variants(void);

extern const zi_device_ops zi_device_cpu;

#endif
