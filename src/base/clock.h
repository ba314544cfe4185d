/* Time for deadlines and reports; never part of a result. */
#ifndef ZI_BASE_CLOCK_H
#define ZI_BASE_CLOCK_H

#include <time.h>

static inline double zi_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

#endif
