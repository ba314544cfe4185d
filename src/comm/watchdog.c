/* The watchdog: one atomic deadline, stored by the thread that is watched and taken over, if it
 * expires, by the one that watches. Whoever exchanges it decides whether the call was in time, so
 * on_hang is called once and never for a call that has returned. */
#include "comm/watchdog.h"

#include <signal.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/status.h"

enum { TAKEN = -1 };

static int64_t now_us(void)
{
    return (int64_t)(zi_now_ms() * 1e3);
}

static int64_t deadline_us(const zi_watchdog *dog)
{
    return (int64_t)dog->deadline_ms * 1000;
}

/* The mutex is held, and left while on_hang runs. */
static void bark(zi_watchdog *dog)
{
    char what[128], text[ZI_WAIT_TEXT];
    snprintf(what, sizeof what, "%s has not returned", dog->call);
    zi_wait_text(dog->comm, what, text);
    pthread_mutex_unlock(&dog->mutex);
    dog->comm->on_hang(dog->comm->on_hang_arg, text);
    pthread_mutex_lock(&dog->mutex);
    dog->told = 1;
    pthread_cond_broadcast(&dog->changed);
}

/* Sleeps a deadline at a time: what is armed meanwhile does not expire before. */
static void *watch(void *arg)
{
    zi_watchdog *dog = arg;
    pthread_mutex_lock(&dog->mutex);
    while (!dog->stop) {
        int64_t now = now_us(), until = atomic_load(&dog->until_us);
        if (until > 0 && until <= now) {
            if (atomic_compare_exchange_strong(&dog->until_us, &until, TAKEN))
                bark(dog);
            continue;
        }
        int64_t wake = until > 0 ? until : now + deadline_us(dog);
        const struct timespec at = {.tv_sec = wake / 1000000, .tv_nsec = wake % 1000000 * 1000};
        pthread_cond_timedwait(&dog->changed, &dog->mutex, &at);
    }
    pthread_mutex_unlock(&dog->mutex);
    return NULL;
}

/* Signals are for the program's own threads. */
static int start_thread(zi_watchdog *dog)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&dog->thread, NULL, watch, dog);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

zopt_status zi_watchdog_start(zi_watchdog *dog, const zi_comm *comm)
{
    pthread_condattr_t monotonic;
    *dog = (zi_watchdog){.comm = comm, .deadline_ms = comm->deadline_ms};
    if (comm->on_hang == NULL)
        return ZOPT_OK;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&dog->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&dog->mutex, NULL);
    dog->running = start_thread(dog) == 0;
    if (dog->running)
        return ZOPT_OK;
    pthread_cond_destroy(&dog->changed);
    pthread_mutex_destroy(&dog->mutex);
    return ZI_FAIL(ZOPT_ERR_FAILURE, "no thread for the watchdog that on_hang needs");
}

void zi_watchdog_stop(zi_watchdog *dog)
{
    if (!dog->running)
        return;
    pthread_mutex_lock(&dog->mutex);
    dog->stop = 1;
    pthread_cond_broadcast(&dog->changed);
    pthread_mutex_unlock(&dog->mutex);
    pthread_join(dog->thread, NULL);
    pthread_cond_destroy(&dog->changed);
    pthread_mutex_destroy(&dog->mutex);
    dog->running = 0;
}

void zi_watchdog_arm(zi_watchdog *dog, const char *call, int extra_ms)
{
    if (!dog->running)
        return;
    dog->call = call;
    atomic_store_explicit(&dog->until_us, now_us() + deadline_us(dog) + extra_ms * INT64_C(1000),
                          memory_order_release);
}

int zi_watchdog_disarm(zi_watchdog *dog)
{
    if (!dog->running || atomic_exchange(&dog->until_us, 0) != TAKEN)
        return 0;
    pthread_mutex_lock(&dog->mutex);
    while (!dog->told)
        pthread_cond_wait(&dog->changed, &dog->mutex);
    dog->told = 0;
    pthread_mutex_unlock(&dog->mutex);
    return 1;
}
