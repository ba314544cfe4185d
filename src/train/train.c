/* Training, as a table of contents: prepare, connect, step, validate, write. What it shows is how a
 * trainer uses the library: gradients are handed over one by one while the backward pass goes on.
 */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>

#include "train/checkpoint.h"
#include "train/eval.h"
#include "train/fail.h"
#include "train/report.h"
#include "train/rundir.h"
#include "train/sample.h"
#include "train/stop.h"
#include "train/trainer.h"

static zopt_status grad_done(void *arg, int i)
{
    trainer *t = arg;
    void *grad;
    int needed;
    double start = train_now_ms();
    TRAIN_ZOPT(zopt_needs_grad(t->z, t->ids[i], &needed));
    if (!needed)
        return ZOPT_OK;
    TRAIN_ZOPT(zopt_grad_acquire(t->z, t->ids[i], &grad));
    TRAIN_ZOPT(zopt_convert(grad, t->s.dtype, model_grad(t->gpt, i), ZOPT_FP32,
                            model_params(t->gpt)[i].n));
    TRAIN_ZOPT(zopt_grad_ready(t->z, t->ids[i]));
    t->handover_ms += train_now_ms() - start;
    return ZOPT_OK;
}

/* This rank's slot of one micro-step, where it has one. */
static zopt_status micro_step(trainer *t, uint64_t step, double *compute_ms)
{
    int slot, samples = (int)t->s.micro_batch, context = (int)t->s.n_ctx;
    const float *scale;
    TRAIN_ZOPT(zopt_slot(t->z, &slot));
    TRAIN_ZOPT(zopt_loss_scale(t->z, &scale));
    double loss = 0;
    if (slot >= 0) {
        data_slot which = {(uint64_t)t->s.seed, step, slot, samples, context};
        double start = train_now_ms();
        t->handover_ms = 0;
        data_fill_slot(&t->text, &which, t->inputs, t->targets);
        loss = model_forward(t->gpt, (model_batch){t->inputs, t->targets, samples, context});
        TRAIN_TRY(model_backward(t->gpt, *scale, grad_done, t));
        *compute_ms += train_now_ms() - start - t->handover_ms;
    }
    TRAIN_ZOPT(zopt_micro_end(t->z, loss));
    return ZOPT_OK;
}

/* From the first gradient to the working copy of the next step. One that gives up on its numbers
 * may have a report too. */
static zopt_status one_step(trainer *t, uint64_t step, metrics *row)
{
    double start = train_now_ms();
    for (int i = 0; i < zopt_micro_steps(t->z); i++)
        TRAIN_TRY(micro_step(t, step, &row->compute_ms));
    zopt_status status = zopt_step(t->z);
    if (status != ZOPT_OK)
        train_fail_zopt(status);
    if (status != ZOPT_OK && status != ZOPT_ERR_NUMERICS)
        return status;
    if (status == ZOPT_OK)
        TRAIN_TRY(trainer_load_params(t));
    zopt_status reported = zopt_report(t->z, 1, &row->report);
    row->step_ms = train_now_ms() - start;
    row->tokens_per_s = (double)(t->s.batch * t->s.n_ctx) / row->step_ms * 1e3;
    if (status == ZOPT_OK && reported != ZOPT_OK)
        return train_fail_zopt(reported);
    return status;
}

/* What all ranks have the same bits of, so that all of them leave. */
static zopt_status check_finite(uint64_t step, const char *what, double loss)
{
    if (isfinite(loss))
        return ZOPT_OK;
    return train_fail(ZOPT_ERR_NUMERICS,
                      "step %llu: the %s is not finite; lower optimizer.params.lr, or set "
                      "gradient_clipping",
                      (unsigned long long)step, what);
}

/* Some of the held-out part now and then, all of it after the last step. */
static zopt_status validate(trainer *t, uint64_t step, metrics *row)
{
    int last = step == (uint64_t)t->s.steps;
    if (!last && (t->s.eval_interval == 0 || step % (uint64_t)t->s.eval_interval != 0))
        return ZOPT_OK;
    TRAIN_TRY(eval_loss(t, last ? 0 : t->s.eval_batches, &row->val_loss));
    row->has_val = 1;
    return check_finite(step, "validation loss", row->val_loss);
}

static zopt_status step_and_validate(trainer *t, uint64_t step, metrics *row)
{
    TRAIN_TRY(one_step(t, step, row));
    if (!row->report.skipped)
        TRAIN_TRY(check_finite(step, "loss", row->report.loss));
    return validate(t, step, row);
}

/* Where rank 0 could not write, or a rank was told to stop, all learn it in the same step. */
static zopt_status train_steps(trainer *t, outcome *o)
{
    TRAIN_TRY(trainer_load_params(t));
    for (uint64_t step = t->done + 1; step <= (uint64_t)t->s.steps; step++) {
        metrics row = {0};
        zopt_status status = step_and_validate(t, step, &row);
        if (row.report.step == step) { /* also of a step that failed, where it came that far */
            rundir_metrics(t, &row);
            report_step(t, &row);
        }
        if (status != ZOPT_OK)
            return status;
        TRAIN_TRY(checkpoint_after(t, step));
        o->stopped = step < (uint64_t)t->s.steps && stop_wanted();
        TRAIN_TRY(rundir_check(t, &o->stopped));
        o->step = step;
        o->train_s += row.step_ms * 1e-3;
        o->val_loss = row.val_loss;
        if (o->stopped)
            return checkpoint_last(t, step);
    }
    TRAIN_ZOPT(zopt_save_wait(t->z));
    return ZOPT_OK;
}

static zopt_status finish(trainer *t, outcome *o)
{
    char *sample = NULL;
    if (t->done == (uint64_t)t->s.steps) /* nothing was left to train */
        TRAIN_TRY(eval_loss(t, 0, &o->val_loss));
    TRAIN_TRY(rundir_export(t));
    TRAIN_TRY(rundir_memory(t));
    zopt_status status = ZOPT_OK;
    if (t->s.sample_length > 0) {
        status = sample_text(t, &sample);
        if (status == ZOPT_OK)
            status = rundir_sample(t, sample);
    }
    o->sample = sample;
    if (status == ZOPT_OK)
        status = report_end(t, o);
    free(sample);
    return status;
}

static zopt_status run(trainer *t)
{
    outcome o = {0};
    TRAIN_TRY(trainer_prepare(t));
    TRAIN_TRY(trainer_connect(t));
    TRAIN_TRY(rundir_open(t));
    TRAIN_TRY(checkpoint_resume(t));
    TRAIN_TRY(rundir_begin(t));
    TRAIN_TRY(rundir_trace(t));
    TRAIN_TRY(rundir_memory(t));
    report_start(t);
    zopt_status status = train_steps(t, &o);
    if (status != ZOPT_OK || o.stopped)
        report_break(t);
    if (status == ZOPT_OK && o.stopped)
        report_stop(t, &o);
    return status == ZOPT_OK && !o.stopped ? finish(t, &o) : status;
}

zopt_status train_run(const train_request *request)
{
    trainer t = {.request = request};
    zopt_status status = run(&t);
    rundir_close(t.out);
    trainer_free(&t);
    return status;
}
