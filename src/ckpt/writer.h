/* Writing behind: threads of a rank take full buffers, hash them and write them where they belong,
 * while the rank fills the next: two, so that one hashes while the other's write is under way. They
 * communicate with nobody. With a few buffers that is a save which hides its transfers; with room
 * for all that a rank writes, an asynchronous one. */
#ifndef ZI_CKPT_WRITER_H
#define ZI_CKPT_WRITER_H

#include "base/mem.h"
#include "ckpt/disk.h"

typedef struct zi_writer zi_writer;

/* n_buffers >= 1 of buffer_bytes each, aligned for direct I/O. lent: they are the caller's, one
 * behind the other at `memory`, shared between processes and so in small pages, of which a disk
 * takes half as much at once: each thread has a buffer of its own to write from. Else they are the
 * writer's. What it has is counted, on a dry mem only counted. */
typedef struct zi_writer_room {
    size_t n_buffers, buffer_bytes;
    int lent;
    char *memory;
} zi_writer_room;

/* Errors: ERR_MEMORY. */
zopt_status zi_writer_create(zi_mem *mem, const zi_writer_room *room, zi_writer **out);
/* How many buffers it has. */
size_t zi_writer_room_of(const zi_writer *writer);
/* Waits for the threads. NULL is fine. */
void zi_writer_destroy(zi_writer *writer);

/* Start on files of this folder, by name: name[i] is that of file i. All of it is borrowed until
 * finish, and `shown` is the folder's path for error texts. Before it as much can be taken and put
 * as there are buffers. */
zopt_status zi_writer_start(zi_writer *writer, int folder, const char *shown,
                            const char *const *name);

/* The next buffer to fill, when it is free. Each is put, in this order; a caller that knows the
 * buffers as its own may put without taking, each once. */
void *zi_writer_take(zi_writer *writer);
/* 1: it would not wait. */
int zi_writer_has_room(zi_writer *writer);

/* Write it to a file from byte `at` on; no bytes are no write. *hash, borrowed until finish, gets
 * its checksum. Files come in ascending order; the last thread that goes on to the next one syncs a
 * file. */
typedef struct zi_write {
    uint32_t file;
    uint64_t at;
    size_t bytes;
    uint64_t *hash;
} zi_write;
void zi_writer_put(zi_writer *writer, zi_write write);

/* Nothing more comes: sync and close the last file. */
void zi_writer_end(zi_writer *writer);
/* 1: all is on disk, or has failed; finish will not wait. */
int zi_writer_is_done(zi_writer *writer);
/* Wait for that; the first failure, after which nothing more was written. Then all begins anew. */
zopt_status zi_writer_finish(zi_writer *writer);

#endif
