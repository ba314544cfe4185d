/* The object of transport mpi: mpi.c makes it, mpi_process.c starts and ends MPI, mpi_wait.c waits,
 * mpi_collective.c has the small collectives, mpi_transfer.c moves slices (mpi_place.c: from and to
 * where), mpi_message.c messages.
 * The only header of the library that includes mpi.h. */
#ifndef ZI_COMM_MPI_INTERNAL_H
#define ZI_COMM_MPI_INTERNAL_H

#include <mpi.h>

#include "comm/common.h"
#include "comm/watchdog.h"

typedef enum zi_mpi_job_kind { ZI_JOB_EXCHANGE, ZI_JOB_GATHER, ZI_N_JOB_KINDS } zi_mpi_job_kind;

/* Who meets in a job: these ranks, but not those that share a run of `apart` of them. */
typedef struct zi_mpi_route {
    zi_ranks ranks;
    int apart; /* 1: all but oneself */
} zi_mpi_route;

/* One bucket to exchange or to gather. */
typedef struct zi_mpi_job {
    zi_mpi_job_kind kind;
    zi_mpi_route route;
    zi_symmetric memory;
    zi_transfer transfer; /* but for its memory, which may be gone */
    /* > 0: an exchange of FP32 sums of so many ranks' slices, each of which takes the place where
     * the group's slices begin. Who meets: see nodes.c. */
    int group;
    size_t bytes; /* that a round moves one way: a slice, or a sum */
} zi_mpi_job;

/* Two pieces of a slice are on their way at once, one to a lane: at most 4 messages. */
enum { ZI_MPI_LANES = 2 };

typedef struct zi_mpi_lane {
    MPI_Request request[2];
    int busy;
    size_t offset, bytes; /* of the piece in its slice */
    size_t next;          /* offset of the lane's next piece */
} zi_mpi_lane;

typedef struct zi_mpi_engine {
    zi_mpi_job *ring;
    size_t capacity;
    uint64_t queued, finished;         /* jobs */
    uint64_t n_queued[ZI_N_JOB_KINDS]; /* and by kind */
    uint64_t n_finished[ZI_N_JOB_KINDS];
    uint64_t n_consumed;
    uint64_t n_moves; /* messages posted and completed, to see whether anything moves */

    /* The first job of the ring, in its round. */
    int active, round, partner;
    const char *send; /* slice to send; NULL: none */
    char *receive;    /* slice to receive; NULL: none */
    size_t piece_bytes;
    zi_mpi_lane lane[ZI_MPI_LANES];

    char *staging;
    size_t staging_bytes;
    char *sums; /* of the first job, where it sends such, one after the other; the user's */
} zi_mpi_engine;

/* What zi_comm_agree sends in one piece, as the ranks with a whole bounce do. */
enum { ZI_MPI_LITTLE = 64 };

/* A transport that is built on this one, where there is one. */
typedef struct zi_mpi_user {
    zi_comm *comm;
    /* In every wait; an error ends it. */
    zopt_status (*check)(zi_comm *comm);
    /* Make the sums that the first job sends; may be called again and again. *missing: the rank
     * that is waited for, or -1: they are there, and slices may be received over. */
    zopt_status (*make_sums)(zi_comm *comm, const zi_mpi_job *job, int *missing);
    /* All slices of a job have come, and are, or on the queue, in memory.base. */
    zopt_status (*landed)(zi_comm *comm, const zi_mpi_job *job);
} zi_mpi_user;

typedef struct zi_mpi {
    zi_comm base;
    MPI_Comm comm;     /* MPI_COMM_NULL: a plan */
    uint64_t sequence; /* of small collectives */
    /* What small collectives send and receive: memory of this object, so that one that is given up
     * never writes into its caller's. */
    char *bounce;
    size_t bounce_bytes;
    int64_t little[ZI_MPI_LITTLE]; /* the bounce of a rank that got none, to tell the others */
    zi_mpi_engine engine;
    zi_watchdog watchdog;
    zi_mpi_user user;
    int calls_roll; /* 1: comm carries messages, and all waits of its ranks are in mpi_wait.c */
    int answered;   /* 1: this rank has told its peers that it is in a wait */
    int n_waits;    /* one within the other; the outermost is watched */
} zi_mpi;

/* mpi.c, also for transports that only meet over MPI. The object of row `ops`'s ranks: started,
 * duplicated, and all with the same row and ranks_per_node; of a plan: counted. Freed by the
 * destroy of zi_comm_mpi. Collective. Errors: ERR_DISAGREE, ERR_LAUNCH, ERR_ARGUMENT. */
zopt_status zi_mpi_connect(const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem,
                           zi_mpi **out);

enum { ZI_TAG_BROADCAST, ZI_TAG_MESSAGE, ZI_TAG_ROLL, ZI_TAG_TRANSFER };

/* ERR_COMM with MPI's text where rc is not MPI_SUCCESS; breaks the comm. */
zopt_status zi_mpi_check(zi_mpi *m, const char *call, int rc);

#define ZI_MPI_TRY(m, function, ...) ZI_TRY(zi_mpi_check((m), #function, function(__VA_ARGS__)))

