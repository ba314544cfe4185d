/* The arithmetic of a backward pass, checked: with a = b = 1 numbers count how often they were
 * worked on, up to 2^24, where a float counts no further. */
#include "bench/work.h"

#include <string.h>

#include "device/cpu.h"

bench_work_run *bench_work_kernel(void)
{
#ifdef ZI_HAVE_X86
    const char *name = zi_device_cpu.variant();
    if (strcmp(name, zi_cpu_kernels_avx512.name) == 0)
        return bench_work_avx512;
    if (strcmp(name, zi_cpu_kernels_avx2.name) == 0)
        return bench_work_avx2;
#endif
    return bench_work_portable;
}

void bench_work_do(bench_work *work, uint64_t n_fmas)
{
    const uint64_t each = (uint64_t)BENCH_WORK * BENCH_WORK_TIMES;
    uint64_t times = (n_fmas + each - 1) / each * BENCH_WORK_TIMES;
    float want = times < 1 << 24 ? (float)times : 0x1p24f;
    memset(work->x, 0, sizeof work->x);
    work->run(work->x, times, 1.0f, 1.0f);
    for (int i = 0; i < BENCH_WORK; i++)
        work->n_wrong += work->x[i] != want;
    work->n_runs++;
}
