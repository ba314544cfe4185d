/* The buffers that a save writes from, where ranks can store into each other's memory: owners copy
 * their bytes straight to where they are written from, and nothing is packed. Empty where they
 * cannot: then shuffle.h brings the bytes. Next: shuffle.h, writer.h. */
#ifndef ZI_CKPT_PIECES_H
#define ZI_CKPT_PIECES_H

#include "ckpt/shuffle.h"
#include "ckpt/writer.h"

typedef struct zi_pieces {
    zi_symmetric memory; /* no bytes: there are none */
    size_t n_buffers;    /* of each rank, at least 3, used round and round */
    size_t stride;       /* from one to the next, whole blocks of ZI_DISK_ALIGN */
} zi_pieces;

/* Counted. *Collective.* Errors: ERR_MEMORY. On a dry mem nothing is allocated. */
zopt_status zi_pieces_create(zi_zero *z, size_t piece_bytes, size_t n_buffers, zi_pieces *out);
void zi_pieces_destroy(zi_zero *z, zi_pieces *pieces);

/* The buffer of a rank that its writer uses in this round. */
char *zi_pieces_at(const zi_pieces *pieces, int rank, uint64_t round);

/* All pieces of the shuffle's bundle into the buffers of those that write them, and to their
 * writers. at_once: no buffer is used twice, and nothing is written before all have stored all.
 * hash: [n_pieces], of those that this rank writes. *Collective.* */
zopt_status zi_pieces_store(const zi_pieces *pieces, zi_shuffle *shuffle, zi_writer *writer,
                            int at_once, uint64_t *hash);

#endif
