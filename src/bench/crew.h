/* The ranks that measure together, processes of one machine or threads of one process: one clock,
 * barriers, and memory that all can address. */
#ifndef BENCH_CREW_H
#define BENCH_CREW_H

#include "bench/bench.h"
#include "comm/comm.h"

typedef struct bench_crew {
    zi_mem mem;
    zi_comm *comm;         /* the crew's own; contestants have theirs */
    zopt_threads *threads; /* NULL: ranks are processes */
    int rank, world;
    const zi_device_ops *device;
    zi_queue *queue; /* of the device; NULL on the host */
} bench_crew;

/* How to join. */
typedef struct bench_crew_config {
    zopt_threads *threads; /* the world of which the caller is `rank`, or NULL */
    int rank;
    int with_mpi;        /* 1: start MPI also for a process alone */
    int progress_thread; /* 1: for handles that have one */
    const char *device;  /* ranks of a node take its GPUs in turn */
} bench_crew_config;

/* *Collective.* Errors: ERR_UNSUPPORTED where ranks are on several machines, or too many, or the
 * device cannot be had. */
zopt_status bench_crew_join(bench_crew *crew, const bench_crew_config *config);
void bench_crew_leave(bench_crew *crew);

/* Run `round` on all ranks at once; *ms is from the first one's start to the last one's end.
 * *Collective.* Errors: the worst of the ranks'. */
zopt_status bench_crew_time(bench_crew *crew, zopt_status (*round)(void *self), void *self,
                            double *ms);

/* Memory of every rank that all ranks read and write; at[world], page-aligned, zeroed. */
typedef struct bench_shared {
    size_t bytes; /* of each rank */
    void *at[BENCH_MAX_RANKS];
} bench_shared;

/* *Collective.* */
zopt_status bench_shared_open(bench_crew *crew, size_t bytes, bench_shared *out);
/* Of a zeroed struct, too. Peers may not touch this rank's memory any more. */
void bench_shared_close(const bench_crew *crew, bench_shared *shared);

#endif
