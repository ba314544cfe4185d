/* Rows that describe one named setting of an optimizer or a schedule: its default, range and help.
 * The C interface, the run file, --help and the documentation all come from the same row. */
#ifndef ZI_CONFIG_SETTING_H
#define ZI_CONFIG_SETTING_H

#include <zopt/zopt.h>

typedef struct zi_setting_row {
    const char *name;    /* in zopt_setting: "beta1" */
    const char *run_key; /* below the section of the run file: "betas[0]"; NULL: the name */
    double fallback, lo, hi;
    int lo_open, hi_open;       /* 1: the bound itself is outside */
    int only_bounds;            /* 1: nothing between the bounds either */
    int is_flag;                /* 1: true or false in a run file, 1 or 0 here */
    const char *const *choices; /* words, NULL-terminated; the value is the word's index */
    const char *only_default;   /* why no other value than the fallback is available */
    const char *help;
} zi_setting_row;

/* values[i] = row i's default. */
void zi_settings_default(const zi_setting_row *rows, size_t n_rows, double *values);

/* Override values[] with settings. `owner` begins the error text ("optimizer adamw"). Errors:
 * ERR_CONFIG with name, value and range, or the nearest known name; values[] is then unchanged. */
zopt_status zi_settings_apply(const char *owner, const zi_setting_row *rows, size_t n_rows,
                              const zopt_setting *settings, size_t n_settings, double *values);

#endif
