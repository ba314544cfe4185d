/* The communicators of nccl.h: ranks exchange bytes through rings in a file that all of them map.
 * Work runs on the streams of the CUDA shim, as they run. Where NCCL would hang or hand out wrong
 * bytes, this one ends the test: host memory, buffers that are received into while they are sent,
 * calls on a communicator that is still in progress, ranks that do not call the same.
 *
 * As with a communicator that does not block: it connects, and does its first work, while it is
 * asked for errors, and what it has not begun by then is not on its stream. */
#include "nccl.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/dtype.h"
#include "shim.h"

enum { MAX_RANKS = 8, RING_BYTES = 1 << 16, MAX_OPS = 2 * MAX_RANKS };

nccl_shim_state nccl_shim;

#define MUST(condition)                                                                \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "nccl shim, %s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                   \
        }                                                                              \
    } while (0)

typedef struct ring {
    _Alignas(64) _Atomic uint64_t written;
    _Alignas(64) _Atomic uint64_t read;
    char data[RING_BYTES];
} ring;

typedef struct shared {
    _Atomic int n_joined, n_finalized;
    _Atomic int is_dead[MAX_RANKS];
    char gpu[MAX_RANKS][16];
    ring ring[MAX_RANKS][MAX_RANKS]; /* from, to */
} shared;

/* What a message begins with. */
typedef struct head {
    uint64_t nth; /* work of the communicator */
    uint64_t bytes;
} head;

typedef struct op {
    char *data; /* of a receive; a send only reads */
    size_t bytes, done;
    int peer, receive, has_head;
} op;

typedef struct work {
    struct ncclComm *comm;
    cudaStream_t stream;
    uint64_t nth;
    op op[MAX_OPS];
    int n_ops;
    /* Behind all of them; NULL: nothing. */
    void (*finish)(const struct work *w);
    const char *send;
    char *receive, *arrived; /* arrived: what came from each rank, `bytes` each */
    size_t bytes;
    ncclDataType_t dtype;
} work;

struct ncclComm {
    shared *all;
    char name[sizeof((ncclUniqueId *)NULL)->internal];
    int rank, world, device;
    int in_progress; /* 1: joining; 2: first work; 3: finalizing */
    int is_aborted;
    ncclResult_t error;
    uint64_t n_posted, n_done;
    work *first; /* that waits for its connections, or, in a capture, for NCCL's threads */
    int n_graphs; /* work of it that graphs keep */
    int n_splits;
};

static _Thread_local work *group;
static _Thread_local int in_group;

/* ------------------------------------------------------------------ life --------------------- */

ncclResult_t ncclGetVersion(int *version)
{
    const char *text = getenv("NCCL_SHIM_VERSION");
    *version = text != NULL ? (int)strtol(text, NULL, 10) : NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclRemoteError ? "remote process exited" : "unhandled error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return comm == NULL ? "" : "the shim says so";
}

static shared *map(const char *name)
{
    int file = shm_open(name, O_RDWR | O_CREAT, 0600);
    MUST(file >= 0 && ftruncate(file, sizeof(shared)) == 0);
    void *memory = mmap(NULL, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    MUST(memory != MAP_FAILED);
    close(file);
    return memory;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int n;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/zopt-nccl-%d-%d", (int)getpid(), n++);
    return ncclSuccess;
}

static ncclComm_t join(const char *name, int world, int rank)
{
    ncclComm_t comm = calloc(1, sizeof *comm);
    MUST(comm != NULL && world <= MAX_RANKS && rank >= 0 && rank < world);
    snprintf(comm->name, sizeof comm->name, "%s", name);
    comm->all = map(name);
    comm->rank = rank;
    comm->world = world;
    comm->in_progress = 1;
    MUST(cudaGetDevice(&comm->device) == cudaSuccess);
    MUST(cudaDeviceGetPCIBusId(comm->all->gpu[rank], sizeof comm->all->gpu[rank], comm->device) ==
         cudaSuccess);
    atomic_fetch_add(&comm->all->n_joined, 1);
    nccl_shim.n_begun++;
    return comm;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int world, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    MUST(config->blocking == 0);
    *comm = join(id.internal, world, rank);
    return ncclInProgress;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *out,
                           ncclConfig_t *config)
{
    char name[128];
    MUST(color == 0 && key == comm->rank && config->blocking == 0 && comm->in_progress == 0);
    snprintf(name, sizeof name, "%.100s-%d", comm->name, comm->n_splits++);
    *out = join(name, comm->world, comm->rank);
    return ncclInProgress;
}

static int two_share_a_gpu(const ncclComm_t comm)
{
    for (int a = 0; a < comm->world; a++)
        for (int b = 0; b < a; b++)
            if (strcmp(comm->all->gpu[a], comm->all->gpu[b]) == 0)
                return 1;
    return 0;
}

static int ready(const void *arg);
static int progress(void *arg);

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
    free(w->arrived);
    free(w);
}

static void post_or_record(work *w)
{
    if (shim_capture(w->stream, post_again, drop, w))
        w->comm->n_graphs++;
    else
        post(w);
}

