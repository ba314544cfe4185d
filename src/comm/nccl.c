/* Transports nccl and nccl-native: one GPU for each rank. This file makes NCCL's communicators, or
 * splits the caller's, and has the life of the object. nccl-native differs in how gradients are
 * summed: NCCL does it, in an order that depends on the number of ranks. Next: nccl_transfer.c. */
#include "comm/nccl.h"

#include "device/cuda.h"

zi_mpi *zi_nccl_meeting(zi_comm *comm)
{
    zi_comm *via = &((zi_nccl_comm *)comm)->meeting->base;
    via->deadline_ms = comm->deadline_ms;
    via->step = comm->step;
    via->phase = comm->phase;
    via->bucket = comm->bucket;
    return (zi_mpi *)via;
}

/* ------------------------------------------------------------------ communicators ------------ */

static zopt_status check_number(const char *what, int theirs, int ours)
{
    if (theirs == ours)
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_ARGUMENT, "nccl_comm: %s %d there, and %d here", what, theirs, ours);
}

static zopt_status check_callers(zi_nccl_comm *n, ncclComm_t callers)
{
    const zi_nccl_calls *nccl = n->nccl;
    int world = 0, rank = -1, ordinal = -1;
    if (!zi_nccl_was_loaded())
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "nccl_comm: it is of another NCCL than libnccl.so.2, "
                                          "which this process had not loaded");
    if (nccl->CommSplit == NULL)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "nccl_comm: this NCCL has no ncclCommSplit; 2.18 has");
    if (nccl->CommCount(callers, &world) != ncclSuccess ||
        nccl->CommUserRank(callers, &rank) != ncclSuccess ||
        nccl->CommCuDevice(callers, &ordinal) != ncclSuccess)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "nccl_comm: NCCL does not know it");
    ZI_TRY(check_number("the number of ranks is", world, n->base.world));
    ZI_TRY(check_number("this rank is", rank, n->base.rank));
    return check_number("its GPU is number", ordinal, n->lane[0].queue->ordinal);
}

/* All ranks bring one or none does. */
static zopt_status take_callers(zi_nccl_comm *n, void *callers)
{
    zi_comm *via = &n->meeting->base;
    int64_t most[] = {callers != NULL, -(int64_t)(callers != NULL)};
    ZI_TRY(via->ops->all_reduce(via, ZI_MAX, most, 2));
    if (most[0] != -most[1])
        return ZI_FAIL(ZOPT_ERR_DISAGREE, "nccl_comm is %sset on rank %d, and otherwise on others",
                       callers == NULL ? "not " : "", n->base.rank);
    ZI_TRY(zi_comm_agree(via, callers != NULL ? check_callers(n, callers) : ZOPT_OK));
    n->callers = callers;
    return ZOPT_OK;
}

/* From a unique id that rank 0 makes and tells over MPI, or from the caller's. Collective. */
static zopt_status connect_lane(zi_nccl_comm *n, zi_nccl_lane *lane)
{
    zi_comm *comm = &n->base, *via = &n->meeting->base;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id = {{0}};
    config.blocking = 0;
    zi_nccl_set_policy(n, &config);
    zi_cuda_enter(lane->queue);
    if (n->callers != NULL)
        return zi_nccl_finish(n, lane, "ncclCommSplit",
                              n->nccl->CommSplit(n->callers, 0, comm->rank, &lane->comm, &config));
    zopt_status status = ZOPT_OK;
    if (comm->rank == 0)
        status = zi_nccl_finish(n, lane, "ncclGetUniqueId", n->nccl->GetUniqueId(&id));
    ZI_TRY(zi_comm_agree(via, status));
    ZI_TRY(via->ops->broadcast(via, 0, &id, sizeof id));
    return zi_nccl_finish(
        n, lane, "ncclCommInitRankConfig",
        n->nccl->CommInitRankConfig(&lane->comm, comm->world, id, comm->rank, &config));
}

