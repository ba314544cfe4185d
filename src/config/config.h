/* What the files of this room share: the config itself, its keys, and errors that say where. */
#ifndef ZI_CONFIG_CONFIG_H
#define ZI_CONFIG_CONFIG_H

#include "config/runfile.h"
#include "config/tree.h"

enum { ZI_MAX_KEYS = 512, ZI_MAX_SECTIONS = 40 };

/* Setting rows below one object of the run file. Their keys are keys[first_key ...]. */
typedef struct zi_section {
    const char *name, *owner;
    const zi_setting_row *rows;
    size_t n_rows, first_key;
    zopt_setting *settings; /* as written; made by the check */
    size_t n_settings;
} zi_section;

struct zopt_config {
    char *source; /* the file's name as it was given */
    char *text;   /* its text, where errors look up lines */

    json_t *written;  /* the file, with the overrides */
    json_t *defaults; /* of every key that has one */
    json_t *resolved; /* all keys in the order of their table; NULL before the check */

    json_t *overridden; /* an object whose names are the paths given to zopt_config_set */
    json_t *strings;    /* an array that keeps strings for the life of the config */

    zi_key keys[ZI_MAX_KEYS];
    size_t n_keys;
    zi_setting_row *group_rows; /* of every element of param_groups */
    zi_section sections[ZI_MAX_SECTIONS];
    size_t n_sections;
};

/* Add a key, and its default to the tree of defaults. */
zopt_status zi_config_declare(zopt_config *config, const zi_key *key);

/* The key of that path, or NULL. */
const zi_key *zi_config_find(const zopt_config *config, const char *path);

/* The value as the key's type (1e3 becomes an integer where one is wanted), checked against its
 * range: a new reference. Errors: ERR_CONFIG. */
zopt_status zi_config_typed(const zopt_config *config, const zi_key *key, json_t *value,
                            json_t **typed);

/* Checks that span keys, and values that follow from others. On the resolved tree. */
zopt_status zi_config_derive(zopt_config *config);

#endif
