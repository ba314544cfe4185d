/* What the files of this room that work on a zi_ckpt share beside ckpt.h. */
#ifndef ZI_CKPT_PARTS_H
#define ZI_CKPT_PARTS_H

#include "ckpt/ckpt.h"

/* What it takes to write this bundle: a writer on `pieces`, or, NULL, one with two buffers, or with
 * `all` that a rank writes, and a shuffle's. Errors: ERR_MEMORY.
 */
zopt_status zi_save_buffers(zi_zero *z, int all, const zi_bundle *bundle, const zi_pieces *pieces,
                            zi_writer **writer, zi_shuffle *shuffle);

/* What it takes to read pieces of so many bytes: memory for one, and a shuffle. To be freed
 * whatever it returns. Errors: ERR_MEMORY. */
typedef struct zi_load_room {
    char *memory;
    size_t bytes;
    zi_shuffle shuffle;
} zi_load_room;
zopt_status zi_load_room_create(const zi_ckpt *ckpt, size_t piece_bytes, zi_load_room *out);
void zi_load_room_free(const zi_ckpt *ckpt, zi_load_room *room);

/* The handle's pieces where a bundle can be written from them, now; else NULL. */
const zi_pieces *zi_pieces_for(const zi_ckpt *ckpt, const zi_bundle *bundle);

/* All pieces of the shuffle's bundle to the ranks that write them, one a rank and round, and to
 * their writers. at_once: the writers, not started yet, have room for all. hash: [n_pieces], of
 * those that this rank writes. Collective. */
zopt_status zi_send_pieces(const zi_pieces *pieces, int at_once, zi_shuffle *shuffle,
                           zi_writer *writer, uint64_t *hash);

/* meet.c. Until all ranks are here; and until what each one's disk is to do is done, however long
 * that takes, as long as all ranks come. NULL: this rank's has nothing to do. Collective. */
zopt_status zi_meet(zi_comm *comm);
zopt_status zi_meet_disks(zi_comm *comm, int (*is_ready)(void *what), void *what);
/* The same for a buffer of the writer's, and for all that it writes. */
zopt_status zi_meet_room(zi_comm *comm, zi_writer *writer);
zopt_status zi_meet_written(zi_comm *comm, zi_writer *writer);

/* ERR_DISAGREE with `what` unless all ranks pass the same value. Collective. */
zopt_status zi_same_everywhere(zi_comm *comm, uint64_t value, const char *what);

/* Delete what the rules no longer keep beside `committed`, as far as that goes; the first failure.
 */
zopt_status zi_ckpt_prune(const zi_ckpt *ckpt, uint64_t committed);

#endif