/* What NCCL's own threads do meanwhile. */
static void go_on(ncclComm_t comm)
{
    shared *all = comm->all;
    if (comm->in_progress == 1 && atomic_load(&all->n_joined) == comm->world) {
        MUST(!two_share_a_gpu(comm));
        shm_unlink(comm->name);
        comm->in_progress = 0;
    } else if (comm->in_progress == 2) {
        comm->in_progress = 0;
        post_or_record(comm->first);
    } else if (comm->in_progress == 3 && atomic_load(&all->n_finalized) == comm->world) {
        comm->in_progress = 0;
    }
    for (int r = 0; r < comm->world; r++)
        if (atomic_load(&all->is_dead[r]) && r != comm->rank)
            comm->error = ncclRemoteError;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    MUST(!comm->is_aborted);
    go_on(comm);
    shim_push();
    if (nccl_shim.fail > 0 && --nccl_shim.fail == 0)
        comm->error = ncclSystemError;
    *state = comm->error != ncclSuccess ? comm->error
             : comm->in_progress        ? ncclInProgress
                                        : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    MUST(!comm->in_progress && comm->n_done == comm->n_posted && comm->n_graphs == 0);
    comm->in_progress = 3;
    atomic_fetch_add(&comm->all->n_finalized, 1);
    return ncclInProgress;
}

