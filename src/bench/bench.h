/* The benchmarks, as the command sees them. A benchmark measures three contestants, round by round
 * in turn: what zopt does; the limit, a kernel that moves the same bytes with additions only; and
 * the baseline, the textbook way. Ratios of their medians are the result. Order of reading:
 * contestant.h, table.c, bench.c, rounds.c, step.c, limit.c, textbook.c; ckpt.h. */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <zopt/zopt.h>

enum { BENCH_MAX_LIST = 16, BENCH_MIN_ROUNDS = 11, BENCH_MAX_RANKS = 256 };

/* A backward pass makes 2 for each parameter and token (Kaplan et al. 2020, "Scaling laws for
 * neural language models", section 2.1): 64 tokens, few, so that little can be hidden behind it. */
enum { BENCH_FMAS = 128, BENCH_TENSORS = 64 };

/* Elements of one tensor or message, so that MPI's counts can hold them. */
#define BENCH_MAX_PARAMS 2147483136.0

typedef struct bench_request {
    const char *bench; /* row of the table of benchmarks */
    uint64_t params[BENCH_MAX_LIST];
    int n_params;
    const char *transport[BENCH_MAX_LIST], *optimizer[BENCH_MAX_LIST];
    int n_transports, n_optimizers;
    int norm[2], n_norms; /* 1: steps with norm and overflow check */
    /* 1: steps behind a backward pass, of which the time that they add to it counts */
    int overlap[2], n_overlaps;
    int progress_thread;   /* as in zopt_options */
    uint64_t fmas;         /* of the backward pass for each parameter; 0: BENCH_FMAS */
    zopt_dtype dtype;      /* of gradients and parameters: FP16 or BF16 */
    uint64_t bucket_elems; /* 0: the library's default */
    uint64_t n_tensors; /* 0: one; with overlap BENCH_TENSORS, or as many as there are parameters */
    int shared_params; /* as in zopt_options; the limit has one buffer for each rank all the same */
    int rounds;        /* measured, at least BENCH_MIN_ROUNDS */
    int threads;       /* ranks are so many threads; 0: this process, or those of the launcher */
    const char *trace; /* step: a file to trace the steps of the only row into; NULL: none */
    const char *device;      /* where memory lies and kernels run; NULL: "cpu" */
    const char *dir;         /* ckpt: where to write, in a folder of its own; NULL: "." */
    const char *calibration; /* calibrate: the file; NULL: the user's own, as calibration.h says */
    int json;
} bench_request;

/* Name and help of benchmark i; NULL past the last. */
const char *bench_name(int i, const char **help);

/* Run one row for each combination of the lists; rank 0 prints to stdout. *Collective.* Every
 * result is checked: ERR_MISMATCH where an element is wrong. On failure zopt_last_error() has the
 * text.
 *
 * For tests: the environment variable ZOPT_BENCH_FAULT makes a result wrong without a word.
 * subject, limit or baseline: that contestant's last round is left out; backward: the last backward
 * pass that is measured by itself; ckpt also: load, hold, copy; element: the last rank writes one
 * gradient element wrong. */
zopt_status bench_run(const bench_request *request);

/* ---- what `calibrate` has measured, for zopt plan --time ---- */

/* Messages between two ranks, as a transport's transfers have them. */
typedef struct bench_message_rates {
    double latency_s;   /* of one */
    double bytes_per_s; /* one way, both ways at once; 0: no message is sent */
} bench_message_rates;

/* Of each rank, while all work. */
typedef struct bench_rates {
    double meet_s;             /* a small collective */
    double norm_bytes_per_s;   /* gradients read for the norm */
    double update_bytes_per_s; /* read and written by the update */
    bench_message_rates gradients, parameters;
} bench_rates;

/* The rates of a device's transport over so many ranks in the file at path; *found = 0: it has no
 * such row. Errors: ERR_READ; ERR_DATA where it is no calibration. */
zopt_status bench_calibration_find(const char *path, const char *device, const char *transport,
                                   int ranks, bench_rates *rates, int *found);

#endif
