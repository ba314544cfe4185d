/* The reference trainer, as the command sees it: a small GPT on the characters of a text, trained
 * by the library through its public header. Order of reading: train.c, data.c, model.c, layers.c,
 * eval.c, rundir.c. */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

#include <zopt/zopt.h>

typedef struct train_request {
    const zopt_config *config; /* resolved */
    const char *out_dir;       /* NULL: runs/<name> in the current folder */
    int progress;              /* 1: one updating line, for a terminal; 0: plain lines */
    /* Where to go on from: "never", a checkpoint or a directory of them, or "auto" (NULL): the
     * newest in the run directory, and a new run where there is none. */
    const char *resume;
    int force_config; /* 1: also from one that another configuration made */
    void (*on_hang)(void *arg, const char *text); /* see zopt_options; may be NULL */
    void *on_hang_arg;
} train_request;

/* From now on SIGUSR1 and SIGTERM make train_run save and return with ZOPT_OK; before, they end the
 * process. */
void train_listen(void);

/* Train as a resolved config says; the whole of `zopt train`. *Collective.* Rank 0 prints to stdout
 * and writes the run directory. On failure train_last_error() has the text. */
zopt_status train_run(const train_request *request);

/* The model of a resolved config, which must outlive it, to plan and not to train: the text is read
 * for its vocabulary. Not collective. On failure *out is NULL and train_last_error() has the text.
 */
typedef struct train_model train_model;
zopt_status train_model_open(const zopt_config *config, train_model **out);
void train_model_close(train_model *m);
uint64_t train_model_elements(const train_model *m);

/* A committed planning handle that counts what rank `rank` of `world` would in train_run. */
zopt_status train_model_plan(train_model *m, int world, int rank, zopt **plan);

/* What went wrong in this thread's last failed call of this header: one line. */
const char *train_last_error(void);

#endif