/* Memory of a communicator with unfinished work stays. */
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    MUST(!comm->in_progress && atomic_load(&comm->all->n_finalized) == comm->world);
    munmap(comm->all, sizeof *comm->all);
    free(comm);
    nccl_shim.n_destroyed++;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    MUST(!comm->is_aborted && comm->n_graphs == 0); /* it would wait for them for ever */
    comm->is_aborted = 1;
    atomic_store(&comm->all->is_dead[comm->rank], 1);
    shm_unlink(comm->name);
    nccl_shim.n_aborted++;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t comm, int *world)
{
    *world = comm->world;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(ncclComm_t comm, int *rank)
{
    *rank = comm->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(ncclComm_t comm, int *device)
{
    *device = comm->device;
    return ncclSuccess;
}

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
static int pass_head(ring *r, const work *w, op *o)
{
    head h = {w->nth, o->bytes}, got;
    uint64_t there = atomic_load(&r->written) - atomic_load(&r->read);
    if (o->receive ? there < sizeof h : RING_BYTES - there < sizeof h)
        return 0;
    if (!o->receive) {
        (void)through(r, (char *)&h, sizeof h, 0);
    } else {
        (void)through(r, (char *)&got, sizeof got, 1);
        MUST(got.nth == h.nth && got.bytes == h.bytes); /* both sides are in the same work */
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
        int is_done = o->has_head && o->done == o->bytes;
        n_left += !is_done;
        if (!is_done &&
            (o->receive ? there : RING_BYTES - there) >= (o->has_head ? 1 : sizeof(head)))
            return 1;
    }
    return n_left == 0 && w->comm->n_done == w->nth;
}

static int advance(const work *w, op *o)
{
    ring *r = ring_of(w, o);
    if (!o->has_head && !pass_head(r, w, o))
        return 0;
    o->done += through(r, o->data + o->done, o->bytes - o->done, o->receive);
    return o->done == o->bytes;
}

/* A communicator's work is done in the order of its calls. */
static int progress(void *arg)
{
    work *w = arg;
    int done = 1;
    if (!w->comm->is_aborted && w->comm->error == ncclSuccess) {
        if (w->comm->n_done != w->nth)
            return 0;
        for (int i = 0; i < w->n_ops; i++)
            done &= advance(w, &w->op[i]);
        if (!done)
            return 0;
        if (w->finish != NULL)
            w->finish(w);
    }
    w->comm->n_done++;
    free(w->arrived);
    free(w);
    return 1;
}

/* ------------------------------------------------------------------ calls -------------------- */

static size_t bytes_of(ncclDataType_t dtype)
{
    return dtype == ncclInt8 ? 1 : dtype == ncclInt64 ? 8 : dtype == ncclFloat32 ? 4 : 2;
}

static work *new_work(ncclComm_t comm, cudaStream_t stream)
{
    work *w = calloc(1, sizeof *w);
    MUST(w != NULL && !comm->is_aborted && !comm->in_progress);
    w->comm = comm;
    w->stream = stream;
    return w;
}

static void add(work *w, int receive, int peer, const void *data, size_t bytes)
{
    MUST(w->n_ops < MAX_OPS && peer >= 0 && peer < w->comm->world && peer != w->comm->rank);
    op *o = &w->op[w->n_ops++];
    *o = (op){.bytes = bytes, .peer = peer, .receive = receive};
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

/* The first work of a communicator connects it. What is captured is so by threads of NCCL's own,
 * some time later. */
static ncclResult_t submit(work *w)
{
    ncclComm_t comm = w->comm;
    cudaStreamCaptureStatus capture;
    MUST(cudaStreamIsCapturing(w->stream, &capture) == cudaSuccess);
    int is_captured = capture == cudaStreamCaptureStatusActive;
    check(w);
    if (comm->n_posted > 0 && !is_captured) {
        post(w);
        return ncclSuccess;
    }
    MUST(comm->n_posted > 0 || !is_captured); /* a capture cannot connect */
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
    return w != NULL ? submit(w) : ncclSuccess;
}

static ncclResult_t join_group(int receive, const void *data, size_t bytes, int peer,
                               ncclComm_t comm, cudaStream_t stream)
{
    MUST(in_group);
    if (group == NULL)
        group = new_work(comm, stream);
    MUST(group->comm == comm && group->stream == stream);
    add(group, receive, peer, data, bytes);
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t dtype, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return join_group(0, data, n * bytes_of(dtype), peer, comm, stream);
}

ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t dtype, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return join_group(1, data, n * bytes_of(dtype), peer, comm, stream);
}

/* ------------------------------------------------------------------ collectives -------------- */

static void place_own(const work *w)
{
    memmove(w->receive + (size_t)w->comm->rank * w->bytes, w->send, w->bytes);
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                           ncclComm_t comm, cudaStream_t stream)
{
    work *w = new_work(comm, stream);
    w->bytes = n * bytes_of(dtype);
    w->send = send;
    w->receive = receive;
    w->finish = place_own;
    for (int i = 1; i < comm->world; i++) {
        int peer = (comm->rank + i) % comm->world;
        add(w, 0, peer, send, w->bytes);
        add(w, 1, peer, (char *)receive + (size_t)peer * w->bytes, w->bytes);
    }
    return submit(w);
}

/* The parts of all ranks, next to each other on the host. */
static void gather_parts(work *w, size_t stride)
{
    ncclComm_t comm = w->comm;
    w->arrived = malloc((size_t)comm->world * w->bytes + 1);
    MUST(w->arrived != NULL && shim_is_device(w->send) && shim_is_device(w->receive));
    for (int i = 1; i < comm->world; i++) {
        int peer = (comm->rank + i) % comm->world;
        add(w, 0, peer, w->send + (size_t)peer * stride, w->bytes);
        add(w, 1, peer, w->arrived + (size_t)peer * w->bytes, w->bytes);
    }
}

static void sum_words(const work *w)
{
    size_t n = w->bytes / sizeof(int64_t);
    int64_t *out = (int64_t *)(void *)w->receive;
    memcpy(w->arrived + (size_t)w->comm->rank * w->bytes, w->send, w->bytes);
    const int64_t *part = (const int64_t *)(void *)w->arrived;
    for (size_t i = 0; i < n; i++) {
        out[i] = 0;
        for (int r = 0; r < w->comm->world; r++)
            out[i] += part[(size_t)r * n + i];
    }
}

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                           ncclRedOp_t op_of, ncclComm_t comm, cudaStream_t stream)
{
    work *w = new_work(comm, stream);
    MUST(dtype == ncclInt64 && op_of == ncclSum);
    w->bytes = n * sizeof(int64_t);
    w->send = send;
    w->receive = receive;
    w->finish = sum_words;
    gather_parts(w, 0);
    return submit(w);
}

static float widen(const char *at, ncclDataType_t dtype)
{
    uint16_t half;
    float x;
    if (dtype == ncclFloat32)
        return memcpy(&x, at, sizeof x), x;
    memcpy(&half, at, sizeof half);
    return dtype == ncclFloat16 ? zi_half_to_float(half) : zi_bf16_to_float(half);
}

static void narrow(char *at, float x, ncclDataType_t dtype)
{
    uint16_t half = dtype == ncclFloat16 ? zi_float_to_half(x) : zi_float_to_bf16(x);
    if (dtype == ncclFloat32)
        memcpy(at, &x, sizeof x);
    else
        memcpy(at, &half, sizeof half);
}

/* Along a ring that ends here, rounded at every hop. */
static void sum_along_ring(const work *w)
{
    int world = w->comm->world, me = w->comm->rank;
    size_t step = bytes_of(w->dtype);
    memcpy(w->arrived + (size_t)me * w->bytes, w->send + (size_t)me * w->bytes, w->bytes);
    for (size_t at = 0; at < w->bytes; at += step) {
        char *sum = w->receive + at;
        memcpy(sum, w->arrived + (size_t)((me + 1) % world) * w->bytes + at, step);
        for (int i = 2; i <= world; i++) {
            const char *next = w->arrived + (size_t)((me + i) % world) * w->bytes + at;
            narrow(sum, widen(sum, w->dtype) + widen(next, w->dtype), w->dtype);
        }
    }
}

ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                               ncclRedOp_t op_of, ncclComm_t comm, cudaStream_t stream)
{
    work *w = new_work(comm, stream);
    MUST(op_of == ncclSum);
    w->bytes = n * bytes_of(dtype);
    w->dtype = dtype;
    w->send = send;
    w->receive = receive;
    w->finish = sum_along_ring;
    gather_parts(w, w->bytes);
    return submit(w);
}
