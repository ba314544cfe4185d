/* See background.h. */
#include "ckpt/background.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

static void *run(void *arg)
{
    zi_background *b = arg;
    b->status = b->call(b->arg);
    if (b->status != ZOPT_OK)
        snprintf(b->text, sizeof b->text, "%s", zopt_last_error());
    atomic_store(&b->finished, 1);
    return NULL;
}

zopt_status zi_background_start(zi_background *b, zopt_status (*call)(void *arg), void *arg)
{
    sigset_t all, before;
    b->call = call;
    b->arg = arg;
    atomic_store(&b->finished, 0);
    sigfillset(&all); /* signals are for the caller's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&b->thread, NULL, run, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no thread for a checkpoint: %s", strerror(failed));
    b->running = 1;
    return ZOPT_OK;
}

int zi_background_is_done(const zi_background *b)
{
    return !b->running || atomic_load(&b->finished);
}

zopt_status zi_background_finish(zi_background *b)
{
    if (!b->running)
        return ZOPT_OK;
    pthread_join(b->thread, NULL);
    b->running = 0;
    return b->status == ZOPT_OK ? ZOPT_OK : ZI_FAIL(b->status, "%s", b->text);
}
