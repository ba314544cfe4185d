/* The model of a run file as something to plan: the text is read, for its
 * vocabulary, and nothing is trained. */
#include <stdlib.h>

#include "train/fail.h"
#include "train/trainer.h"

struct train_model {
    train_request request;
    trainer trainer;
};

zopt_status train_model_open(const zopt_config *config, train_model **out)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for a plan");
    (*out)->request.config = config;
    (*out)->trainer.request = &(*out)->request;
    zopt_status status = trainer_prepare(&(*out)->trainer);
    if (status != ZOPT_OK) {
        train_model_close(*out);
        *out = NULL;
    }
    return status;
}

void train_model_close(train_model *m)
{
    if (m == NULL)
        return;
    trainer_free(&m->trainer);
    free(m);
}

uint64_t train_model_elements(const train_model *m)
{
    return model_n_elements(m->trainer.gpt);
}

zopt_status train_model_plan(train_model *m, int world, int rank, zopt **plan)
{
    m->trainer.world = world;
    m->trainer.rank = rank;
    return trainer_plan(&m->trainer, plan);
}
