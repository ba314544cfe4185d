/* Transport self: one rank, whose own memory is every source and every destination. No byte moves;
 * the order of calls is checked as with peers, so that a program tried alone is right with them. */
#include <string.h>

#include "comm/common.h"

typedef struct self_comm {
    zi_comm base;
    uint64_t exposed, consumed, published; /* transfers so far */
} self_comm;

static const char *missing(void)
{
    return NULL;
}

static int wanted(const zi_comm_config *config)
{
    return config->plan_world <= 1;
}

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    void *memory;
    *out = NULL;
    if (config->plan_world > 1)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "transport self has one rank, not %d", config->plan_world);
    ZI_TRY(zi_mem_table(mem, sizeof(self_comm), &memory));
    *out = memory;
    zi_comm_init(*out, &zi_comm_self, config, mem);
    return ZOPT_OK;
}

static void destroy(zi_comm *comm)
{
    if (comm == NULL)
        return;
    zi_symmetric_free_all(comm, 0);
    zi_mem_free_table(comm->mem, comm, sizeof(self_comm));
}

static zopt_status reserve(zi_comm *comm, size_t n_transfers, size_t max_slice_bytes)
{
    (void)comm, (void)n_transfers, (void)max_slice_bytes;
    return ZOPT_OK;
}

static zopt_status alloc_symmetric(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out)
{
    ZI_TRY(zi_symmetric_alloc(comm, category, bytes, 1, out));
    out->peer[0] = out->base;
    return ZOPT_OK;
}

static void free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory)
{
    zi_symmetric_free(comm, category, memory, 0);
}

static zopt_status all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv)
{
    ZI_TRY(zi_check_connected(comm, "all_gather"));
    if (bytes > 0)
        memcpy(recv, send, bytes);
    return ZOPT_OK;
}

static zopt_status all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n)
{
    (void)op, (void)values, (void)n;
    return zi_check_connected(comm, "all_reduce");
}

static zopt_status sum_enqueue(zi_comm *comm, int64_t *values, size_t n)
{
    (void)values, (void)n;
    return zi_check_connected(comm, "sum_enqueue");
}

static zopt_status broadcast(zi_comm *comm, int root, void *buffer, size_t bytes)
{
    (void)root, (void)buffer, (void)bytes;
    return zi_check_connected(comm, "broadcast");
}

static zopt_status exchange(zi_comm *comm, const zi_message *messages, size_t n)
{
    return zi_check_messages(comm, messages, n); /* there is no peer: n is 0 */
}

static char *slice(const zi_transfer *transfer)
{
    return (char *)transfer->memory->base + transfer->offset_bytes;
}

static zopt_status expose(zi_comm *comm, const zi_transfer *transfer)
{
    self_comm *self = (self_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "expose"));
    ZI_TRY(zi_check_next(comm, "expose", self->exposed, transfer->ordinal));
    self->exposed++;
    return ZOPT_OK;
}

static zopt_status expose_test(zi_comm *comm, const zi_transfer *transfer, int *ready)
{
    self_comm *self = (self_comm *)comm;
    *ready = 1;
    ZI_TRY(zi_check_connected(comm, "expose_test"));
    return zi_check_begun(comm, "expose_test", self->exposed, transfer->ordinal);
}

static zopt_status expose_wait(zi_comm *comm, const zi_transfer *transfer, const void **source)
{
    self_comm *self = (self_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "expose_wait"));
    ZI_TRY(zi_check_begun(comm, "expose_wait", self->exposed, transfer->ordinal));
    if (transfer->n_contributors > 0)
        source[0] = slice(transfer);
    return ZOPT_OK;
}

static zopt_status consumed(zi_comm *comm, const zi_transfer *transfer)
{
    self_comm *self = (self_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "consumed"));
    ZI_TRY(zi_check_begun(comm, "consumed", self->exposed, transfer->ordinal));
    ZI_TRY(zi_check_next(comm, "consumed", self->consumed, transfer->ordinal));
    self->consumed++;
    return ZOPT_OK;
}

static zopt_status reuse_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    self_comm *self = (self_comm *)comm;
    (void)behind;
    ZI_TRY(zi_check_connected(comm, "reuse_wait"));
    return zi_check_begun(comm, "reuse_wait", self->consumed, ordinal);
}

static zopt_status open_params(zi_comm *comm)
{
    return zi_check_connected(comm, "open");
}

static zopt_status dest_wait(zi_comm *comm, const zi_transfer *transfer, void **dest, int *n_dests)
{
    ZI_TRY(zi_check_connected(comm, "dest_wait"));
    dest[0] = slice(transfer);
    *n_dests = 1;
    return ZOPT_OK;
}

static zopt_status publish(zi_comm *comm, const zi_transfer *transfer)
{
    self_comm *self = (self_comm *)comm;
    ZI_TRY(zi_check_connected(comm, "publish"));
    if (comm->recording == ZI_RECORDING)
        return ZOPT_OK;
    ZI_TRY(zi_check_next(comm, "publish", self->published, transfer->ordinal));
    self->published++;
    return ZOPT_OK;
}

static zopt_status publish_wait(zi_comm *comm, uint64_t ordinal, zi_queue *behind)
{
    self_comm *self = (self_comm *)comm;
    (void)behind;
    ZI_TRY(zi_check_connected(comm, "publish_wait"));
    return zi_check_begun(comm, "publish_wait", self->published, ordinal);
}

static zopt_status progress(zi_comm *comm, int *idle)
{
    *idle = 1;
    return zi_check_connected(comm, "progress");
}

const zi_comm_ops zi_comm_self = {
    .name = "self",
    .help = "one rank, no peers",
    .peer_memory = 1,
    .device_memory = 1,
    .replayable = 1,
    .missing = missing,
    .wanted = wanted,
    .create = create,
    .destroy = destroy,
    .reserve = reserve,
    .alloc_symmetric = alloc_symmetric,
    .free_symmetric = free_symmetric,
    .all_gather = all_gather,
    .all_reduce = all_reduce,
    .broadcast = broadcast,
    .sum_enqueue = sum_enqueue,
    .exchange = exchange,
    .expose = expose,
    .expose_test = expose_test,
    .expose_wait = expose_wait,
    .consumed = consumed,
    .reuse_wait = reuse_wait,
    .open = open_params,
    .dest_wait = dest_wait,
    .publish = publish,
    .publish_wait = publish_wait,
    .progress = progress,
};
