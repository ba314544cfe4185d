/* Transport threads: N ranks in one process, each a thread with a comm of its own. Peers' memory is
 * addressable, so transfers move no byte: ranks count what they have done in a channel that they
 * share (threads_channel.c), and wait for each other's counts. What a rank lends to its peers
 * belongs to the channel until the last rank has left, so a rank may leave at any time. */
#include <stdlib.h>

#include "comm/threads_channel.h"

struct zopt_threads {
    pthread_mutex_t mutex;
    zi_channel *channels; /* those that not all ranks have left */
    int n_ranks;
    uint64_t n_joined[]; /* by each rank */
};

/* ------------------------------------------------------------------ worlds and channels ------ */

zopt_status zopt_threads_create(int n_ranks, zopt_threads **out)
{
    if (out == NULL)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_threads_create: out is NULL");
    *out = NULL;
    if (n_ranks < 1)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "a world of %d threads", n_ranks);
    size_t bytes = sizeof(zopt_threads) + (size_t)n_ranks * sizeof(uint64_t);
    zopt_threads *threads = calloc(1, bytes);
    if (threads == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a world of %d threads", n_ranks);
    pthread_mutex_init(&threads->mutex, NULL);
    threads->n_ranks = n_ranks;
    *out = threads;
    return ZOPT_OK;
}

void zopt_threads_destroy(zopt_threads *threads)
{
    if (threads == NULL)
        return;
    while (threads->channels != NULL) {
        zi_channel *c = threads->channels;
        threads->channels = c->next;
        zi_channel_destroy(c);
    }
    pthread_mutex_destroy(&threads->mutex);
    free(threads);
}

/* The k-th call of each rank joins channel k; NULL: no memory. */
static zi_channel *join(zopt_threads *threads, int rank)
{
    pthread_mutex_lock(&threads->mutex);
    uint64_t index = threads->n_joined[rank]++;
    zi_channel *c = threads->channels;
    while (c != NULL && c->index != index)
        c = c->next;
    if (c == NULL && (c = zi_channel_create(threads->n_ranks, index)) != NULL) {
        c->next = threads->channels;
        threads->channels = c;
    }
    pthread_mutex_unlock(&threads->mutex);
    return c;
}

static void leave(zopt_threads *threads, zi_channel *c, int rank, int failed)
{
    pthread_mutex_lock(&threads->mutex);
    pthread_mutex_lock(&c->mutex);
    c->rank[rank].left = 1;
    if (failed && c->failed_rank < 0)
        c->failed_rank = rank;
    int last = ++c->n_left == c->n_ranks;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
    if (last) {
        zi_channel **link = &threads->channels;
        while (*link != c)
            link = &(*link)->next;
        *link = c->next;
        zi_channel_destroy(c);
    }
    pthread_mutex_unlock(&threads->mutex);
}

/* ------------------------------------------------------------------ life --------------------- */

static const char *missing(void)
{
    return NULL;
}

static int wanted(const zi_comm_config *config)
{
    return config->threads != NULL;
}

static zopt_status check_config(const zi_comm_config *config)
{
    if (config->threads == NULL)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "transport threads needs options.threads");
    if (config->threads_rank < 0 || config->threads_rank >= config->threads->n_ranks)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "threads_rank %d in a world of %d threads",
                       config->threads_rank, config->threads->n_ranks);
    return ZOPT_OK;
}

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    void *memory;
    zi_channel *c = NULL;
    *out = NULL;
    if (config->plan_world == 0) {
        ZI_TRY(check_config(config));
        c = join(config->threads, config->threads_rank);
        if (c == NULL)
            return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a channel of %d threads",
                           config->threads->n_ranks);
    }
    zopt_status status = zi_mem_table(mem, sizeof(zi_threads_comm), &memory);
    if (status != ZOPT_OK) {
        if (c != NULL)
            leave(config->threads, c, config->threads_rank, 1);
        return status;
    }
    zi_threads_comm *t = memory;
    zi_comm_init(&t->base, &zi_comm_threads, config, mem);
    if (c != NULL) {
        t->base.rank = config->threads_rank;
        t->base.world = c->n_ranks;
        t->threads = config->threads;
        t->channel = c;
    }
    *out = &t->base;
    return ZOPT_OK;
}

/* Never waits: what peers may still read is the channel's. */
static void destroy(zi_comm *comm)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    if (t == NULL)
        return;
    zi_symmetric_free_all(comm, t->channel != NULL);
    if (t->channel != NULL)
        leave(t->threads, t->channel, comm->rank, comm->broken);
    zi_mem_free_table(comm->mem, t, sizeof(zi_threads_comm));
}

static zopt_status reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes)
{
    (void)comm, (void)n_transfers, (void)max_slice_bytes;
    return ZOPT_OK;
}

static zopt_status alloc_symmetric(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_symmetric_alloc(comm, category, bytes, comm->world, out));
    if (comm->planned)
        return ZOPT_OK;
    zopt_status status = zi_channel_keep(t->channel, out->base);
    if (status != ZOPT_OK) {
        zi_symmetric_free(comm, category, out, 0);
        return zi_channel_checked(t, status);
    }
    status = zi_channel_all_gather(comm, &out->base, sizeof out->base, out->peer);
    if (status != ZOPT_OK)
        zi_symmetric_free(comm, category, out, 1);
    return status;
}

