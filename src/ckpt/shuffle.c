/* See shuffle.h. In step j of a round, rank r meets r + j, whose piece it has bytes for (or needs
 * bytes of), and r - j, which has (or needs) bytes of its own. */
#include "ckpt/shuffle.h"

#include <string.h>

#include "base/status.h"
#include "ckpt/stream.h"

zopt_status zi_shuffle_create(zi_zero *z, size_t piece_bytes, const zi_symmetric *window,
                              zi_shuffle *out)
{
    *out = (zi_shuffle){.z = z, .bytes = z->comm->world > 1 ? piece_bytes : 0};
    if (window != NULL && window->bytes >= 2 * out->bytes) {
        out->window = window->bytes > 0 ? window : NULL;
        out->half_bytes = out->bytes;
        out->bytes = 0;
    }
    ZI_TRY(zi_mem_array(z->mem, ZI_MEM_CKPT, out->bytes, &out->send));
    zopt_status status = zi_mem_array(z->mem, ZI_MEM_CKPT, out->bytes, &out->receive);
    if (status != ZOPT_OK) {
        zi_mem_free_array(z->mem, ZI_MEM_CKPT, out->send, out->bytes);
        *out = (zi_shuffle){.z = z};
    }
    return status;
}

void zi_shuffle_destroy(zi_shuffle *s)
{
    zi_mem_free_array(s->z->mem, ZI_MEM_CKPT, s->send, s->bytes);
    if (s->z->comm->broken && s->bytes > 0)
        zi_mem_uncount(s->z->mem, ZI_MEM_CKPT, s->bytes);
    else
        zi_mem_free_array(s->z->mem, ZI_MEM_CKPT, s->receive, s->bytes);
    s->send = s->receive = NULL;
    s->bytes = 0;
}

/* The runs of a piece that belong to `owner`, one behind the other. */
typedef struct parcel {
    uint64_t piece; /* of the bundle */
    int owner;
    int to_file; /* replicated runs come from the writer itself, and go to every rank */
} parcel;

typedef struct walk {
    zi_route route;
    parcel what;
} walk;

static void walk_begin(const zi_shuffle *s, parcel what, walk *w)
{
    zi_bundle_piece piece = zi_bundle_piece_at(s->bundle, what.piece);
    w->what = what;
    zi_route_begin(s->z, &s->bundle->file[piece.file].head, piece.run.at, piece.run.bytes,
                   &w->route);
    if (piece.run.bytes == 0)
        w->route.at = w->route.end = 0;
}

static int walk_next(walk *w, int writer, zi_run *run)
{
    while (zi_route_next(&w->route, run)) {
        int mine = run->owner == w->what.owner;
        if (run->owner == ZI_EVERY_RANK)
            mine = w->what.to_file ? w->what.owner == writer : 1;
        if (mine)
            return 1;
    }
    return 0;
}

static size_t parcel_bytes(const zi_shuffle *s, parcel what, int writer)
{
    walk w;
    zi_run run;
    size_t bytes = 0;
    walk_begin(s, what, &w);
    while (walk_next(&w, writer, &run))
        bytes += run.bytes;
    return bytes;
}

static void copy_run(const zi_zero *z, const zi_run *run, char *host, int to_file)
{
    const zi_device_ops *device = run->of_params ? z->config.device : z->config.home;
    zi_queue *queue = run->of_params ? z->queue : z->home_queue;
    device->copy(queue, to_file ? host : run->memory, to_file ? run->memory : host, run->bytes);
}

/* Between this rank's memory, which owns the parcel, and `packed`, or the piece itself. */
static size_t copy_memory(const zi_shuffle *s, parcel what, int writer, char *packed, char *piece)
{
    walk w;
    zi_run run;
    size_t bytes = 0;
    walk_begin(s, what, &w);
    while (walk_next(&w, writer, &run)) {
        char *host = piece != NULL ? piece + run.at : packed + bytes;
        if (s->past_caches)
            zi_stream_copy(host, run.memory, run.bytes);
        else
            copy_run(s->z, &run, host, what.to_file);
        bytes += run.bytes;
    }
    return bytes;
}

void zi_shuffle_store(const zi_shuffle *s, uint64_t piece, int writer, char *data)
{
    copy_memory(s, (parcel){piece, s->z->comm->rank, 1}, writer, NULL, data);
}

void zi_shuffle_fetch(const zi_shuffle *s, uint64_t piece, const char *from, char *to)
{
    walk w;
    zi_run run;
    walk_begin(s, (parcel){piece, s->z->comm->rank, 1}, &w);
    while (zi_route_next(&w.route, &run))
        if (run.owner != s->z->comm->rank && run.owner != ZI_EVERY_RANK)
            memcpy(to + run.at, from + run.at, run.bytes);
}

