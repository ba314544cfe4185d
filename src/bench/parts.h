/* A step taken apart, over one transport, each part timed by itself: a small collective, the
 * gradients' exchange, the norm's pass, the update, the parameters' way back, bucket by bucket as a
 * step has them; and both transfers with hardly a byte, for the time of a message. What comes of it
 * is checked as a step is. Next: calibrate.c makes rates of the times. */
#ifndef BENCH_PARTS_H
#define BENCH_PARTS_H

#include "bench/update.h"

/* In the order of a round. The small ones come first: the large ones leave gradients and parameters
 * as a step does. */
enum {
    BENCH_MEET,
    BENCH_EXCHANGE_SMALL,
    BENCH_GATHER_SMALL,
    BENCH_EXCHANGE,
    BENCH_NORM,
    BENCH_UPDATE,
    BENCH_GATHER,
    BENCH_N_PARTS
};
enum { BENCH_N_MEETS = 64 }; /* collectives of one BENCH_MEET */

typedef struct bench_parts {
    bench_case c; /* its slice: of all buckets, one after the other */
    zi_mem mem;
    zi_comm *comm;
    bench_update update;
    zi_symmetric grads, params;
    uint64_t bucket_elems, n_buckets;
    uint64_t n_exposed, n_published; /* transfers so far */
    zi_source *source;               /* [n_buckets][world] */
    zi_dest *dest;                   /* [world] */
    const void **source_at;          /* [world] */
    void **dest_at;                  /* [world] */
    zi_exact sum;
    int64_t n_bad;
} bench_parts;

/* The case's parameters, rounded up to whole buckets. The rule's unit is the element. The struct
 * stays where it is; close it whatever open says. *Collective.* */
zopt_status bench_parts_open(bench_parts *p, const bench_case *c, const char *transport);
void bench_parts_close(bench_parts *p);

/* Slices of a large transfer, in bytes; how many transfers a small part has. */
uint64_t bench_parts_slice_bytes(const bench_parts *p);
uint64_t bench_parts_n_small(const bench_parts *p);

/* All rounds: ms[part][round]. *Collective.* */
zopt_status bench_parts_time(bench_parts *p, double *ms[BENCH_N_PARTS]);

/* How many sampled parameters are wrong on all ranks after that. *Collective.* */
zopt_status bench_parts_check(const bench_parts *p, uint64_t *n_wrong);

#endif
