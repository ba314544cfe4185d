/* See writer.h. Buffers are used round and round: the rank is ahead of the thread by at most all of
 * them. */
#include "ckpt/writer.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "ckpt/seal.h"

enum { NO_FILE = UINT32_MAX };

struct zi_writer {
    zi_mem *mem;
    size_t n_buffers, buffer_bytes, memory_bytes;
    char *memory, *first; /* the first buffer in it, aligned */
    zi_write *queue;      /* [n_buffers] what is in each */

    int running; /* 1: there is a thread to join */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t n_taken, n_put, n_done;
    int ended, finished;

    /* The thread's. */
    int folder;
    const char *shown;
    const char *const *name;
    zi_disk_file file;
    uint32_t file_index;
    char path[ZI_PATH_BYTES];
    zopt_status status;
    char text[512];
};

zopt_status zi_writer_create(zi_mem *mem, const zi_writer_room *room, zi_writer **out)
{
    zi_writer *w;
    *out = NULL;
    ZI_TRY(zi_mem_table(mem, sizeof *w, &w));
    w->mem = mem;
    w->n_buffers = room->n_buffers;
    w->buffer_bytes = (room->buffer_bytes + ZI_DISK_ALIGN - 1) / ZI_DISK_ALIGN * ZI_DISK_ALIGN;
    w->memory_bytes = room->lent ? 0 : w->n_buffers * w->buffer_bytes + ZI_DISK_ALIGN;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    zopt_status status = zi_mem_table(mem, w->n_buffers * sizeof *w->queue, &w->queue);
    if (status == ZOPT_OK)
        status = zi_mem_array(mem, ZI_MEM_CKPT, w->memory_bytes, &w->memory);
    if (status != ZOPT_OK) {
        w->memory_bytes = w->memory != NULL ? w->memory_bytes : 0;
        zi_writer_destroy(w);
        return status;
    }
    size_t over = (uintptr_t)w->memory % ZI_DISK_ALIGN;
    w->first = w->memory != NULL ? w->memory + (over > 0 ? ZI_DISK_ALIGN - over : 0) : room->memory;
    *out = w;
    return ZOPT_OK;
}

size_t zi_writer_room_of(const zi_writer *w)
{
    return w->n_buffers;
}

void zi_writer_destroy(zi_writer *w)
{
    if (w == NULL)
        return;
    if (w->running)
        (void)zi_writer_finish(w);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    zi_mem_free_array(w->mem, ZI_MEM_CKPT, w->memory, w->memory_bytes);
    zi_mem_free_table(w->mem, w->queue, w->n_buffers * sizeof *w->queue);
    zi_mem_free_table(w->mem, w, sizeof *w);
}

/* ------------------------------------------------------------------ the thread --------------- */

static char *buffer(const zi_writer *w, uint64_t i)
{
    return w->first + i % w->n_buffers * w->buffer_bytes;
}

static zopt_status close_file(zi_writer *w)
{
    if (w->file_index == NO_FILE)
        return ZOPT_OK;
    w->file_index = NO_FILE;
    zopt_status status = zi_disk_sync(&w->file);
    zopt_status closed = zi_disk_close(&w->file);
    return status != ZOPT_OK ? status : closed;
}

static zopt_status write_one(zi_writer *w, const zi_write *write, const char *data)
{
    *write->hash = zi_seal_hash(data, write->bytes);
    if (write->file != w->file_index) {
        ZI_TRY(close_file(w));
        snprintf(w->path, sizeof w->path, "%s/%s", w->shown, w->name[write->file]);
        ZI_TRY(zi_disk_open(w->folder, w->name[write->file], w->path, ZI_DISK_WRITE, &w->file));
        w->file_index = write->file;
    }
    return zi_disk_write(&w->file, data, write->bytes, write->at);
}

static void note(zi_writer *w, zopt_status status)
{
    if (status == ZOPT_OK || w->status != ZOPT_OK)
        return;
    w->status = status;
    snprintf(w->text, sizeof w->text, "%s", zopt_last_error());
}

/* The next write, 0: there is none left. */
static int next(zi_writer *w, zi_write *write)
{
    pthread_mutex_lock(&w->mutex);
    while (w->n_put == w->n_done && !w->ended)
        pthread_cond_wait(&w->changed, &w->mutex);
    int any = w->n_put > w->n_done;
    if (any)
        *write = w->queue[w->n_done % w->n_buffers];
    pthread_mutex_unlock(&w->mutex);
    return any;
}

static void *run(void *arg)
{
    zi_writer *w = arg;
    zi_write write;
    while (next(w, &write)) {
        if (w->status == ZOPT_OK && write.bytes > 0)
            note(w, write_one(w, &write, buffer(w, w->n_done)));
        pthread_mutex_lock(&w->mutex);
        w->n_done++;
        pthread_cond_signal(&w->changed);
        pthread_mutex_unlock(&w->mutex);
    }
    note(w, close_file(w));
    pthread_mutex_lock(&w->mutex);
    w->finished = 1;
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

/* ------------------------------------------------------------------ the rank ----------------- */

zopt_status zi_writer_start(zi_writer *w, int folder, const char *shown, const char *const *name)
{
    sigset_t all, before;
    w->folder = folder;
    w->shown = shown;
    w->name = name;
    w->file_index = NO_FILE;
    sigfillset(&all); /* signals are for the caller's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no thread to write checkpoints: %s", strerror(failed));
    w->running = 1;
    return ZOPT_OK;
}

void *zi_writer_take(zi_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    while (w->n_taken - w->n_done == w->n_buffers)
        pthread_cond_wait(&w->changed, &w->mutex);
    uint64_t taken = w->n_taken++;
    pthread_mutex_unlock(&w->mutex);
    return buffer(w, taken);
}

void zi_writer_put(zi_writer *w, zi_write write)
{
    pthread_mutex_lock(&w->mutex);
    w->queue[w->n_put % w->n_buffers] = write;
    w->n_put++;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

void zi_writer_end(zi_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    w->ended = 1;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

int zi_writer_is_done(zi_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    int done = !w->running || w->finished;
    pthread_mutex_unlock(&w->mutex);
    return done;
}

zopt_status zi_writer_finish(zi_writer *w)
{
    if (w->running) {
        zi_writer_end(w);
        pthread_join(w->thread, NULL);
        w->running = 0;
    }
    zopt_status status = w->status;
    w->n_taken = w->n_put = w->n_done = 0;
    w->ended = w->finished = 0;
    w->status = ZOPT_OK;
    return status == ZOPT_OK ? ZOPT_OK : ZI_FAIL(status, "%s", w->text);
}
