/* Messages of transport threads: a rank shows what it sends in its outbox, the receiver copies it
 * and strikes it off, and the sender waits until all is struck off. Copies run under the channel's
 * mutex, because the data is the sender's and a rank that fails takes it back. */
#include <string.h>

#include "comm/threads_channel.h"

/* The oldest message in the peer's outbox for this rank, or NULL. */
static zi_message *find_sent(const zi_threads_comm *t, int peer)
{
    zi_channel_rank *sender = &t->channel->rank[peer];
    for (size_t i = 0; i < sender->n_outbox; i++)
        if (sender->outbox[i].peer == t->base.rank)
            return &sender->outbox[i];
    return NULL;
}

static int unsent(const zi_threads_comm *t, const zi_awaited *what, int from)
{
    int peer = what->message->peer;
    return from <= peer && find_sent(t, peer) == NULL ? peer : t->channel->n_ranks;
}

static int untaken(const zi_threads_comm *t, const zi_awaited *what, int from)
{
    const zi_channel_rank *self = &t->channel->rank[t->base.rank];
    int first = t->channel->n_ranks;
    (void)what;
    for (size_t i = 0; i < self->n_outbox; i++) {
        int peer = self->outbox[i].peer;
        first = peer >= from && peer < first ? peer : first;
    }
    return first;
}

static zopt_status take(zi_threads_comm *t, const zi_message *message)
{
    zi_channel_rank *sender = &t->channel->rank[message->peer];
    zi_awaited what = {.missing = unsent, .text = "messages", .message = message};
    ZI_TRY(zi_channel_wait_for(t, &what));
    if (t->channel->failed_rank >= 0) /* and its data may be gone */
        return ZI_FAIL(ZOPT_ERR_PEER, "rank %d gave up", t->channel->failed_rank);
    zi_message *sent = find_sent(t, message->peer);
    if (sent->bytes != message->bytes)
        return ZI_FAIL(ZOPT_ERR_COMM, "rank %d sends %zu bytes to rank %d, which awaits %zu",
                       message->peer, sent->bytes, t->base.rank, message->bytes);
    memcpy(message->data, sent->data, sent->bytes);
    sender->n_outbox--;
    memmove(sent, sent + 1, (size_t)(sender->outbox + sender->n_outbox - sent) * sizeof *sent);
    pthread_cond_broadcast(&t->channel->changed);
    return ZOPT_OK;
}

static zopt_status exchange_locked(zi_threads_comm *t, const zi_message *messages, size_t n)
{
    zi_channel_rank *self = &t->channel->rank[t->base.rank];
    for (size_t i = 0; i < n; i++)
        if (!messages[i].receive)
            self->outbox[self->n_outbox++] = messages[i];
    pthread_cond_broadcast(&t->channel->changed);
    for (size_t i = 0; i < n; i++)
        if (messages[i].receive)
            ZI_TRY(take(t, &messages[i]));
    zi_awaited taken = {.missing = untaken, .text = "receipts of messages"};
    return zi_channel_wait_for(t, &taken);
}

zopt_status zi_channel_exchange(zi_comm *comm, const zi_message *messages, size_t n)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_channel_checked(t, zi_check_messages(comm, messages, n)));
    pthread_mutex_lock(&t->channel->mutex);
    zopt_status status = exchange_locked(t, messages, n);
    if (status != ZOPT_OK)
        t->channel->rank[comm->rank].n_outbox = 0;
    pthread_mutex_unlock(&t->channel->mutex);
    return zi_channel_checked(t, status);
}