static void free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory)
{
    zi_symmetric_free(comm, category, memory, !comm->planned);
}

/* ------------------------------------------------------------------ transfers ---------------- */

/* Slice `rank` of the bucket in the memory of rank `of`. */
static char *slice_of(const zi_comm *comm, const zi_transfer *transfer, int of)
{
    return (char *)transfer->memory->peer[of] + transfer->offset_bytes +
           (size_t)comm->rank * transfer->slice_bytes;
}

/* Transfers are begun in order: count this one, if it is the next. */
static zopt_status count_next(zi_comm *comm, const char *call, zi_counter which, uint64_t ordinal)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_check_connected(comm, call));
    ZI_TRY(zi_channel_checked(t, zi_check_next(comm, call, zi_channel_count(t, which), ordinal)));
    zi_channel_advance(t, which);
    return ZOPT_OK;
}

/* Wait until ranks 0..n-1 have counted transfer `ordinal`, which this one has begun. */
static zopt_status wait_begun(zi_comm *comm, const char *call, zi_counter begun, zi_counter which,
                              uint64_t ordinal, int n)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_check_connected(comm, call));
    ZI_TRY(zi_channel_checked(t, zi_check_begun(comm, call, zi_channel_count(t, begun), ordinal)));
    return zi_channel_wait(t, which, ordinal + 1, n);
}

/* Bytes count as sent by the rank whose memory the others read. */
static zopt_status expose(zi_comm *comm, const zi_transfer *transfer)
{
    ZI_TRY(count_next(comm, "expose", ZI_EXPOSED, transfer->ordinal));
    if (comm->rank < transfer->n_contributors)
        comm->bytes_sent += (uint64_t)(comm->world - 1) * transfer->slice_bytes;
    return ZOPT_OK;
}

static zopt_status expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source)
{
    ZI_TRY(wait_begun(comm, "expose_wait", ZI_EXPOSED, ZI_EXPOSED, transfer->ordinal,
                      transfer->n_contributors));
    for (int i = 0; i < transfer->n_contributors; i++)
        source[i] = slice_of(comm, transfer, i);
    return ZOPT_OK;
}

static zopt_status consumed(zi_comm *comm, const zi_transfer *transfer)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "consumed"));
    ZI_TRY(zi_channel_checked(
        t, zi_check_begun(comm, "consumed", zi_channel_count(t, ZI_EXPOSED), transfer->ordinal)));
    return count_next(comm, "consumed", ZI_CONSUMED, transfer->ordinal);
}

static zopt_status reuse_wait(zi_comm *comm, uint64_t ordinal)
{
    return wait_begun(comm, "reuse_wait", ZI_CONSUMED, ZI_CONSUMED, ordinal, comm->world);
}

static zopt_status open_params(zi_comm *comm)
{
    ZI_TRY(zi_check_connected(comm, "open"));
    zi_channel_advance((zi_threads_comm *)comm, ZI_OPENED);
    return ZOPT_OK;
}

static zopt_status dest_wait(zi_comm *comm, const zi_transfer *transfer, void **dest, int *n_dests)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "dest_wait"));
    ZI_TRY(zi_channel_wait(t, ZI_OPENED, zi_channel_count(t, ZI_OPENED), comm->world));
    for (int i = 0; i < comm->world; i++)
        dest[i] = slice_of(comm, transfer, i);
    *n_dests = comm->world;
    return ZOPT_OK;
}

static zopt_status publish(zi_comm *comm, const zi_transfer *transfer)
{
    ZI_TRY(count_next(comm, "publish", ZI_PUBLISHED, transfer->ordinal));
    comm->bytes_sent += (uint64_t)(comm->world - 1) * transfer->slice_bytes;
    return ZOPT_OK;
}

static zopt_status publish_wait(zi_comm *comm, uint64_t ordinal)
{
    return wait_begun(comm, "publish_wait", ZI_PUBLISHED, ZI_PUBLISHED, ordinal, comm->world);
}

static zopt_status progress(zi_comm *comm)
{
    return zi_check_connected(comm, "progress");
}

const zi_comm_ops zi_comm_threads = {
    .name = "threads",
    .help = "N threads of one process, which read and write each other's memory",
    .peer_memory = 1,
    .missing = missing,
    .wanted = wanted,
    .create = create,
    .destroy = destroy,
    .reserve = reserve,
    .alloc_symmetric = alloc_symmetric,
    .free_symmetric = free_symmetric,
    .all_gather = zi_channel_all_gather,
    .all_reduce = zi_channel_all_reduce,
    .broadcast = zi_channel_broadcast,
    .exchange = zi_channel_exchange,
    .expose = expose,
    .expose_wait = expose_wait,
    .consumed = consumed,
    .reuse_wait = reuse_wait,
    .open = open_params,
    .dest_wait = dest_wait,
    .publish = publish,
    .publish_wait = publish_wait,
    .progress = progress,
};