/* ------------------------------------------------------------------ life --------------------- */

static int wanted(const zi_comm_config *config)
{
    return config->device != NULL && zi_mpi_wanted(config);
}

static int never_wanted(const zi_comm_config *config)
{
    (void)config;
    return 0;
}

static zopt_status check_config(const zi_comm_ops *ops, const zi_comm_config *config)
{
    const char *why = config->plan_world > 0 ? NULL : zi_nccl_missing();
    if (why != NULL)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "transport %s: %s", ops->name, why);
    if (config->device == NULL)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "transport %s is for device \"cuda\"", ops->name);
    if (config->shared_params && !ops->peer_memory)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "shared_params: transport %s keeps a buffer for each rank", ops->name);
    return ZOPT_OK;
}

/* Streams on the GPU that the device gives this rank. */
static zopt_status open_queues(zi_nccl_comm *n)
{
    zi_nccl_lane *lane = n->lane;
    ZI_TRY(zi_device_cuda.open(n->base.local_rank, &lane[0].queue));
    for (int i = 1; i < ZI_N_NCCL_LANES; i++)
        ZI_TRY(zi_device_cuda.open_beside(lane[0].queue, &lane[i].queue));
    return ZOPT_OK;
}

static zopt_status connect(zi_nccl_comm *n, const zi_comm_config *config)
{
    zi_comm *via = &n->meeting->base;
    if (!n->between_nodes)
        n->meeting->user = (zi_mpi_user){.comm = &n->base, .check = zi_nccl_check_peers};
    via->phase = n->base.phase = "start";
    zopt_status status = check_config(n->base.ops, config);
    if (status == ZOPT_OK)
        status = zi_nccl_check_windows(n);
    ZI_TRY(zi_comm_agree(via, status == ZOPT_OK ? open_queues(n) : status));
    ZI_TRY(zi_nccl_take_seats(n, config));
    ZI_TRY(take_callers(n, config->nccl_comm));
    for (int i = 0; i < ZI_N_NCCL_LANES; i++) {
        ZI_TRY(connect_lane(n, &n->lane[i]));
        zi_nccl_guard(n, n->lane[i].queue);
    }
    ZI_TRY(zi_nccl_try_windows(n));
    return zi_comm_agree(via, zi_nccl_probe(n));
}

/* Both ends of a communicator's life are collective, and this one's must not be waited for by a
 * rank whose comm is broken. */
static void disconnect(zi_nccl_comm *n)
{
    zi_comm *comm = &n->base;
    comm->phase = "end";
    n->meeting->calls_roll = 0; /* who waits here will not do what others wait for */
    for (int i = 0; i < ZI_N_NCCL_LANES && !comm->broken; i++)
        if (n->lane[i].comm == NULL ||
            zi_nccl_checked(n, comm->device->wait(comm->queue)) != ZOPT_OK ||
            zi_nccl_checked(n, zi_device_cuda.wait(n->lane[i].queue)) != ZOPT_OK)
            break;
    if (!comm->broken)
        zi_nccl_deregister(n, NULL);
    for (int i = 0; i < ZI_N_NCCL_LANES && !comm->broken; i++) {
        zi_nccl_lane *lane = &n->lane[i];
        if (lane->comm == NULL || zi_nccl_finish(n, lane, "ncclCommFinalize",
                                                 n->nccl->CommFinalize(lane->comm)) != ZOPT_OK)
            continue;
        (void)n->nccl->CommDestroy(lane->comm);
        lane->comm = NULL;
    }
    zi_nccl_abort(n);
    for (int i = 0; i < ZI_N_NCCL_LANES; i++) /* what is still on its stream ends now */
        if (n->lane[i].queue != NULL)
            (void)zi_device_cuda.wait(n->lane[i].queue);
}

