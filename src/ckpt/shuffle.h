/* Moves the pieces of a round between the ranks that own their bytes and the rank that writes or
 * reads each: rank r has piece `first + r`. Pairs of ranks meet step by step, each sending and
 * receiving one packed message, so memory is that of two pieces however many ranks there are. */
#ifndef ZI_CKPT_SHUFFLE_H
#define ZI_CKPT_SHUFFLE_H

#include "ckpt/bundle.h"
#include "ckpt/route.h"

typedef struct zi_shuffle {
    zi_zero *z;
    const zi_bundle *bundle;
    char *send, *receive; /* a piece each */
    size_t bytes;         /* of each; 0 on one rank */
} zi_shuffle;

/* Counted. Errors: ERR_MEMORY. On a dry mem nothing is allocated. */
zopt_status zi_shuffle_create(zi_zero *z, size_t piece_bytes, zi_shuffle *out);
/* Leaks what peers may still write to, where the transport has failed. */
void zi_shuffle_destroy(zi_shuffle *shuffle);

typedef enum zi_direction { ZI_TO_FILE, ZI_FROM_FILE } zi_direction;

/* One round, collective. piece: what this rank writes (filled in) or has read; unused past the
 * last piece. */
zopt_status zi_shuffle_round(zi_shuffle *shuffle, uint64_t first, zi_direction direction,
                             char *piece);

#endif
