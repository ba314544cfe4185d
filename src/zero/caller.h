/* The caller's stream (zopt_set_stream): the library's queue and the stream wait for each other by
 * events, where the host would wait for both. Without a stream the calls of bucket.c and step.c
 * wait on the host. */
#ifndef ZI_ZERO_CALLER_H
#define ZI_ZERO_CALLER_H

#include "device/device.h"

struct zi_zero;

typedef struct zi_caller {
    zi_queue *stream;               /* the caller's, as a queue; NULL: none is set */
    zi_event *of_stream, *of_queue; /* from the first zopt_set_stream on */
    int is_ahead; /* 1: the stream has work that the queue must run behind, and does not yet */
    /* Micro-steps and updates that the stream runs behind already, + 1. */
    uint64_t n_exchanges, n_updates;
} zi_caller;

/* The stream of the calls to come; none: they wait on the host again. Errors: ERR_UNSUPPORTED on a
 * host device, ERR_MEMORY. */
zopt_status zi_caller_set(struct zi_zero *z, void *stream, int none);
void zi_caller_free(struct zi_zero *z);

/* What is enqueued from here on runs behind what the stream has by now, if that matters. */
void zi_caller_join(struct zi_zero *z);
/* The same whether or not it is known to matter. */
void zi_caller_join_now(struct zi_zero *z);

/* The stream goes on behind the queue, once for each `count`; without a stream the host waits. For
 * less than the whole queue there are reuse_wait and publish_wait (comm.h). */
zopt_status zi_caller_follow(struct zi_zero *z, uint64_t *seen, uint64_t count);

#endif
