/* size: of the 16-bit parameters; algbw: size over time; busbw: what the limit moves over time;
 * copy: what the device's own copy reads and writes over its time. */
#include "bench/print.h"

#include <math.h>
#include <stdio.h>

#include "base/dtype.h"
#include "device/device.h"

void bench_print_begin(const bench_request *request, const bench_crew *crew,
                       const char *no_baseline)
{
    int ranks = crew->world;
    if (request->json) {
        printf("{\"bench\": \"%s\", \"version\": \"%s\", \"device\": \"%s\", \"kernels\": \"%s\", "
               "\"rounds\": %d,\n"
               " \"rows\": [",
               request->bench, ZOPT_VERSION, crew->device->name, crew->device->variant(),
               request->rounds);
        return;
    }
    printf("# zopt bench %s: %d %s on %s, %s, kernels %s; medians of %d rounds, interleaved\n",
           request->bench, ranks,
           request->threads > 0 ? "threads"
           : ranks > 1          ? "ranks"
                                : "rank",
           crew->device->name, zi_dtype_name(request->dtype), crew->device->variant(),
           request->rounds);
    if (request->shared_params)
        printf("# one parameter buffer for all ranks; the limit has one for each\n");
    if (no_baseline != NULL)
        printf("# no baseline: %s\n", no_baseline);
}

void bench_print_heads(const bench_request *request, const bench_crew *crew)
{
    static const char format[] =
        "%s%9s %10s %5s %9s %14s %4s %8s %9s %7s %7s %6s %9s %7s %9s %10s %9s %6s";
    int has_copy = !crew->device->on_host;
    if (request->json)
        return;
    printf(format, "#", "size", "params", "ranks", "transport", "optimizer", "norm", "overlap",
           "time", "algbw", "busbw", "bytes/", "limit", "x limit", "baseline", "x baseline",
           "backward", "#wrong");
    printf(has_copy ? " %8s %8s\n" : "\n", "copy", "of copy");
    printf(format, "#", "(MB)", "", "", "", "", "", "", "(ms)", "(GB/s)", "(GB/s)", "param", "(ms)",
           "", "(ms)", "faster", "(ms)", "");
    printf(has_copy ? " %8s %8s\n" : "\n", "(GB/s)", "(busbw)");
}

/* A number, or what stands for none. */
static const char *number(char text[32], const char *format, double value, const char *none)
{
    if (isfinite(value))
        snprintf(text, 32, format, value);
    return isfinite(value) ? text : none;
}

void bench_print_keys(const bench_case *c, const char *transport, int index)
{
    printf("%s\n  {\"params\": %llu, \"ranks\": %d, \"threads\": %s, \"transport\": \"%s\", "
           "\"optimizer\": \"%s\", \"norm\": %s, \"overlap\": %s, \"progress_thread\": %s, "
           "\"dtype\": \"%s\", \"tensors\": %llu, \"shared_params\": %s, ",
           index > 0 ? "," : "", (unsigned long long)c->params, c->crew->world,
           c->crew->threads != NULL ? "true" : "false", transport != NULL ? transport : "none",
           c->has_rule ? c->rule.optim->name : "none", c->norm ? "true" : "false",
           c->overlap ? "true" : "false", c->request->progress_thread ? "true" : "false",
           zi_dtype_name(c->data->dtype), (unsigned long long)c->n_tensors,
           c->request->shared_params ? "true" : "false");
}

/* GB/s of all ranks together; NaN: not measured. */
static double copy_speed(const bench_result *r)
{
    double bytes = 8.0 * (double)r->c->slice_elems * r->c->crew->world;
    return bytes / r->ms[BENCH_COPY] * 1e-6;
}

static void print_json(const bench_result *r, int index)
{
    char baseline[32], faster[32], backward[32], copy[32];
    double ms = r->ms[BENCH_SUBJECT], limit = r->ms[BENCH_LIMIT], other = r->ms[BENCH_BASELINE];
    bench_print_keys(r->c, r->transport, index);
    printf("\"time_ms\": %.6f, \"limit_ms\": %.6f, \"baseline_ms\": %s, \"x_limit\": %.4f, "
           "\"x_baseline\": %s, \"backward_ms\": %s, \"copy_gb_per_s\": %s, \"bytes_per_param\": "
           "%.4f, "
           "\"wrong\": %llu}",
           ms, limit, number(baseline, "%.6f", other, "null"), ms / limit,
           number(faster, "%.4f", other / ms, "null"),
           number(backward, "%.6f", r->backward_ms, "null"),
           number(copy, "%.4f", copy_speed(r), "null"), r->bytes, (unsigned long long)r->n_wrong);
}

void bench_print_row(const bench_result *r, int index)
{
    const bench_case *c = r->c;
    char baseline[32], faster[32], backward[32];
    const char *overlap = !c->overlap ? "off" : c->request->progress_thread ? "thread" : "calls";
    double ms = r->ms[BENCH_SUBJECT], limit = r->ms[BENCH_LIMIT], other = r->ms[BENCH_BASELINE];
    double params = (double)c->params, size = params * (double)sizeof(uint16_t);
    if (c->request->json) {
        print_json(r, index);
    } else {
        printf("%10.2f %10llu %5d %9s %14s %4s %8s ", size * 1e-6, (unsigned long long)c->params,
               c->crew->world, r->transport != NULL ? r->transport : "-",
               c->has_rule ? c->rule.optim->name : "-", c->norm ? "on" : "off", overlap);
        printf("%9.3f %7.2f %7.2f %6.2f %9.3f %7.3f %9s %10s %9s %6llu", ms, size / ms * 1e-6,
               r->bytes * params / ms * 1e-6, r->bytes, limit, ms / limit,
               number(baseline, "%.3f", other, "-"), number(faster, "%.2f", other / ms, "-"),
               number(backward, "%.3f", r->backward_ms, "-"), (unsigned long long)r->n_wrong);
        if (isfinite(r->ms[BENCH_COPY]))
            printf(" %8.1f %8.3f", copy_speed(r), r->bytes * params / ms * 1e-6 / copy_speed(r));
        printf("\n");
    }
    fflush(stdout);
}

void bench_print_end(const bench_request *request)
{
    if (request->json)
        printf("\n ]}\n");
}
