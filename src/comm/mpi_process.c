/* MPI is one for the process: who started it, its start and its end, both under the watchdog, since
 * MPI offers no way to give up on them; and the communicators of others. Next: mpi.c. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

#include "comm/mpi_internal.h"

static struct {
    enum { NOT_OURS, OURS, ABANDONED } state;
    zi_comm last; /* the comm that ended last: no more of it than a watchdog asks for */
    pthread_mutex_t starting;
} mpi = {.starting = PTHREAD_MUTEX_INITIALIZER};

const char *zi_mpi_missing(void)
{
    int finalized = 0;
    MPI_Finalized(&finalized);
    return finalized ? "MPI has been finalized in this process" : NULL;
}

/* Did a launcher start this process with peers? Launchers that tell the number of processes say so
 * before MPI runs; the others at least number them. */
static int launched(void)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    if (size == NULL)
        size = getenv("PMI_SIZE");
    if (size != NULL)
        return strtol(size, NULL, 10) > 1;
    return getenv("PMI_RANK") != NULL || getenv("PMIX_RANK") != NULL;
}

int zi_mpi_local_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                        "SLURM_LOCALID"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *text = getenv(names[i]);
        long value = text != NULL ? strtol(text, NULL, 10) : -1;
        if (value >= 0 && value < INT_MAX)
            return (int)value;
    }
    return 0;
}

int zi_mpi_wanted(const zi_comm_config *config)
{
    int running = 0;
    if (config->plan_world > 0)
        return config->plan_world > 1;
    MPI_Initialized(&running);
    return config->has_comm || running || launched();
}

zopt_status zi_mpi_returned(zi_mpi *m, const char *call)
{
    if (!zi_watchdog_disarm(&m->watchdog))
        return ZOPT_OK;
    m->base.broken = 1;
    return ZI_FAIL(ZOPT_ERR_TIMEOUT, "%s returned after its deadline", call);
}

static zopt_status start_once(zi_mpi *m, int level)
{
    int running = 0, provided;
    MPI_Initialized(&running);
    if (running)
        return ZOPT_OK;
    zi_watchdog_arm(&m->watchdog, "MPI_Init_thread", 0);
    int rc = MPI_Init_thread(NULL, NULL, level, &provided);
    zopt_status status = zi_mpi_returned(m, "MPI_Init_thread");
    if (rc != MPI_SUCCESS)
        return ZI_FAIL(ZOPT_ERR_COMM, "MPI_Init_thread failed");
    mpi.state = OURS;
    return status;
}

/* Two threads that both started it would end the process. */
zopt_status zi_mpi_start(zi_mpi *m, int level)
{
    int is_main, provided;
    const char *why = zi_mpi_missing();
    if (why != NULL)
        return ZI_FAIL(ZOPT_ERR_ORDER, "transport over MPI: %s", why);
    pthread_mutex_lock(&mpi.starting);
    zopt_status status = start_once(m, level);
    pthread_mutex_unlock(&mpi.starting);
    ZI_TRY(status);
    MPI_Is_thread_main(&is_main);
    MPI_Query_thread(&provided);
    if (!is_main && provided < MPI_THREAD_SERIALIZED)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "MPI runs for the thread that started it alone, and this is another: ask "
                       "MPI_Init_thread for MPI_THREAD_SERIALIZED; threads as ranks meet over "
                       "transport \"threads\"");
    return ZOPT_OK;
}

/* Calls of zopt never overlap, but the caller may make its own while the thread makes one. */
zopt_status zi_mpi_check_threads(const zi_comm *comm)
{
    int level;
    MPI_Query_thread(&level);
    if (level == MPI_THREAD_MULTIPLE)
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                   "progress_thread over transport %s needs MPI_THREAD_MULTIPLE, and MPI "
                   "runs without: ask MPI_Init_thread for it, or do without progress_thread",
                   comm->ops->name);
}

void zi_mpi_left(const zi_mpi *m)
{
    mpi.last = (zi_comm){
        .rank = m->base.rank,
        .deadline_ms = m->base.deadline_ms,
        .on_hang = m->base.on_hang,
        .on_hang_arg = m->base.on_hang_arg,
        .phase = "end",
        .bucket = -1,
    };
}

void zi_mpi_abandon(void)
{
    if (mpi.state == OURS)
        mpi.state = ABANDONED;
}

void zopt_finalize(void)
{
    int finalized = 0;
    zi_watchdog dog = {0};
    if (mpi.state != OURS)
        return;
    MPI_Finalized(&finalized);
    if (!finalized) {
        (void)zi_watchdog_start(&dog, &mpi.last);
        zi_watchdog_arm(&dog, "MPI_Finalize", 0);
        MPI_Finalize();
        (void)zi_watchdog_disarm(&dog);
        zi_watchdog_stop(&dog);
    }
    mpi.state = NOT_OURS;
}

MPI_Errhandler zi_mpi_hush(MPI_Comm comm)
{
    MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
    MPI_Comm_get_errhandler(comm, &handler);
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    return handler;
}

void zi_mpi_unhush(MPI_Comm comm, MPI_Errhandler handler)
{
    MPI_Comm_set_errhandler(comm, handler);
    MPI_Errhandler_free(&handler);
}

zopt_status zi_mpi_parent(const zi_comm_config *config, MPI_Comm *parent)
{
    int is_inter = 0, world_size = 0;
    *parent = config->has_comm ? MPI_Comm_f2c((MPI_Fint)config->comm_f) : MPI_COMM_WORLD;
    /* An error on what is no communicator is raised on the world. */
    MPI_Errhandler handler = zi_mpi_hush(MPI_COMM_WORLD);
    int rc = *parent == MPI_COMM_NULL ? MPI_ERR_COMM : MPI_Comm_test_inter(*parent, &is_inter);
    zi_mpi_unhush(MPI_COMM_WORLD, handler);
    if (rc != MPI_SUCCESS || is_inter)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "comm_f %d is no %scommunicator", config->comm_f,
                       is_inter ? "intra-" : "");
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    return world_size == 1 ? zi_comm_check_alone() : ZOPT_OK;
}
