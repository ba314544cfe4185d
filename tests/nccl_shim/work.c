/* Work of the communicators: messages through rings, as the stream comes to them, in the order of
 * the communicator's calls. What is captured is posted anew by each launch of the graph. */
#include "work.h"

#include "shim.h"

static _Thread_local work *group;
static _Thread_local int in_group;

/* ------------------------------------------------------------------ bytes -------------------- */

/* As many of n bytes as there is room for, or as have come. */
static size_t through(ring *r, char *data, size_t n, int receive)
{
    uint64_t written = atomic_load(&r->written), read = atomic_load(&r->read);
    uint64_t room = receive ? written - read : RING_BYTES - (written - read);
    size_t moved = n < room ? n : (size_t)room;
    for (size_t at = 0; at < moved;) {
        size_t place = (size_t)((receive ? read : written) + at) % RING_BYTES;
        size_t part = RING_BYTES - place < moved - at ? RING_BYTES - place : moved - at;
        if (receive)
            memcpy(data + at, r->data + place, part);
        else
            memcpy(r->data + place, data + at, part);
        at += part;
    }
    atomic_fetch_add(receive ? &r->read : &r->written, moved);
    return moved;
}

/* Heads go whole or not at all. */
static int pass_head(ring *r, op *o)
{
    head h = o->head, got;
    uint64_t there = atomic_load(&r->written) - atomic_load(&r->read);
    if (o->receive ? there < sizeof h : RING_BYTES - there < sizeof h)
        return 0;
    if (!o->receive) {
        (void)through(r, (char *)&h, sizeof h, 0);
    } else {
        (void)through(r, (char *)&got, sizeof got, 1);
        /* Both sides make the same call. */
        MUST(got.is_plain == h.is_plain && got.nth == h.nth && got.bytes == h.bytes);
        MUST(got.place == h.place);
    }
    o->has_head = 1;
    return 1;
}

static ring *ring_of(const work *w, const op *o)
{
    shared *all = w->comm->all;
    int me = w->comm->rank;
    return o->receive ? &all->ring[o->peer][me] : &all->ring[me][o->peer];
}

static int is_done(const op *o)
{
    return o->has_head && o->done == o->bytes;
}

/* 1: not done, and what the pair exchanges in this direction before is. */
static int has_turn(const work *w, int i)
{
    for (int before = 0; before < i; before++)
        if (w->op[before].peer == w->op[i].peer && w->op[before].receive == w->op[i].receive &&
            !is_done(&w->op[before]))
            return 0;
    return !is_done(&w->op[i]);
}

static int ready(const void *arg)
{
    const work *w = arg;
    int n_left = 0;
    if (w->comm->is_aborted || w->comm->error != ncclSuccess)
        return 1;
    for (int i = 0; i < w->n_ops && w->comm->n_done == w->nth; i++) {
        const op *o = &w->op[i];
        ring *r = ring_of(w, o);
        uint64_t there = atomic_load(&r->written) - atomic_load(&r->read);
        n_left += !is_done(o);
        if (has_turn(w, i) &&
            (o->receive ? there : RING_BYTES - there) >= (o->has_head ? 1 : sizeof(head)))
            return 1;
    }
    return n_left == 0 && w->comm->n_done == w->nth;
}

static void advance(const work *w, op *o)
{
    ring *r = ring_of(w, o);
    if (!o->has_head && !pass_head(r, o))
        return;
    o->done += through(r, o->data + o->done, o->bytes - o->done, o->receive);
}

static void discard(work *w)
{
    free(w->arrived);
    free(w);
}

/* A communicator's work is done in the order of its calls. */
static int progress(void *arg)
{
    work *w = arg;
    int done = 1;
    if (!w->comm->is_aborted && w->comm->error == ncclSuccess) {
        if (w->comm->n_done != w->nth)
            return 0;
        for (int i = 0; i < w->n_ops; i++) {
            if (has_turn(w, i))
                advance(w, &w->op[i]);
            done &= is_done(&w->op[i]);
        }
        if (!done)
            return 0;
        if (w->finish != NULL)
            w->finish(w);
    }
    w->comm->n_done++;
    discard(w);
    return 1;
}

/* ------------------------------------------------------------------ streams ------------------ */

static void post(work *w)
{
    w->nth = w->comm->n_posted++;
    shim_enqueue(w->stream, ready, progress, w);
}

