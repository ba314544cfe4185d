/* Slices over MPI messages: a queue of jobs, of which the first is active. In an exchange slice p
 * of this rank's bucket goes to rank p, and rank p's slice for this rank takes its place, so that
 * the bucket ends up holding every contributor's gradient of the slice that this rank owns, in rank
 * order. In a gather every rank's slice arrives where it belongs. Nothing is ever summed here.
 *
 * A job goes through rounds; in round k rank r meets (k - r) mod N, the same pair seen from both
 * sides. All ranks do the same jobs and rounds in the same order, each waiting in one pair only, so
 * the pair that is furthest behind can always go on: no deadlock. */
#include <string.h>

#include "comm/mpi_internal.h"

enum {
    EXCHANGE_PIECE = 1 << 18, /* received into staging */
    GATHER_PIECE = 4 << 20,   /* received in place */
    N_TAGGED_JOBS = 8192      /* tags must stay below 32767 */
};

static const char *const awaited[ZI_N_JOB_KINDS] = {
    [ZI_JOB_EXCHANGE] = "gradients",
    [ZI_JOB_GATHER] = "parameters",
};

/* ------------------------------------------------------------------ set-up ------------------- */

void zi_engine_init(zi_mpi *m)
{
    zi_mpi_engine *e = &m->engine;
    for (int i = 0; i < ZI_MPI_LANES; i++)
        e->lane[i].request[0] = e->lane[i].request[1] = MPI_REQUEST_NULL;
}

/* A lane's staging holds one piece of a swap. */
static size_t staging_bytes(int world, size_t max_slice_bytes)
{
    size_t piece = max_slice_bytes < EXCHANGE_PIECE ? max_slice_bytes : EXCHANGE_PIECE;
    return world == 1 ? 0 : ZI_MPI_LANES * piece;
}

