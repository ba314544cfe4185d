/* The table of transports, the choice among them, and what all of them share: order checks and
 * agreement on a status; symmetric.c has their memory. How bytes move is in self.c, threads.c,
 * shm.c, nodes.c, ipc.c, nccl.c and mpi.c. */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/common.h"

/* In the order in which "auto" asks them. */
const zi_comm_ops *const zi_comms[] = {&zi_comm_threads, &zi_comm_shm,         &zi_comm_ipc,
                                       &zi_comm_nccl,    &zi_comm_nccl_native, &zi_comm_mpi,
                                       &zi_comm_self};
const size_t zi_n_comms = sizeof zi_comms / sizeof zi_comms[0];

#if !defined(ZI_HAVE_MPI) || !defined(ZI_HAVE_NCCL)
static int never_wanted(const zi_comm_config *config)
{
    (void)config;
    return 0;
}
#endif

#ifndef ZI_HAVE_NCCL
static const char *built_without_nccl(void)
{
    return "built without NCCL (ZOPT_NCCL; it needs CUDA and MPI too)";
}

const zi_comm_ops zi_comm_nccl = {
    .name = "nccl",
    .help = "GPUs of an MPI world, one for each rank",
    .missing = built_without_nccl,
    .wanted = never_wanted,
};

const zi_comm_ops zi_comm_nccl_native = {
    .name = "nccl-native",
    .help = "the same, not bit-invariant",
    .missing = built_without_nccl,
    .wanted = never_wanted,
};

zopt_status zi_nccl_carry(struct zi_shm *s, const zi_comm_config *config)
{
    (void)s;
    if (config->between_nodes != ZI_BETWEEN_NCCL)
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "between_nodes \"nccl\": %s", built_without_nccl());
}
#endif

#ifndef ZI_HAVE_MPI
static const char *built_without(void)
{
    return "built without MPI (ZOPT_MPI=OFF)";
}

const zi_comm_ops zi_comm_mpi = {
    .name = "mpi",
    .help = "any MPI world",
    .missing = built_without,
    .wanted = never_wanted,
};

const zi_comm_ops zi_comm_shm = {
    .name = "shm",
    .help = "an MPI world on one node",
    .missing = built_without,
    .wanted = never_wanted,
};

const zi_comm_ops zi_comm_ipc = {
    .name = "ipc",
    .help = "an MPI world on GPUs",
    .missing = built_without,
    .wanted = never_wanted,
};

void zopt_finalize(void)
{
}
#endif

/* What launchers tell their processes; a greater value means that there are others. A whole Slurm
 * job's variables say nothing about a step, or a job of mpirun, inside it. */
static const struct {
    const char *name;
    long alone;
    int whole_job;
} launch_variables[] = {
    {"WORLD_SIZE", 1, 0},   {"RANK", 0, 0},         {"OMPI_COMM_WORLD_SIZE", 1, 0},
    {"PMI_SIZE", 1, 0},     {"SLURM_PROCID", 0, 1}, {"SLURM_STEP_NUM_TASKS", 1, 1},
    {"SLURM_NTASKS", 1, 1},
};

