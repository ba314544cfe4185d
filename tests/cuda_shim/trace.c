/* The order of calls of the shim, for tests that ask for it. */
#include "trace.h"

#include <pthread.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static shim_call *traced;
static size_t room, n;

void shim_trace(shim_call *calls, size_t room_of_calls)
{
    pthread_mutex_lock(&mutex);
    traced = calls;
    room = room_of_calls;
    n = 0;
    pthread_mutex_unlock(&mutex);
}

size_t shim_n_traced(void)
{
    pthread_mutex_lock(&mutex);
    size_t n_traced = n;
    pthread_mutex_unlock(&mutex);
    return n_traced;
}

void shim_note(shim_call call)
{
    pthread_mutex_lock(&mutex);
    if (n < room)
        traced[n] = call;
    n++;
    pthread_mutex_unlock(&mutex);
}
