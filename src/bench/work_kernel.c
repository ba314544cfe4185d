/* Compiled once for each instruction set; ZI_VARIANT names it. */
#include "bench/work.h"

#define JOIN2(a, b) a##b
#define JOIN(a, b)  JOIN2(a, b)

/* A call of the C library where there is no instruction would be no arithmetic but a call. */
#ifdef __FMA__
#define MULTIPLY_ADD(a, x, b) __builtin_fmaf(a, x, b)
#else
#define MULTIPLY_ADD(a, x, b) ((a) * (x) + (b))
#endif

void JOIN(bench_work_, ZI_VARIANT)(float *x, uint64_t times, float a, float b)
{
    for (; times > 0; times -= BENCH_WORK_TIMES)
        for (int i = 0; i < BENCH_WORK; i++) {
            float y = x[i];
            for (int k = 0; k < BENCH_WORK_TIMES; k++)
                y = MULTIPLY_ADD(a, y, b);
            x[i] = y;
        }
}