/* Between the packed parcel and the piece that it is a part of. */
static size_t copy_piece(const zi_shuffle *s, parcel what, int writer, char *packed, char *piece)
{
    walk w;
    zi_run run;
    size_t bytes = 0;
    walk_begin(s, what, &w);
    while (walk_next(&w, writer, &run)) {
        memcpy(what.to_file ? piece + run.at : packed + bytes,
               what.to_file ? packed + bytes : piece + run.at, run.bytes);
        bytes += run.bytes;
    }
    return bytes;
}

/* Where this rank packs the next parcel that it gives. */
static char *outbox(const zi_shuffle *s)
{
    return s->window == NULL ? s->send : (char *)s->window->base + (size_t)s->half * s->half_bytes;
}

/* Give what is in the outbox and take what a peer has in its own: `received` bytes at *got. In a
 * window a parcel stays while the next one is packed into the other half: when all have met again,
 * it has been taken. */
static zopt_status meet(zi_shuffle *s, int to, size_t sent, int from, size_t received, char **got)
{
    zi_comm *comm = s->z->comm;
    zi_message messages[2];
    size_t n = 0;
    if (s->window != NULL) {
        int64_t none = 0;
        *got = (char *)s->window->peer[from] + (size_t)s->half * s->half_bytes;
        s->half ^= 1;
        return comm->ops->all_reduce(comm, ZI_MIN, &none, 1);
    }
    *got = s->receive;
    if (sent > 0)
        messages[n++] = (zi_message){.peer = to, .data = s->send, .bytes = sent};
    if (received > 0)
        messages[n++] =
            (zi_message){.peer = from, .receive = 1, .data = s->receive, .bytes = received};
    return comm->ops->exchange(comm, messages, n);
}

/* Step j of saving: what this rank owns of r + j's piece goes there, r - j sends its part of this
 * rank's piece. */
static zopt_status step_to_file(zi_shuffle *s, uint64_t first, int j, char *piece)
{
    zi_comm *comm = s->z->comm;
    int world = comm->world, me = comm->rank;
    int to = (me + j) % world, from = (me - j + world) % world;
    parcel out = {first + (uint64_t)to, me, 1}, in = {first + (uint64_t)me, from, 1};
    int sends = out.piece < s->bundle->n_pieces, receives = in.piece < s->bundle->n_pieces;
    if (j == 0) {
        if (sends)
            copy_memory(s, out, me, NULL, piece);
        return s->z->config.device->wait(s->z->queue);
    }
    char *got;
    size_t sent = sends ? copy_memory(s, out, to, outbox(s), NULL) : 0;
    ZI_TRY(s->z->config.device->wait(s->z->queue));
    ZI_TRY(meet(s, to, sent, from, receives ? parcel_bytes(s, in, me) : 0, &got));
    if (receives)
        copy_piece(s, in, me, got, piece);
    return ZOPT_OK;
}

/* Step j of loading: r + j gets its part of this rank's piece, r - j has this rank's part of its
 * own. */
static zopt_status step_from_file(zi_shuffle *s, uint64_t first, int j, char *piece)
{
    zi_comm *comm = s->z->comm;
    int world = comm->world, me = comm->rank;
    int to = (me + j) % world, from = (me - j + world) % world;
    parcel out = {first + (uint64_t)me, to, 0}, in = {first + (uint64_t)from, me, 0};
    int sends = out.piece < s->bundle->n_pieces, receives = in.piece < s->bundle->n_pieces;
    if (j == 0) {
        if (sends)
            copy_memory(s, out, me, NULL, piece);
        return s->z->config.device->wait(s->z->queue);
    }
    char *got;
    size_t sent = sends ? copy_piece(s, out, me, outbox(s), piece) : 0;
    ZI_TRY(meet(s, to, sent, from, receives ? parcel_bytes(s, in, from) : 0, &got));
    if (receives)
        copy_memory(s, in, from, got, NULL);
    return s->z->config.device->wait(s->z->queue);
}

zopt_status zi_shuffle_round(zi_shuffle *s, uint64_t first, zi_direction direction, char *piece)
{
    for (int j = 0; j < s->z->comm->world; j++)
        ZI_TRY(direction == ZI_TO_FILE ? step_to_file(s, first, j, piece)
                                       : step_from_file(s, first, j, piece));
    return ZOPT_OK;
}
