/* What the files of this room share: a case, one row of the result, and the contestants that are
 * measured in it. */
#ifndef BENCH_CONTESTANT_H
#define BENCH_CONTESTANT_H

#include "bench/bench.h"
#include "bench/crew.h"
#include "bench/data.h"
#include "bench/rule.h"
#include "zero/handle.h"

typedef struct bench_case {
    bench_crew *crew;
    const bench_data *data;
    const bench_request *request;
    const char *transport, *device;
    const char *no_baseline; /* why nothing takes part as one, or NULL */
    uint64_t params;
    int norm, overlap;
    int async_save; /* 1: handles save asynchronously */
    int no_graph;   /* 1: a GPU's steps are enqueued kernel by kernel */
    uint64_t n_tensors;
    int has_rule;    /* 0: bytes are moved and no rule is applied */
    bench_rule rule; /* of the subject, before its first step */
    int n_slots;     /* gradients that are summed: every rank's; 1 where the kernel runs alone */
    int slot;        /* this rank's */
    /* Elements whose gradients and parameters this rank has, and those whose master weights it has
     * where all are cut into one slice for each rank. The last slices may have less to own than
     * slice_elems, whole blocks, or nothing. */
    uint64_t held_first, n_held, owned_first, n_owned, slice_elems;
    bench_sample sample;
} bench_case;

/* Stands for the slot in round `round`, from 0: where nothing else would tell rounds apart, each
 * has gradients of its own. */
static inline int bench_slot(const bench_case *c, int slot, uint64_t round)
{
    return c->has_rule ? slot : slot + (int)(round % 1000) * c->n_slots;
}

/* Ranks call all entries alike. A contestant frees what it has in destroy, whatever failed. */
typedef struct bench_contestant {
    size_t bytes; /* of its object, which is zeroed before create */
    zopt_status (*create)(void *self, const bench_case *c);
    void (*destroy)(void *self);
    /* Before each round, not measured: write the gradients. */
    zopt_status (*prepare)(void *self);
    /* What of a round is not the contestant's own: measured before each, and taken off. NULL:
     * nothing. */
    zopt_status (*apart)(void *self);
    zopt_status (*round)(void *self); /* what is measured: up to where a device is done with it */
    /* How long the host was held up in the part of the last round that hands work to a device.
     * NULL: nothing of it is looked at. */
    double (*call_ms)(const void *self);
    /* Compare what `rounds` rounds have left with an independent computation. */
    zopt_status (*check)(void *self, uint64_t rounds, uint64_t *n_wrong);
    const char *(*transport)(const void *self); /* the one in use; NULL: it has none */
    const char *(*path)(const void *self);      /* zopt_step_path; NULL: there is no step */
    /* Behind the last round: end the trace, if one was asked for. NULL: there is no step. */
    zopt_status (*trace)(void *self, zi_overlap *overlap);
} bench_contestant;

extern const bench_contestant bench_step;     /* a whole step through the public API */
extern const bench_contestant bench_no_graph; /* the same, enqueued kernel by kernel */
extern const bench_contestant bench_overlap;  /* what it adds to a backward pass */
extern const bench_contestant bench_kernel;   /* the update kernel alone */
extern const bench_contestant bench_pass_norm, bench_pass_accumulate; /* an owner's first pass */
extern const bench_contestant bench_transfer; /* a bucket's way to its owners and back */
extern const bench_contestant bench_limit;
extern const bench_contestant bench_device_limit; /* where memory is not the host's */
extern const bench_contestant
    bench_device_copy; /* the device's own copy of as much memory, the host's memcpy */
extern const bench_contestant bench_textbook; /* MPI's collectives and an update between them */
extern const bench_contestant bench_passes;   /* widen, update, narrow: each a pass of its own */

/* NULL where the textbook's collectives can be called, else why not. */
const char *bench_textbook_missing(const zopt_threads *threads);

/* reference.c: comparisons. params: 16-bit, of the elements from `first` on. */
/* How many of the sampled ones differ from `masters`, rounded. */
uint64_t bench_compare_sample(const bench_case *c, const float *masters, uint64_t first, uint64_t n,
                              const uint16_t *params);
/* How many of the first n differ from what one rank alone makes of a tensor of n_elems elements in
 * `steps` steps. */
zopt_status bench_compare_alone(const bench_case *c, uint64_t first, uint64_t n_elems,
                                uint64_t steps, uint64_t n, const uint16_t *params,
                                uint64_t *n_wrong);

/* ckpt.c: a benchmark with rounds and columns of its own. Prints row `index`; *n_wrong: results of
 * all ranks together. fault: as in bench.h, "" for none. *Collective.* */
zopt_status bench_ckpt(const bench_case *c, const char *fault, int index, uint64_t *n_wrong);

/* calibrate.c: the same, a row for each transport that the launch has; fault: none. */
zopt_status bench_calibrate(const bench_case *c, const char *fault, int index, uint64_t *n_wrong);

/* rounds.c. Sorts the values. */
double bench_median(double *values, int n);

/* step.c: the handle of bench_step's object, and its tensors. */
zopt *bench_step_handle(const void *self, const int **id);

/* step.c: a handle as the case wants it, committed, with start values. Tensor i of the case's
 * n_tensors begins at element *first. */
typedef struct bench_tensors {
    uint64_t first, n_elems; /* of all of them */
    uint64_t n;
} bench_tensors;
zopt_status bench_open(const bench_case *c, const char *transport, const bench_tensors *tensors,
                       int **id, zopt **z);
/* Every tensor is a matrix of up to 1024 columns. */
zi_shape bench_tensor_shape(uint64_t n_elems, uint64_t extent[2]);
uint64_t bench_tensor_elems(const bench_tensors *tensors, uint64_t i, uint64_t *first);

#endif
