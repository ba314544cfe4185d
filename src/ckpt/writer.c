/* See writer.h. Buffers are used round and round: the rank is ahead of its threads by at most all
 * of them. Threads take them in order and are done with them in any. */
#include "ckpt/writer.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "ckpt/seal.h"

enum { MAX_HANDS = 2, NO_FILE = UINT32_MAX };

/* A thread. */
typedef struct hand {
    zi_writer *w;
    pthread_t thread;
    char *own; /* to write from; NULL: the buffers themselves */
    zi_disk_file file;
    uint32_t file_index;
    char path[ZI_PATH_BYTES];
} hand;

typedef struct slot {
    zi_write write;
    int done;
} slot;

struct zi_writer {
    zi_mem *mem;
    size_t n_buffers, buffer_bytes, memory_bytes;
    char *memory, *first; /* the first buffer, aligned */
    slot *queue;          /* [n_buffers] what is in each */
    hand hand[MAX_HANDS];
    int n_hands, n_running; /* threads to join */

    int folder;
    const char *shown;
    const char *const *name;

    pthread_mutex_t mutex; /* of all below */
    pthread_cond_t changed;
    uint64_t n_taken, n_put, n_begun, n_done; /* buffers, so many of the first */
    int ended, n_finished;
    zopt_status status;
    char text[512];
};

static char *align(char *memory)
{
    size_t over = (uintptr_t)memory % ZI_DISK_ALIGN;
    return memory + (over > 0 ? ZI_DISK_ALIGN - over : 0);
}

zopt_status zi_writer_create(zi_mem *mem, const zi_writer_room *room, zi_writer **out)
{
    zi_writer *w;
    *out = NULL;
    ZI_TRY(zi_mem_table(mem, sizeof *w, &w));
    w->mem = mem;
    w->n_buffers = room->n_buffers;
    w->n_hands = room->n_buffers > MAX_HANDS ? MAX_HANDS : 1; /* which two buffers keep busy */
    w->buffer_bytes = (room->buffer_bytes + ZI_DISK_ALIGN - 1) / ZI_DISK_ALIGN * ZI_DISK_ALIGN;
    size_t n_own = room->lent ? (size_t)w->n_hands : w->n_buffers;
    w->memory_bytes = n_own * w->buffer_bytes + ZI_DISK_ALIGN;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    zopt_status status = zi_mem_table(mem, w->n_buffers * sizeof *w->queue, &w->queue);
    if (status == ZOPT_OK)
        status = zi_mem_array(mem, ZI_MEM_CKPT, w->memory_bytes, &w->memory);
    if (status != ZOPT_OK) {
        w->memory_bytes = 0;
        zi_writer_destroy(w);
        return status;
    }
    char *own = align(w->memory);
    w->first = room->lent ? room->memory : own;
    for (int h = 0; h < w->n_hands; h++)
        w->hand[h] = (hand){.w = w,
                            .own = room->lent ? own + (size_t)h * w->buffer_bytes : NULL,
                            .file = {.fd = -1, .direct = -1},
                            .file_index = NO_FILE};
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
    if (w->n_running > 0)
        (void)zi_writer_finish(w);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    zi_mem_free_array(w->mem, ZI_MEM_CKPT, w->memory, w->memory_bytes);
    zi_mem_free_table(w->mem, w->queue, w->n_buffers * sizeof *w->queue);
    zi_mem_free_table(w->mem, w, sizeof *w);
}

/* ------------------------------------------------------------------ a thread ----------------- */

static char *buffer(const zi_writer *w, uint64_t i)
{
    return w->first + i % w->n_buffers * w->buffer_bytes;
}

/* The next write, with its buffer's number; 0: there is none left. *fails: nothing is to be written
 * any more. */
static int next(zi_writer *w, zi_write *write, uint64_t *number, int *fails)
{
    pthread_mutex_lock(&w->mutex);
    while (w->n_begun == w->n_put && !w->ended)
        pthread_cond_wait(&w->changed, &w->mutex);
    int any = w->n_begun < w->n_put;
    if (any) {
        *number = w->n_begun++;
        *write = w->queue[*number % w->n_buffers].write;
    }
    *fails = w->status != ZOPT_OK;
    pthread_mutex_unlock(&w->mutex);
    return any;
}

