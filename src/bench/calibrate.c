/* `zopt bench calibrate`: how fast the parts of a step are, over each transport that this launch
 * has; printed, and kept by calibration.c for zopt plan --time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "bench/calibration.h"
#include "bench/parts.h"
#include "bench/print.h"

/* What is left of the large transfers' time without that of their messages, which a small one has
 * alone. */
static bench_message_rates message_rates(const bench_parts *p, double small_s, double large_s)
{
    double peers = p->comm->world - 1, n_messages = (double)p->n_buckets * peers;
    if (p->comm->ops->peer_memory || peers < 1)
        return (bench_message_rates){0};
    bench_message_rates rates = {.latency_s = small_s / (double)bench_parts_n_small(p) / peers};
    double bytes = n_messages * (double)bench_parts_slice_bytes(p),
           moving_s = large_s - n_messages * rates.latency_s;
    rates.bytes_per_s = bytes / (moving_s > large_s / 2 ? moving_s : large_s / 2);
    return rates;
}

static bench_rates rates_of(const bench_parts *p, const double *seconds)
{
    double slice = (double)p->c.slice_elems, n_sources = p->comm->world;
    double n_dests = p->comm->ops->peer_memory ? n_sources : 1;
    double state = sizeof(float) + bench_rule_state_bytes(&p->c.rule);
    return (bench_rates){
        .meet_s = seconds[BENCH_MEET] / BENCH_N_MEETS,
        .norm_bytes_per_s = slice * 2 * n_sources / seconds[BENCH_NORM],
        .update_bytes_per_s =
            slice * (2 * n_sources + 2 * state + 2 * n_dests) / seconds[BENCH_UPDATE],
        .gradients = message_rates(p, seconds[BENCH_EXCHANGE_SMALL], seconds[BENCH_EXCHANGE]),
        .parameters = message_rates(p, seconds[BENCH_GATHER_SMALL], seconds[BENCH_GATHER]),
    };
}

static void print_rates(const bench_parts *p, const bench_rates *r, uint64_t n_wrong, int index)
{
    if (index == 0)
        bench_print_begin(&p->c);
    if (p->c.request->json) {
        bench_print_keys(&p->c, p->comm->ops->name, index);
        printf("\"meet_s\": %.9g, \"norm_bytes_per_s\": %.9g, \"update_bytes_per_s\": %.9g, "
               "\"gradients_latency_s\": %.9g, \"gradients_bytes_per_s\": %.9g, "
               "\"parameters_latency_s\": %.9g, \"parameters_bytes_per_s\": %.9g, \"wrong\": %llu}",
               r->meet_s, r->norm_bytes_per_s, r->update_bytes_per_s, r->gradients.latency_s,
               r->gradients.bytes_per_s, r->parameters.latency_s, r->parameters.bytes_per_s,
               (unsigned long long)n_wrong);
        return;
    }
    if (index == 0)
        printf("#%9s %5s %10s %10s %10s %10s %10s %10s %10s %6s\n#%9s %5s %10s %10s %10s %10s %10s "
               "%10s %10s %6s\n",
               "transport", "ranks", "meet", "norm", "update", "gradients", "a message",
               "parameters", "a message", "#wrong", "", "", "(us)", "(GB/s)", "(GB/s)", "(GB/s)",
               "(us)", "(GB/s)", "(us)", "");
    printf("%10s %5d %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f %6llu\n", p->comm->ops->name,
           p->comm->world, r->meet_s * 1e6, r->norm_bytes_per_s * 1e-9,
           r->update_bytes_per_s * 1e-9, r->gradients.bytes_per_s * 1e-9,
           r->gradients.latency_s * 1e6, r->parameters.bytes_per_s * 1e-9,
           r->parameters.latency_s * 1e6, (unsigned long long)n_wrong);
    fflush(stdout);
}

/* Rank 0 writes, before anything is printed. */
static zopt_status keep(const bench_parts *p, const bench_rates *rates)
{
    char own[4096];
    const char *path = p->c.request->calibration;
    const bench_calibration_row row = {.device = p->update.device->name,
                                       .transport = p->comm->ops->name,
                                       .kernels = p->update.device->variant(),
                                       .ranks = p->comm->world,
                                       .rates = *rates};
    if (p->c.crew->rank != 0)
        return ZOPT_OK;
    if (path == NULL) {
        ZI_TRY(bench_calibration_default(own, sizeof own));
        path = own;
    }
    ZI_TRY(bench_calibration_put(path, &row));
    if (!p->c.request->json)
        fprintf(stderr, "calibration of transport %s over %d ranks written to %s\n", row.transport,
                row.ranks, path);
    return ZOPT_OK;
}

static zopt_status measure(bench_parts *p, int index, uint64_t *n_wrong)
{
    double *ms[BENCH_N_PARTS], seconds[BENCH_N_PARTS];
    size_t rounds = (size_t)p->c.request->rounds;
    double *all = calloc(BENCH_N_PARTS * rounds, sizeof *all);
    zopt_status status = all != NULL ? ZOPT_OK : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for times");
    for (int part = 0; part < BENCH_N_PARTS; part++)
        ms[part] = all + (size_t)part * rounds;
    status = zi_comm_agree(p->c.crew->comm, status);
    if (status == ZOPT_OK)
        status = bench_parts_time(p, ms);
    for (int part = 0; part < BENCH_N_PARTS && status == ZOPT_OK; part++)
        seconds[part] = bench_median(ms[part], (int)rounds) * 1e-3;
    free(all);
    ZI_TRY(status);
    ZI_TRY(bench_parts_check(p, n_wrong));
    bench_rates rates = rates_of(p, seconds);
    if (*n_wrong == 0)
        ZI_TRY(zi_comm_agree(p->c.crew->comm, keep(p, &rates)));
    if (p->c.crew->rank == 0)
        print_rates(p, &rates, *n_wrong, index);
    return ZOPT_OK;
}

zopt_status bench_calibrate(const bench_case *c, const char *fault, int index, uint64_t *n_wrong)
{
    static const char *const over_mpi[] = {"shm", "mpi", NULL};
    const char *const alone[] = {c->transport, NULL};
    int all = strcmp(c->transport, "auto") == 0 && c->crew->threads == NULL && c->crew->world > 1;
    const char *const *transport = all ? over_mpi : alone;
    (void)fault;
    *n_wrong = 0;
    if (c->rule.variant->unit != ZI_UNIT_ELEMENT)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "calibrate: %s has no update of single elements",
                       c->rule.optim->name);
    for (int i = 0; transport[i] != NULL; i++) {
        bench_parts p;
        uint64_t wrong = 0;
        zopt_status status = zi_comm_agree(c->crew->comm, bench_parts_open(&p, c, transport[i]));
        if (status == ZOPT_OK)
            status = measure(&p, index + i, &wrong);
        bench_parts_close(&p);
        *n_wrong += wrong;
        ZI_TRY(status);
    }
    return ZOPT_OK;
}
