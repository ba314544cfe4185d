/* Life of the local sharded optimizer: create, commit (agree, lay out, allocate), destroy. */
#include "zero/ahead.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "zero/passes.h"
#include "zero/trace.h"

zopt_status zi_zero_create(const zi_zero_config *config, zi_comm *comm, zi_mem *mem, zi_zero **out)
{
    zi_zero *z;
    *out = NULL;
    if (config->progress_thread && !config->device->on_host)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "progress_thread is for the CPU: device %s sums beside its caller anyway",
                       config->device->name);
    ZI_TRY(zi_mem_table(mem, sizeof *z, &z));
    z->config = *config;
    z->comm = comm;
    z->queue = comm->queue;
    z->home_queue = zi_is_offloaded(z) ? NULL : comm->queue;
    z->mem = mem;
    z->bad_key = INT64_MAX;
    z->phase = -1;
    z->between = "compute";
    if (z->config.scale_rules.slots == 0)
        z->config.scale_rules.slots = comm->world;
    comm->phase = "set-up";
    comm->bucket = -1;
    *out = z;
    return ZOPT_OK;
}

/* Whether every step measures the norm and looks for overflow. */
static int must_measure(const zi_zero *z)
{
    int check = z->config.check_overflow;
    if (check < 0) {
        check = z->config.scale_rules.dynamic;
        for (uint32_t i = 0; i < z->n_tensors; i++)
            check |= z->tensors[i].dtype == ZOPT_FP16 && z->tensors[i].variant != NULL;
    }
    return check || z->config.scale_rules.clip_norm > 0 || zi_statistics_needed(z);
}

/* The tables of a committed handle: where the pointer is, and how many bytes. */
enum { N_TABLES = 16 };
typedef struct table_row {
    void *pointer;
    size_t bytes;
} table_row;

static void list_tables(zi_zero *z, table_row row[N_TABLES])
{
    size_t world = (size_t)z->comm->world, n_losses = (size_t)z->n_micro + 1;
    size_t n_statistics = zi_statistics_needed(z) ? z->n_tensors : 0;
    size_t n_dests = zi_update_is_shared(z) ? world : 0, n_sources = n_dests > 0 ? world + 1 : 0;
    zi_hand *hand = z->hand;
    const table_row rows[N_TABLES] = {
        {&z->grad_state, z->n_tensors * sizeof *z->grad_state},
        {&z->n_missing, z->layout.n_buckets * sizeof *z->n_missing},
        {&z->waited, z->layout.n_buckets * sizeof *z->waited},
        {&z->control.scalars, z->n_groups * sizeof *z->control.scalars},
        {&z->source_at, world * sizeof *z->source_at},
        {&z->source, (world + 1) * sizeof *z->source},
        {&z->dest_at, world * sizeof *z->dest_at},
        {&z->dest, world * sizeof *z->dest},
        {&hand[0].source, n_sources * sizeof *hand[0].source},
        {&hand[1].source, n_sources * sizeof *hand[1].source},
        {&hand[0].dest, n_dests * sizeof *hand[0].dest},
        {&hand[1].dest, n_dests * sizeof *hand[1].dest},
        {&z->sums, z->n_sums * sizeof *z->sums},
        {&z->statistics, n_statistics * sizeof *z->statistics},
        {&z->row_means, zi_statistics_n_matrices(z) * sizeof *z->row_means},
        {&z->losses, n_losses * sizeof *z->losses},
    };
    memcpy(row, rows, sizeof rows);
}

static zopt_status allocate_tables(zi_zero *z)
{
    table_row row[N_TABLES];
    list_tables(z, row);
    for (int i = 0; i < N_TABLES; i++)
        ZI_TRY(zi_mem_table(z->mem, row[i].bytes, row[i].pointer));
    return ZOPT_OK;
}

static void free_tables(zi_zero *z)
{
    table_row row[N_TABLES];
    list_tables(z, row);
    for (int i = 0; i < N_TABLES; i++) {
        void *table;
        memcpy(&table, row[i].pointer, sizeof table);
        zi_mem_free_table(z->mem, table, row[i].bytes);
    }
}