zopt_status zi_mpi_reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes)
{
    zi_mpi_engine *e = &((zi_mpi *)comm)->engine;
    if (e->capacity > 0)
        return ZI_FAIL(ZOPT_ERR_ORDER, "transport mpi: transfers are reserved already");
    ZI_TRY(zi_mem_table(comm->mem, n_transfers * sizeof *e->ring, &e->ring));
    e->capacity = n_transfers;
    size_t bytes = staging_bytes(comm->world, max_slice_bytes);
    ZI_TRY(zi_mem_array(comm->mem, ZI_MEM_STAGING, bytes, &e->staging));
    e->staging_bytes = bytes;
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ one round ---------------- */

static const zi_mpi_job *first_job(const zi_mpi_engine *e)
{
    return &e->ring[e->finished % e->capacity];
}

static int is_swap(const zi_mpi_engine *e, const zi_mpi_job *job)
{
    return job->kind == ZI_JOB_EXCHANGE && job->group == 0 && e->send != NULL && e->receive != NULL;
}

static void begin_round(zi_mpi *m)
{
    zi_mpi_engine *e = &m->engine;
    const zi_mpi_job *job = first_job(e);
    const zi_ranks *ranks = &job->route.ranks;
    int n = ranks->size, mine = zi_engine_index(m, job), other = (e->round - mine + n) % n;
    int from = zi_engine_leaves_from(m, job, other), to = zi_engine_arrives_at(m, job, other);
    size_t slice_bytes = job->transfer.slice_bytes;
    e->partner = ranks->base + other * ranks->stride;
    e->send = from < 0         ? NULL
              : job->group > 0 ? e->sums + zi_engine_sum_at(job, mine, other)
                               : zi_engine_bucket(job) + (size_t)from * slice_bytes;
    e->receive = to < 0 ? NULL : zi_engine_bucket(job) + (size_t)to * slice_bytes;
    for (size_t i = 0; i < ZI_MPI_LANES; i++)
        e->lane[i].next = i * e->piece_bytes;
}

/* e->active = 0: it must wait for e->partner. */
static zopt_status begin_job(zi_mpi *m)
{
    zi_mpi_engine *e = &m->engine;
    const zi_mpi_job *job = first_job(e);
    int is_staged = job->kind == ZI_JOB_EXCHANGE && job->group == 0;
    size_t piece = is_staged ? e->staging_bytes / ZI_MPI_LANES : (size_t)GATHER_PIECE;
    if (job->group > 0) {
        ZI_TRY(m->user.make_sums(m->user.comm, job, &e->partner));
        if (e->partner >= 0)
            return ZOPT_OK;
    }
    e->piece_bytes = piece < job->bytes ? piece : job->bytes;
    e->active = 1;
    e->round = 0;
    begin_round(m);
    return ZOPT_OK;
}

static int has_next(const zi_mpi_engine *e, const zi_mpi_lane *lane)
{
    return (e->send != NULL || e->receive != NULL) && lane->next < first_job(e)->bytes;
}

static zopt_status post(zi_mpi *m, int index)
{
    zi_mpi_engine *e = &m->engine;
    zi_mpi_lane *lane = &e->lane[index];
    const zi_mpi_job *job = first_job(e);
    /* A lane's pieces are matched in order; lanes and neighbouring jobs by their tags. */
    int tag = ZI_TAG_TRANSFER + ZI_MPI_LANES * (int)(e->finished % N_TAGGED_JOBS) + index;

    lane->offset = lane->next;
    lane->bytes = job->bytes - lane->offset;
    if (lane->bytes > e->piece_bytes)
        lane->bytes = e->piece_bytes;
    lane->next += ZI_MPI_LANES * e->piece_bytes;
    lane->busy = 1;
    if (e->receive != NULL) {
        char *to = is_swap(e, job) ? e->staging + (size_t)index * e->piece_bytes
                                   : e->receive + lane->offset;
        ZI_MPI_TRY(m, MPI_Irecv, to, (int)lane->bytes, MPI_BYTE, e->partner, tag, m->comm,
                   &lane->request[0]);
    }
    if (e->send != NULL) {
        ZI_MPI_TRY(m, MPI_Isend, e->send + lane->offset, (int)lane->bytes, MPI_BYTE, e->partner,
                   tag, m->comm, &lane->request[1]);
    }
    return ZOPT_OK;
}

/* Complete the lane's piece if it has come and post the next one. */
static zopt_status turn(zi_mpi *m, int index, int *moved)
{
    zi_mpi_engine *e = &m->engine;
    zi_mpi_lane *lane = &e->lane[index];
    if (lane->busy) {
        int done = 0;
        ZI_MPI_TRY(m, MPI_Testall, 2, lane->request, &done, MPI_STATUSES_IGNORE);
        if (!done)
            return ZOPT_OK;
        if (is_swap(e, first_job(e)))
            memcpy(e->receive + lane->offset, e->staging + (size_t)index * e->piece_bytes,
                   lane->bytes);
        lane->busy = 0;
        *moved = 1;
    }
    if (has_next(e, lane)) {
        ZI_TRY(post(m, index));
        *moved = 1;
    }
    return ZOPT_OK;
}

static int round_is_over(const zi_mpi_engine *e)
{
    for (int i = 0; i < ZI_MPI_LANES; i++) {
        if (e->lane[i].busy || has_next(e, &e->lane[i]))
            return 0;
    }
    return 1;
}

static zopt_status end_round(zi_mpi *m)
{
    zi_mpi_engine *e = &m->engine;
    if (++e->round < first_job(e)->route.ranks.size) {
        begin_round(m);
        return ZOPT_OK;
    }
    ZI_TRY(zi_engine_land(m, first_job(e)));
    e->n_finished[first_job(e)->kind]++;
    e->finished++;
    e->active = 0;
    return ZOPT_OK;
}

zopt_status zi_engine_progress(zi_mpi *m)
{
    zi_mpi_engine *e = &m->engine;
    while (e->finished < e->queued) {
        int moved = 0;
        if (!e->active)
            ZI_TRY(begin_job(m));
        if (!e->active)
            return ZOPT_OK;
        for (int i = 0; i < ZI_MPI_LANES; i++)
            ZI_TRY(turn(m, i, &moved));
        e->n_moves += (uint64_t)moved;
        if (round_is_over(e))
            ZI_TRY(end_round(m));
        else if (!moved)
            return ZOPT_OK;
    }
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ waiting ------------------ */

static zopt_status test_count(zi_mpi *m, zi_mpi_wait *wait, int *done)
{
    const zi_mpi_engine *e = &m->engine;
    ZI_TRY(zi_engine_progress(m));
    *done = *wait->count >= wait->target;
    if (!*done) {
        wait->what = awaited[first_job(e)->kind];
        wait->peer = e->partner;
    }
    return ZOPT_OK;
}

/* Until *count, of finished jobs, reaches the target. */
static zopt_status wait_for(zi_mpi *m, const uint64_t *count, uint64_t target)
{
    zi_mpi_wait wait = {.test = test_count, .count = count, .target = target};
    return zi_mpi_await(m, &wait);
}

zopt_status zi_engine_drain(zi_mpi *m)
{
    return wait_for(m, &m->engine.finished, m->engine.queued);
}

void zi_engine_cancel(zi_mpi *m)
{
    for (int i = 0; i < ZI_MPI_LANES; i++) {
        MPI_Request *receive = &m->engine.lane[i].request[0];
        int done = 0;
        if (*receive != MPI_REQUEST_NULL && MPI_Cancel(receive) == MPI_SUCCESS)
            MPI_Test(receive, &done, MPI_STATUS_IGNORE);
    }
}

/* ------------------------------------------------------------------ operations --------------- */

zi_mpi_job zi_engine_job(const zi_mpi *m, zi_mpi_job_kind kind, const zi_transfer *transfer)
{
    zi_mpi_job job = {
        .kind = kind,
        .route = {.ranks = {0, 1, m->base.world}, .apart = 1},
        .memory = *transfer->memory,
        .transfer = *transfer,
        .bytes = transfer->slice_bytes,
    };
    job.transfer.memory = NULL;
    if (kind == ZI_JOB_GATHER)
        job.transfer.n_contributors = m->base.world;
    return job;
}

zopt_status zi_engine_enqueue(zi_mpi *m, const char *call, const zi_mpi_job *job)
{
    zi_comm *comm = &m->base;
    zi_mpi_engine *e = &m->engine;
    uint64_t ordinal = job->transfer.ordinal;
    ZI_TRY(zi_check_connected(comm, call));
    ZI_TRY(zi_check_next(comm, call, e->n_queued[job->kind], ordinal));
    if (e->queued - e->finished >= e->capacity) {
        comm->broken = 1;
        return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: %s of transfer %llu, but only %zu were reserved",
                       comm->rank, call, (unsigned long long)ordinal, e->capacity);
    }
    ZI_TRY(zi_engine_take_off(m, job));
    e->ring[e->queued % e->capacity] = *job;
    e->queued++;
    e->n_queued[job->kind]++;
    return zi_engine_progress(m);
}

zopt_status zi_engine_wait(zi_mpi *m, zi_mpi_job_kind kind, uint64_t ordinal)
{
    return wait_for(m, &m->engine.n_finished[kind], ordinal + 1);
}

static zopt_status wait_begun(zi_comm *comm, const char *call, zi_mpi_job_kind kind,
                              uint64_t n_begun, uint64_t ordinal)
{
    zi_mpi *m = (zi_mpi *)comm;
    ZI_TRY(zi_check_connected(comm, call));
    ZI_TRY(zi_check_begun(comm, call, n_begun, ordinal));
    return zi_engine_wait(m, kind, ordinal);
}

zopt_status zi_mpi_expose(zi_comm *comm, const zi_transfer *transfer)
{
    zi_mpi *m = (zi_mpi *)comm;
    const zi_mpi_job job = zi_engine_job(m, ZI_JOB_EXCHANGE, transfer);
    ZI_TRY(zi_engine_enqueue(m, "expose", &job));
    if (comm->rank < transfer->n_contributors)
        comm->bytes_sent += (uint64_t)(comm->world - 1) * transfer->slice_bytes;
    return ZOPT_OK;
}

/* Under the watchdog: where a progress thread makes the call nobody else would notice. */
zopt_status zi_mpi_progress(zi_comm *comm, int *idle)
{
    zi_mpi *m = (zi_mpi *)comm;
    ZI_TRY(zi_check_connected(comm, "progress"));
    zi_watchdog_arm(&m->watchdog, "a call of MPI", 0);
    zopt_status status = zi_engine_progress(m);
    ZI_TRY(zi_mpi_returned(m, "a call of MPI"));
    *idle = m->engine.finished == m->engine.queued;
    return status;
}

zopt_status zi_mpi_expose_test(zi_comm *comm, const zi_transfer *transfer, int *ready)
{
    const zi_mpi_engine *e = &((zi_mpi *)comm)->engine;
    int idle;
    ZI_TRY(zi_check_connected(comm, "expose_test"));
    ZI_TRY(zi_check_begun(comm, "expose_test", e->n_queued[ZI_JOB_EXCHANGE], transfer->ordinal));
    ZI_TRY(zi_mpi_progress(comm, &idle));
    *ready = e->n_finished[ZI_JOB_EXCHANGE] > transfer->ordinal;
    return ZOPT_OK;
}

zopt_status zi_mpi_expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source)
{
    zi_mpi *m = (zi_mpi *)comm;
    ZI_TRY(wait_begun(comm, "expose_wait", ZI_JOB_EXCHANGE, m->engine.n_queued[ZI_JOB_EXCHANGE],
                      transfer->ordinal));
    for (int i = 0; i < transfer->n_contributors; i++)
        source[i] = (char *)transfer->memory->base + transfer->offset_bytes +
                    (size_t)i * transfer->slice_bytes;
    return ZOPT_OK;
}

