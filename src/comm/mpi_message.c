/* Plain messages over MPI, up to four at once, polled up to the deadline while transfers go on. */
#include <stdio.h>

#include "comm/mpi_internal.h"

static zopt_status post(zi_mpi *m, const zi_message *messages, size_t n, MPI_Request *request)
{
    for (size_t i = 0; i < n; i++) {
        const zi_message *message = &messages[i];
        int bytes = (int)message->bytes;
        if (message->receive)
            ZI_MPI_TRY(m, MPI_Irecv, message->data, bytes, MPI_BYTE, message->peer, ZI_TAG_MESSAGE,
                       m->comm, &request[i]);
        else
            ZI_MPI_TRY(m, MPI_Isend, message->data, bytes, MPI_BYTE, message->peer, ZI_TAG_MESSAGE,
                       m->comm, &request[i]);
    }
    return ZOPT_OK;
}

/* Test each that is left; the first that is not done, or n. A longer message than awaited is MPI's
 * own error, a shorter one is found here. */
static zopt_status test(zi_mpi *m, const zi_message *messages, size_t n, MPI_Request *request,
                        size_t *first)
{
    *first = n;
    for (size_t i = n; i-- > 0;) {
        MPI_Status status;
        int done = 0, got = 0;
        if (request[i] == MPI_REQUEST_NULL)
            continue;
        ZI_MPI_TRY(m, MPI_Test, &request[i], &done, &status);
        if (!done) {
            *first = i;
            continue;
        }
        if (messages[i].receive)
            ZI_MPI_TRY(m, MPI_Get_count, &status, MPI_BYTE, &got);
        if (messages[i].receive && (size_t)got != messages[i].bytes) {
            m->base.broken = 1;
            return ZI_FAIL(ZOPT_ERR_COMM, "rank %d sends %d bytes to rank %d, which awaits %zu",
                           messages[i].peer, got, m->base.rank, messages[i].bytes);
        }
    }
    return ZOPT_OK;
}

static zopt_status finish(zi_mpi *m, const zi_message *messages, size_t n, MPI_Request *request)
{
    zi_wait wait;
    zi_wait_begin(&wait, &m->base);
    for (;;) {
        size_t first;
        ZI_TRY(test(m, messages, n, request, &first));
        if (first == n)
            return ZOPT_OK;
        ZI_TRY(zi_engine_progress(m));
        if (zi_wait_pause(&wait)) {
            char peer[16];
            snprintf(peer, sizeof peer, "%d", messages[first].peer);
            return zi_wait_hang(
                &m->base, messages[first].receive ? "messages" : "receipts of messages", peer);
        }
    }
}

/* Take back the receives that can be. */
static void cancel(const zi_message *messages, size_t n, MPI_Request *request)
{
    for (size_t i = 0; i < n; i++) {
        int done = 0;
        if (messages[i].receive && request[i] != MPI_REQUEST_NULL &&
            MPI_Cancel(&request[i]) == MPI_SUCCESS)
            MPI_Test(&request[i], &done, MPI_STATUS_IGNORE);
    }
}

zopt_status zi_mpi_exchange(zi_comm *comm, const zi_message *messages, size_t n)
{
    zi_mpi *m = (zi_mpi *)comm;
    MPI_Request request[ZI_MAX_MESSAGES];
    ZI_TRY(zi_check_messages(comm, messages, n));
    for (size_t i = 0; i < ZI_MAX_MESSAGES; i++)
        request[i] = MPI_REQUEST_NULL;
    zopt_status status = post(m, messages, n, request);
    if (status == ZOPT_OK)
        status = finish(m, messages, n, request);
    if (status != ZOPT_OK)
        cancel(messages, n, request);
    return status;
}
