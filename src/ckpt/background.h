/* One call on a thread of its own, beside the handle's. It communicates with nobody and counts no
 * memory. What it is for: save.c. */
#ifndef ZI_CKPT_BACKGROUND_H
#define ZI_CKPT_BACKGROUND_H

#include <pthread.h>
#include <stdatomic.h>
#include <zopt/zopt.h>

typedef struct zi_background {
    int running; /* 1: there is a thread to join */
    pthread_t thread;
    atomic_int finished;
    zopt_status (*call)(void *arg);
    void *arg;
    zopt_status status;
    char text[512];
} zi_background;

/* Errors: ERR_MEMORY. The struct must not move until zi_background_finish. */
zopt_status zi_background_start(zi_background *b, zopt_status (*call)(void *arg), void *arg);
/* 1: zi_background_finish will not wait. */
int zi_background_is_done(const zi_background *b);
/* Wait for it; what it returned. ZOPT_OK where nothing was started. */
zopt_status zi_background_finish(zi_background *b);

#endif
