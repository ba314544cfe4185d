/* What the trainer's files share: one run under way. What can fail on one rank alone (reading the
 * text, memory for the model) happens before the handle exists, where a rank may leave without its
 * peers waiting; from then on all ranks fail together. */
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "train/data.h"
#include "train/model.h"
#include "train/settings.h"
#include "train/train.h"

typedef struct rundir rundir;

typedef struct trainer {
    const train_request *request;
    settings s;
    data text;
    model *gpt;
    token *inputs, *targets; /* [micro_batch, n_ctx] */
    token *prompt;           /* [n_prompt] */
    size_t n_prompt;
    zopt *z;
    int rank, world;
    int *ids;           /* [model_n_params] the tensors' numbers in z */
    double *gathered;   /* [world], for zopt_gather_f64 */
    double handover_ms; /* of this micro-step's backward pass: handing gradients to z */
    rundir *out;
    uint64_t done;  /* steps that were made before this run */
    uint64_t saved; /* the step of this run's newest checkpoint; 0: none */
} trainer;

/* Read settings and text, make the model. Not collective. */
zopt_status trainer_prepare(trainer *t);

/* Make the handle, agree on everything, and set the initial weights. *Collective.* */
zopt_status trainer_connect(trainer *t);

/* A handle for the same tensors that only plans. */
zopt_status trainer_plan(const trainer *t, zopt **plan);

void trainer_free(trainer *t);

/* Bring the model's working copy up to date with the last step. */
zopt_status trainer_load_params(trainer *t);

/* All ranks return the status of the first rank that failed; the text says which. *Collective.* */
zopt_status trainer_agree(trainer *t, zopt_status mine);
/* The same, and *any becomes 1 on all ranks where it is on one. *Collective.* */
zopt_status trainer_meet(trainer *t, zopt_status mine, int *any);

double train_now_ms(void);

#endif
