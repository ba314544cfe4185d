/* Boards: each process that shares events has one in an anonymous file, and a thread that runs its
 * streams when another process asks for a record: work that nobody waits for does not run, so that
 * a fence that is missing on either side is seen. */
#include "ipc.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

enum { N_SIGNALS = 4096, NAP_NS = 50000 };

typedef struct board {
    _Atomic uint32_t bell; /* how often it was rung */
    shim_signal signal[N_SIGNALS];
} board;

typedef struct seen {
    struct seen *next;
    pid_t pid;
    board *board;
} seen;

/* What a handle says. */
typedef struct offer {
    pid_t pid;
    int fd;
    size_t index;
} offer;

_Static_assert(sizeof(offer) <= sizeof(cudaIpcEventHandle_t), "a handle must hold an offer");

static int own_fd;
static board *own; /* NULL: nothing was shared yet */
static struct shim_event *event_of[N_SIGNALS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static seen *boards; /* of other processes, under the mutex */

static board *map_board(int fd)
{
    void *memory = mmap(NULL, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        abort();
    return memory;
}

/* ------------------------------------------------------------------ the bell ----------------- */

static void ring(board *b)
{
    b->bell++;
    syscall(SYS_futex, &b->bell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* 1: something that is wanted could not be run yet. */
static int serve_all(void)
{
    int again = 0;
    shim_lock();
    for (size_t i = 0; i < N_SIGNALS; i++) {
        long wanted = own->signal[i].n_wanted;
        if (event_of[i] != NULL && wanted > own->signal[i].n_reached)
            again |= shim_serve(event_of[i], wanted);
    }
    shim_unlock();
    return again;
}

static void *serve(void *unused)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    (void)unused;
    for (;;) {
        uint32_t rung = own->bell;
        if (serve_all())
            nanosleep(&nap, NULL);
        else
            syscall(SYS_futex, &own->bell, FUTEX_WAIT, rung, NULL, NULL, 0);
    }
    return NULL;
}

static void make_board(void)
{
    pthread_t thread;
    own_fd = memfd_create("cuda shim", MFD_CLOEXEC);
    if (own_fd < 0 || ftruncate(own_fd, sizeof(board)) != 0)
        abort();
    own = map_board(own_fd);
    if (pthread_create(&thread, NULL, serve, NULL) != 0)
        abort();
    pthread_detach(thread);
}

/* ------------------------------------------------------------------ signals ------------------ */

shim_signal *shim_signal_create(struct shim_event *event)
{
    size_t i = 0;
    if (own == NULL)
        make_board();
    while (i < N_SIGNALS && event_of[i] != NULL)
        i++;
    if (i == N_SIGNALS)
        abort();
    event_of[i] = event;
    memset(&own->signal[i], 0, sizeof own->signal[i]);
    return &own->signal[i];
}

void shim_signal_destroy(shim_signal *signal)
{
    if (signal->n_open > 0) {
        fprintf(stderr, "cuda shim: an event is destroyed that another process has open\n");
        abort();
    }
    event_of[signal - own->signal] = NULL;
}

void shim_signal_describe(const shim_signal *signal, cudaIpcEventHandle_t *handle)
{
    const offer mine = {getpid(), own_fd, (size_t)(signal - own->signal)};
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &mine, sizeof mine);
}

/* NULL: it cannot be opened. The mutex is held. */
static board *board_of(const offer *theirs)
{
    char path[64];
    for (seen *s = boards; s != NULL; s = s->next)
        if (s->pid == theirs->pid)
            return s->board;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)theirs->pid, theirs->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    seen *s = calloc(1, sizeof *s);
    if (s == NULL)
        abort();
    if (fd < 0) {
        free(s);
        return NULL;
    }
    *s = (seen){.next = boards, .pid = theirs->pid, .board = map_board(fd)};
    boards = s;
    close(fd);
    return s->board;
}

shim_signal *shim_signal_open(const cudaIpcEventHandle_t *handle)
{
    offer theirs;
    memcpy(&theirs, handle, sizeof theirs);
    if (theirs.pid == getpid() || shim.no_opening)
        return NULL;
    pthread_mutex_lock(&mutex);
    board *b = board_of(&theirs);
    pthread_mutex_unlock(&mutex);
    if (b != NULL)
        b->signal[theirs.index].n_open++;
    return b != NULL ? &b->signal[theirs.index] : NULL;
}

void shim_signal_close(shim_signal *signal)
{
    signal->n_open--;
}

void shim_signal_want(shim_signal *signal, long nth)
{
    long wanted = signal->n_wanted;
    while (wanted < nth && !atomic_compare_exchange_weak(&signal->n_wanted, &wanted, nth))
        ;
    pthread_mutex_lock(&mutex);
    for (seen *s = boards; s != NULL; s = s->next)
        if (signal >= s->board->signal && signal < s->board->signal + N_SIGNALS)
            ring(s->board);
    pthread_mutex_unlock(&mutex);
}
