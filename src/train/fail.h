/* Errors of the trainer: a status says what kind, train_last_error() what exactly. The room sees
 * the library's public header alone, so it keeps a text of its own; what the library said is copied
 * into it, so that the text survives the destruction of the handle. */
#ifndef TRAIN_FAIL_H
#define TRAIN_FAIL_H

#include <zopt/zopt.h>

/* Record the text and return `status`. */
zopt_status train_fail(zopt_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Record what the library said about its last failure and return `status`. */
zopt_status train_fail_zopt(zopt_status status);

/* train_fail with the errno of a failed file operation: ERR_PERMISSION where that is the reason,
 * else `otherwise`. */
zopt_status train_fail_errno(zopt_status otherwise, const char *what, const char *path);

/* Pass on the failure of a function of this room. */
#define TRAIN_TRY(call)                     \
    do {                                    \
        zopt_status train_status_ = (call); \
        if (train_status_ != ZOPT_OK)       \
            return train_status_;           \
    } while (0)

/* Pass on the failure of a call of the library. */
#define TRAIN_ZOPT(call)                           \
    do {                                           \
        zopt_status train_status_ = (call);        \
        if (train_status_ != ZOPT_OK)              \
            return train_fail_zopt(train_status_); \
    } while (0)

#endif
