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

int zi_wait_pause(zi_wait *wait)
{
    if (wait->n_spins > 0) {
        wait->n_spins--;
        RELAX();
        return 0;
    }
    if (wait->n_pauses < N_YIELDS) {
        wait->n_pauses++;
        sched_yield();
    } else {
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
    }
    return zi_now_ms() > wait->until_ms;
}

zopt_status zi_wait_hang(zi_comm *comm, const char *what, const char *missing_ranks)
{
    char where[96] = "", bucket[32] = "", text[512];
    if (comm->bucket >= 0)
        snprintf(bucket, sizeof bucket, ", bucket %d", comm->bucket);
    if (comm->step == 0 && comm->phase != NULL)
        snprintf(where, sizeof where, " in phase %s", comm->phase);
    else if (comm->phase != NULL)
        snprintf(where, sizeof where, " in step %llu, phase %s%s", (unsigned long long)comm->step,
                 comm->phase, bucket);
    const char *of = missing_ranks[0] == '\0'               ? ""
                     : strpbrk(missing_ranks, ",.") != NULL ? " of ranks "
                                                            : " of rank ";
    snprintf(text, sizeof text, "rank %d waited %g s%s: %s%s%s have not arrived", comm->rank,
             comm->deadline_ms / 1e3, where, what, of, missing_ranks);
    comm->broken = 1;
    if (comm->on_hang != NULL)
        comm->on_hang(comm->on_hang_arg, text);
    return ZI_FAIL(ZOPT_ERR_TIMEOUT, "%s", text);
}
