/* Transport threads: N ranks in one process, each a thread with a comm of its own. Peers' memory is
 * addressable, so transfers move no byte and ranks wait for each other's counts (channel.c). What a
 * rank lends to its peers belongs to what they share until the last rank has left, so a rank may
 * leave at any time. */
#include <stdlib.h>

#include "comm/threads.h"

/* ------------------------------------------------------------------ worlds and meetings ------ */

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

/* NULL: no memory. */
static zi_meeting *meeting_create(int n_ranks, uint64_t index)
{
    size_t n = (size_t)n_ranks;
    zi_meeting *m = calloc(1, sizeof *m + n * sizeof m->block[0]);
    zi_channel_rank *blocks = zi_aligned_zalloc(n * sizeof *blocks);
    zi_outbox *outbox = calloc(n, sizeof *outbox);
    zi_fences *fences = calloc(n, sizeof *fences);
    if (m == NULL || blocks == NULL || outbox == NULL || fences == NULL) {
        free(m);
        free(blocks);
        free(outbox);
        free(fences);
        return NULL;
    }
    m->index = index;
    m->n_ranks = n_ranks;
    m->outbox = outbox;
    m->fences = fences;
    m->blocks = blocks;
    for (size_t i = 0; i < n; i++)
        m->block[i] = &blocks[i];
    return m;
}

static void meeting_destroy(zi_meeting *m)
{
    while (m->buffers != NULL) {
        zi_buffer *b = m->buffers;
        m->buffers = b->next;
        zi_heap_free(&b->heap, NULL);
        free(b);
    }
    for (int i = 0; i < m->n_ranks; i++)
        zi_fences_destroy(&m->fences[i]);
    free(m->blocks);
    free(m->outbox);
    free(m->fences);
    free(m);
}

void zopt_threads_destroy(zopt_threads *threads)
{
    if (threads == NULL)
        return;
    while (threads->meetings != NULL) {
        zi_meeting *m = threads->meetings;
        threads->meetings = m->next;
        meeting_destroy(m);
    }
    pthread_mutex_destroy(&threads->mutex);
    free(threads);
}

/* The k-th call of each rank joins meeting k; NULL: no memory. */
static zi_meeting *join(zopt_threads *threads, int rank)
{
    pthread_mutex_lock(&threads->mutex);
    uint64_t index = threads->n_joined[rank]++;
    zi_meeting *m = threads->meetings;
    while (m != NULL && m->index != index)
        m = m->next;
    if (m == NULL && (m = meeting_create(threads->n_ranks, index)) != NULL) {
        m->next = threads->meetings;
        threads->meetings = m;
    }
    pthread_mutex_unlock(&threads->mutex);
    return m;
}

static void leave(zi_threads_comm *t)
{
    zopt_threads *threads = t->threads;
    pthread_mutex_lock(&threads->mutex);
    zi_channel_leave(&t->base);
    if (++t->meeting->n_left == threads->n_ranks) {
        zi_meeting **link = &threads->meetings;
        while (*link != t->meeting)
            link = &(*link)->next;
        *link = t->meeting->next;
        meeting_destroy(t->meeting);
    }
    pthread_mutex_unlock(&threads->mutex);
}

/* Make the meeting the owner of what this rank got last. */
static zopt_status keep(zi_threads_comm *t)
{
    zi_buffer *b = malloc(sizeof *b);
    if (b == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a table of shared buffers");
    b->heap = zi_symmetric_heap(&t->base.base);
    pthread_mutex_lock(&t->threads->mutex);
    b->next = t->meeting->buffers;
    t->meeting->buffers = b;
    pthread_mutex_unlock(&t->threads->mutex);
    return ZOPT_OK;
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
        return ZI_FAIL(ZOPT_ERR_ARGUMENT,
                       "transport threads connects threads of one process: it needs their world, "
                       "options.threads");
    if (config->threads_rank < 0 || config->threads_rank >= config->threads->n_ranks)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "threads_rank %d in a world of %d threads",
                       config->threads_rank, config->threads->n_ranks);
    return ZOPT_OK;
}

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    zi_threads_comm *t;
    *out = NULL;
    if (config->plan_world == 0)
        ZI_TRY(check_config(config));
    ZI_TRY(zi_mem_table(mem, sizeof *t, &t));
    zi_comm_init(&t->base.base, &zi_comm_threads, config, mem);
    *out = &t->base.base;
    if (config->plan_world > 0)
        return ZOPT_OK;
    t->threads = config->threads;
    t->meeting = join(config->threads, config->threads_rank);
    if (t->meeting == NULL) {
        *out = NULL;
        zi_mem_free_table(mem, t, sizeof *t);
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a meeting of %d threads",
                       config->threads->n_ranks);
    }
    zi_comm_seat(&t->base.base, config->threads_rank, config->threads->n_ranks,
                 config->threads->n_ranks);
    t->base.fences = t->meeting->fences;
    zi_channel_join(&t->base, t->meeting->block);
    return ZOPT_OK;
}

/* Waits for no peer: what they may still read is the meeting's. */
static void destroy(zi_comm *comm)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    if (t == NULL)
        return;
    if (!comm->planned)
        (void)comm->device->wait(comm->queue); /* whoever leaves last frees what is read on it */
    zi_symmetric_free_all(comm, t->meeting != NULL);
    if (t->meeting != NULL)
        leave(t);
    zi_mem_free_table(comm->mem, t, sizeof *t);
}

static zopt_status alloc_symmetric(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out)
{
    zi_threads_comm *t = (zi_threads_comm *)comm;
    ZI_TRY(zi_symmetric_alloc(comm, category, bytes, comm->world, out));
    if (comm->planned)
        return ZOPT_OK;
    zopt_status status = keep(t);
    if (status != ZOPT_OK) {
        zi_symmetric_free(comm, category, out, 0);
        return zi_channel_checked(&t->base, status);
    }
    status = zi_channel_all_gather(comm, &out->base, sizeof out->base, out->peer);
    if (status != ZOPT_OK)
        zi_symmetric_free(comm, category, out, 1);
    for (int r = 0; status == ZOPT_OK && out->shared && r < comm->world; r++)
        out->base = out->peer[r] = out->peer[0];
    return status;
}

static void free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory)
{
    zi_symmetric_free(comm, category, memory, !comm->planned);
}

const zi_comm_ops zi_comm_threads = {
    .name = "threads",
    .help = "N threads of one process, which read and write each other's memory",
    .device_memory = 1,
    .missing = missing,
    .wanted = wanted,
    .create = create,
    .destroy = destroy,
    .alloc_symmetric = alloc_symmetric,
    .free_symmetric = free_symmetric,
    .exchange = zi_threads_exchange,
    ZI_CHANNEL_OPS,
};
