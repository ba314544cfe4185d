/* The deadline of calls that their caller cannot leave: those that start and end MPI, and any other
 * call of MPI that does not return. A thread of its own sleeps until what is watched expires, and
 * then calls on_hang. Waits that poll look at the clock themselves (wait.c) and are watched a
 * little longer. Without on_hang there is nothing to call, and no thread. */
#ifndef ZI_COMM_WATCHDOG_H
#define ZI_COMM_WATCHDOG_H

#include <pthread.h>
#include <stdatomic.h>

#include "comm/comm.h"

typedef struct zi_watchdog {
    const zi_comm *comm; /* whose calls these are: its on_hang, and the place for the text */
    int deadline_ms;     /* its, when the watchdog started */
    const char *call;    /* what is watched; belongs to the watched thread while until_us is 0 */
    _Atomic int64_t until_us; /* 0: nothing is watched; -1: the thread has taken the call over */
    int running;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int stop; /* under the mutex */
    int told; /* on_hang has returned; under the mutex */
} zi_watchdog;

/* The comm is lent: its step, phase and bucket must not change while something is watched. Errors:
 * ERR_FAILURE where there is no thread to be had. */
zopt_status zi_watchdog_start(zi_watchdog *dog, const zi_comm *comm);
/* Also of one that was never started. */
void zi_watchdog_stop(zi_watchdog *dog);

/* Watch a call: on_hang comes a deadline and `extra_ms` from now. No system call, no lock.
 * One call at a time. */
void zi_watchdog_arm(zi_watchdog *dog, const char *call, int extra_ms);

/* The call has returned. 1: too late, on_hang has been called, and has returned by now. */
int zi_watchdog_disarm(zi_watchdog *dog);

#endif
