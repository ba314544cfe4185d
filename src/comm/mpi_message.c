/* Plain messages over MPI, up to four at once, polled up to the deadline while transfers go on. */
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

/* A longer message than awaited is MPI's own error, a shorter one is found here. */
static zopt_status check_length(zi_mpi *m, const zi_message *message, MPI_Status *status)
{
    int got = 0;
    if (!message->receive)
        return ZOPT_OK;
    ZI_MPI_TRY(m, MPI_Get_count, status, MPI_BYTE, &got);
    if ((size_t)got == message->bytes)
        return ZOPT_OK;
    m->base.broken = 1;
    return ZI_FAIL(ZOPT_ERR_COMM, "rank %d sends %d bytes to rank %d, which awaits %zu",
                   message->peer, got, m->base.rank, message->bytes);
}

/* Test each that is left; the first that is not done is what the wait is for. */
static zopt_status test_messages(zi_mpi *m, zi_mpi_wait *wait, int *all_done)
{
    *all_done = 1;
    for (size_t i = wait->n; i-- > 0;) {
        const zi_message *message = &wait->messages[i];
        MPI_Status status;
        int done = 0;
        if (wait->request[i] == MPI_REQUEST_NULL)
            continue;
        ZI_MPI_TRY(m, MPI_Test, &wait->request[i], &done, &status);
        if (done) {
            ZI_TRY(check_length(m, message, &status));
            continue;
        }
        *all_done = 0;
        wait->peer = message->peer;
        wait->what = message->receive ? "messages" : "receipts of messages";
    }
    return *all_done ? ZOPT_OK : zi_engine_progress(m);
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
        status = zi_mpi_await(
            m, &(zi_mpi_wait){
                   .test = test_messages, .request = request, .messages = messages, .n = n});
    if (status != ZOPT_OK)
        cancel(messages, n, request);
    return status;
}
