/* Waits of transport nccl: the meeting's (mpi_wait.c), with the GPU in the place of requests. They
 * have its deadline, its watchdog and its roll, which names the ranks that are missing, and in each
 * of them NCCL is asked for errors that peers have caused. */
#include <stddef.h>

#include "comm/nccl.h"

/* ------------------------------------------------------------------ failures ----------------- */

/* What came of peers, the network or NCCL itself may not come again; what zopt did will. */
static int may_pass(ncclResult_t rc)
{
    return rc == ncclRemoteError || rc == ncclSystemError || rc == ncclInternalError;
}

/* What NCCL says of a communicator now, whatever it said before. */
static ncclResult_t state_of(const zi_nccl_comm *n, ncclComm_t comm)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t rc = comm != NULL ? n->nccl->CommGetAsyncError(comm, &state) : ncclSuccess;
    return rc != ncclSuccess ? rc : state;
}

/* CUDA refuses what it will refuse again, or what is left of a peer whose memory or node is gone.
 * NCCL hears of that too, sooner or later: from the peer's sockets, on either communicator. */
static int a_peer_is_lost(zi_nccl_comm *n)
{
    enum { GRACE_MS = 1000 };
    zi_wait wait;
    zi_wait_begin(&wait, &n->base);
    if (n->base.deadline_ms > GRACE_MS)
        wait.until_ms += GRACE_MS - n->base.deadline_ms;
    do {
        for (int i = 0; i < ZI_N_NCCL_LANES; i++)
            if (may_pass(state_of(n, n->lane[i].comm)))
                return 1;
    } while (!zi_wait_pause(&wait));
    return 0;
}

static zopt_status fail(zi_nccl_comm *n, ncclComm_t comm, const char *call, ncclResult_t rc)
{
    const char *more = n->nccl->GetLastError(comm);
    int is_peers = may_pass(rc) || (rc == ncclUnhandledCudaError && a_peer_is_lost(n));
    return ZI_FAIL(is_peers ? ZOPT_ERR_PEER : ZOPT_ERR_COMM, "rank %d: %s: NCCL: %s%s%s",
                   n->base.rank, call, n->nccl->GetErrorString(rc),
                   more != NULL && more[0] != '\0' ? ": " : "", more != NULL ? more : "");
}

/* An abort may wait for threads of NCCL's own; and for graphs that run, in which there is work of
 * both communicators: as a group both are told before either is waited for. */
void zi_nccl_abort(zi_nccl_comm *n)
{
    if (n->lane[ZI_NCCL_GRADS].comm == NULL && n->lane[ZI_NCCL_PARAMS].comm == NULL)
        return;
    if (n->base.on_abort != NULL)
        n->base.on_abort(n->base.on_abort_arg);
    zi_watchdog_arm(&n->meeting->watchdog, "ncclCommAbort", 0);
    (void)n->nccl->GroupStart();
    for (int i = 0; i < ZI_N_NCCL_LANES; i++) {
        if (n->lane[i].comm != NULL)
            (void)n->nccl->CommAbort(n->lane[i].comm);
        n->lane[i].comm = NULL;
    }
    (void)n->nccl->GroupEnd();
    (void)zi_watchdog_disarm(&n->meeting->watchdog);
}

zopt_status zi_nccl_checked(zi_nccl_comm *n, zopt_status status)
{
    if (status == ZOPT_OK)
        return ZOPT_OK;
    n->has_failed = 1;
    if (n->base.recording == ZI_RECORDING)
        return status;
    n->base.broken = 1;
    zi_nccl_abort(n);
    return status;
}

/* Over MPI, before any rank aborts. Who knows of a failure looks for no other meanwhile. */
zopt_status zi_nccl_record_agree(zi_comm *comm, zopt_status mine)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    int64_t any_failed = n->has_failed;
    if (n->has_failed)
        n->meeting->user.check = NULL;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MAX, &any_failed, 1));
    if (!any_failed)
        return zi_comm_agree(comm, mine);
    n->meeting->user.check = NULL;
    return zi_nccl_checked(n, zi_comm_agree(comm, mine));
}

