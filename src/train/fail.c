/* The trainer's last-error text, one for each thread, as the library's is. */
#include "train/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "train/train.h"

static _Thread_local char last_error[1024];

const char *train_last_error(void)
{
    return last_error;
}

zopt_status train_fail(zopt_status status, const char *format, ...)
{
    /* Through a second buffer: an argument may be the last error itself. */
    char text[sizeof last_error];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(last_error, text, sizeof text);
    return status;
}

zopt_status train_fail_zopt(zopt_status status)
{
    return train_fail(status, "%s", zopt_last_error());
}

zopt_status train_fail_errno(zopt_status otherwise, const char *what, const char *path)
{
    int error = errno;
    int denied = error == EACCES || error == EPERM || error == EROFS;
    return train_fail(denied ? ZOPT_ERR_PERMISSION : otherwise, "cannot %s %s: %s", what, path,
                      strerror(error));
}
