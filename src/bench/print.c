/* size: of the 16-bit parameters; algbw: size over time; busbw: what the limit moves over time;
 * copy: what the device's own copy reads and writes over its time; call: how long zopt_step held
 * the host up; no graph: the time of steps that are enqueued kernel by kernel. */
#include "bench/print.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "base/dtype.h"
#include "device/device.h"

void bench_print_begin(const bench_case *c)
{
    const bench_request *request = c->request;
    const bench_crew *crew = c->crew;
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
    if (c->no_baseline != NULL)
        printf("# no baseline: %s\n", c->no_baseline);
}

/* All rows of a request have the same columns. */
static void print_heads(const bench_result *r)
{
    int has_copy = isfinite(r->ms[BENCH_COPY]), has_graph = isfinite(r->ms[BENCH_NO_GRAPH]);
    static const char format[] =
        "%s%9s %10s %5s %9s %14s %4s %8s %9s %7s %7s %6s %9s %7s %9s %10s %9s %6s";
    printf(format, "#", "size", "params", "ranks", "transport", "optimizer", "norm", "overlap",
           "time", "algbw", "busbw", "bytes/", "limit", "x limit", "baseline", "x baseline",
           "backward", "#wrong");
    if (has_copy)
        printf(" %8s %8s", "copy", "of copy");
    printf(has_graph ? " %8s %9s %7s\n" : "\n", "call", "no graph", "x graph");
    printf(format, "#", "(MB)", "", "", "", "", "", "", "(ms)", "(GB/s)", "(GB/s)", "param", "(ms)",
           "", "(ms)", "faster", "(ms)", "");
    if (has_copy)
        printf(" %8s %8s", "(GB/s)", "(busbw)");
    printf(has_graph ? " %8s %9s %7s\n" : "\n", "(ms)", "(ms)", "faster");
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

/* GB/s, as the limit counts bytes. */
static double speed(const bench_result *r)
{
    return r->bytes * (double)r->c->params / r->ms[BENCH_SUBJECT] * 1e-6;
}

/* JSON; null for NULL and for what is no UTF-8. A device has a say in the words of a path. */
static void print_string(const char *text)
{
    json_t *string = text != NULL ? json_string(text) : NULL;
    if (string == NULL)
        string = json_null();
    json_dumpf(string, stdout, JSON_ENCODE_ANY);
    json_decref(string);
}

/* What was traced: steps, and, a step, the buckets, those exchanged and summed before the backward
 * pass had ended, those that were not, and those whose parameters were waited for. */
static void print_overlap(const bench_result *r, const char *format)
{
    const zi_overlap *o = &r->overlap;
    double n = (double)o->n_steps;
    if (o->n_steps > 0)
        printf(format, (unsigned long long)o->n_steps, (double)o->n_buckets / n,
               (double)o->n_exchanged / n, (double)o->n_passed / n,
               (double)(o->n_buckets - o->n_passed) / n, (double)o->n_awaited / n);
}

static void print_json(const bench_result *r, int index)
{
    char text[10][32];
    double ms = r->ms[BENCH_SUBJECT], limit = r->ms[BENCH_LIMIT], other = r->ms[BENCH_BASELINE];
    double no_graph = r->ms[BENCH_NO_GRAPH], copy = copy_speed(r);
    bench_print_keys(r->c, r->transport, index);
    printf("\"time_ms\": %.6f, \"limit_ms\": %s, \"baseline_ms\": %s, \"x_limit\": %s, "
           "\"x_baseline\": %s, \"backward_ms\": %s, \"copy_gb_per_s\": %s, \"of_copy\": %s, "
           "\"call_ms\": %s, \"no_graph_ms\": %s, \"x_graph\": %s, \"path\": ",
           ms, number(text[0], "%.6f", limit, "null"), number(text[1], "%.6f", other, "null"),
           number(text[2], "%.4f", ms / limit, "null"), number(text[3], "%.4f", other / ms, "null"),
           number(text[4], "%.6f", r->backward_ms, "null"), number(text[5], "%.4f", copy, "null"),
           number(text[6], "%.4f", speed(r) / copy, "null"),
           number(text[7], "%.6f", r->call_ms, "null"), number(text[8], "%.6f", no_graph, "null"),
           number(text[9], "%.4f", no_graph / ms, "null"));
    print_string(r->path);
    print_overlap(r, ", \"trace\": {\"steps\": %llu, \"buckets\": %.2f, \"exchanged\": %.2f, "
                     "\"summed\": %.2f, \"exposed\": %.2f, \"awaited\": %.2f}");
    printf(", \"bytes_per_param\": %.4f, \"wrong\": %llu}", r->bytes,
           (unsigned long long)r->n_wrong);
}

static void print_text(const bench_result *r)
{
    const bench_case *c = r->c;
    char text[6][32];
    const char *overlap = !c->overlap ? "off" : c->request->progress_thread ? "thread" : "calls";
    double ms = r->ms[BENCH_SUBJECT], limit = r->ms[BENCH_LIMIT], other = r->ms[BENCH_BASELINE];
    double params = (double)c->params, size = params * (double)sizeof(uint16_t);
    printf("%10.2f %10llu %5d %9s %14s %4s %8s ", size * 1e-6, (unsigned long long)c->params,
           c->crew->world, r->transport != NULL ? r->transport : "-",
           c->has_rule ? c->rule.optim->name : "-", c->norm ? "on" : "off", overlap);
    printf("%9.3f %7.2f %7.2f %6.2f %9s %7s %9s %10s %9s %6llu", ms, size / ms * 1e-6, speed(r),
           r->bytes, number(text[0], "%.3f", limit, "-"), number(text[1], "%.3f", ms / limit, "-"),
           number(text[2], "%.3f", other, "-"), number(text[3], "%.2f", other / ms, "-"),
           number(text[4], "%.3f", r->backward_ms, "-"), (unsigned long long)r->n_wrong);
    if (isfinite(r->ms[BENCH_COPY]))
        printf(" %8.1f %8.3f", copy_speed(r), speed(r) / copy_speed(r));
    if (isfinite(r->ms[BENCH_NO_GRAPH]))
        printf(" %8s %9.3f %7.2f", number(text[5], "%.3f", r->call_ms, "-"), r->ms[BENCH_NO_GRAPH],
               r->ms[BENCH_NO_GRAPH] / ms);
    printf("\n");
    if (r->path != NULL && isfinite(r->ms[BENCH_NO_GRAPH]))
        printf("# %s\n", r->path);
    print_overlap(r,
                  "# trace of %llu steps; a step: %.1f buckets, of which %.1f were exchanged and "
                  "%.1f summed before the backward pass had ended; exposed: %.1f behind it, and "
                  "%.1f whose parameters were waited for\n");
}

void bench_print_row(const bench_result *r, int index)
{
    int json = r->c->request->json;
    if (index == 0)
        bench_print_begin(r->c);
    if (index == 0 && !json)
        print_heads(r);
    if (json)
        print_json(r, index);
    else
        print_text(r);
    fflush(stdout);
}

void bench_print_end(const bench_request *request)
{
    if (request->json)
        printf("\n ]}\n");
}