zopt_status zi_mpi_consumed(zi_comm *comm, const zi_transfer *transfer)
{
    zi_mpi_engine *e = &((zi_mpi *)comm)->engine;
    ZI_TRY(zi_check_connected(comm, "consumed"));
    ZI_TRY(zi_check_begun(comm, "consumed", e->n_queued[ZI_JOB_EXCHANGE], transfer->ordinal));
    ZI_TRY(zi_check_next(comm, "consumed", e->n_consumed, transfer->ordinal));
    e->n_consumed++;
    return ZOPT_OK;
}

zopt_status zi_mpi_reuse_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    zi_mpi *m = (zi_mpi *)comm;
    (void)behind;
    return wait_begun(comm, "reuse_wait", ZI_JOB_EXCHANGE, m->engine.n_consumed, ordinal);
}

/* Peers' parameters arrive by messages that this rank itself receives: nothing to tell them. */
zopt_status zi_mpi_open(zi_comm *comm)
{
    return zi_check_connected(comm, "open");
}

zopt_status zi_mpi_dest_wait(zi_comm *comm, const zi_transfer *transfer, void **dest, int *n_dests)
{
    ZI_TRY(zi_check_connected(comm, "dest_wait"));
    dest[0] = (char *)transfer->memory->base + transfer->offset_bytes +
              (size_t)comm->rank * transfer->slice_bytes;
    *n_dests = 1;
    return ZOPT_OK;
}

zopt_status zi_mpi_publish(zi_comm *comm, const zi_transfer *transfer)
{
    zi_mpi *m = (zi_mpi *)comm;
    const zi_mpi_job job = zi_engine_job(m, ZI_JOB_GATHER, transfer);
    ZI_TRY(zi_engine_enqueue(m, "publish", &job));
    comm->bytes_sent += (uint64_t)(comm->world - 1) * transfer->slice_bytes;
    return ZOPT_OK;
}

zopt_status zi_mpi_publish_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    zi_mpi *m = (zi_mpi *)comm;
    (void)behind;
    return wait_begun(comm, "publish_wait", ZI_JOB_GATHER, m->engine.n_queued[ZI_JOB_GATHER],
                      ordinal);
}
