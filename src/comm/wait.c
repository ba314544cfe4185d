/* Waiting for peers: give the core away between tests, and say what was waited for when the
 * deadline passes. */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/status.h"
#include "comm/comm.h"

/* A yield costs about 1 us on an idle core; after so many, peers are not about to arrive, and on
 * a machine with more ranks than cores they need this one's. */
enum { N_YIELDS = 500, SLEEP_NS = 50000 };

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

void zi_wait_begin(zi_wait *wait, const zi_comm *comm)
{
    wait->until_ms = zi_now_ms() + comm->deadline_ms;
    wait->n_spins = 0;
    wait->n_pauses = 0;
}

int zi_wait_is_long(const zi_wait *wait)
{
    return wait->n_spins == 0 && wait->n_pauses >= N_YIELDS;
}

int zi_wait_pause(zi_wait *wait)
{
    if (wait->n_spins > 0) {
        wait->n_spins--;
        RELAX();
        return 0;
    }
    if (!zi_wait_is_long(wait)) {
        wait->n_pauses++;
        sched_yield();
    } else {
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
    }
    return zi_now_ms() > wait->until_ms;
}

/* "rank 1 waited 5 s in step 12, phase reduce, bucket 3: " */
static int write_place(const zi_comm *comm, char *text, size_t size)
{
    char who[24] = "", bucket[32] = "", place[96] = "";
    if (comm->rank >= 0)
        snprintf(who, sizeof who, "rank %d ", comm->rank);
    if (comm->bucket >= 0)
        snprintf(bucket, sizeof bucket, ", bucket %d", comm->bucket);
    if (comm->step == 0 && comm->phase != NULL)
        snprintf(place, sizeof place, " in phase %s", comm->phase);
    else if (comm->phase != NULL)
        snprintf(place, sizeof place, " in step %llu, phase %s%s", (unsigned long long)comm->step,
                 comm->phase, bucket);
    return snprintf(text, size, "%swaited %g s%s: ", who, comm->deadline_ms / 1e3, place);
}

void zi_wait_text(const zi_comm *comm, const char *what, char text[ZI_WAIT_TEXT])
{
    int used = write_place(comm, text, ZI_WAIT_TEXT);
    snprintf(text + used, ZI_WAIT_TEXT - (size_t)used, "%s", what);
}

/* "2", "0, 2" or "0, 2, ..." behind what they have not sent. */
static const char *before_ranks(const char *ranks)
{
    if (ranks[0] == '\0')
        return "";
    return strpbrk(ranks, ",.") != NULL ? " of ranks " : " of rank ";
}

zopt_status zi_wait_hang(zi_comm *comm, const char *what, const char *missing_ranks)
{
    char late[256], text[ZI_WAIT_TEXT];
    snprintf(late, sizeof late, "%s%s%s have not arrived", what, before_ranks(missing_ranks),
             missing_ranks);
    zi_wait_text(comm, late, text);
    comm->broken = 1;
    if (comm->on_hang != NULL)
        comm->on_hang(comm->on_hang_arg, text);
    return ZI_FAIL(ZOPT_ERR_TIMEOUT, "%s", text);
}

void zi_rank_list(zi_rank_text *list, int rank)
{
    size_t used = strlen(list->text), size = sizeof list->text;
    if (used > 0 && list->text[used - 1] == '.')
        return;
    if (used + 16 > size)
        snprintf(list->text + used, size - used, ", ...");
    else
        snprintf(list->text + used, size - used, "%s%d", used > 0 ? ", " : "", rank);
}
