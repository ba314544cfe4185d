/* Status texts, the thread's last error, and "did you mean".
 * The last-error text is one for each thread; beside it the library has one mutable global, which
 * remembers who started MPI (comm/mpi.c). */
#include "base/status.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[1024] = "no error";

static const struct {
    int exit_code;
    const char *text;
} statuses[] = {
#define ROW(name, exit_code, text) [ZOPT_##name] = {exit_code, text},
    ZOPT_STATUS_LIST(ROW)
#undef ROW
};

static size_t n_statuses(void)
{
    return sizeof statuses / sizeof statuses[0];
}

const char *zopt_status_text(zopt_status status)
{
    return (size_t)status < n_statuses() ? statuses[status].text : "unknown status";
}

int zopt_status_exit_code(zopt_status status)
{
    return (size_t)status < n_statuses() ? statuses[status].exit_code : 1;
}

const char *zopt_last_error(void)
{
    return last_error;
}

zopt_status zi_fail(zopt_status status, const char *format, ...)
{
    /* Through a second buffer: an argument may be the last error itself. */
    char text[sizeof last_error];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c != '\0'; c++) /* one line, whatever a name or a file holds */
        if ((unsigned char)*c < ' ')
            *c = ' ';
    memcpy(last_error, text, sizeof text);
    return status;
}

enum { MAX_WORD = 64 };

static size_t edit_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    size_t row[MAX_WORD + 1];
    if (na > MAX_WORD || nb > MAX_WORD)
        return na > nb ? na : nb; /* the most it can be: no name is near */
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t cost =
                diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            diagonal = row[j];
            if (row[j] + 1 < cost)
                cost = row[j] + 1;
            if (row[j - 1] + 1 < cost)
                cost = row[j - 1] + 1;
            row[j] = cost;
        }
    }
    return row[nb];
}

const char *zi_nearest(const char *word, const char *const *names, size_t n, size_t stride)
{
    const char *best = NULL;
    size_t best_distance = strlen(word) / 3 + 1;
    for (size_t i = 0; i < n; i++) {
        const char *name = *(const char *const *)((const char *)names + i * stride);
        size_t distance = edit_distance(word, name);
        if (distance <= best_distance && (best == NULL || distance < best_distance)) {
            best = name;
            best_distance = distance;
        }
    }
    return best;
}
