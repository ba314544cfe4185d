/* The ranks of a request, and the sweep over its lists. Next: rounds.c measures one case. */
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "bench/rounds.h"
#include "bench/table.h"
#include "device/device.h"

/* Opens when all threads could be started; until then they wait for the mutex. */
typedef struct bench_gate {
    pthread_mutex_t mutex;
    int open;
} bench_gate;

/* One rank of a request. */
typedef struct bench_rank {
    const bench_request *request;
    const bench_row *row;
    const char *fault; /* "" but in tests */
    bench_gate *gate;
    zopt_threads *threads; /* NULL: ranks are processes */
    int rank;
    bench_crew crew;
    bench_data *data;
    int n_printed;
    uint64_t n_wrong;
    zopt_status status;
    char error[512]; /* of status, for the thread that waits for this one */
} bench_rank;

/* ---- one case ---- */

/* Why it does not take part, or NULL. */
static const char *no_baseline(const bench_rank *run)
{
    if (run->row->measure != NULL) /* what is measured there is its own affair */
        return NULL;
    if (run->row->contestant[BENCH_BASELINE] == NULL)
        return "there is nothing simpler";
    if (!run->crew.device->on_host)
        return "it computes on the host";
    return run->row->collective_baseline ? bench_textbook_missing(run->threads) : NULL;
}

static zopt_status measure_apart(bench_rank *run, const bench_case *c)
{
    uint64_t wrong = 0;
    zopt_status status = run->row->measure(c, run->fault, run->n_printed++, &wrong);
    run->n_wrong += wrong;
    return status;
}

static zopt_status measure(bench_rank *run, const bench_case *c)
{
    const bench_row *row = run->row;
    bench_result result = {.c = c,
                           .bytes = row->bytes > 0 ? row->bytes : 4.0 * c->n_slots,
                           .backward_ms = NAN,
                           .call_ms = NAN};
    bench_contest contest = {.fault = run->fault, .has_transport = row->has_transport};
    if (row->has_rule)
        result.bytes += 8 + 2 * bench_rule_state_bytes(&c->rule);
    memcpy(contest.contestant, row->contestant, sizeof contest.contestant);
    if (c->overlap)
        contest.contestant[BENCH_SUBJECT] = &bench_overlap;
    if (c->no_baseline != NULL)
        contest.contestant[BENCH_BASELINE] = NULL;
    if (!c->crew->device->on_host) {
        if (row->contestant[BENCH_LIMIT] != NULL)
            contest.contestant[BENCH_LIMIT] = &bench_device_limit;
        contest.contestant[BENCH_COPY] = &bench_device_copy;
        contest.contestant[BENCH_NO_GRAPH] = row->is_step ? &bench_no_graph : NULL;
    }
    ZI_TRY(bench_contest_run(c, &contest, run->crew.rank == 0 ? run->n_printed : -1, &result));
    run->n_printed++;
    run->n_wrong += result.n_wrong;
    return ZOPT_OK;
}

/* ---- the sweep ---- */

static void cut(const bench_row *row, bench_case *c)
{
    uint64_t world = (uint64_t)c->crew->world, rank = (uint64_t)c->crew->rank;
    uint64_t blocks = (c->params + world * ZI_BLOCK - 1) / (world * ZI_BLOCK);
    c->slice_elems = blocks * ZI_BLOCK;
    c->owned_first = rank * c->slice_elems;
    uint64_t rest = c->owned_first < c->params ? c->params - c->owned_first : 0;
    c->n_owned = rest < c->slice_elems ? rest : c->slice_elems;
    c->held_first = row->alone ? c->owned_first : 0;
    c->n_held = row->alone ? c->n_owned : c->params;
    c->n_slots = row->alone ? 1 : (int)world;
    c->slot = row->alone ? 0 : (int)rank;
    bench_sample_make(c->params, &c->sample);
}

/* Where some rows overlap, all have as many tensors: they can be compared. */
static uint64_t count_tensors(const bench_request *r, uint64_t params)
{
    uint64_t usual = r->overlap[r->n_overlaps - 1] ? BENCH_TENSORS : 1;
    return r->n_tensors > 0 ? r->n_tensors : usual < params ? usual : params;
}

static zopt_status run_case(bench_rank *run, bench_case c, const char *optimizer)
{
    c.crew = &run->crew;
    c.data = run->data;
    c.request = run->request;
    c.device = run->request->device;
    c.no_baseline = no_baseline(run);
    c.has_rule = run->row->has_rule;
    c.n_tensors = count_tensors(run->request, c.params);
    const bench_tensors tensors = {.n_elems = c.params, .n = c.n_tensors};
    uint64_t first, extent[2];
    zi_shape shape = bench_tensor_shape(bench_tensor_elems(&tensors, 0, &first), extent);
    ZI_TRY(bench_rule_open(optimizer, &shape, &c.rule));
    int always = bench_always_measures(c.rule.optim);
    if (always && run->row->is_step && !c.norm)
        return ZOPT_OK; /* of "both", which nobody asked for; the other row is the same */
    c.norm |= always;
    cut(run->row, &c);
    if (strcmp(run->fault, "element") == 0 && c.crew->rank == c.crew->world - 1)
        bench_data_spoil(run->data, c.slot, c.held_first + c.n_held - 1);
    return run->row->measure != NULL ? measure_apart(run, &c) : measure(run, &c);
}

