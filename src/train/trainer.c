/* From a run file to a handle that is ready to train: settings, text, model, tensors, weights. The
 * loop is in train.c. */
#include "train/trainer.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "train/fail.h"
#include "train/groups.h"

double train_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* The prompt's last n_ctx characters are what the model can see, but all are checked and printed.
 */
static zopt_status encode_prompt(trainer *t)
{
    size_t max = strlen(t->s.prompt) + 1;
    t->prompt = calloc(max, sizeof *t->prompt);
    if (!t->prompt)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for the prompt");
    zopt_status status = data_encode(&t->text, t->s.prompt, t->prompt, max, &t->n_prompt);
    if (status != ZOPT_OK)
        return train_fail(status, "sample.prompt: %s", train_last_error());
    if (!t->n_prompt)
        t->n_prompt = 1; /* the first character of the vocabulary, often the line break */
    return ZOPT_OK;
}

zopt_status trainer_prepare(trainer *t)
{
    settings *s = &t->s;
    TRAIN_TRY(settings_read(t->request->config, s));
    TRAIN_TRY(data_load(s->data_path, s->val_fraction, (int)s->n_ctx, &t->text));
    if (s->sample_length > 0)
        TRAIN_TRY(encode_prompt(t));
    openblas_set_num_threads(1);
    model_shape shape = {t->text.n_vocab, (int)s->n_layer, (int)s->n_head, (int)s->n_embd,
                         (int)s->n_ctx};
    TRAIN_TRY(model_create(&shape, (int)s->micro_batch, &t->gpt));
    size_t rows = (size_t)s->micro_batch * (size_t)s->n_ctx;
    t->inputs = calloc(rows, sizeof *t->inputs);
    t->targets = calloc(rows, sizeof *t->targets);
    t->ids = calloc((size_t)model_n_params(t->gpt), sizeof *t->ids);
    if (!t->inputs || !t->targets || !t->ids)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for a micro-batch of %zu tokens", rows);
    return ZOPT_OK;
}

/* The weights' bits follow from the text too: ranks that read another one are refused. */
static zopt_status agree_on_text(const trainer *t, zopt *z)
{
    char value[96];
    snprintf(value, sizeof value, "%zu characters, %d different, FNV-1a %016llx",
             t->text.n_train + t->text.n_val, t->text.n_vocab, (unsigned long long)t->text.hash);
    TRAIN_ZOPT(zopt_agree_result(z, "the text of data.path", value));
    return ZOPT_OK;
}

/* In one order for a run and its plan: growing tables have peaks that depend on it. */
static zopt_status declare_and_commit(const trainer *t, zopt *z, int *ids)
{
    TRAIN_ZOPT(zopt_config_agree(t->request->config, z));
    TRAIN_TRY(agree_on_text(t, z));
    TRAIN_TRY(groups_add_tensors(t, z, ids));
    TRAIN_ZOPT(zopt_commit(z));
    return ZOPT_OK;
}

static zopt_status set_weights(trainer *t)
{
    enum { PIECE = 65536 };
    float *values = malloc(PIECE * sizeof *values);
    if (!values)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for initial weights");
    zopt_status status = ZOPT_OK;
    const param *params = model_params(t->gpt);
    for (int i = 0; i < model_n_params(t->gpt) && status == ZOPT_OK; i++) {
        for (size_t at = 0; at < params[i].n && status == ZOPT_OK; at += PIECE) {
            size_t n = params[i].n - at < PIECE ? params[i].n - at : PIECE;
            params_init(model_get_shape(t->gpt), params, i, (uint64_t)t->s.seed, at, n, values);
            status = zopt_set_master(t->z, t->ids[i], at, n, values);
        }
    }
    free(values);
    return status == ZOPT_OK ? ZOPT_OK : train_fail_zopt(status);
}

zopt_status trainer_connect(trainer *t)
{
    zopt_options options;
    TRAIN_ZOPT(zopt_config_options(t->request->config, &options));
    options.on_hang = t->request->on_hang;
    options.on_hang_arg = t->request->on_hang_arg;
    options.force_config = t->request->force_config;
    TRAIN_ZOPT(zopt_create(&options, &t->z));
    if (strcmp(zopt_device(t->z), "cpu") != 0)
        return train_fail(ZOPT_ERR_UNSUPPORTED,
                          "device %s: zopt train computes its gradients on the CPU; set device to "
                          "\"cpu\"",
                          zopt_device(t->z));
    t->rank = zopt_rank(t->z);
    t->world = zopt_world(t->z);
    t->gathered = calloc((size_t)t->world, sizeof *t->gathered);
    if (!t->gathered)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for %d ranks", t->world);
    TRAIN_TRY(declare_and_commit(t, t->z, t->ids));
    return set_weights(t);
}

static zopt_status commit_plan(const trainer *t, zopt *plan)
{
    int *ids = calloc((size_t)model_n_params(t->gpt), sizeof *ids);
    if (!ids)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for a plan");
    zopt_status status = declare_and_commit(t, plan, ids);
    free(ids);
    if (status == ZOPT_OK)
        TRAIN_ZOPT(zopt_trace(plan, NULL, (uint64_t)t->s.trace_steps));
    return status;
}

zopt_status trainer_plan(const trainer *t, zopt **plan)
{
    zopt_options options;
    TRAIN_ZOPT(zopt_config_options(t->request->config, &options));
    options.plan_world = t->world;
    options.plan_rank = t->rank;
    TRAIN_ZOPT(zopt_create(&options, plan));
    zopt_status status = commit_plan(t, *plan);
    if (status != ZOPT_OK) {
        zopt_destroy(*plan);
        *plan = NULL;
    }
    return status;
}

void trainer_free(trainer *t)
{
    zopt_destroy(t->z);
    model_destroy(t->gpt);
    data_free(&t->text);
    free(t->inputs);
    free(t->targets);
    free(t->prompt);
    free(t->ids);
    free(t->gathered);
}

zopt_status trainer_load_params(trainer *t)
{
    for (int i = 0; i < model_n_params(t->gpt); i++) {
        const void *stored;
        size_t n = model_params(t->gpt)[i].n;
        TRAIN_ZOPT(zopt_param_acquire(t->z, t->ids[i], &stored));
        TRAIN_ZOPT(zopt_convert(model_weights(t->gpt, i), ZOPT_FP32, stored, t->s.dtype, n));
        TRAIN_ZOPT(zopt_param_release(t->z, t->ids[i]));
    }
    return ZOPT_OK;
}

zopt_status trainer_meet(trainer *t, zopt_status mine, int *any)
{
    int n, said = 2 * (int)mine + (*any != 0);
    TRAIN_ZOPT(zopt_gather_f64(t->z, t->rank, said, t->gathered, &n));
    for (int rank = 0; rank < n; rank++) {
        said = (int)t->gathered[rank];
        *any |= said % 2;
        if (mine == ZOPT_OK && said / 2 != ZOPT_OK)
            mine = train_fail((zopt_status)(said / 2), "rank %d failed: %s", rank,
                              zopt_status_text((zopt_status)(said / 2)));
    }
    return mine;
}

zopt_status trainer_agree(trainer *t, zopt_status mine)
{
    int nothing = 0;
    return trainer_meet(t, mine, &nothing);
}