/* 1: mpirun or a Slurm step has said how many processes there are. */
static int has_closer_launcher(const char *name)
{
    if (getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMI_SIZE") != NULL)
        return 1;
    return getenv("SLURM_STEP_NUM_TASKS") != NULL && strcmp(name, "SLURM_STEP_NUM_TASKS") != 0;
}

zopt_status zi_comm_check_alone(void)
{
    for (size_t i = 0; i < sizeof launch_variables / sizeof launch_variables[0]; i++) {
        const char *name = launch_variables[i].name;
        const char *text = getenv(name);
        if (launch_variables[i].whole_job && has_closer_launcher(name))
            continue;
        if (text != NULL && strtol(text, NULL, 10) > launch_variables[i].alone)
            return ZI_FAIL(
                ZOPT_ERR_LAUNCH,
                "%s=%s says that this process is one of several, but it would run alone: "
                "start it with mpirun -n N or srun --mpi=pmix, of the MPI that zopt is "
                "built with; or unset %s, or ask for transport \"self\"",
                name, text, name);
    }
    return ZOPT_OK;
}

/* NULL where the row can be used. A plan needs it in this build, but not on this machine. */
static const char *why_not(const zi_comm_ops *ops, const zi_comm_config *config)
{
    return config->plan_world > 0 && ops->create != NULL ? NULL : ops->missing();
}

static zopt_status find_auto(const zi_comm_config *config, const zi_comm_ops **out)
{
    /* Where nobody wants it, it is a plan for several ranks in a build without MPI. */
    const zi_comm_ops *found = &zi_comm_threads;
    for (size_t i = 0; i < zi_n_comms; i++) {
        int can = config->device == NULL || zi_comms[i]->device_memory;
        if (can && zi_comms[i]->wanted(config) && why_not(zi_comms[i], config) == NULL) {
            found = zi_comms[i];
            break;
        }
    }
    if (found == &zi_comm_self && config->plan_world == 0)
        ZI_TRY(zi_comm_check_alone());
    *out = found;
    return ZOPT_OK;
}

zopt_status zi_comm_find(const char *name, const zi_comm_config *config, const zi_comm_ops **out)
{
    const char *names[sizeof zi_comms / sizeof zi_comms[0]];
    *out = NULL;
    if (strcmp(name, "auto") == 0)
        return find_auto(config, out);
    for (size_t i = 0; i < zi_n_comms; i++) {
        names[i] = zi_comms[i]->name;
        if (strcmp(name, names[i]) != 0)
            continue;
        const char *missing = why_not(zi_comms[i], config);
        if (missing != NULL)
            return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "transport %s: %s", name, missing);
        *out = zi_comms[i];
        return ZOPT_OK;
    }
    char all[128] = "";
    for (size_t i = 0; i < zi_n_comms; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), ", %s", names[i]);
    const char *near = zi_nearest(name, names, zi_n_comms, sizeof names[0]);
    return near != NULL ? ZI_FAIL(ZOPT_ERR_CONFIG,
                                  "transport \"%s\" is not known; did you mean \"%s\"?", name, near)
                        : ZI_FAIL(ZOPT_ERR_CONFIG,
                                  "transport \"%s\" is not known; there are auto%s", name, all);
}

const char *const zi_between_words[] = {
    [ZI_BETWEEN_AUTO] = "auto", [ZI_BETWEEN_MPI] = "mpi", [ZI_BETWEEN_NCCL] = "nccl"};
const char *const zi_windows_words[] = {
    [ZI_WINDOWS_OFF] = "off", [ZI_WINDOWS_ON] = "on", [ZI_WINDOWS_COPY_ENGINES] = "copy-engines"};

/* Ranks that have met know that they asked for the same. */
static zopt_status check_asked(const zi_comm_ops *ops, const zi_comm_config *config)
{
    if (config->between_nodes == ZI_BETWEEN_NCCL && !ops->has_carriers)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "between_nodes \"nccl\" is for transport \"ipc\", not for \"%s\"",
                       ops->name);
    if (config->nccl_windows != ZI_WINDOWS_OFF && !ops->has_windows)
        return ZI_FAIL(
            ZOPT_ERR_UNSUPPORTED,
            "nccl_windows is for transports \"nccl\" and \"nccl-native\", not for \"%s\"",
            ops->name);
    return ZOPT_OK;
}

zopt_status zi_comm_connect(const char *name, const zi_comm_config *config, zi_mem *mem,
                            zi_comm **out)
{
    const zi_comm_ops *ops;
    *out = NULL;
    zopt_status status = zi_comm_find(name, config, &ops);
    if (ops == NULL)
        return status;
    status = ops->create(config, mem, out);
    int is_asked =
        config->nccl_windows != ZI_WINDOWS_OFF || config->between_nodes == ZI_BETWEEN_NCCL;
    int may_differ = strcmp(name, "auto") == 0 && !is_asked; /* the reason would be lost */
    if (status == ZOPT_ERR_UNSUPPORTED && ops->otherwise != NULL && may_differ)
        status = ops->otherwise->create(config, mem, out);
    if (status != ZOPT_OK)
        return status;
    status = check_asked((*out)->ops, config);
    if (status != ZOPT_OK) {
        (*out)->ops->destroy(*out);
        *out = NULL;
    }
    return status;
}

void zi_comm_init(zi_comm *comm, const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem)
{
    comm->ops = ops;
    comm->mem = mem;
    comm->planned = config->plan_world > 0;
    comm->shared_params = config->shared_params;
    if (comm->planned)
        zi_comm_seat(comm, config->plan_rank, config->plan_world, config->plan_world);
    else
        zi_comm_seat(comm, 0, 1, 1);
    comm->deadline_ms = config->deadline_ms;
    comm->device = zi_devices[0];
    comm->on_hang = config->on_hang;
    comm->on_hang_arg = config->on_hang_arg;
    comm->bucket = -1;
}