static zopt_status sweep(bench_rank *run)
{
    const bench_request *r = run->request;
    for (int p = 0; p < r->n_params; p++)
        for (int t = 0; t < r->n_transports; t++)
            for (int o = 0; o < r->n_optimizers; o++)
                for (int n = 0; n < r->n_norms; n++)
                    for (int v = 0; v < r->n_overlaps; v++) {
                        const bench_case c = {.params = r->params[p],
                                              .transport = r->transport[t],
                                              .norm = r->norm[n],
                                              .overlap = r->overlap[v]};
                        ZI_TRY(run_case(run, c, r->optimizer[o]));
                    }
    return ZOPT_OK;
}

static zopt_status run_rank(bench_rank *run)
{
    const char *fault = getenv("ZOPT_BENCH_FAULT");
    run->fault = fault != NULL ? fault : "";
    const bench_row *row = run->row;
    const bench_crew_config config = {.threads = run->threads,
                                      .rank = run->rank,
                                      .with_mpi = row->collective_baseline &&
                                                  bench_textbook_missing(run->threads) == NULL,
                                      .progress_thread = run->request->progress_thread,
                                      .device = run->request->device};
    ZI_TRY(bench_crew_join(&run->crew, &config));
    run->data = malloc(sizeof *run->data);
    ZI_TRY(zi_comm_agree(
        run->crew.comm,
        run->data != NULL ? ZOPT_OK : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for the gradients")));
    bench_data_make(run->request->dtype, run->data);
    ZI_TRY(sweep(run));
    if (run->crew.rank == 0)
        bench_print_end(run->request);
    if (run->n_wrong > 0)
        return ZI_FAIL(ZOPT_ERR_MISMATCH, "%llu elements or counts are wrong",
                       (unsigned long long)run->n_wrong);
    return ZOPT_OK;
}

static void run_and_leave(bench_rank *run)
{
    run->status = run_rank(run);
    if (run->status != ZOPT_OK)
        snprintf(run->error, sizeof run->error, "%s", zopt_last_error());
    free(run->data);
    bench_crew_leave(&run->crew);
}

static void *run_thread(void *arg)
{
    bench_rank *run = arg;
    pthread_mutex_lock(&run->gate->mutex);
    int open = run->gate->open;
    pthread_mutex_unlock(&run->gate->mutex);
    if (open)
        run_and_leave(run);
    return NULL;
}

/* Rank 0 is the caller's thread, the others have their own. */
static zopt_status run_ranks(bench_rank *ranks, bench_gate *gate, int n)
{
    pthread_t thread[BENCH_MAX_RANKS];
    int started = 1;
    pthread_mutex_lock(&gate->mutex);
    while (started < n && pthread_create(&thread[started], NULL, run_thread, &ranks[started]) == 0)
        started++;
    gate->open = started == n;
    pthread_mutex_unlock(&gate->mutex);
    if (started == n)
        run_and_leave(&ranks[0]);
    for (int r = 1; r < started; r++)
        pthread_join(thread[r], NULL);
    if (started < n)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "cannot start %d threads", n);
    return ranks[0].status == ZOPT_OK ? ZOPT_OK : ZI_FAIL(ranks[0].status, "%s", ranks[0].error);
}

zopt_status bench_run(const bench_request *request)
{
    bench_request all = *request;
    bench_gate gate = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    const bench_row *row;
    ZI_TRY(bench_row_find(request->bench, &row));
    ZI_TRY(bench_request_complete(row, &all));
    /* Freed memory stays with the process, for all contestants: MPI's collectives allocate theirs
     * anew in every call, and would otherwise pay for its pages each time. Before MPI starts. */
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
    int n = all.threads > 0 ? all.threads : 1;
    bench_rank *ranks = calloc((size_t)n, sizeof *ranks);
    if (ranks == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %d ranks", n);
    zopt_threads *threads = NULL;
    zopt_status status = all.threads > 0 ? zopt_threads_create(n, &threads) : ZOPT_OK;
    for (int r = 0; r < n; r++)
        ranks[r] =
            (bench_rank){.request = &all, .row = row, .threads = threads, .rank = r, .gate = &gate};
    if (status == ZOPT_OK)
        status = run_ranks(ranks, &gate, n);
    zopt_threads_destroy(threads);
    free(ranks);
    return status;
}