void zi_nccl_leave(zi_nccl_comm *n)
{
    zi_comm *comm = &n->base;
    (void)zi_nccl_meeting(comm);
    if (!comm->planned && zi_mpi_missing() == NULL)
        disconnect(n);
    if (comm->queue != NULL && comm->queue->guard == &n->guard)
        comm->queue->guard = NULL;
    zi_nccl_deregister(n, NULL);
    zi_nccl_unreserve(n);
    for (int i = 0; i < ZI_N_NCCL_LANES; i++)
        zi_device_cuda.close(n->lane[i].queue);
    zi_symmetric_free_all(comm, comm->broken);
    n->meeting->base.broken |= comm->broken; /* its end must not wait for a peer that is lost */
    zi_mem_free_table(comm->mem, n, sizeof *n);
}

/* What is left of a broken comm's memory is leaked: peers may still be writing to it. */
static void destroy(zi_comm *comm)
{
    if (comm == NULL)
        return;
    zi_mpi *via = ((zi_nccl_comm *)comm)->meeting;
    zi_nccl_leave((zi_nccl_comm *)comm);
    via->user = (zi_mpi_user){0};
    zi_comm_mpi.destroy(&via->base);
}

zopt_status zi_nccl_join(zi_mpi *meeting, const zi_comm_ops *ops, const zi_comm_config *config,
                         zi_mem *mem, zi_nccl_comm **out)
{
    zi_comm *via = &meeting->base;
    zi_nccl_comm *n;
    *out = NULL;
    zopt_status status = zi_comm_agree(via, zi_mem_table(mem, sizeof *n, &n));
    if (status != ZOPT_OK) {
        zi_mem_free_table(mem, n, sizeof *n);
        return status;
    }
    zi_comm *comm = &n->base;
    zi_comm_init(comm, ops, config, mem);
    n->between_nodes = meeting->user.comm != NULL;
    zi_comm_seat(comm, via->rank, via->world, n->between_nodes ? via->node.size : 1);
    n->sums.node_size = zi_nccl_declared_node_size(config->ranks_per_node, comm->world);
    comm->local_rank = via->local_rank;
    comm->comes_reduced = ops == &zi_comm_nccl_native;
    n->meeting = meeting;
    n->nccl = zi_nccl();
    n->windows = n->between_nodes ? ZI_WINDOWS_OFF : config->nccl_windows;
    if (n->windows != ZI_WINDOWS_OFF)
        comm->source = &zi_nccl_window_memory;
    status = comm->planned ? ZOPT_OK : connect(n, config);
    comm->phase = NULL;
    if (status == ZOPT_OK)
        *out = n;
    else
        zi_nccl_leave(n);
    return status;
}

static zopt_status create_row(const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem,
                              zi_comm **out)
{
    zi_mpi *meeting;
    zi_nccl_comm *n;
    *out = NULL;
    if (config->plan_world > 0)
        ZI_TRY(check_config(ops, config));
    ZI_TRY(zi_mpi_connect(ops, config, mem, &meeting));
    zopt_status status = zi_nccl_join(meeting, ops, config, mem, &n);
    if (status == ZOPT_OK) {
        *out = &n->base;
        return ZOPT_OK;
    }
    meeting->user = (zi_mpi_user){0};
    zi_comm_mpi.destroy(&meeting->base);
    return status;
}

static zopt_status create(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    return create_row(&zi_comm_nccl, config, mem, out);
}

static zopt_status create_native(const zi_comm_config *config, zi_mem *mem, zi_comm **out)
{
    return create_row(&zi_comm_nccl_native, config, mem, out);
}

static zopt_status alloc_symmetric(zi_comm *comm, zi_category category, size_t bytes,
                                   zi_symmetric *out)
{
    int lane = category == ZI_MEM_PARAMS ? ZI_NCCL_PARAMS : ZI_NCCL_GRADS;
    ZI_TRY(zi_symmetric_alloc(comm, category, bytes, 0, out));
    return zi_nccl_register((zi_nccl_comm *)comm, lane, out->base, bytes);
}

