/* zopt bench: what a step costs beside what it must cost and what the textbook's costs. */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum {
    OPTION_BASE = 0x100,
    PARAMS,
    TRANSPORT,
    OPTIMIZER,
    NORM,
    OVERLAP,
    PROGRESS_THREAD,
    BACKWARD,
    DTYPE,
    TENSORS,
    BUCKET,
    SHARED_PARAMS,
    ROUNDS,
    THREADS,
    TRACE,
    DEVICE,
    DIR,
    CALIBRATE,
    CALIBRATION,
    JSON
};

static const struct argp_option options[] = {
    {"params", PARAMS, "P,...", 0,
     "Numbers of parameters (default: 67108864; calibrate: 16777216); 16e6, 64Mi", 0},
    {"transport", TRANSPORT, "NAME,...", 0,
     "step, comm, ckpt, calibrate: transports (default: auto)", 0},
    {"optimizer", OPTIMIZER, "NAME,...", 0,
     "step, adam, ckpt, calibrate: optimizers (default: adamw)", 0},
    {"norm", NORM, "off|on|both", 0,
     "step: without or with the norm and the overflow check (default: both; Adafactor's steps "
     "always "
     "have them)",
     0},
    {"overlap", OVERLAP, "off|on|both", 0,
     "step: behind a backward pass, of which the time that the step adds to it counts (default: "
     "off)",
     0},
    {"progress-thread", PROGRESS_THREAD, NULL, 0,
     "step: sum gradients, and make a part of the update, on a thread of the library's own", 0},
    {"backward", BACKWARD, "FMAS", 0,
     "step, with overlap: multiply-adds of the backward pass for each parameter, 2 a token "
     "(default: 128)",
     0},
    {"dtype", DTYPE, "TYPE", 0, "Of gradients and parameters: fp16 (default) or bf16", 0},
    {"tensors", TENSORS, "N", 0,
     "step, ckpt: tensors that the parameters are cut into (default: 1; with overlap 64)", 0},
    {"bucket", BUCKET, "ELEMENTS", 0,
     "step, ckpt, calibrate: elements communicated at once (default: 4194304)", 0},
    {"shared-params", SHARED_PARAMS, NULL, 0,
     "step, comm, ckpt: one parameter buffer for all ranks of the machine", 0},
    {"rounds", ROUNDS, "N", 0, "Rounds to take medians of, at least 11 (default: 11)", 0},
    {"threads", THREADS, "N", 0, "Ranks are N threads, instead of mpirun's processes", 0},
    {"trace", TRACE, "FILE", 0,
     "step, of one row: write its steps as spans for chrome://tracing or ui.perfetto.dev (with "
     "overlap a backward pass begins with the one that is measured by itself)",
     0},
    {"device", DEVICE, "NAME", 0, "step, adam, norm, accumulate, comm: cpu (default) or cuda", 0},
    {"dir", DIR, "DIR", 0, "ckpt: write below this folder, and clean up (default: .)", 0},
    {"calibrate", CALIBRATE, NULL, 0, "The same as the benchmark calibrate", 0},
    {"calibration", CALIBRATION, "FILE", 0,
     "calibrate: the file to write (default: zopt/calibration.json in XDG_CACHE_HOME or ~/.cache)",
     0},
    {"json", JSON, NULL, 0, "Print JSON", 0},
    {0}};

/* A whole number in [1, max], as "4096", "16e6" or "64Mi". */
static int read_count(struct argp_state *state, const char *name, const char *word, double max,
                      double *value)
{
    static const struct {
        const char *text;
        double factor;
    } units[] = {{"", 1}, {"Ki", 0x1p10}, {"Mi", 0x1p20}, {"Gi", 0x1p30}};
    char *end;
    *value = strtod(word, &end);
    for (size_t i = 0; end != word && i < sizeof units / sizeof units[0]; i++) {
        double count = *value * units[i].factor;
        if (strcmp(end, units[i].text) == 0 && count >= 1 && count <= max &&
            count == floor(count)) {
            *value = count;
            return 0;
        }
    }
    argp_error(state, "--%s '%s' is not a whole number in [1, %.15g]", name, word, max);
    return EINVAL;
}

/* Cut `word` at its commas, into list[]; returns how many, 0 having told why. */
static int read_list(struct argp_state *state, const char *name, char *word,
                     const char *list[BENCH_MAX_LIST])
{
    int n = 0;
    for (char *rest = word; rest != NULL;) {
        char *item = strsep(&rest, ",");
        if (item[0] == '\0' || n == BENCH_MAX_LIST) {
            argp_error(state, "--%s is a list of 1 to %d names or numbers", name, BENCH_MAX_LIST);
            return 0;
        }
        list[n++] = item;
    }
    return n;
}

static error_t read_params(struct argp_state *state, char *word, bench_request *r)
{
    const char *items[BENCH_MAX_LIST];
    double value;
    int n = read_list(state, "params", word, items);
    for (int i = 0; i < n; i++) {
        if (read_count(state, "params", items[i], BENCH_MAX_PARAMS, &value) != 0)
            return EINVAL;
        r->params[i] = (uint64_t)value;
    }
    r->n_params = n;
    return n > 0 ? 0 : EINVAL;
}

static error_t read_switch(struct argp_state *state, const char *name, const char *word,
                           int list[2], int *n)
{
    int both = strcmp(word, "both") == 0, on = strcmp(word, "on") == 0;
    if (!both && !on && strcmp(word, "off") != 0) {
        argp_error(state, "--%s '%s' is not one of off, on, both", name, word);
        return EINVAL;
    }
    list[0] = on;
    list[1] = 1;
    *n = both ? 2 : 1;
    return 0;
}

