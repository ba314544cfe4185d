/* See pieces.h. Round k: each rank takes its buffer; when all have, all store into all of them; and
 * when all have taken the next one's, round k is whole, and written while round k + 1 is stored. */
#include "ckpt/pieces.h"

#include "base/status.h"

zopt_status zi_pieces_create(zi_zero *z, size_t piece_bytes, size_t n_buffers, zi_pieces *out)
{
    zi_comm *comm = z->comm;
    *out = (zi_pieces){.n_buffers = n_buffers,
                       .stride = (piece_bytes + ZI_DISK_ALIGN - 1) / ZI_DISK_ALIGN * ZI_DISK_ALIGN};
    if (comm->world == 1 || comm->node.size < comm->world || !z->config.device->on_host)
        return ZOPT_OK;
    return comm->ops->alloc_symmetric(comm, ZI_MEM_CKPT, n_buffers * out->stride + ZI_DISK_ALIGN,
                                      &out->memory);
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

static zopt_status meet(zi_comm *comm)
{
    int64_t none = 0;
    return comm->ops->all_reduce(comm, ZI_MIN, &none, 1);
}

static void put(const zi_shuffle *s, uint64_t round, zi_writer *writer, uint64_t *hash)
{
    const zi_comm *comm = s->z->comm;
    uint64_t own = round * (uint64_t)comm->world + (uint64_t)comm->rank;
    if (own >= s->bundle->n_pieces)
        return;
    zi_bundle_piece piece = zi_bundle_piece_at(s->bundle, own);
    zi_writer_put(writer, (zi_write){piece.file, piece.run.at, piece.run.bytes, &hash[own]});
}

static zopt_status store_round(const zi_pieces *pieces, zi_shuffle *s, uint64_t round)
{
    uint64_t world = (uint64_t)s->z->comm->world, me = (uint64_t)s->z->comm->rank;
    for (uint64_t i = 0; i < world; i++) { /* each begins with another's memory */
        uint64_t rank = (me + i) % world, piece = round * world + rank;
        if (piece < s->bundle->n_pieces)
            zi_shuffle_store(s, piece, (int)rank, zi_pieces_at(pieces, (int)rank, round));
    }
    return s->z->config.device->wait(s->z->queue);
}

zopt_status zi_pieces_store(const zi_pieces *pieces, zi_shuffle *s, zi_writer *writer, int at_once,
                            uint64_t *hash)
{
    zi_comm *comm = s->z->comm;
    uint64_t world = (uint64_t)comm->world, n_rounds = zi_bundle_rounds(s->bundle, comm->world);
    for (uint64_t round = 0; round < n_rounds; round++) {
        if (!at_once) {
            if (round * world + (uint64_t)comm->rank < s->bundle->n_pieces)
                (void)zi_writer_take(writer);
            ZI_TRY(meet(comm));
            if (round > 0)
                put(s, round - 1, writer, hash);
        }
        ZI_TRY(store_round(pieces, s, round));
    }
    ZI_TRY(meet(comm));
    for (uint64_t round = at_once || n_rounds == 0 ? 0 : n_rounds - 1; round < n_rounds; round++)
        put(s, round, writer, hash);
    zi_writer_end(writer);
    return ZOPT_OK;
}
