/* Values in a JSON tree by dotted path: "optimizer.params.betas[0]". */
#ifndef ZI_CONFIG_TREE_H
#define ZI_CONFIG_TREE_H

#include <jansson.h>
#include <zopt/zopt.h>

enum { ZI_TREE_NAME = 64, ZI_TREE_PATH = 256 };

/* Take the first step of *path: a name (copied to `name`, *index = -1) or "[i]" (*index = i), and
 * move *path behind it. Returns 0 at the end, 1 for a step, -1 where the path is malformed. */
int zi_tree_step(const char **path, char name[ZI_TREE_NAME], long *index);

/* 1 if `path` is well formed and not empty. */
int zi_tree_path_ok(const char *path);

/* The value at `path`, borrowed; NULL if there is none. */
json_t *zi_tree_get(json_t *root, const char *path);

/* Put `value` (the reference is taken over, also on failure) at `path`, making the objects and
 * arrays on the way. Errors: ERR_CONFIG where something on the way is neither. */
zopt_status zi_tree_put(json_t *root, const char *path, json_t *value);

/* The shortest decimal that reads back as the same double. */
void zi_number_text(double value, char text[32]);

/* One value as JSON on one line; free() it. NULL: out of memory. */
char *zi_json_text(const json_t *value);

/* What a value is, for error texts: "the string \"x\"", "an object". Long strings are cut. */
void zi_json_describe(const json_t *value, char text[64]);

#endif
