/* Memory that ranks store into for the rank that writes, where they can: owners copy their bytes to
 * their places in a piece, and nothing is packed. An asynchronous save writes from it; another one
 * takes from it what was not the rank's own. Empty where ranks cannot: then shuffle.h brings the
 * bytes. Next: shuffle.h, writer.h. */
#ifndef ZI_CKPT_PIECES_H
#define ZI_CKPT_PIECES_H

#include "ckpt/shuffle.h"
#include "ckpt/writer.h"

typedef struct zi_pieces {
    zi_symmetric memory; /* no bytes: there are none */
    size_t n_buffers;    /* of each rank, at least 2, used round and round */
    size_t stride;       /* from one to the next, whole blocks of ZI_DISK_ALIGN */
} zi_pieces;

/* Counted. *Collective.* Errors: ERR_MEMORY. On a dry mem nothing is allocated. */
zopt_status zi_pieces_create(zi_zero *z, size_t piece_bytes, size_t n_buffers, zi_pieces *out);
void zi_pieces_destroy(zi_zero *z, zi_pieces *pieces);

/* The buffer of a rank that its writer uses in this round. */
char *zi_pieces_at(const zi_pieces *pieces, int rank, uint64_t round);

/* All pieces of the shuffle's bundle to the writers of those that write them. at_once: no buffer is
 * used twice, and nothing is written before all have stored all. hash: [n_pieces], of those that
 * this rank writes. A writer that has not been lent the pieces has buffers of its own.
 * *Collective.* */
zopt_status zi_pieces_store(const zi_pieces *pieces, zi_shuffle *shuffle, zi_writer *writer,
                            int at_once, uint64_t *hash);

#endif