zopt_status zi_nccl_check_peers(zi_comm *comm)
{
    zi_nccl_comm *n = (zi_nccl_comm *)comm;
    for (int i = 0; i < ZI_N_NCCL_LANES; i++) {
        ncclComm_t of = n->lane[i].comm;
        ncclResult_t rc = state_of(n, of);
        if (rc != ncclSuccess && rc != ncclInProgress)
            return fail(n, of, "a transfer", rc);
    }
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ calls -------------------- */

typedef struct call_wait {
    zi_mpi_wait base;
    zi_nccl_comm *n;
    const zi_nccl_lane *lane;
    const char *call;
} call_wait;

/* A split communicator is not there before its parent says so. */
zopt_status zi_nccl_test(zi_nccl_comm *n, const zi_nccl_lane *lane, const char *call, int *done)
{
    ncclComm_t of = lane->comm != NULL ? lane->comm : n->callers;
    ncclResult_t rc = of != NULL ? state_of(n, of) : ncclInternalError;
    *done = rc == ncclSuccess;
    return *done || rc == ncclInProgress ? ZOPT_OK : fail(n, of, call, rc);
}

static zopt_status test_call(zi_mpi *m, zi_mpi_wait *wait, int *done)
{
    const call_wait *w = (const call_wait *)wait;
    (void)m;
    return zi_nccl_test(w->n, w->lane, w->call, done);
}

zopt_status zi_nccl_await(zi_nccl_comm *n, const zi_nccl_lane *lane, const char *call,
                          ncclResult_t rc)
{
    call_wait wait = {.base = {.test = test_call, .what = "connections of NCCL", .peer = -1},
                      .n = n,
                      .lane = lane,
                      .call = call};
    if (rc == ncclSuccess)
        return ZOPT_OK;
    if (rc != ncclInProgress)
        return fail(n, lane->comm, call, rc);
    return zi_mpi_await(zi_nccl_meeting(&n->base), &wait.base);
}

zopt_status zi_nccl_finish(zi_nccl_comm *n, const zi_nccl_lane *lane, const char *call,
                           ncclResult_t rc)
{
    return zi_nccl_checked(n, zi_nccl_await(n, lane, call, rc));
}

/* ------------------------------------------------------------------ the GPU ------------------ */

typedef struct gpu_wait {
    zi_mpi_wait base;
    zi_nccl_comm *n;
    int (*is_done)(const void *what);
    const void *what;
} gpu_wait;

/* What the GPU is most likely waiting for. */
static const char *what_is_late(const zi_nccl_comm *n)
{
    static const char *const texts[] = {
        [ZI_NCCL_GRADS] = "gradients", [ZI_NCCL_PARAMS] = "parameters"};
    for (int i = 0; i < ZI_N_NCCL_LANES; i++)
        if (cudaStreamQuery(n->lane[i].queue->stream) == cudaErrorNotReady)
            return texts[i];
    return "results of the GPU";
}

static zopt_status test_gpu(zi_mpi *m, zi_mpi_wait *wait, int *done)
{
    gpu_wait *w = (gpu_wait *)wait;
    (void)m;
    *done = w->is_done(w->what);
    if (!*done)
        wait->what = what_is_late(w->n);
    return ZOPT_OK;
}

/* Once the comm is broken its work has been aborted, and CUDA's own wait ends. */
static zopt_status wait_for_gpu(zi_guard *guard, int (*is_done)(const void *what), const void *what)
{
    zi_nccl_comm *n = (zi_nccl_comm *)(void *)((char *)guard - offsetof(zi_nccl_comm, guard));
    gpu_wait wait = {
        .base = {.test = test_gpu, .peer = -1}, .n = n, .is_done = is_done, .what = what};
    if (n->base.broken)
        return ZOPT_OK;
    return zi_nccl_checked(n, zi_mpi_await(zi_nccl_meeting(&n->base), &wait.base));
}

void zi_nccl_guard(zi_nccl_comm *n, zi_queue *queue)
{
    n->guard = (zi_guard){.wait = wait_for_gpu, .calls_off = 1};
    if (queue != NULL)
        queue->guard = &n->guard;
}
