/* What a backward pass does beside writing gradients: arithmetic that stays in the caches. */
#ifndef BENCH_WORK_H
#define BENCH_WORK_H

#include <stdint.h>

/* Numbers that are worked on, an eighth of a first-level cache, and how often at a time, so that
 * multiply-adds and not loads and stores are the limit, as in a product of matrices. */
enum { BENCH_WORK = 1024, BENCH_WORK_TIMES = 4 };

/* x[i] = a * x[i] + b for each of BENCH_WORK numbers; `times`, a multiple of BENCH_WORK_TIMES. */
typedef void bench_work_run(float *x, uint64_t times, float a, float b);

/* With the instructions of the kernels in use. */
bench_work_run *bench_work_kernel(void);

bench_work_run bench_work_portable, bench_work_avx2, bench_work_avx512;

typedef struct bench_work {
    _Alignas(64) float x[BENCH_WORK];
    bench_work_run *run;
    uint64_t n_runs, n_wrong;
} bench_work;

/* At least so many multiply-adds; counts the results that are wrong. */
void bench_work_do(bench_work *work, uint64_t n_fmas);

#endif
