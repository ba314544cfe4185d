/* What the files of this room that work on a zi_ckpt share beside ckpt.h. */
#ifndef ZI_CKPT_PARTS_H
#define ZI_CKPT_PARTS_H

#include "ckpt/ckpt.h"

/* Buffers to write this bundle: two pieces to write behind, or all that this rank writes; and what
 * the shuffle needs beside its window, if it has one. Errors: ERR_MEMORY. */
zopt_status zi_save_buffers(zi_zero *z, int all, const zi_bundle *bundle,
                            const zi_symmetric *window, zi_writer **writer, zi_shuffle *shuffle);

/* All pieces of the shuffle's bundle to the ranks that write them, one a rank and round, and to
 * their writers. hash: [n_pieces], of those that this rank writes. Collective. */
zopt_status zi_send_pieces(zi_shuffle *shuffle, zi_writer *writer, uint64_t *hash);

/* ERR_DISAGREE with `what` unless all ranks pass the same value. Collective. */
zopt_status zi_same_everywhere(zi_comm *comm, uint64_t value, const char *what);

/* Delete what the rules no longer keep. A failure is a warning. */
void zi_ckpt_prune(const zi_ckpt *ckpt);

#endif