/* The buffer is free. */
static void give_back(zi_writer *w, uint64_t number)
{
    pthread_mutex_lock(&w->mutex);
    w->queue[number % w->n_buffers].done = 1;
    while (w->n_done < w->n_begun && w->queue[w->n_done % w->n_buffers].done)
        w->queue[w->n_done++ % w->n_buffers].done = 0;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

/* Stand at another file. 1: no other thread stands at the one before, which is to be synced with
 * what all of them have written; after a failure none is. */
static int stand_at(hand *h, uint32_t file)
{
    zi_writer *w = h->w;
    pthread_mutex_lock(&w->mutex);
    int last = h->file_index != NO_FILE && w->status == ZOPT_OK;
    for (int i = 0; i < w->n_hands; i++)
        last &= &w->hand[i] == h || w->hand[i].file_index != h->file_index;
    h->file_index = file;
    pthread_mutex_unlock(&w->mutex);
    return last;
}

/* Sync and close the file before. */
static zopt_status leave_for(hand *h, uint32_t file)
{
    zopt_status status = stand_at(h, file) ? zi_disk_sync(&h->file) : ZOPT_OK;
    zopt_status closed = zi_disk_close(&h->file);
    return status != ZOPT_OK ? status : closed;
}

static zopt_status write_one(hand *h, const zi_write *write, const char *data)
{
    const zi_writer *w = h->w;
    *write->hash = zi_seal_hash(data, write->bytes);
    if (write->file != h->file_index) {
        ZI_TRY(leave_for(h, write->file));
        snprintf(h->path, sizeof h->path, "%s/%s", w->shown, w->name[write->file]);
        ZI_TRY(zi_disk_open(w->folder, w->name[write->file], h->path, ZI_DISK_WRITE, &h->file));
    }
    return zi_disk_write(&h->file, data, write->bytes, write->at);
}

static zopt_status write_buffer(hand *h, const zi_write *write, uint64_t number)
{
    char *data = buffer(h->w, number);
    if (h->own == NULL) {
        zopt_status status = write_one(h, write, data);
        give_back(h->w, number);
        return status;
    }
    memcpy(h->own, data, write->bytes);
    give_back(h->w, number);
    return write_one(h, write, h->own);
}

static void note(zi_writer *w, zopt_status status)
{
    if (status == ZOPT_OK)
        return;
    pthread_mutex_lock(&w->mutex);
    if (w->status == ZOPT_OK) {
        w->status = status;
        snprintf(w->text, sizeof w->text, "%s", zopt_last_error());
    }
    pthread_mutex_unlock(&w->mutex);
}

static void *run(void *arg)
{
    hand *h = arg;
    zi_write write;
    uint64_t number;
    int fails;
    while (next(h->w, &write, &number, &fails)) {
        if (fails || write.bytes == 0)
            give_back(h->w, number);
        else
            note(h->w, write_buffer(h, &write, number));
    }
    note(h->w, leave_for(h, NO_FILE));
    pthread_mutex_lock(&h->w->mutex);
    h->w->n_finished++;
    pthread_mutex_unlock(&h->w->mutex);
    return NULL;
}

/* ------------------------------------------------------------------ the rank ----------------- */

static int start_hands(zi_writer *w)
{
    sigset_t all, before;
    int failed = 0;
    sigfillset(&all); /* signals are for the caller's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (failed == 0 && w->n_running < w->n_hands) {
        hand *h = &w->hand[w->n_running];
        failed = pthread_create(&h->thread, NULL, run, h);
        w->n_running += failed == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

zopt_status zi_writer_start(zi_writer *w, int folder, const char *shown, const char *const *name)
{
    w->folder = folder;
    w->shown = shown;
    w->name = name;
    int failed = start_hands(w);
    if (failed == 0)
        return ZOPT_OK;
    note(w, ZI_FAIL(ZOPT_ERR_MEMORY, "no thread to write checkpoints: %s", strerror(failed)));
    return zi_writer_finish(w);
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

int zi_writer_has_room(zi_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    int has_room = w->n_taken - w->n_done < w->n_buffers;
    pthread_mutex_unlock(&w->mutex);
    return has_room;
}

void zi_writer_put(zi_writer *w, zi_write write)
{
    pthread_mutex_lock(&w->mutex);
    w->queue[w->n_put % w->n_buffers].write = write;
    w->n_put++;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

void zi_writer_end(zi_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    w->ended = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

int zi_writer_is_done(zi_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    int done = w->n_finished == w->n_running;
    pthread_mutex_unlock(&w->mutex);
    return done;
}

zopt_status zi_writer_finish(zi_writer *w)
{
    zi_writer_end(w);
    for (int h = 0; h < w->n_running; h++)
        pthread_join(w->hand[h].thread, NULL);
    zopt_status status = w->status;
    for (size_t i = 0; i < w->n_buffers; i++)
        w->queue[i].done = 0;
    w->n_taken = w->n_put = w->n_begun = w->n_done = 0;
    w->ended = w->n_running = w->n_finished = 0;
    w->status = ZOPT_OK;
    return status == ZOPT_OK ? ZOPT_OK : ZI_FAIL(status, "%s", w->text);
}
