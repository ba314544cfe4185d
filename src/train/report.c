/* Progress lines and the closing summary, on stdout. */
#include "train/report.h"

#include <math.h>

#include "train/fail.h"
#include "train/ngram.h"

void report_start(const trainer *t)
{
    if (t->rank != 0)
        return;
    const model_shape *s = model_get_shape(t->gpt);
    printf("%zu parameters: %d layers, width %d, %d heads, context %d, %d characters\n",
           model_n_elements(t->gpt), s->n_layer, s->n_embd, s->n_head, s->n_ctx, s->vocab);
    printf("%s: %zu characters to train on, %zu held out\n", t->s.data_path, t->text.n_train,
           t->text.n_val);
    printf("%d rank%s over %s, %lld steps of %lld windows, to %s\n", t->world,
           t->world == 1 ? "" : "s", zopt_transport(t->z), (long long)t->s.steps,
           (long long)t->s.batch, rundir_path(t->out));
    if (t->done > 0)
        printf("going on from the checkpoint of step %llu\n", (unsigned long long)t->done);
    fflush(stdout);
}

/* printf shows some NaNs with a sign. */
static const char *number_text(char text[32], int digits, double x)
{
    if (isnan(x))
        return "nan";
    snprintf(text, 32, fabs(x) < 1e9 ? "%.*f" : "%.*g", digits, x);
    return text;
}

void report_step(const trainer *t, const metrics *row)
{
    const zopt_step_report *r = &row->report;
    int last = r->step == (uint64_t)t->s.steps;
    int due = last || row->has_val || r->step % (uint64_t)t->s.print_interval == 0;
    if (t->rank != 0 || (!t->request->progress && !due))
        return;
    char loss[32], val[32], norm[32];
    printf("%sstep %4llu/%lld  loss %s%s%s  lr %.2e  scale %g  norm %s  %.1f ms  %.0f tokens/s%s",
           t->request->progress ? "\r\033[K" : "", (unsigned long long)r->step,
           (long long)t->s.steps, number_text(loss, 4, r->loss), row->has_val ? "  val " : "",
           row->has_val ? number_text(val, 4, row->val_loss) : "", r->lr, r->loss_scale,
           isnan(r->grad_norm) ? "-" : number_text(norm, 3, r->grad_norm), row->step_ms,
           row->tokens_per_s, r->skipped ? "  skipped: overflow" : "");
    /* On a terminal, lines with a validation loss stay. */
    if (!t->request->progress || row->has_val)
        putchar('\n');
    fflush(stdout);
}

void report_break(const trainer *t)
{
    if (t->rank != 0 || !t->request->progress)
        return;
    putchar('\n');
    fflush(stdout);
}

void report_stop(const trainer *t, const outcome *o)
{
    if (t->rank != 0)
        return;
    printf("told to stop after step %llu: saved, the same command goes on from there\n",
           (unsigned long long)o->step);
    fflush(stdout);
}

static void print_yardsticks(const trainer *t)
{
    double losses[NGRAM_ORDERS];
    if (!ngram_losses(&t->text, losses))
        return;
    printf(
        "  counting characters gives, on the same split: unigram %.4f, bigram %.4f, trigram %.4f\n"
        "  (smoothed: p_k(c|h) = (n(hc) + p_(k-1)(c|h')) / (n(h) + 1))\n",
        losses[0], losses[1], losses[2]);
}

static zopt_status gather_max(trainer *t, double mine, double *max)
{
    int n;
    *max = 0;
    TRAIN_ZOPT(zopt_gather_f64(t->z, t->rank, mine, t->gathered, &n));
    for (int i = 0; i < n; i++)
        *max = fmax(*max, t->gathered[i]);
    return ZOPT_OK;
}

static zopt_status planned_bytes(const trainer *t, double *bytes)
{
    zopt *plan;
    zopt_memory_usage usage;
    TRAIN_TRY(trainer_plan(t, &plan));
    zopt_status status = zopt_memory(plan, &usage);
    if (status != ZOPT_OK)
        train_fail_zopt(status);
    zopt_destroy(plan);
    *bytes = (double)usage.total_peak_bytes;
    return status;
}

static zopt_status print_memory(trainer *t)
{
    zopt_memory_usage usage;
    double planned = 0, max_planned, max_counted;
    TRAIN_ZOPT(zopt_memory(t->z, &usage));
    TRAIN_TRY(trainer_agree(t, planned_bytes(t, &planned)));
    TRAIN_TRY(gather_max(t, planned, &max_planned));
    TRAIN_TRY(gather_max(t, (double)usage.total_peak_bytes, &max_counted));
    double n = (double)model_n_elements(t->gpt);
    if (t->rank == 0)
        printf(
            "memory of the largest of %d rank%s: planned %.0f bytes, counted %.0f; %.2f and %.2f "
            "a parameter\n",
            t->world, t->world == 1 ? "" : "s", max_planned, max_counted, max_planned / n,
            max_counted / n);
    return ZOPT_OK;
}

zopt_status report_end(trainer *t, const outcome *o)
{
    if (t->rank == 0) {
        printf("validation loss %.4f on %zu held-out windows of %lld characters\n", o->val_loss,
               data_val_windows(&t->text, (int)t->s.n_ctx), (long long)t->s.n_ctx);
        print_yardsticks(t);
    }
    TRAIN_TRY(print_memory(t));
    if (t->rank == 0) {
        printf("trained %.1f s; wrote %s\n", o->train_s, rundir_path(t->out));
        if (o->sample)
            printf("sample:\n%s\n", o->sample);
        fflush(stdout);
    }
    return ZOPT_OK;
}