static void post_again(void *arg, cudaStream_t stream)
{
    const work *recorded = arg;
    work *w = malloc(sizeof *w);
    MUST(w != NULL);
    *w = *recorded;
    w->stream = stream;
    if (w->arrived != NULL) {
        size_t bytes = (size_t)w->comm->world * w->bytes + 1;
        w->arrived = malloc(bytes);
        MUST(w->arrived != NULL);
        for (int i = 0; i < w->n_ops; i++)
            if (w->op[i].receive)
                w->op[i].data = w->arrived + (recorded->op[i].data - recorded->arrived);
    }
    post(w);
}

static void drop(void *arg)
{
    work *w = arg;
    w->comm->n_graphs--;
    nccl_shim.n_graphs--;
    discard(w);
}

void work_post(work *w)
{
    if (!shim_capture(w->stream, post_again, drop, w)) {
        post(w);
        return;
    }
    w->comm->n_graphs++;
    nccl_shim.n_graphs++;
}

static int is_captured(cudaStream_t stream)
{
    cudaStreamCaptureStatus capture;
    MUST(cudaStreamIsCapturing(stream, &capture) == cudaSuccess);
    return capture == cudaStreamCaptureStatusActive;
}

int work_is_captured(ncclComm_t comm)
{
    return comm->captured != NULL && is_captured(comm->captured);
}

/* ------------------------------------------------------------------ calls -------------------- */

size_t work_bytes_of(ncclDataType_t dtype)
{
    return dtype == ncclInt8 ? 1 : dtype == ncclInt64 ? 8 : dtype == ncclFloat32 ? 4 : 2;
}

work *work_new(ncclComm_t comm, cudaStream_t stream)
{
    work *w = calloc(1, sizeof *w);
    MUST(w != NULL && !comm->is_aborted && !comm->in_progress);
    w->comm = comm;
    w->stream = stream;
    return w;
}

void work_add(work *w, int receive, int peer, const void *data, size_t bytes)
{
    MUST(w->n_ops < MAX_OPS && peer >= 0 && peer < w->comm->world && peer != w->comm->rank);
    op *o = &w->op[w->n_ops++];
    *o = (op){.bytes = bytes,
              .peer = peer,
              .receive = receive,
              .head = {0, w->comm->n_collectives, bytes, w->place}};
    memcpy(&o->data, &data, sizeof data);
}

static int overlap(const op *a, const op *b)
{
    return a->data < b->data + b->bytes && b->data < a->data + a->bytes;
}

/* Nothing that is received may touch anything else of the work. */
static void check(const work *w)
{
    for (int i = 0; i < w->n_ops; i++) {
        const op *o = &w->op[i];
        MUST(o->bytes == 0 || w->arrived != NULL ||
             (shim_is_device(o->data) && shim_is_device(o->data + o->bytes - 1)));
        for (int j = 0; j < w->n_ops; j++)
            MUST(j == i || !o->receive || !overlap(o, &w->op[j]));
    }
}

static ncclResult_t refuse(work *w)
{
    ncclResult_t error = w->comm->error = nccl_shim.fail_with;
    discard(w);
    return nccl_shim.fails_at_once ? error : ncclInProgress;
}

/* The first work of a communicator connects it. What is captured is so by threads of NCCL's own,
 * some time later. */
ncclResult_t work_submit(work *w)
{
    ncclComm_t comm = w->comm;
    int captured = is_captured(w->stream);
    check(w);
    comm->n_collectives += w->n_ops > 0 && !w->op[0].head.is_plain;
    if (comm->n_posted > 0 && !captured) {
        post(w);
        return ncclSuccess;
    }
    MUST(comm->n_posted > 0 || !captured); /* a capture cannot connect */
    comm->captured = captured ? w->stream : comm->captured;
    if (captured && nccl_shim.fail_captured > 0 && --nccl_shim.fail_captured == 0)
        return refuse(w);
    comm->first = w;
    comm->in_progress = 2;
    return ncclInProgress;
}

ncclResult_t ncclGroupStart(void)
{
    MUST(!in_group);
    in_group = 1;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    work *w = group;
    MUST(in_group);
    in_group = 0;
    group = NULL;
    return w != NULL ? work_submit(w) : ncclSuccess;
}

static ncclResult_t join_group(int receive, const void *data, size_t bytes, int peer,
                               ncclComm_t comm, cudaStream_t stream)
{
    MUST(in_group);
    if (group == NULL)
        group = work_new(comm, stream);
    MUST(group->comm == comm && group->stream == stream);
    work_add(group, receive, peer, data, bytes);
    group->op[group->n_ops - 1].head = (head){1, group->comm->n_plain[receive][peer]++, bytes, 0};
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t dtype, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return join_group(0, data, n * work_bytes_of(dtype), peer, comm, stream);
}

ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t dtype, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return join_group(1, data, n * work_bytes_of(dtype), peer, comm, stream);
}
