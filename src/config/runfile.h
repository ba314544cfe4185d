/* The run file: JSON (jansson, strict) against a table with one row per key. A config is loaded,
 * overridden with key=value, given the rows of the optimizer and schedule it names, and resolved;
 * getters work on a resolved one. This room does not know any optimizer: api_config.c joins
 * them. */
#ifndef ZI_CONFIG_RUNFILE_H
#define ZI_CONFIG_RUNFILE_H

#include <zopt/zopt.h>

#include "config/setting.h"

typedef enum zi_key_type { ZI_KEY_BOOL, ZI_KEY_I64, ZI_KEY_F64, ZI_KEY_STR } zi_key_type;

/* Argument checks of this room's public calls. */
#define ZI_NEED(pointer)                                                             \
    do {                                                                             \
        if ((pointer) == NULL)                                                       \
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%s: %s is NULL", __func__, #pointer); \
    } while (0)

/* One key of the run file. */
typedef struct zi_key {
    const char *path;     /* "fp16.loss_scale_window" */
    const char *fallback; /* JSON: "1000", "\"auto\""; NULL: none, or the check derives it */
    const char *choices;  /* for strings, "linear|log"; NULL: any */
    const char *help;
    double lo, hi; /* for numbers */
    int lo_open, hi_open, only_bounds;
    const char *only_default; /* why no other value than the fallback is available */
    zi_key_type type;
    int changes_result; /* 1: part of what a checkpoint's configuration hash covers */
    int agree;          /* 1: all ranks must have the same value */
    int is_path;        /* 1: in a run file, relative to the file's own folder */
} zi_key;

/* The table of all keys but those below optimizer.params and scheduler.params. */
extern const zi_key zi_keys[];
extern const size_t zi_n_keys;

/* Read the string at a key of a config that is not resolved yet, or its default. */
zopt_status zi_config_peek(const zopt_config *config, const char *key, const char **value);

/* Declare the keys below `section` ("optimizer.params") by setting rows, `owner` for error texts.
 * The rows must outlive the config. */
zopt_status zi_config_add_section(zopt_config *config, const char *section, const char *owner,
                                  const zi_setting_row *rows, size_t n_rows);

/* Declare the keys of each element of param_groups that is written: `match`, which must be there,
 * and two tables of rows without defaults, since what an element leaves out is as it is elsewhere.
 */
enum { ZI_MAX_PARAM_GROUPS = 16 };
zopt_status zi_config_add_param_groups(zopt_config *config, const char *owner,
                                       const zi_setting_row *rows, size_t n_rows,
                                       const zi_setting_row *own_rows, size_t n_own_rows);

/* Override the string at a key, as zopt_config_set does, but without its being the user's words. */
zopt_status zi_config_put_str(zopt_config *config, const char *key, const char *value);

/* Check every key of the file against the tables, fill in defaults and derive what follows from
 * other keys. Once. Errors: ERR_CONFIG. */
zopt_status zi_config_check(zopt_config *config);

/* ERR_CONFIG with the text "FILE:LINE: KEY", or "--set KEY", and then the format. */
zopt_status zi_config_fail(const zopt_config *config, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Call `each` with every key of a resolved config and its value as JSON; stops where it fails. */
zopt_status zi_config_each(const zopt_config *config,
                           zopt_status (*each)(void *arg, const zi_key *key, const char *json),
                           void *arg);

/* The reference: all keys of the table, or those of one section's rows, with help. */
void zi_config_help_keys(FILE *file);
void zi_config_help_section(FILE *file, const char *section, const char *owner, const char *help,
                            const zi_setting_row *rows, size_t n_rows);

/* The settings of a section, as written in the run file (rows that it leaves out are left out).
 * They belong to the config. */
zopt_status zi_config_section(const zopt_config *config, const char *section,
                              const zopt_setting **settings, size_t *n_settings);

#endif
