/* Barriers and one clock for all ranks, and memory that they share: the heap where ranks are
 * threads, files in memory that each rank opens of all others where they are processes. */
#include "bench/crew.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/status.h"

enum { DEADLINE_MS = 300000, NAME_BYTES = 64 };

static zopt_status check_machine(const bench_crew *crew)
{
    char mine[NAME_BYTES] = "", all[BENCH_MAX_RANKS][NAME_BYTES];
    if (crew->world > BENCH_MAX_RANKS)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "%d ranks are more than %d", crew->world,
                       BENCH_MAX_RANKS);
    gethostname(mine, sizeof mine - 1);
    ZI_TRY(crew->comm->ops->all_gather(crew->comm, mine, sizeof mine, all));
    for (int r = 1; r < crew->world; r++)
        if (memcmp(all[0], all[r], sizeof all[0]) != 0)
            return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                           "ranks are on several machines (%s, %s): the limit is what one "
                           "machine's memory allows",
                           all[0], all[r]);
    return ZOPT_OK;
}

static zopt_status open_device(bench_crew *crew, const char *name)
{
    ZI_TRY(zi_device_find(name, 0, &crew->device));
    return crew->device->on_host ? ZOPT_OK
                                 : crew->device->open(crew->comm->local_rank, &crew->queue);
}

zopt_status bench_crew_join(bench_crew *crew, const bench_crew_config *config)
{
    const zi_comm_config comm_config = {.threads = config->threads,
                                        .threads_rank = config->rank,
                                        .deadline_ms = DEADLINE_MS,
                                        .progress_thread = config->progress_thread};
    int with_mpi = config->with_mpi && config->threads == NULL;
    *crew = (bench_crew){.threads = config->threads};
    ZI_TRY(zi_comm_connect(with_mpi ? "mpi" : "auto", &comm_config, &crew->mem, &crew->comm));
    crew->rank = crew->comm->rank;
    crew->world = crew->comm->world;
    ZI_TRY(check_machine(crew));
    return zi_comm_agree(crew->comm, open_device(crew, config->device));
}

void bench_crew_leave(bench_crew *crew)
{
    if (crew->queue != NULL)
        crew->device->close(crew->queue);
    crew->queue = NULL;
    if (crew->comm != NULL)
        crew->comm->ops->destroy(crew->comm);
    crew->comm = NULL;
}

zopt_status bench_crew_time(bench_crew *crew, zopt_status (*round)(void *self), void *self,
                            double *ms)
{
    int64_t together = 0;
    ZI_TRY(crew->comm->ops->all_reduce(crew->comm, ZI_MIN, &together, 1));
    double start_ms = zi_now_ms();
    zopt_status status = round(self);
    double end_ms = zi_now_ms();
    ZI_TRY(zi_comm_agree(crew->comm, status));
    int64_t ns[2] = {(int64_t)(start_ms * 1e6), -(int64_t)(end_ms * 1e6)};
    ZI_TRY(crew->comm->ops->all_reduce(crew->comm, ZI_MIN, ns, 2));
    *ms = (double)(-ns[1] - ns[0]) * 1e-6;
    return ZOPT_OK;
}

/* ---- shared memory ---- */

/* Where a rank's memory is to be found by the others. */
typedef struct locator {
    void *address; /* in the process that threads share */
    int pid, fd;
} locator;

/* All ranks are threads of this process, or it is the only one. */
static int is_one_process(const bench_crew *crew)
{
    return crew->threads != NULL || crew->world == 1;
}

static zopt_status create_mine(const bench_crew *crew, bench_shared *s, locator *mine)
{
    if (is_one_process(crew)) {
        s->at[crew->rank] = mine->address = zi_aligned_zalloc(s->bytes);
        return mine->address != NULL ? ZOPT_OK : ZI_FAIL(ZOPT_ERR_MEMORY, "no %zu bytes", s->bytes);
    }
    mine->pid = (int)getpid();
    mine->fd = memfd_create("zopt-bench", MFD_CLOEXEC);
    if (mine->fd < 0 || posix_fallocate(mine->fd, 0, (off_t)s->bytes) != 0)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no %zu bytes of shared memory", s->bytes);
    return ZOPT_OK;
}

static zopt_status map_theirs(const bench_crew *crew, bench_shared *s, int rank, const locator *l)
{
    char path[64];
    if (is_one_process(crew)) {
        s->at[rank] = l->address;
        return ZOPT_OK;
    }
    snprintf(path, sizeof path, "/proc/%d/fd/%d", l->pid, l->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *at = fd < 0
                   ? MAP_FAILED
                   : mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (fd >= 0)
        close(fd);
    if (at == MAP_FAILED)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "cannot map the memory of rank %d, %s: %m", rank, path);
    s->at[rank] = at;
    return ZOPT_OK;
}

zopt_status bench_shared_open(bench_crew *crew, size_t bytes, bench_shared *out)
{
    locator mine = {.fd = -1}, all[BENCH_MAX_RANKS];
    *out = (bench_shared){.bytes = bytes};
    zopt_status status = zi_comm_agree(crew->comm, create_mine(crew, out, &mine));
    if (status == ZOPT_OK)
        status = crew->comm->ops->all_gather(crew->comm, &mine, sizeof mine, all);
    for (int r = 0; r < crew->world && status == ZOPT_OK; r++)
        status = map_theirs(crew, out, r, &all[r]);
    status = zi_comm_agree(crew->comm, status); /* then nobody opens this rank's file any more */
    if (mine.fd >= 0)
        close(mine.fd);
    return status;
}

void bench_shared_close(const bench_crew *crew, bench_shared *shared)
{
    for (int r = 0; r < crew->world; r++) {
        if (!is_one_process(crew) && shared->at[r] != NULL)
            munmap(shared->at[r], shared->bytes);
        else if (is_one_process(crew) && r == crew->rank)
            free(shared->at[r]);
    }
    *shared = (bench_shared){0};
}
