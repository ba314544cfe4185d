/* Entry points that round run in the default floating-point environment: to nearest even, no
 * flush to zero, whatever the caller has set; the caller's is restored after. */
#ifndef ZI_FP_GUARD_H
#define ZI_FP_GUARD_H

#include <fenv.h>

typedef struct zi_fp_guard {
    fenv_t caller;
} zi_fp_guard;

static inline zi_fp_guard zi_fp_enter(void)
{
    zi_fp_guard guard;
    fegetenv(&guard.caller);
    fesetenv(FE_DFL_ENV);
    return guard;
}

static inline void zi_fp_leave(const zi_fp_guard *guard)
{
    fesetenv(&guard->caller);
}

#endif
