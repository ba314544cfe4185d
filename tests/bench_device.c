/* How near a device's kernels come to its memory's speed: bytes that each must move, over time,
 * beside a copy of the same memory in the same run. Not a test: timing decides nothing.
 *
 * usage: bench_device DEVICE [PARAMETERS]      (default: 1e9 on a GPU, 16e6 on the CPU) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "device/device.h"

enum { N_ROUNDS = 11, N_BUFFERS = 5 };

/* Halves for gradient and parameters, floats for master and two states. */
typedef struct bench {
    const zi_device_ops *device;
    zi_queue *queue;
    zi_mem mem;
    size_t n;
    void *buffer[N_BUFFERS];
    zi_source source;
    zi_dest dest;
    zi_control *control;
    float (*scalars)[ZI_MAX_SCALARS];
    zi_span *span;
    struct sums {
        zi_exact squares;
        int64_t n_bad;
    } * sums;
    zi_job job;
} bench;

static zopt_status upload(bench *b, const void *from, size_t bytes, void *out)
{
    void *there;
    ZI_TRY(b->device->alloc(b->queue, &b->mem, ZI_MEM_TABLES, bytes, &there));
    b->device->copy(b->queue, there, from, bytes);
    memcpy(out, &there, sizeof there);
    return ZOPT_OK;
}

static zopt_status set_up(bench *b)
{
    static const size_t bytes[N_BUFFERS] = {2, 2, 4, 4, 4};
    float scalars[1][ZI_MAX_SCALARS];
    for (int i = 0; i < ZI_MAX_SCALARS; i++)
        scalars[0][i] = 0.5f;
    const zi_span span = {b->n, 0, 0};
    const struct sums none = {{{0}, 0}, 0};
    ZI_TRY(b->device->open(0, &b->queue));
    for (int i = 0; i < N_BUFFERS; i++)
        ZI_TRY(b->device->alloc(b->queue, &b->mem, ZI_MEM_MASTER, b->n * bytes[i], &b->buffer[i]));
    ZI_TRY(upload(b, scalars, sizeof scalars, &b->scalars));
    const zi_control control = {.coef = 1, .scalars = b->scalars};
    ZI_TRY(upload(b, &control, sizeof control, &b->control));
    ZI_TRY(upload(b, &span, sizeof span, &b->span));
    ZI_TRY(upload(b, &none, sizeof none, &b->sums));
    b->source = (zi_source){b->buffer[0], ZOPT_FP16};
    b->dest = (zi_dest){b->buffer[1], ZOPT_FP16};
    b->job = (zi_job){.n_elems = b->n,
                      .source = &b->source,
                      .n_sources = 1,
                      .dest = &b->dest,
                      .n_dests = 1,
                      .master = b->buffer[2],
                      .state = {{b->buffer[3], NULL}, {b->buffer[4], NULL}},
                      .span = b->span,
                      .n_spans = 1,
                      .control = b->control};
    return b->device->wait(b->queue);
}

static const zi_variant adamw = {
    ZI_RULE_ADAMW, ZI_UNIT_ELEMENT, 2, {{0, ZI_FORM_F32}, {1, ZI_FORM_F32}}};

static void run_copy(bench *b)
{
    b->device->copy(b->queue, b->buffer[3], b->buffer[4], b->n * sizeof(float));
}

static void run_update(bench *b)
{
    b->device->update(b->queue, &adamw, &b->job);
}

static void run_norm(bench *b)
{
    b->device->norm(b->queue, &b->job, &b->sums->squares, &b->sums->n_bad);
}

static void run_accumulate(bench *b)
{
    b->device->accumulate(b->queue, &b->job, b->buffer[3], &b->sums->n_bad);
}

static const struct {
    const char *name;
    void (*run)(bench *b);
    int bytes; /* per parameter */
} rows[] = {
    {"copy", run_copy, 8},
    {"AdamW update", run_update, 28},
    {"norm", run_norm, 2},
    {"accumulate", run_accumulate, 10},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static int ascending(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Rows in turn, so that a drift of the clock meets all alike; medians. */
static zopt_status measure(bench *b)
{
    double ms[N_ROWS][N_ROUNDS], limit = 0;
    for (int round = -1; round < N_ROUNDS; round++)
        for (int i = 0; i < N_ROWS; i++) {
            double before = zi_now_ms();
            rows[i].run(b);
            ZI_TRY(b->device->wait(b->queue));
            if (round >= 0)
                ms[i][round] = zi_now_ms() - before;
        }
    printf("%-14s %12s %10s %10s %8s\n", "kernel", "bytes/param", "ms", "GB/s", "of copy");
    for (int i = 0; i < N_ROWS; i++) {
        qsort(ms[i], N_ROUNDS, sizeof ms[i][0], ascending);
        double median = ms[i][N_ROUNDS / 2], speed = (double)b->n * rows[i].bytes / median / 1e6;
        limit = i == 0 ? speed : limit;
        printf("%-14s %12d %10.3f %10.1f %7.1f%%\n", rows[i].name, rows[i].bytes, median, speed,
               100 * speed / limit);
    }
    return ZOPT_OK;
}

int main(int argc, char **argv)
{
    bench b = {0};
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: bench_device DEVICE [PARAMETERS]\n");
        return 64;
    }
    zopt_status status = zi_device_find(argv[1], 0, &b.device);
    if (status == ZOPT_OK) {
        double n = argc == 3 ? strtod(argv[2], NULL) : b.device->on_host ? 16e6 : 1e9;
        b.n = (size_t)n / ZI_BLOCK * ZI_BLOCK;
        status = set_up(&b);
    }
    if (status == ZOPT_OK) {
        printf("%s, %zu parameters\n", b.device->name, b.n);
        status = measure(&b);
    }
    if (status != ZOPT_OK)
        fprintf(stderr, "bench_device: %s\n", zopt_last_error());
    return zopt_status_exit_code(status);
}
