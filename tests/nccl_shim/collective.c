/* Collectives as messages and what ranks make of those that arrive: exact sums of words, and sums
 * of floats rounded at every hop of a ring, as NCCL has them. */
#include "base/dtype.h"
#include "shim.h"
#include "work.h"

static void place_own(const work *w)
{
    memmove(w->receive + (size_t)w->comm->rank * w->bytes, w->send, w->bytes);
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                           ncclComm_t comm, cudaStream_t stream)
{
    work *w = work_new(comm, stream);
    w->bytes = n * work_bytes_of(dtype);
    w->send = send;
    w->receive = receive;
    w->finish = place_own;
    (void)window_place(comm, send, w->bytes);
    w->place = window_place(comm, receive, (size_t)comm->world * w->bytes);
    for (int i = 1; i < comm->world; i++) {
        int peer = (comm->rank + i) % comm->world;
        work_add(w, 0, peer, send, w->bytes);
        work_add(w, 1, peer, (char *)receive + (size_t)peer * w->bytes, w->bytes);
    }
    return work_submit(w);
}

static void place_own_slice(const work *w)
{
    size_t at = (size_t)w->comm->rank * w->bytes;
    memcpy(w->receive + at, w->send + at, w->bytes);
}

ncclResult_t ncclAlltoAll(const void *send, void *receive, size_t n, ncclDataType_t dtype,
                          ncclComm_t comm, cudaStream_t stream)
{
    work *w = work_new(comm, stream);
    w->bytes = n * work_bytes_of(dtype);
    w->send = send;
    w->receive = receive;
    w->finish = place_own_slice;
    size_t all = (size_t)comm->world * w->bytes;
    MUST(w->send + all <= w->receive || w->receive + all <= w->send);
    w->place = window_place(comm, send, all) << 32 ^ window_place(comm, receive, all);
    for (int i = 1; i < comm->world; i++) {
        int peer = (comm->rank + i) % comm->world;
        work_add(w, 0, peer, w->send + (size_t)peer * w->bytes, w->bytes);
        work_add(w, 1, peer, w->receive + (size_t)peer * w->bytes, w->bytes);
    }
    return work_submit(w);
}

/* The parts of all ranks, next to each other on the host. */
static void gather_parts(work *w, size_t stride)
{
    ncclComm_t comm = w->comm;
    w->arrived = malloc((size_t)comm->world * w->bytes + 1);
    MUST(w->arrived != NULL && shim_is_device(w->send) && shim_is_device(w->receive));
    for (int i = 1; i < comm->world; i++) {
        int peer = (comm->rank + i) % comm->world;
        work_add(w, 0, peer, w->send + (size_t)peer * stride, w->bytes);
        work_add(w, 1, peer, w->arrived + (size_t)peer * w->bytes, w->bytes);
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
    work *w = work_new(comm, stream);
    MUST(dtype == ncclInt64 && op_of == ncclSum);
    w->bytes = n * sizeof(int64_t);
    w->send = send;
    w->receive = receive;
    w->finish = sum_words;
    gather_parts(w, 0);
    return work_submit(w);
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
    size_t step = work_bytes_of(w->dtype);
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
    work *w = work_new(comm, stream);
    MUST(op_of == ncclSum);
    w->bytes = n * work_bytes_of(dtype);
    w->dtype = dtype;
    w->send = send;
    w->receive = receive;
    w->finish = sum_along_ring;
    (void)window_place(comm, receive, w->bytes);
    w->place = window_place(comm, send, (size_t)comm->world * w->bytes);
    gather_parts(w, w->bytes);
    return work_submit(w);
}