void zi_comm_seat(zi_comm *comm, int rank, int world, int node_size)
{
    comm->rank = rank;
    comm->world = world;
    comm->local_rank = rank % node_size;
    comm->node = (zi_ranks){.base = rank - rank % node_size, .stride = 1, .size = node_size};
}

int zi_is_near(const zi_comm *comm, int rank)
{
    return rank >= comm->node.base && rank < comm->node.base + comm->node.size;
}

int zi_comes_summed(const zi_comm *comm, zopt_dtype dtype, int rank)
{
    return comm->sums_travel && !zi_is_near(comm, rank) &&
           (size_t)comm->reduce_group * zopt_dtype_bytes(dtype) > sizeof(float);
}

zopt_status zi_check_connected(const zi_comm *comm, const char *call)
{
    if (comm->broken)
        return ZI_FAIL(ZOPT_ERR_COMM, "%s: an earlier call of transport %s failed", call,
                       comm->ops->name);
    if (comm->planned)
        return ZI_FAIL(ZOPT_ERR_COMM, "%s: a plan has no peers", call);
    return ZOPT_OK;
}

zopt_status zi_check_next(zi_comm *comm, const char *call, uint64_t next, uint64_t ordinal)
{
    if (ordinal == next)
        return ZOPT_OK;
    comm->broken = 1;
    return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: %s of transfer %llu out of order, the next is %llu",
                   comm->rank, call, (unsigned long long)ordinal, (unsigned long long)next);
}

zopt_status zi_check_begun(zi_comm *comm, const char *call, uint64_t n_begun, uint64_t ordinal)
{
    if (ordinal < n_begun)
        return ZOPT_OK;
    comm->broken = 1;
    return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: %s of transfer %llu, but only %llu were begun",
                   comm->rank, call, (unsigned long long)ordinal, (unsigned long long)n_begun);
}

zopt_status zi_check_messages(zi_comm *comm, const zi_message *messages, size_t n)
{
    ZI_TRY(zi_check_connected(comm, "exchange"));
    int bad = n > ZI_MAX_MESSAGES;
    for (size_t i = 0; i < n && !bad; i++) {
        const zi_message *m = &messages[i];
        bad = m->peer < 0 || m->peer >= comm->world || m->peer == comm->rank || m->bytes == 0 ||
              m->bytes > ZI_MAX_MESSAGE_BYTES;
    }
    if (!bad)
        return ZOPT_OK;
    comm->broken = 1;
    return ZI_FAIL(ZOPT_ERR_COMM, "rank %d: exchange of %zu messages that break its rules",
                   comm->rank, n);
}

/* One number per rank, of which the greatest wins: how bad, then which rank, the lowest first.
 * ERR_PEER is an echo of another rank's failure, so it is the least bad. */
enum { RANK_BITS = 32, RANK_MASK = 0x7fffffff };

static int64_t badness(zopt_status status)
{
    return status == ZOPT_OK ? 0 : status == ZOPT_ERR_PEER ? 1 : 1 + (int64_t)status;
}

static zopt_status status_of(int64_t bad)
{
    return bad == 0 ? ZOPT_OK : bad == 1 ? ZOPT_ERR_PEER : (zopt_status)(bad - 1);
}

zopt_status zi_comm_agree(zi_comm *comm, zopt_status mine)
{
    char own[ZI_AGREE_TEXT] = "", text[ZI_AGREE_TEXT] = "";
    if (mine != ZOPT_OK)
        snprintf(own, sizeof own, "%s", zopt_last_error());
    if (comm->planned || (comm->broken && mine != ZOPT_OK))
        return mine;

    int64_t worst = badness(mine) * ((int64_t)1 << RANK_BITS) + (RANK_MASK - comm->rank);
    zopt_status status = comm->ops->all_reduce(comm, ZI_MAX, &worst, 1);
    if (status == ZOPT_OK) {
        status = status_of(worst >> RANK_BITS);
        int rank = RANK_MASK - (int)(worst & RANK_MASK);
        if (status == ZOPT_OK)
            return ZOPT_OK;
        memcpy(text, own, sizeof text);
        if (comm->ops->broadcast(comm, rank, text, sizeof text) != ZOPT_OK)
            snprintf(text, sizeof text, "%s", zopt_status_text(status));
        text[sizeof text - 1] = '\0';
        if (mine == ZOPT_OK)
            return ZI_FAIL(status, "rank %d: %s", rank, text);
    }
    if (mine == ZOPT_OK)
        return status;
    return ZI_FAIL(status, "%s", own);
}
