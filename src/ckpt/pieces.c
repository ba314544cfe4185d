/* See pieces.h. Round k: each rank's buffer is free; when all are, all store into all of them; and
 * when all of the next one's are, round k is whole, and written while round k + 1 is stored.
 * Where the writer has buffers of its own, what others have stored of round k is fetched before its
 * rank agrees to round k + 2: two shared buffers are enough. */
#include "ckpt/pieces.h"

#include <sys/mman.h>

#include "base/status.h"
#include "ckpt/parts.h"

/* So that the first save does not do it, page by page. The kernel's choice. */
#ifdef MADV_POPULATE_WRITE
static void map_pages(char *memory, size_t bytes)
{
    size_t over = (uintptr_t)memory % ZI_DISK_ALIGN;
    (void)madvise(memory - over, bytes + over, MADV_POPULATE_WRITE);
}
#else
static void map_pages(char *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
}
#endif

zopt_status zi_pieces_create(zi_zero *z, size_t piece_bytes, size_t n_buffers, zi_pieces *out)
{
    zi_comm *comm = z->comm;
    *out = (zi_pieces){.n_buffers = n_buffers,
                       .stride = (piece_bytes + ZI_DISK_ALIGN - 1) / ZI_DISK_ALIGN * ZI_DISK_ALIGN};
    if (comm->world == 1 || comm->node.size < comm->world || !z->config.device->on_host)
        return ZOPT_OK;
    ZI_TRY(comm->ops->alloc_symmetric(comm, ZI_MEM_CKPT, n_buffers * out->stride + ZI_DISK_ALIGN,
                                      &out->memory));
    for (int r = 0; !comm->planned && r < comm->world; r++)
        map_pages(out->memory.peer[r], out->memory.bytes);
    return ZOPT_OK;
}

void zi_pieces_destroy(zi_zero *z, zi_pieces *pieces)
{
    if (pieces->memory.bytes > 0)
        z->comm->ops->free_symmetric(z->comm, ZI_MEM_CKPT, &pieces->memory);
}

/* A rank's memory begins at the same place of a page for all that see it. */
char *zi_pieces_at(const zi_pieces *pieces, int rank, uint64_t round)
{
    char *first = pieces->memory.peer[rank];
    size_t over = (uintptr_t)first % ZI_DISK_ALIGN;
    return first + (over > 0 ? ZI_DISK_ALIGN - over : 0) +
           round % pieces->n_buffers * pieces->stride;
}

/* A save under way. */
typedef struct storing {
    const zi_pieces *pieces;
    zi_shuffle *s;
    zi_writer *writer;
    uint64_t *hash;
    char *own; /* where this rank's piece of the round is written from; NULL: it has none */
} storing;

/* The piece of this rank in a round; 0: it has none. */
static int own_piece(const storing *g, uint64_t round, uint64_t *piece)
{
    const zi_comm *comm = g->s->z->comm;
    *piece = round * (uint64_t)comm->world + (uint64_t)comm->rank;
    return *piece < g->s->bundle->n_pieces;
}

/* The round is whole: its piece, which is at `own`, to the writer. */
static void put(const storing *g, uint64_t round, char *own)
{
    const char *shared = zi_pieces_at(g->pieces, g->s->z->comm->rank, round);
    uint64_t index;
    if (!own_piece(g, round, &index))
        return;
    if (own != shared)
        zi_shuffle_fetch(g->s, index, shared, own);
    zi_bundle_piece piece = zi_bundle_piece_at(g->s->bundle, index);
    zi_writer_put(g->writer,
                  (zi_write){piece.file, piece.run.at, piece.run.bytes, &g->hash[index]});
}

/* What this rank owns of the round's pieces, to their places. */
static zopt_status store_round(const storing *g, uint64_t round)
{
    uint64_t world = (uint64_t)g->s->z->comm->world, me = (uint64_t)g->s->z->comm->rank;
    for (uint64_t i = 0; i < world; i++) { /* each begins with another's memory */
        uint64_t rank = (me + i) % world, piece = round * world + rank;
        if (piece < g->s->bundle->n_pieces)
            zi_shuffle_store(g->s, piece, (int)rank,
                             rank == me ? g->own : zi_pieces_at(g->pieces, (int)rank, round));
    }
    return g->s->z->config.device->wait(g->s->z->queue);
}

static zopt_status store_at_once(storing *g, uint64_t n_rounds)
{
    int me = g->s->z->comm->rank;
    for (uint64_t round = 0; round < n_rounds; round++) {
        g->own = zi_pieces_at(g->pieces, me, round);
        ZI_TRY(store_round(g, round));
    }
    ZI_TRY(zi_meet(g->s->z->comm));
    for (uint64_t round = 0; round < n_rounds; round++)
        put(g, round, zi_pieces_at(g->pieces, me, round));
    return ZOPT_OK;
}

static zopt_status store_in_turn(storing *g, uint64_t n_rounds)
{
    for (uint64_t round = 0; round < n_rounds; round++) {
        char *before = g->own;
        uint64_t index;
        int writes = own_piece(g, round, &index);
        ZI_TRY(zi_meet_room(g->s->z->comm, writes ? g->writer : NULL));
        g->own = writes ? zi_writer_take(g->writer) : NULL;
        if (round > 0)
            put(g, round - 1, before);
        ZI_TRY(store_round(g, round));
    }
    ZI_TRY(zi_meet(g->s->z->comm));
    if (n_rounds > 0)
        put(g, n_rounds - 1, g->own);
    return ZOPT_OK;
}

zopt_status zi_pieces_store(const zi_pieces *pieces, zi_shuffle *s, zi_writer *writer, int at_once,
                            uint64_t *hash)
{
    storing g = {.pieces = pieces, .s = s, .writer = writer, .hash = hash};
    uint64_t n_rounds = zi_bundle_rounds(s->bundle, s->z->comm->world);
    ZI_TRY(at_once ? store_at_once(&g, n_rounds) : store_in_turn(&g, n_rounds));
    zi_writer_end(writer);
    return ZOPT_OK;
}
