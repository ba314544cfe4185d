/* Lines of metrics.jsonl: JSON numbers have 17 digits, so that files of different runs can be
 * compared; what is not finite becomes null. */
#include "train/metrics.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *phases(const metrics *row)
{
    json_t *object = json_pack("{s:o}", "compute_ms", number(row->compute_ms));
    for (int i = 0; i < ZOPT_N_PHASES; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s_ms", zopt_phase_names[i]);
        json_object_set_new(object, name, number(row->report.phase_ms[i]));
    }
    return object;
}

/* What a step consists of, as parts of 1: where it pays to look. */
static json_t *shares(const metrics *row)
{
    const double *phase = row->report.phase_ms;
    double compute = row->compute_ms / row->step_ms;
    double comm = (phase[ZOPT_PHASE_REDUCE] + phase[ZOPT_PHASE_GATHER]) / row->step_ms;
    double update = (phase[ZOPT_PHASE_NORM] + phase[ZOPT_PHASE_UPDATE]) / row->step_ms;
    return json_pack("{s:o, s:o, s:o, s:o}", "compute", number(compute), "exposed_comm",
                     number(comm), "update", number(update), "other",
                     number(1 - compute - comm - update));
}

/* A line of metrics.jsonl; times are rank 0's, in milliseconds, null is not measured or not finite:
 *   step          from 1, skipped ones too
 *   loss          mean over the slots, of the weights before the step
 *   val_loss      where it was measured, of the weights after the step
 *   grad_norm     of the averaged gradient, before clipping
 *   lr, loss_scale, skipped   what the step was made with; skipped: it changed no weight
 *   step_ms       the step, without validation
 *   tokens_per_s  of all ranks, in step_ms
 *   phases        parts of step_ms that do not overlap: compute_ms is the model's forward and
 *                 backward passes, without handing over their gradients; the others are the
 *                 library's zopt_phase_names, waits for peers included. What is left of step_ms
 *                 converts parameters and gradients.
 *   share         the same as parts of step_ms: compute; exposed_comm, all that is not hidden
 *                 behind something else of moving gradients and parameters and of waiting for peers
 *                 (reduce and gather); update (norm and update); other. What the progress thread
 *                 does beside the model is in none. */
static json_t *metrics_json(const metrics *row)
{
    const zopt_step_report *r = &row->report;
    json_t *object = json_pack("{s:I, s:o}", "step", (json_int_t)r->step, "loss", number(r->loss));
    if (row->has_val)
        json_object_set_new(object, "val_loss", number(row->val_loss));
    json_object_set_new(object, "grad_norm", number(r->grad_norm));
    json_object_set_new(object, "lr", number(r->lr));
    json_object_set_new(object, "loss_scale", number(r->loss_scale));
    json_object_set_new(object, "skipped", json_boolean(r->skipped));
    json_object_set_new(object, "step_ms", number(row->step_ms));
    json_object_set_new(object, "tokens_per_s", number(row->tokens_per_s));
    json_object_set_new(object, "phases", phases(row));
    json_object_set_new(object, "share", shares(row));
    return object;
}

int metrics_write(FILE *file, const metrics *row)
{
    json_t *object = metrics_json(row);
    errno = 0;
    int failed = json_dumpf(object, file, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0;
    failed |= fputc('\n', file) == EOF;
    failed |= fflush(file) != 0; /* a run can be watched, and a killed one keeps its lines */
    json_decref(object);
    return failed ? -1 : 0;
}

/* ------------------------------------------------------------------ going on ---------------- */

/* The step of a whole line; 0: it is none. */
static uint64_t step_of(const char *line, size_t length)
{
    json_t *object =
        length > 0 && line[length - 1] == '\n' ? json_loadb(line, length, 0, NULL) : NULL;
    json_int_t step = json_integer_value(json_object_get(object, "step"));
    json_decref(object);
    return step > 0 ? (uint64_t)step : 0;
}

/* Bytes of the lines of steps 1 to `done`. */
static off_t bytes_until(FILE *file, uint64_t done)
{
    char *line = NULL;
    size_t room = 0;
    off_t bytes = 0;
    for (ssize_t n = getline(&line, &room, file); n > 0; n = getline(&line, &room, file)) {
        uint64_t step = step_of(line, (size_t)n);
        if (step == 0 || step > done)
            break;
        bytes += n;
    }
    free(line);
    return bytes;
}

FILE *metrics_open(const char *path, uint64_t done)
{
    FILE *file = done > 0 ? fopen(path, "r+") : NULL;
    if (file == NULL)
        return fopen(path, "w");
    off_t bytes = bytes_until(file, done);
    if (ftruncate(fileno(file), bytes) == 0 && fseeko(file, bytes, SEEK_SET) == 0)
        return file;
    int error = errno;
    fclose(file);
    errno = error;
    return NULL;
}