static size_t all_losses_bytes(const zi_zero *z)
{
    return (size_t)z->comm->world * ((size_t)z->n_micro + 1) * sizeof *z->all_losses;
}

static int keeps_sums(const zi_zero *z)
{
    return z->n_micro > 1 || z->slot_groups != ZI_GROUPS_NONE;
}

static zopt_status check_room(const zi_zero *z, uint64_t need, const char *what,
                              const zi_device_ops *device, zi_queue *queue)
{
    uint64_t available = z->comm->planned ? UINT64_MAX : device->available(queue);
    if (need > available)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "rank %d needs %llu bytes for %s, and the %s has %llu left",
                       z->comm->rank, (unsigned long long)need, what,
                       device->on_host ? "machine" : "GPU", (unsigned long long)available);
    return ZOPT_OK;
}

/* Arrays are touched as they are allocated, and a system that overcommits kills who touches too
 * much: refuse before. A bound from below, for this rank alone. */
static zopt_status check_available(const zi_zero *z)
{
    uint64_t n_sums = z->n_group_sums + (keeps_sums(z) ? z->layout.trained_elems : 0);
    uint64_t need = n_sums * sizeof(float);
    uint64_t state = z->layout.owned_elems * sizeof(float) + zi_states_bytes(z);
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_space *space = &z->layout.space[s];
        uint64_t bytes = space->n_padded * zopt_dtype_bytes(space->dtype);
        need += space->variant != NULL ? 2 * bytes : bytes;
    }
    if (!zi_is_offloaded(z))
        return check_room(z, need + state, "parameters, gradients and state", z->config.device,
                          z->queue);
    ZI_TRY(check_room(z, need, "parameters and gradients", z->config.device, z->queue));
    return check_room(z, state, "state", z->config.home, z->home_queue);
}

/* Parameters and gradients, which peers may read and write. */
static zopt_status allocate_spaces(zi_zero *z)
{
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_space *space = &z->layout.space[s];
        zi_space_memory *memory = &z->memory[s];
        size_t bytes = space->n_padded * zopt_dtype_bytes(space->dtype);
        ZI_TRY(z->comm->ops->alloc_symmetric(z->comm, ZI_MEM_PARAMS, bytes, &memory->params));
        if (space->variant != NULL)
            ZI_TRY(z->comm->ops->alloc_symmetric(z->comm, ZI_MEM_GRADS, bytes, &memory->grads));
    }
    return ZOPT_OK;
}

/* What this rank owns alone. */
static zopt_status allocate_owned(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    size_t bytes = z->layout.owned_elems * sizeof(float);
    ZI_TRY(z->config.home->alloc(z->home_queue, z->mem, ZI_MEM_MASTER, bytes, &z->master));
    ZI_TRY(zi_states_alloc(z));
    bytes = z->layout.trained_elems * sizeof(float);
    if (keeps_sums(z))
        ZI_TRY(device->alloc(z->queue, z->mem, ZI_MEM_GRAD_ACCUM, bytes, &z->accum));
    bytes = z->n_group_sums * sizeof(float);
    if (bytes > 0)
        ZI_TRY(device->alloc(z->queue, z->mem, ZI_MEM_GRAD_ACCUM, bytes, &z->group_sum));
    ZI_TRY(zi_place_tables(z));
    ZI_TRY(zi_offload_create(z));
    ZI_TRY(zi_ahead_create(z));
    if (z->ahead == NULL)
        ZI_TRY(zi_mem_table(z->mem, all_losses_bytes(z), &z->all_losses));
    return zi_statistics_describe(z);
}

/* Nothing that can fail on one rank alone comes behind it. */
static zopt_status equip(zi_zero *z)
{
    ZI_TRY(allocate_owned(z));
    return zi_owner_start(z);
}

static zopt_status check_before_commit(const zi_zero *z)
{
    if (z->committed || z->failed)
        return ZI_FAIL(ZOPT_ERR_ORDER, z->failed
                                           ? "zopt_commit has failed: only zopt_destroy is left"
                                           : "zopt_commit called twice");
    if (z->n_tensors == 0)
        return ZI_FAIL(ZOPT_ERR_ORDER, "zopt_commit without tensors");
    return ZOPT_OK;
}

