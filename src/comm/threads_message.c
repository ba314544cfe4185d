/* Messages of transport threads: a rank shows what it sends in its outbox, the receiver copies it
 * and strikes it off, and the sender waits until all is struck off. Copies run under the world's
 * mutex, because the data is the sender's and a rank that fails takes it back. */
#include <string.h>

#include "comm/threads.h"

static zi_outbox *outbox_of(const zi_threads_comm *t, int rank)
{
    return &t->meeting->outbox[rank];
}

/* The oldest message in the peer's outbox for this rank, or NULL. The mutex is held. */
static zi_message *find_sent(const zi_threads_comm *t, int peer)
{
    zi_outbox *box = outbox_of(t, peer);
    for (size_t i = 0; i < box->n; i++)
        if (box->message[i].peer == t->base.base.rank)
            return &box->message[i];
    return NULL;
}

static int unsent(const zi_channel_comm *k, const zi_awaited *what, int from)
{
    const zi_threads_comm *t = (const zi_threads_comm *)k;
    int peer = what->message->peer;
    pthread_mutex_lock(&t->threads->mutex);
    int sent = find_sent(t, peer) != NULL;
    pthread_mutex_unlock(&t->threads->mutex);
    return from <= peer && !sent ? peer : k->base.world;
}

static int untaken(const zi_channel_comm *k, const zi_awaited *what, int from)
{
    const zi_threads_comm *t = (const zi_threads_comm *)k;
    int first = k->base.world;
    (void)what;
    pthread_mutex_lock(&t->threads->mutex);
    const zi_outbox *box = outbox_of(t, k->base.rank);
    for (size_t i = 0; i < box->n; i++) {
        int peer = box->message[i].peer;
        first = peer >= from && peer < first ? peer : first;
    }
    pthread_mutex_unlock(&t->threads->mutex);
    return first;
}

/* Copy what the peer shows. The mutex is held. */
static zopt_status copy_sent(const zi_threads_comm *t, const zi_message *message)
{
    zi_message *sent = find_sent(t, message->peer);
    zi_outbox *box = outbox_of(t, message->peer);
    if (sent == NULL) /* it has failed since, and taken its data back */
        return ZI_FAIL(ZOPT_ERR_PEER, "rank %d gave up", message->peer);
    if (sent->bytes != message->bytes)
        return ZI_FAIL(ZOPT_ERR_COMM, "rank %d sends %zu bytes to rank %d, which awaits %zu",
                       message->peer, sent->bytes, t->base.base.rank, message->bytes);
    memcpy(message->data, sent->data, sent->bytes);
    box->n--;
    memmove(sent, sent + 1, (size_t)(box->message + box->n - sent) * sizeof *sent);
    return ZOPT_OK;
}

static zopt_status take(zi_threads_comm *t, const zi_message *message)
{
    zi_awaited what = {.missing = unsent, .text = "messages", .message = message};
    ZI_TRY(zi_channel_wait_for(&t->base, &what));
    pthread_mutex_lock(&t->threads->mutex);
    zopt_status status = copy_sent(t, message);
    pthread_mutex_unlock(&t->threads->mutex);
    return status;
}

static zopt_status exchange(zi_threads_comm *t, const zi_message *messages, size_t n)
{
    zi_outbox *box = outbox_of(t, t->base.base.rank);
    pthread_mutex_lock(&t->threads->mutex);
    for (size_t i = 0; i < n; i++)
        if (!messages[i].receive)
            box->message[box->n++] = messages[i];
    pthread_mutex_unlock(&t->threads->mutex);
    for (size_t i = 0; i < n; i++)
        if (messages[i].receive)
            ZI_TRY(take(t, &messages[i]));
    zi_awaited taken = {.missing = untaken, .text = "receipts of messages"};
    return zi_channel_wait_for(&t->base, &taken);
}

zopt_status zi_threads_exchange(zi_comm *comm, const zi_message *messages, size_t n)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_channel_checked(&t->base, zi_check_messages(comm, messages, n)));
    zopt_status status = exchange(t, messages, n);
    if (status != ZOPT_OK) {
        pthread_mutex_lock(&t->threads->mutex);
        outbox_of(t, comm->rank)->n = 0;
        pthread_mutex_unlock(&t->threads->mutex);
    }
    return zi_channel_checked(&t->base, status);
}
