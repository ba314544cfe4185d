/* Validation. The held-out windows are cut into fixed batches of micro_batch windows; rank r
 * computes batches r, r + N, ... and the ranks' sums are added up in batch order, so N does not
 * matter. */
#include "train/eval.h"

#include "train/fail.h"

/* Of `all` batches, `wanted` are computed, evenly spaced. */
typedef struct plan {
    size_t windows, per_batch, all, wanted;
} plan;

static plan make_plan(const trainer *t, int64_t batches)
{
    plan p = {.windows = data_val_windows(&t->text, (int)t->s.n_ctx),
              .per_batch = (size_t)t->s.micro_batch};
    p.all = (p.windows + p.per_batch - 1) / p.per_batch;
    p.wanted = batches > 0 && (size_t)batches < p.all ? (size_t)batches : p.all;
    return p;
}

/* The i-th wanted batch: its first window, and how many there are. */
static size_t first_window(const plan *p, size_t i, size_t *samples)
{
    size_t first = i * p->all / p->wanted * p->per_batch;
    *samples = p->windows - first < p->per_batch ? p->windows - first : p->per_batch;
    return first;
}

/* Sum of the cross entropy over the tokens of a batch. */
static double batch_loss(trainer *t, const plan *p, size_t i)
{
    size_t samples, first = first_window(p, i, &samples);
    int context = (int)t->s.n_ctx;
    data_fill_val(&t->text, context, first, (int)samples, t->inputs, t->targets);
    model_batch b = {t->inputs, t->targets, (int)samples, context};
    return model_forward(t->gpt, b) * (double)samples * context;
}

zopt_status eval_loss(trainer *t, int64_t batches, double *loss)
{
    plan p = make_plan(t, batches);
    double sum = 0;
    size_t windows = 0;
    TRAIN_TRY(trainer_load_params(t));
    for (size_t round = 0; round < p.wanted; round += (size_t)t->world) {
        size_t mine = round + (size_t)t->rank;
        int have = mine < p.wanted, n;
        double value = have ? batch_loss(t, &p, mine) : 0;
        TRAIN_ZOPT(zopt_gather_f64(t->z, have ? (int64_t)mine : -1, value, t->gathered, &n));
        for (int k = 0; k < n; k++) {
            size_t samples;
            first_window(&p, round + (size_t)k, &samples);
            sum += t->gathered[k];
            windows += samples;
        }
    }
    *loss = sum / ((double)windows * (double)t->s.n_ctx);
    return ZOPT_OK;
}
