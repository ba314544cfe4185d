/* Error reporting: a status says what kind, the thread's last-error text says what exactly.
 * Report where most is known (ZI_FAIL), pass on with ZI_TRY. */
#ifndef ZI_BASE_STATUS_H
#define ZI_BASE_STATUS_H

#include <zopt/zopt.h>

/* Record the text for zopt_last_error() and return `status`. */
zopt_status zi_fail(zopt_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define ZI_FAIL(status, ...) zi_fail((status), __VA_ARGS__)

#define ZI_TRY(call)                     \
    do {                                 \
        zopt_status zi_status_ = (call); \
        if (zi_status_ != ZOPT_OK)       \
            return zi_status_;           \
    } while (0)

/* The same in functions that unwind at a label. `status` is a local variable. */
#define ZI_TRY_GOTO(call, label) \
    do {                         \
        status = (call);         \
        if (status != ZOPT_OK)   \
            goto label;          \
    } while (0)

/* The name among names[0..n) that is nearest to `word` (edit distance without case, at most
 * a third of its length and one), or NULL. names[i] is read `stride` bytes apart. */
const char *zi_nearest(const char *word, const char *const *names, size_t n, size_t stride);

#endif