/* mpi_collective.c: those of zi_comm_ops. */
zopt_status zi_mpi_all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv);
zopt_status zi_mpi_all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n);
zopt_status zi_mpi_broadcast(zi_comm *comm, int root, void *buffer, size_t bytes);

/* mpi_process.c */
const char *zi_mpi_missing(void);
/* Among the ranks of this node, as launchers tell it; 0 where none does. */
int zi_mpi_local_rank(void);
int zi_mpi_wanted(const zi_comm_config *config);
/* Start MPI with this level of thread support if nobody has. */
zopt_status zi_mpi_start(zi_mpi *m, int level);
/* For transports of which a progress thread calls MPI. Errors: ERR_UNSUPPORTED. */
zopt_status zi_mpi_check_threads(const zi_comm *comm);
/* The end of a watched call that could not be left. Errors: ERR_TIMEOUT where it came late. */
zopt_status zi_mpi_returned(zi_mpi *m, const char *call);
/* A comm ends: its deadline is that of zopt_finalize, which has no handle to ask. */
void zi_mpi_left(const zi_mpi *m);
/* Never finalize an MPI of ours. */
void zi_mpi_abandon(void);
/* Let errors on a communicator of somebody else's be returned; then as it was. */
MPI_Errhandler zi_mpi_hush(MPI_Comm comm);
void zi_mpi_unhush(MPI_Comm comm, MPI_Errhandler handler);
/* The communicator to duplicate. Errors: ERR_ARGUMENT, ERR_LAUNCH. */
zopt_status zi_mpi_parent(const zi_comm_config *config, MPI_Comm *parent);

/* mpi_wait.c */
typedef struct zi_mpi_wait {
    /* Push things on and say whether what is awaited has come; may correct `what` and `peer`. */
    zopt_status (*test)(zi_mpi *m, struct zi_mpi_wait *awaited, int *done);
    const char *what; /* a plural, for the text of a hang */
    int peer;         /* whose turn it is; -1: unknown */
    MPI_Request *request;
    const zi_message *messages; /* n of them, each with a request */
    size_t n;
    const uint64_t *count; /* of finished jobs ... */
    uint64_t target;       /* ... and what it must reach */
} zi_mpi_wait;

/* Test up to the deadline. */
zopt_status zi_mpi_await(zi_mpi *m, zi_mpi_wait *awaited);
/* The same for one request, while transfers go on. */
zopt_status zi_mpi_finish(zi_mpi *m, MPI_Request *request, const char *what, int peer);

/* mpi_transfer.c */
void zi_engine_init(zi_mpi *m);
/* The job that moves a transfer between all ranks. */
zi_mpi_job zi_engine_job(const zi_mpi *m, zi_mpi_job_kind kind, const zi_transfer *transfer);
/* Enqueue it, the next of its kind. Errors: ERR_COMM out of order, or past what was reserved. */
zopt_status zi_engine_enqueue(zi_mpi *m, const char *call, const zi_mpi_job *job);
/* Wait until transfer `ordinal` of the kind is done. */
zopt_status zi_engine_wait(zi_mpi *m, zi_mpi_job_kind kind, uint64_t ordinal);
/* Push jobs on as far as messages have come; never waits. */
zopt_status zi_engine_progress(zi_mpi *m);
/* Wait until all jobs are done. */
zopt_status zi_engine_drain(zi_mpi *m);
/* Take back the receives that can be. */
void zi_engine_cancel(zi_mpi *m);

/* mpi_place.c: `other` and zi_engine_index are indices in the job's route. */
int zi_engine_index(const zi_mpi *m, const zi_mpi_job *job);
/* Whose place in the bucket what goes to that rank leaves from, and what comes from it arrives at;
 * -1: nothing does. Sums leave from e->sums. */
int zi_engine_leaves_from(const zi_mpi *m, const zi_mpi_job *job, int other);
int zi_engine_arrives_at(const zi_mpi *m, const zi_mpi_job *job, int other);
/* Where among the sums the one for the owner with index `other` is; mine: this rank's. */
size_t zi_engine_sum_at(const zi_mpi_job *job, int mine, int other);
/* The bucket in the host's memory. */
char *zi_engine_bucket(const zi_mpi_job *job);
/* Bring this rank's own, but for sums, from the device to where messages leave from, and wait. */
zopt_status zi_engine_take_off(zi_mpi *m, const zi_mpi_job *job);
/* Enqueue the way of what has arrived to where kernels read it, and tell the user. */
zopt_status zi_engine_land(zi_mpi *m, const zi_mpi_job *job);

zopt_status zi_mpi_reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes);
zopt_status zi_mpi_expose(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_mpi_expose_test(zi_comm *comm, const zi_transfer *transfer, int *ready);
zopt_status zi_mpi_expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source);
zopt_status zi_mpi_consumed(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_mpi_reuse_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind);
zopt_status zi_mpi_open(zi_comm *comm);
zopt_status zi_mpi_dest_wait(zi_comm *comm, const zi_transfer *transfer, void **dest, int *n_dests);
zopt_status zi_mpi_publish(zi_comm *comm, const zi_transfer *transfer);
zopt_status zi_mpi_publish_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind);
zopt_status zi_mpi_progress(zi_comm *comm, int *idle);

/* mpi_message.c */
zopt_status zi_mpi_exchange(zi_comm *comm, const zi_message *messages, size_t n);

#endif
