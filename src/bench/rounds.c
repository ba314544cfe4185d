/* One case: contestants take turns, round by round, so that a machine that drifts drifts for all of
 * them; then each is checked. Next: step.c, the subject. */
#include "bench/rounds.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum { WARMUP = 2 };

static const char *const names[BENCH_N_CONTESTANTS] = {"subject", "limit", "baseline", "copy",
                                                       "no graph"};

typedef struct entrant {
    const bench_contestant *type; /* NULL: does not take part */
    void *self;
    double *ms, *apart_ms, *call_ms;
    int skips_last, skips_last_apart; /* faults */
} entrant;

static zopt_status create_entrant(const bench_case *c, entrant *e)
{
    e->ms = calloc((size_t)c->request->rounds, sizeof *e->ms);
    e->apart_ms = calloc((size_t)c->request->rounds, sizeof *e->apart_ms);
    e->call_ms = calloc((size_t)c->request->rounds, sizeof *e->call_ms);
    e->self = zi_aligned_zalloc(e->type->bytes);
    int has_memory = e->ms != NULL && e->apart_ms != NULL && e->call_ms != NULL && e->self != NULL;
    zopt_status status = has_memory ? e->type->create(e->self, c)
                                    : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a benchmark");
    return zi_comm_agree(c->crew->comm, status);
}

static void destroy_entrant(entrant *e)
{
    if (e->self != NULL)
        e->type->destroy(e->self);
    free(e->self);
    free(e->ms);
    free(e->apart_ms);
    free(e->call_ms);
}

/* Negative: before what is measured. */
static zopt_status take_turn(const bench_case *c, entrant *e, int round)
{
    int last = round == c->request->rounds - 1;
    double ms, apart_ms = 0;
    if (last && e->skips_last)
        return ZOPT_OK;
    ZI_TRY(zi_comm_agree(c->crew->comm, e->type->prepare(e->self)));
    if (e->type->apart != NULL && !(last && e->skips_last_apart))
        ZI_TRY(bench_crew_time(c->crew, e->type->apart, e->self, &apart_ms));
    ZI_TRY(bench_crew_time(c->crew, e->type->round, e->self, &ms));
    if (round < 0)
        return ZOPT_OK;
    e->ms[round] = ms - apart_ms;
    e->apart_ms[round] = apart_ms;
    e->call_ms[round] = e->type->call_ms != NULL ? e->type->call_ms(e->self) : NAN;
    return ZOPT_OK;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

static zopt_status run_entrants(const bench_case *c, entrant *entrants, bench_result *result)
{
    for (int i = 0; i < BENCH_N_CONTESTANTS; i++)
        if (entrants[i].type != NULL)
            ZI_TRY(create_entrant(c, &entrants[i]));
    for (int round = -WARMUP; round < c->request->rounds; round++)
        for (int i = 0; i < BENCH_N_CONTESTANTS; i++)
            if (entrants[i].type != NULL)
                ZI_TRY(take_turn(c, &entrants[i], round));
    for (int i = 0; i < BENCH_N_CONTESTANTS; i++) {
        uint64_t wrong = 0, rounds = (uint64_t)c->request->rounds + WARMUP;
        result->ms[i] = NAN;
        if (entrants[i].type == NULL)
            continue;
        result->ms[i] = bench_median(entrants[i].ms, c->request->rounds);
        if (entrants[i].type->call_ms != NULL)
            result->call_ms = bench_median(entrants[i].call_ms, c->request->rounds);
        if (entrants[i].type->apart != NULL)
            result->backward_ms = bench_median(entrants[i].apart_ms, c->request->rounds);
        ZI_TRY(zi_comm_agree(c->crew->comm,
                             entrants[i].type->check(entrants[i].self, rounds, &wrong)));
        result->n_wrong += wrong;
    }
    int64_t sum = (int64_t)result->n_wrong;
    ZI_TRY(c->crew->comm->ops->all_reduce(c->crew->comm, ZI_SUM, &sum, 1));
    result->n_wrong = (uint64_t)sum;
    return ZOPT_OK;
}

zopt_status bench_contest_run(const bench_case *c, const bench_contest *contest, int index,
                              bench_result *result)
{
    entrant entrants[BENCH_N_CONTESTANTS] = {{0}};
    const entrant *subject = &entrants[BENCH_SUBJECT];
    for (int i = 0; i < BENCH_N_CONTESTANTS; i++) {
        entrants[i].type = contest->contestant[i];
        entrants[i].skips_last = strcmp(contest->fault, names[i]) == 0;
        entrants[i].skips_last_apart = strcmp(contest->fault, "backward") == 0;
    }
    zopt_status status = run_entrants(c, entrants, result);
    if (status == ZOPT_OK && contest->has_transport)
        result->transport = subject->type->transport(subject->self);
    if (status == ZOPT_OK && subject->type->path != NULL)
        result->path = subject->type->path(subject->self);
    zopt_status traced = ZOPT_OK; /* what was measured is told all the same */
    if (status == ZOPT_OK && c->request->trace != NULL)
        traced =
            zi_comm_agree(c->crew->comm, subject->type->trace(subject->self, &result->overlap));
    if (status == ZOPT_OK && index >= 0)
        bench_print_row(result, index);
    status = status == ZOPT_OK ? traced : status;
    for (int i = 0; i < BENCH_N_CONTESTANTS; i++)
        destroy_entrant(&entrants[i]);
    return status;
}
