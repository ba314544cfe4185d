/* The table of benchmarks, and what of a request each of them takes. Next: bench.c runs it. */
#include "bench/table.h"

#include <string.h>

#include "base/status.h"
#include "device/device.h"
#include "optim/optim.h"

enum { DEFAULT_PARAMS = 1 << 26, CALIBRATION_PARAMS = 1 << 24 };

static const bench_row rows[] = {
    {.name = "step",
     .help = "a whole step: gradients reduced, updated, parameters handed back",
     .contestant = {&bench_step, &bench_limit, &bench_textbook},
     .collective_baseline = 1,
     .has_transport = 1,
     .has_rule = 1,
     .is_step = 1,
     .has_tensors = 1,
     .has_buckets = 1,
     .has_shared_params = 1,
     .on_devices = 1},
    {.name = "adam",
     .help = "the update kernel alone",
     .contestant = {&bench_kernel, &bench_limit, &bench_passes},
     .has_rule = 1,
     .alone = 1,
     .on_devices = 1},
    {.name = "norm",
     .help = "the exact sum of squares of 16-bit gradients, alone, beside a copy of memory",
     .contestant = {[BENCH_SUBJECT] = &bench_pass_norm, [BENCH_COPY] = &bench_device_copy},
     .bytes = 2,
     .alone = 1,
     .on_devices = 1},
    {.name = "accumulate",
     .help = "16-bit gradients added to FP32 accumulators, alone, beside a copy of memory",
     .contestant = {[BENCH_SUBJECT] = &bench_pass_accumulate, [BENCH_COPY] = &bench_device_copy},
     .bytes = 10,
     .alone = 1,
     .on_devices = 1},
    {.name = "comm",
     .help = "one bucket to its owners and back, without an update",
     .contestant = {&bench_transfer, &bench_limit, &bench_textbook},
     .collective_baseline = 1,
     .has_transport = 1,
     .has_shared_params = 1,
     .on_devices = 1},
    {.name = "ckpt",
     .help = "a run's whole state to disk and back",
     .has_transport = 1,
     .has_rule = 1,
     .measure = bench_ckpt,
     .has_tensors = 1,
     .has_buckets = 1,
     .has_shared_params = 1,
     .has_files = 1},
    {.name = "calibrate",
     .help = "the parts of a step, kept in a file for zopt plan --time",
     .has_transport = 1,
     .has_rule = 1,
     .params = CALIBRATION_PARAMS,
     .measure = bench_calibrate,
     .has_buckets = 1,
     .has_calibration = 1},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

const char *bench_name(int i, const char **help)
{
    *help = i < N_ROWS ? rows[i].help : NULL;
    return i < N_ROWS ? rows[i].name : NULL;
}

zopt_status bench_row_find(const char *name, const bench_row **out)
{
    *out = NULL;
    for (int i = 0; i < N_ROWS && *out == NULL; i++)
        if (strcmp(name, rows[i].name) == 0)
            *out = &rows[i];
    if (*out != NULL)
        return ZOPT_OK;
    const char *near = zi_nearest(name, &rows[0].name, N_ROWS, sizeof rows[0]);
    return ZI_FAIL(ZOPT_ERR_ARGUMENT, "there is no benchmark '%.64s'%s%s%s", name,
                   near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* What is asked for and the benchmark has nothing of, or NULL. */
static const char *find_refused(const bench_row *row, const bench_request *r)
{
    const struct {
        int asked, has;
        const char *what;
    } options[] = {
        {r->n_transports > 0, row->has_transport, "transport"},
        {r->n_optimizers > 0, row->has_rule, "optimizer"},
        {r->n_norms > 0, row->is_step, "norm"},
        {r->n_overlaps > 0 || r->fmas > 0, row->is_step, "backward pass"},
        {r->progress_thread, row->is_step, "thread"},
        {r->trace != NULL, row->is_step, "trace"},
        {r->n_tensors > 0, row->has_tensors, "tensors"},
        {r->bucket_elems > 0, row->has_buckets, "buckets"},
        {r->shared_params, row->has_shared_params, "parameter buffers"},
        {r->dir != NULL, row->has_files, "files"},
        {r->calibration != NULL, row->has_calibration, "calibration"},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (options[i].asked && !options[i].has)
            return options[i].what;
    return NULL;
}

/* What every case would refuse, before the first is measured. no_norm: steps without it were asked
 * for. */
static zopt_status check_lists(const bench_request *r, int no_norm)
{
    const zi_comm_config plan = {.plan_world = 1}; /* whether there is such a row in this build */
    const zi_comm_ops *ops;
    const zi_optim *optim;
    int n_rows = r->n_params * r->n_transports * r->n_optimizers * r->n_norms * r->n_overlaps;
    if (r->trace != NULL && n_rows > 1)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                       "a trace is of one row, and these are %d: choose norm, overlap, ... of it",
                       n_rows);
    for (int t = 0; t < r->n_transports; t++)
        ZI_TRY(zi_comm_find(r->transport[t], &plan, &ops));
    for (int o = 0; o < r->n_optimizers; o++) {
        ZI_TRY(zi_optim_find(r->optimizer[o], &optim));
        if (no_norm && bench_always_measures(optim))
            return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                           "norm off: %s needs finite gradients, so its steps always measure the "
                           "norm",
                           optim->name);
    }
    for (int p = 0; p < r->n_params; p++)
        if (r->n_tensors > r->params[p])
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%llu tensors are more than %llu parameters",
                           (unsigned long long)r->n_tensors, (unsigned long long)r->params[p]);
    return ZOPT_OK;
}

zopt_status bench_request_complete(const bench_row *row, bench_request *r)
{
    const char *refused = find_refused(row, r);
    int no_norm = r->n_norms > 0 && !r->norm[0];
    if (refused != NULL)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "bench %s has no %s to choose", row->name, refused);
    if (r->fmas > 0 && !r->overlap[0] && !r->overlap[1])
        return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                       "%llu multiply-adds of a backward pass, but no step behind one: overlap",
                       (unsigned long long)r->fmas);
    r->device = r->device != NULL ? r->device : "cpu";
    const zi_device_ops *device = zi_device_row(r->device);
    if (device != NULL && !device->on_host && (!row->on_devices || r->overlap[0] || r->overlap[1]))
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "bench %s%s is measured on the CPU alone", row->name,
                       row->on_devices ? " behind a backward pass" : "");
    if (r->n_params == 0)
        r->params[r->n_params++] = row->params > 0 ? row->params : DEFAULT_PARAMS;
    if (r->n_transports == 0)
        r->transport[r->n_transports++] = "auto";
    if (r->n_optimizers == 0)
        r->optimizer[r->n_optimizers++] = "adamw";
    if (r->n_norms == 0) {
        r->norm[r->n_norms++] = 0;
        if (row->is_step)
            r->norm[r->n_norms++] = 1;
    }
    if (r->n_overlaps == 0)
        r->overlap[r->n_overlaps++] = 0;
    r->fmas = r->fmas > 0 ? r->fmas : BENCH_FMAS;
    r->dir = r->dir != NULL ? r->dir : ".";
    r->rounds = r->rounds > 0 ? r->rounds : BENCH_MIN_ROUNDS;
    if (r->rounds < BENCH_MIN_ROUNDS || r->threads < 0 || r->threads > BENCH_MAX_RANKS)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%d rounds of %d threads: want at least %d, at most %d",
                       r->rounds, r->threads, BENCH_MIN_ROUNDS, BENCH_MAX_RANKS);
    return check_lists(r, no_norm);
}
