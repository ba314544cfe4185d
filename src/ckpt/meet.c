/* Where the ranks of a save or an export meet on their way. */
#include "base/clock.h"
#include "base/status.h"
#include "ckpt/parts.h"

zopt_status zi_meet(zi_comm *comm)
{
    int64_t none = 0;
    return comm->ops->all_reduce(comm, ZI_MIN, &none, 1);
}

/* A disk may take longer than the deadline, a peer may not: ranks meet a few times in it. */
zopt_status zi_meet_disks(zi_comm *comm, int (*is_ready)(void *what), void *what)
{
    enum { MEETINGS = 4 };
    int64_t ready = 0;
    while (!ready) {
        zi_wait wait = {.until_ms = zi_now_ms() + (double)comm->deadline_ms / MEETINGS};
        do
            ready = what == NULL || is_ready(what);
        while (!ready && !zi_wait_pause(&wait));
        ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &ready, 1));
    }
    return ZOPT_OK;
}

static int has_room(void *writer)
{
    return zi_writer_has_room(writer);
}

zopt_status zi_meet_room(zi_comm *comm, zi_writer *writer)
{
    return zi_meet_disks(comm, has_room, writer);
}

static int is_written(void *writer)
{
    return zi_writer_is_done(writer);
}

zopt_status zi_meet_written(zi_comm *comm, zi_writer *writer)
{
    return zi_meet_disks(comm, is_written, writer);
}
