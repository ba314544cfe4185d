/* Waits of transport mpi: poll up to the deadline while transfers go on, under the watchdog, in
 * case a call of MPI itself does not return. At the deadline the ranks call the roll: each that
 * waits tells all others once that it is there, and who says nothing is named. A rank that computes
 * for ever, or is stopped, is in no wait and says nothing. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "comm/mpi_internal.h"

/* Answers come from ranks that look for the call 20,000 times a second, on a busy machine. */
enum { MIN_ROLL_MS = 100, MAX_ROLL_MS = 1000, WATCHDOG_EXTRA_MS = 500 };

static int roll_ms(const zi_mpi *m)
{
    int half = m->base.deadline_ms / 2;
    return half < MIN_ROLL_MS ? MIN_ROLL_MS : half < MAX_ROLL_MS ? half : MAX_ROLL_MS;
}

/* ------------------------------------------------------------------ the roll ----------------- */

/* Tell all others that this rank is in a wait. Empty messages need no memory, so nobody has to wait
 * for them. */
static void answer(zi_mpi *m)
{
    MPI_Request request;
    if (m->answered)
        return;
    m->answered = 1;
    for (int i = 1; i < m->base.world; i++) {
        int peer = (m->base.rank + i) % m->base.world;
        if (MPI_Isend(NULL, 0, MPI_BYTE, peer, ZI_TAG_ROLL, m->comm, &request) == MPI_SUCCESS)
            MPI_Request_free(&request);
    }
}

/* The calls stay where they are, for this rank's own roll. */
static void answer_if_called(zi_mpi *m)
{
    int called = 0;
    if (m->calls_roll && !m->answered &&
        MPI_Iprobe(MPI_ANY_SOURCE, ZI_TAG_ROLL, m->comm, &called, MPI_STATUS_IGNORE) ==
            MPI_SUCCESS &&
        called)
        answer(m);
}

/* One more answer, if there is one: its rank, else -1. */
static int take_answer(zi_mpi *m)
{
    int there = 0;
    MPI_Status from;
    if (MPI_Iprobe(MPI_ANY_SOURCE, ZI_TAG_ROLL, m->comm, &there, &from) != MPI_SUCCESS || !there)
        return -1;
    MPI_Recv(NULL, 0, MPI_BYTE, from.MPI_SOURCE, ZI_TAG_ROLL, m->comm, MPI_STATUS_IGNORE);
    return from.MPI_SOURCE;
}

static void call_roll(zi_mpi *m, zi_rank_text *missing)
{
    int world = m->base.world, n_here = 1;
    char *here = calloc((size_t)world, 1);
    if (here == NULL)
        return;
    zi_wait wait = {.until_ms = zi_now_ms() + roll_ms(m)};
    here[m->base.rank] = 1;
    answer(m);
    do {
        for (int rank = take_answer(m); rank >= 0; rank = take_answer(m)) {
            n_here += !here[rank];
            here[rank] = 1;
        }
    } while (n_here < world && !zi_wait_pause(&wait));
    for (int rank = 0; rank < world; rank++)
        if (!here[rank])
            zi_rank_list(missing, rank);
    free(here);
}

/* ------------------------------------------------------------------ waits -------------------- */

/* Where all answer, they wait for each other: then the peer whose turn it is. */
static zopt_status hang(zi_mpi *m, const zi_mpi_wait *awaited)
{
    zi_rank_text missing = {""};
    if (m->calls_roll)
        call_roll(m, &missing);
    if (missing.text[0] == '\0' && awaited->peer >= 0)
        zi_rank_list(&missing, awaited->peer);
    if (zi_watchdog_disarm(&m->watchdog))
        m->base.on_hang = NULL; /* it has been told */
    return zi_wait_hang(&m->base, awaited->what, missing.text);
}

static zopt_status poll(zi_mpi *m, zi_mpi_wait *awaited)
{
    zi_wait wait;
    zi_wait_begin(&wait, &m->base);
    for (uint64_t n_moves = m->engine.n_moves;; n_moves = m->engine.n_moves) {
        int done = 0;
        ZI_TRY(awaited->test(m, awaited, &done));
        if (done)
            return ZOPT_OK;
        if (m->user.check != NULL)
            ZI_TRY(m->user.check(m->user.comm));
        if (m->engine.n_moves != n_moves)
            wait.n_pauses = 0;
        if (zi_wait_pause(&wait))
            return hang(m, awaited);
        if (zi_wait_is_long(&wait))
            answer_if_called(m);
    }
}

zopt_status zi_mpi_await(zi_mpi *m, zi_mpi_wait *awaited)
{
    if (m->n_waits++ == 0)
        zi_watchdog_arm(&m->watchdog, "a call of MPI", roll_ms(m) + WATCHDOG_EXTRA_MS);
    zopt_status status = poll(m, awaited);
    if (--m->n_waits == 0 && zi_watchdog_disarm(&m->watchdog)) {
        m->base.broken = 1;
        return ZI_FAIL(ZOPT_ERR_TIMEOUT, "rank %d: a call of MPI returned after its deadline",
                       m->base.rank);
    }
    return status;
}

static zopt_status test_request(zi_mpi *m, zi_mpi_wait *awaited, int *done)
{
    ZI_MPI_TRY(m, MPI_Test, awaited->request, done, MPI_STATUS_IGNORE);
    return *done ? ZOPT_OK : zi_engine_progress(m);
}

zopt_status zi_mpi_finish(zi_mpi *m, MPI_Request *request, const char *what, int peer)
{
    zi_mpi_wait awaited = {.test = test_request, .request = request, .what = what, .peer = peer};
    return zi_mpi_await(m, &awaited);
}
