/* zopt ckpt: what its actions are given, one action in each function. They return exit codes. */
#ifndef CLI_CKPT_H
#define CLI_CKPT_H

#include "cli/cli.h"

enum { CKPT_MAX_PATHS = 2 };

typedef struct ckpt_arguments {
    const char *path[CKPT_MAX_PATHS];
    int n_paths;
    int json, dry_run;
    uint64_t keep_last, keep_every; /* keep_last 0: not given */
    zopt_dtype dtype;
} ckpt_arguments;

/* Report the library's last error. */
int ckpt_fail(zopt_status status);

int ckpt_inspect(const ckpt_arguments *args);
int ckpt_verify(const ckpt_arguments *args);
int ckpt_diff(const ckpt_arguments *args);

/* ckpt_inspect.c: the steps of a directory; of a single checkpoint none. The caller frees them. */
typedef struct ckpt_steps {
    uint64_t *step;
    size_t n;
} ckpt_steps;
zopt_status ckpt_list(const char *dir, ckpt_steps *out);

#endif
