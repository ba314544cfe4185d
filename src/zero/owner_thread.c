/* The owner's first passes on a thread of the library's own, the progress thread, while the caller
 * computes on another core; a part of the update (update.c); and transfers that need calls to move,
 * parameters behind a step too. It works from a zopt_grad_ready or a zopt_step on until the caller
 * wants the tables of sources or the comm for itself. One mutex keeps the comm, its place in the
 * text of a hang and the counts of buckets: both threads hold it for what they do with those, and
 * the caller for waits too, as this thread never does what a peer waits for. A kernel runs without
 * it. Worth it where a rank has a second core; else calls cost the same (README), so that they are
 * the default. */
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "base/status.h"
#include "zero/passes.h"

typedef struct zi_owner_thread {
    zi_zero *z;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int running; /* 1: it was started */
    /* Under the mutex. */
    int works;  /* 1: it may */
    int moving; /* 1: transfers are under way */
    int busy;   /* 1: in a pass, to which tables and sums belong */
    int stop;
    zopt_status status; /* what has failed; nothing works from then on */
    char error[512];
} zi_owner_thread;

/* Of a handle that has one, and has come that far. */
static zi_owner_thread *thread_of(const zi_zero *z)
{
    return z->thread != NULL && z->thread->running ? z->thread : NULL;
}

/* While it may not work the counts and the comm are the caller's, without the mutex. */
static int has_work(const zi_owner_thread *t)
{
    if (!t->works || t->status != ZOPT_OK || t->z->comm->broken)
        return 0;
    return t->moving || t->z->n_passed < t->z->n_exposed || zi_update_is_left(t->z);
}

static void begin_kernel(zi_owner_thread *t)
{
    t->busy = 1;
    pthread_mutex_unlock(&t->mutex);
}

static void end_kernel(zi_owner_thread *t)
{
    pthread_mutex_lock(&t->mutex);
    t->busy = 0;
    pthread_cond_broadcast(&t->changed);
}

/* A bucket's first pass, if there is one that waits for it: *did = 1. */
static zopt_status pass(zi_owner_thread *t, int *did)
{
    const zi_bucket *bucket;
    zi_job job;
    ZI_TRY(zi_owner_take(t->z, &bucket, &job));
    *did = bucket != NULL;
    if (bucket == NULL)
        return ZOPT_OK;
    begin_kernel(t);
    zi_owner_pass(t->z, bucket, &job);
    end_kernel(t);
    t->z->n_passed++;
    return ZOPT_OK;
}

/* A bucket's update, likewise. */
static zopt_status update(zi_owner_thread *t, int *did)
{
    zi_hand *hand = &t->z->hand[ZI_THREADS_HAND];
    ZI_TRY(zi_update_take_ready(t->z, hand));
    *did = hand->is_full;
    if (!hand->is_full)
        return ZOPT_OK;
    begin_kernel(t);
    zi_update_run(t->z, hand);
    end_kernel(t);
    return zi_update_end(t->z, hand);
}

/* *did = 1: there was a bucket. The mutex is held, and left while a kernel runs. */
static zopt_status work(zi_owner_thread *t, int *did)
{
    int idle = 0;
    ZI_TRY(t->z->comm->ops->progress(t->z->comm, &idle));
    t->moving = !idle;
    return t->z->sharing ? update(t, did) : pass(t, did);
}

/* Keeps what fails for the caller. */
static int try_work(zi_owner_thread *t)
{
    int did = 0;
    t->status = work(t, &did);
    if (t->status != ZOPT_OK)
        snprintf(t->error, sizeof t->error, "%s", zopt_last_error());
    return did;
}

/* Peers that are late are looked for again and again, up to 20,000 times a second. How long they
 * may be is the caller's to know. */
static void *run(void *arg)
{
    zi_owner_thread *t = arg;
    zi_wait wait;
    fesetenv(FE_DFL_ENV);
    zi_wait_begin(&wait, t->z->comm);
    pthread_mutex_lock(&t->mutex);
    while (!t->stop) {
        if (!has_work(t)) {
            pthread_cond_wait(&t->changed, &t->mutex);
            wait.n_pauses = 0;
        } else if (!try_work(t)) {
            pthread_mutex_unlock(&t->mutex);
            (void)zi_wait_pause(&wait);
            pthread_mutex_lock(&t->mutex);
        }
    }
    pthread_mutex_unlock(&t->mutex);
    return NULL;
}

/* Signals are for the program's own threads. */
static int start(zi_owner_thread *t)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&t->thread, NULL, run, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

zopt_status zi_owner_start(zi_zero *z)
{
    zi_owner_thread *t;
    if (!z->config.progress_thread)
        return ZOPT_OK;
    ZI_TRY(zi_mem_table(z->mem, sizeof *t, &t));
    z->thread = t;
    t->z = z;
    if (z->comm->planned)
        return ZOPT_OK;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->changed, NULL);
    t->running = start(t) == 0;
    if (t->running)
        return ZOPT_OK;
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->mutex);
    return ZI_FAIL(ZOPT_ERR_FAILURE, "rank %d: no thread for progress_thread", z->comm->rank);
}

void zi_owner_stop(zi_zero *z)
{
    zi_owner_thread *t = thread_of(z);
    if (t != NULL) {
        pthread_mutex_lock(&t->mutex);
        t->stop = 1;
        pthread_cond_broadcast(&t->changed);
        pthread_mutex_unlock(&t->mutex);
        pthread_join(t->thread, NULL);
        pthread_cond_destroy(&t->changed);
        pthread_mutex_destroy(&t->mutex);
    }
    zi_mem_free_table(z->mem, z->thread, sizeof *t);
    z->thread = NULL;
}

void zi_owner_lock(const zi_zero *z)
{
    if (thread_of(z) != NULL)
        pthread_mutex_lock(&z->thread->mutex);
}

void zi_owner_unlock(const zi_zero *z)
{
    if (thread_of(z) != NULL)
        pthread_mutex_unlock(&z->thread->mutex);
}

void zi_owner_wake(zi_zero *z)
{
    zi_owner_thread *t = thread_of(z);
    if (t == NULL)
        return;
    t->works = 1;
    t->moving = z->comm->node.size < z->comm->world;
    if (has_work(t))
        pthread_cond_broadcast(&t->changed);
}

/* The mutex is held. */
static zopt_status failure(const zi_owner_thread *t)
{
    return t->status == ZOPT_OK ? ZOPT_OK : ZI_FAIL(t->status, "%s", t->error);
}

zopt_status zi_owner_failure(const zi_zero *z)
{
    zi_owner_thread *t = thread_of(z);
    if (t == NULL)
        return ZOPT_OK;
    pthread_mutex_lock(&t->mutex);
    zopt_status status = failure(t);
    pthread_mutex_unlock(&t->mutex);
    return status;
}

zopt_status zi_owner_rest(zi_zero *z)
{
    zi_owner_thread *t = thread_of(z);
    if (t == NULL)
        return ZOPT_OK;
    pthread_mutex_lock(&t->mutex);
    int phase = zi_phase(z, zi_owner_phase(z));
    t->works = 0;
    while (t->busy)
        pthread_cond_wait(&t->changed, &t->mutex);
    zi_phase(z, phase);
    zopt_status status = failure(t);
    pthread_mutex_unlock(&t->mutex);
    return status;
}