static error_t read_dtype(struct argp_state *state, const char *word, bench_request *r)
{
    if (strcmp(word, "fp16") != 0 && strcmp(word, "bf16") != 0) {
        argp_error(state, "--dtype '%s' is not one of fp16, bf16", word);
        return EINVAL;
    }
    r->dtype = word[0] == 'f' ? ZOPT_FP16 : ZOPT_BF16;
    return 0;
}

/* Options that are one number. */
static error_t read_number(int key, struct argp_state *state, const char *word, bench_request *r)
{
    double value = 0;
    int failed = key == TENSORS    ? read_count(state, "tensors", word, 1e7, &value)
                 : key == BUCKET   ? read_count(state, "bucket", word, 0x1p40, &value)
                 : key == BACKWARD ? read_count(state, "backward", word, 1e6, &value)
                 : key == ROUNDS   ? read_count(state, "rounds", word, 1e6, &value)
                                   : read_count(state, "threads", word, BENCH_MAX_RANKS, &value);
    if (failed != 0)
        return EINVAL;
    if (key == TENSORS)
        r->n_tensors = (uint64_t)value;
    else if (key == BACKWARD)
        r->fmas = (uint64_t)value;
    else if (key == BUCKET)
        r->bucket_elems = (uint64_t)value;
    else
        *(key == ROUNDS ? &r->rounds : &r->threads) = (int)value;
    if (r->rounds > 0 && r->rounds < BENCH_MIN_ROUNDS)
        argp_error(state, "--rounds %d: a median of fewer than %d says little", r->rounds,
                   BENCH_MIN_ROUNDS);
    return 0;
}

static error_t choose(struct argp_state *state, const char *bench, bench_request *r)
{
    if (r->bench != NULL && strcmp(r->bench, bench) != 0) {
        argp_error(state, "one benchmark at a time: '%s' and '%s'", r->bench, bench);
        return EINVAL;
    }
    r->bench = bench;
    return 0;
}

static error_t parse_option(int key, char *word, struct argp_state *state)
{
    bench_request *r = state->input;
    switch (key) {
    case PARAMS:
        return read_params(state, word, r);
    case TRANSPORT:
        r->n_transports = read_list(state, "transport", word, r->transport);
        return r->n_transports > 0 ? 0 : EINVAL;
    case OPTIMIZER:
        r->n_optimizers = read_list(state, "optimizer", word, r->optimizer);
        return r->n_optimizers > 0 ? 0 : EINVAL;
    case NORM:
        return read_switch(state, "norm", word, r->norm, &r->n_norms);
    case OVERLAP:
        return read_switch(state, "overlap", word, r->overlap, &r->n_overlaps);
    case PROGRESS_THREAD:
        r->progress_thread = 1;
        return 0;
    case DTYPE:
        return read_dtype(state, word, r);
    case TENSORS:
    case BACKWARD:
    case BUCKET:
    case ROUNDS:
    case THREADS:
        return read_number(key, state, word, r);
    case SHARED_PARAMS:
        r->shared_params = 1;
        return 0;
    case TRACE:
        r->trace = word;
        return 0;
    case DEVICE:
        r->device = word;
        return 0;
    case DIR:
        r->dir = word;
        return 0;
    case JSON:
        r->json = 1;
        return 0;
    case CALIBRATION:
        r->calibration = word;
        return 0;
    case CALIBRATE:
        return choose(state, "calibrate", r);
    case ARGP_KEY_ARG:
        return choose(state, word, r);
    case ARGP_KEY_END:
        if (r->bench == NULL)
            argp_error(state, "no benchmark given");
        return r->bench != NULL ? 0 : EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The list of benchmarks, behind the options in --help. */
static char *list_benchmarks(int key, const char *text, void *input)
{
    char *list = NULL;
    const char *name, *help;
    size_t size;
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC)
        return (char *)text;
    FILE *file = open_memstream(&list, &size);
    if (file == NULL)
        return NULL;
    fputs("Benchmarks:\n", file);
    for (int i = 0; (name = bench_name(i, &help)) != NULL; i++)
        fprintf(file, "  %-10s %s\n", name, help);
    fputs("\nEvery round measures three in turn: the benchmark, the limit (a kernel that moves "
          "the same bytes with additions only) and the baseline (step, comm: "
          "MPI_Reduce_scatter_block on floats, AdamW, MPI_Allgather; adam: widen, AdamW, round, "
          "in three passes). x limit is the ratio of the medians of time and limit, x baseline "
          "that of baseline and time.\n"
          "norm and accumulate have a copy of memory in place of limit and baseline.\n"
          "ckpt: the limit is as many bytes written by all ranks at once, the baseline by one "
          "process as dd oflag=direct conv=fsync does; held up is what an asynchronous save does "
          "not do behind the step, copy the time of copying the bytes in memory.\n"
          "On a GPU a fourth is its own copy of as much memory as master weights take, and "
          "\"of copy\" the bytes a second beside that; a fifth the same step without a CUDA "
          "graph; \"call\" is how long zopt_step held the host up, which the GPU goes on "
          "behind.\n"
          "#wrong counts results that differ from an independent computation; 2 is then the exit "
          "code.\n",
          file);
    fclose(file);
    return list;
}

int cli_bench(int argc, char **argv)
{
    static const struct argp argp = {options,
                                     parse_option,
                                     "BENCHMARK",
                                     "Measure zopt on this machine, alone, on --threads or under "
                                     "mpirun.",
                                     NULL,
                                     list_benchmarks,
                                     NULL};
    bench_request request = {.dtype = ZOPT_FP16};
    cli_parse(&argp, argc, argv, 0, &request);
    zopt_status status = bench_run(&request);
    if (status != ZOPT_OK)
        return cli_fail(argv[0], status, zopt_last_error());
    zopt_finalize();
    return EXIT_SUCCESS;
}
