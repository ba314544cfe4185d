/* Jobs that save and load on threads, for the tests of checkpoints: each works in a folder of its
 * own. A call that must succeed and does not ends the program, as in harness.c. */
#ifndef TESTS_CKPT_RUNS_H
#define TESTS_CKPT_RUNS_H

#include <stdio.h>
#include <stdlib.h>

#include "harness.h"

/* The folder of the test under way. */
extern char root[64];
void set_up(void);
void tear_down(void);
/* root/name; one of a few buffers of the thread's. */
char *path_of(const char *name);

#define MUST(call)                                                                            \
    do {                                                                                      \
        zopt_status status_ = (call);                                                         \
        if (status_ != ZOPT_OK) {                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, zopt_last_error()); \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

/* One job: resume from or load a checkpoint, make steps, save at some, hand back the result. */
typedef struct job {
    const h_problem *problem;
    const char *load; /* path of zopt_load, or NULL */
    const char *dir;  /* of zopt_resume and zopt_save, or NULL */
    int resume, save_every, last_step;
    zopt_status load_status;
    char error[1024];    /* of a load that failed */
    char warnings[4096]; /* of rank 0 */
    h_result *result;    /* [ranks], or NULL */
} job;

void run_job(job *j, int n_ranks);
/* The same, with rank 0's result. The load must succeed. */
h_result result_of(job *j, int n_ranks);

/* Uneven tensors of all dtypes with a schedule, clipping, a dynamic scale and a skipped step. */
void make_problem(h_problem *problem);

/* All of a file, NUL behind it; the caller frees it. */
char *read_file(const char *path, size_t *bytes);
int n_entries(const char *path);
/* Two folders have the same files, byte for byte. */
void same_files(const char *a, const char *b);

#endif
