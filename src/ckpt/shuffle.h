/* Moves the pieces of a round between the ranks that own their bytes and the rank that writes or
 * reads each: rank r has piece `first + r`. Pairs of ranks meet step by step, each giving and
 * taking one packed parcel: as a message, or in a window that its peers read, where memory can be
 * shared. So memory is that of two pieces however many ranks there are. */
#ifndef ZI_CKPT_SHUFFLE_H
#define ZI_CKPT_SHUFFLE_H

#include "ckpt/bundle.h"
#include "ckpt/route.h"

typedef struct zi_shuffle {
    zi_zero *z;
    const zi_bundle *bundle;
    const zi_symmetric *window; /* NULL: parcels are messages */
    size_t half_bytes;          /* of the window */
    int half;                   /* to be filled next */
    char *send, *receive;       /* a piece each */
    size_t bytes;               /* of each; 0 on one rank, and with a window */
    int past_caches;            /* 1: what goes to a file comes from the host, is not read soon */
} zi_shuffle;

/* window: used if it is large enough; NULL: none. Counted. Errors: ERR_MEMORY. On a dry mem nothing
 * is allocated. */
zopt_status zi_shuffle_create(zi_zero *z, size_t piece_bytes, const zi_symmetric *window,
                              zi_shuffle *out);
/* Leaks what peers may still write to, where the transport has failed. */
void zi_shuffle_destroy(zi_shuffle *shuffle);

/* What this rank owns of a piece to where it belongs in it, at `data`, for the rank that writes it.
 * Enqueued. */
void zi_shuffle_store(const zi_shuffle *shuffle, uint64_t piece, int writer, char *data);

/* What other ranks have stored of a piece at `from` to the same places at `to`. */
void zi_shuffle_fetch(const zi_shuffle *shuffle, uint64_t piece, const char *from, char *to);

typedef enum zi_direction { ZI_TO_FILE, ZI_FROM_FILE } zi_direction;

/* One round, collective. Ranks agree on something between the last round of one shuffle and the
 * first of another. piece: what this rank writes (filled in) or has read; unused past the
 * last piece. */
zopt_status zi_shuffle_round(zi_shuffle *shuffle, uint64_t first, zi_direction direction,
                             char *piece);

#endif