/* The tables of a job: the accumulators and every rank's gradients. */
static zopt_status check_device(const zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (device->max_table > 0 && z->comm->world >= device->max_table)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "device %s sums up to %d ranks at once, not %d",
                       device->name, device->max_table - 1, z->comm->world);
    return ZOPT_OK;
}

static zopt_status lay_out(zi_zero *z)
{
    int world = z->comm->world;
    ZI_TRY(check_device(z));
    z->n_micro = (z->config.scale_rules.slots + world - 1) / world;
    z->slot_groups = zi_slot_groups_of(z);
    if (z->comm->comes_reduced && z->slot_groups != ZI_GROUPS_NONE)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "reduce_group %d: transport %s sums all ranks in an order of its own",
                       z->config.reduce_group, z->comm->ops->name);
    z->measure = must_measure(z);
    zi_rounds_list(z);
    ZI_TRY(zi_layout_build(z->mem, z->tensors, z->n_tensors, world, z->config.bucket_elems,
                           &z->layout));
    z->n_group_sums = zi_slot_group_sums(z);
    ZI_TRY(zi_spans_build(z->mem, &z->layout, z->tensors, z->comm->rank, &z->spans));
    ZI_TRY(allocate_tables(z));
    if (z->layout.n_exchanged == 0)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "every tensor is frozen: there is nothing to train");
    if (z->slot_groups == ZI_GROUPS_WITHIN)
        z->comm->reduce_group = z->config.reduce_group;
    z->comm->on_bad_sum = z->measure ? zi_locate_sum : NULL;
    z->comm->on_bad_sum_arg = z;
    return z->comm->ops->reserve(z->comm, 2 * (size_t)z->layout.n_exchanged,
                                 z->layout.max_slice_bytes);
}

static void start(zi_zero *z, double loss_scale)
{
    for (uint32_t b = 0; b < z->layout.n_buckets; b++)
        z->n_missing[b] = z->layout.bucket[b].n_tensors;
    zi_scale_start(&z->config.scale_rules, loss_scale, &z->scale);
    z->control.loss_scale = (float)loss_scale;
    z->comm->step = 1;
    z->committed = 1;
}

static zopt_status commit(zi_zero *z)
{
    if (!z->comm->planned)
        ZI_TRY(zi_zero_agree(z));
    ZI_TRY(zi_comm_agree(z->comm, lay_out(z)));
    ZI_TRY(zi_comm_agree(z->comm, check_available(z)));
    ZI_TRY(allocate_spaces(z));
    ZI_TRY(zi_comm_agree(z->comm, equip(z)));
    zi_states_start(z);
    start(z, z->config.loss_scale);
    if (z->comm->planned)
        return ZOPT_OK;
    zi_place_control(z);
    return z->config.device->wait(z->queue);
}

zopt_status zi_zero_commit(zi_zero *z)
{
    ZI_TRY(zi_comm_agree(z->comm, check_before_commit(z)));
    zopt_status status = commit(z);
    z->failed = status != ZOPT_OK;
    return status;
}

static void free_arrays(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    z->config.home->free(z->home_queue, z->mem, ZI_MEM_MASTER, z->master,
                         z->layout.owned_elems * sizeof(float));
    zi_states_free(z);
    device->free(z->queue, z->mem, ZI_MEM_GRAD_ACCUM, z->accum,
                 z->layout.trained_elems * sizeof(float));
    device->free(z->queue, z->mem, ZI_MEM_GRAD_ACCUM, z->group_sum,
                 z->n_group_sums * sizeof(float));
}

void zi_zero_destroy(zi_zero *z)
{
    if (z == NULL)
        return;
    zi_owner_stop(z);
    zi_trace_close(z);
    z->comm->on_bad_sum = NULL; /* transfers go on until the comm ends */
    zi_offload_destroy(z);
    zi_caller_free(z);
    zi_ahead_destroy(z);
    free_arrays(z);
    zi_unplace_tables(z);
    zi_mem_free_table(z->mem, z->all_losses, all_losses_bytes(z));
    free_tables(z);
    zi_spans_free(z->mem, &z->spans);
    zi_layout_free(z->mem, &z->layout);
    zi_registry_free(z);
    zi_mem_free_table(z->mem, z, sizeof *z);
}