/* Transfers may still touch it. A wait that fails has broken the comm: leak. */
static void free_symmetric(zi_comm *comm, zi_category category, zi_symmetric *memory)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    for (int i = 0; i < ZI_N_NCCL_LANES && !comm->planned && !comm->broken; i++)
        (void)zi_nccl_checked(n, zi_device_cuda.wait(n->lane[i].queue));
    if (memory->base != NULL)
        zi_nccl_deregister(n, memory->base);
    zi_symmetric_free(comm, category, memory, comm->broken);
}

/* ------------------------------------------------------------------ small collectives -------- */

static zopt_status all_gather(zi_comm *comm, const void *send, size_t bytes, void *recv)
{
    ZI_TRY(zi_check_connected(comm, "all_gather"));
    return zi_nccl_checked((zi_nccl_comm *)comm,
                           zi_mpi_all_gather(&zi_nccl_meeting(comm)->base, send, bytes, recv));
}

static zopt_status all_reduce(zi_comm *comm, zi_reduce_op op, int64_t *values, size_t n)
{
    ZI_TRY(zi_check_connected(comm, "all_reduce"));
    return zi_nccl_checked((zi_nccl_comm *)comm,
                           zi_mpi_all_reduce(&zi_nccl_meeting(comm)->base, op, values, n));
}

static zopt_status broadcast(zi_comm *comm, int root, void *buffer, size_t bytes)
{
    ZI_TRY(zi_check_connected(comm, "broadcast"));
    return zi_nccl_checked((zi_nccl_comm *)comm,
                           zi_mpi_broadcast(&zi_nccl_meeting(comm)->base, root, buffer, bytes));
}

static zopt_status exchange(zi_comm *comm, const zi_message *messages, size_t n)
{
    ZI_TRY(zi_check_connected(comm, "exchange"));
    return zi_nccl_checked((zi_nccl_comm *)comm,
                           zi_mpi_exchange(&zi_nccl_meeting(comm)->base, messages, n));
}

/* ------------------------------------------------------------------ the rows ----------------- */

#define NCCL_OPS                                                                                  \
    .device_memory = 1, .device_direct = 1, .has_windows = 1, .replayable = 1, .device_waits = 1, \
    .missing = zi_nccl_missing, .destroy = destroy, .reserve = zi_nccl_reserve,                   \
    .alloc_symmetric = alloc_symmetric, .free_symmetric = free_symmetric,                         \
    .all_gather = all_gather, .all_reduce = all_reduce, .broadcast = broadcast,                   \
    .exchange = exchange, .expose = zi_nccl_expose, .expose_test = zi_nccl_expose_test,           \
    .expose_wait = zi_nccl_expose_wait, .consumed = zi_nccl_consumed,                             \
    .reuse_wait = zi_nccl_reuse_wait, .open = zi_nccl_open, .dest_wait = zi_nccl_dest_wait,       \
    .publish = zi_nccl_publish, .publish_wait = zi_nccl_publish_wait,                             \
    .record_end = zi_nccl_record_end, .record_agree = zi_nccl_record_agree,                       \
    .progress = zi_nccl_progress, .sum_enqueue = zi_nccl_sum_enqueue

const zi_comm_ops zi_comm_nccl = {
    .name = "nccl",
    .help = "an MPI world with a GPU for each rank: slices go from GPU to GPU, sums are zopt's",
    .wanted = wanted,
    .otherwise = &zi_comm_mpi,
    .create = create,
    .describe = zi_nccl_describe,
    NCCL_OPS,
};

const zi_comm_ops zi_comm_nccl_native = {
    .name = "nccl-native",
    .help = "the same with NCCL's own sums: not bit-invariant, results depend on the ranks",
    .bits_vary = 1,
    .wanted = never_wanted,
    .create = create_native,
    NCCL_OPS,
};
