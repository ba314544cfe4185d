/* Symmetric windows of NCCL, where they are asked for: gradients, parameters and staging come from
 * ncclMemAlloc, at one offset on all ranks of windows of one size, so that ranks that reach each
 * other's memory (one NVLink domain) exchange it without copies of NCCL's own; and with the policy
 * of no CTAs copy engines move what is not summed, ncclAlltoAll and ncclAllGather, beside kernels
 * that keep all processors. NCCL's own sums are made otherwise then (in FP32, in an order of their
 * own), which nccl-native alone uses. No figures from a GPU yet: off unless asked for.
 *
 * NCCL registers windows where the GPUs have none, too, and goes on without. What tells: a null
 * window, from 2.29 on; 2.28 gives a plain handle, and a device communicator cannot be made. */
#include "base/status.h"
#include "comm/nccl.h"
#include "device/cuda.h"

enum {
    SYMMETRIC = 1,                         /* NCCL_WIN_COLL_SYMMETRIC */
    TELLS_BY_NULL = NCCL_VERSION(2, 29, 0) /* the first version that does */
};

#ifdef NCCL_CTA_POLICY_ZERO
enum { KNOWS_POLICY = 1 };

void zi_nccl_set_policy(const zi_nccl_comm *n, ncclConfig_t *config)
{
    if (n->windows == ZI_WINDOWS_COPY_ENGINES)
        config->CTAPolicy = NCCL_CTA_POLICY_ZERO;
}
#else
enum { KNOWS_POLICY = 0 };

void zi_nccl_set_policy(const zi_nccl_comm *n, ncclConfig_t *config)
{
    (void)n, (void)config;
}
#endif

zopt_status zi_nccl_check_windows(const zi_nccl_comm *n)
{
    const zi_nccl_calls *nccl = n->nccl;
    char have[32];
    if (n->windows == ZI_WINDOWS_OFF)
        return ZOPT_OK;
    if (nccl->MemAlloc == NULL || nccl->MemFree == NULL || nccl->CommWindowRegister == NULL ||
        nccl->CommWindowDeregister == NULL || nccl->AlltoAll == NULL)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "nccl_windows: NCCL %s is too old: 2.28 is needed",
                       zi_nccl_version_text(zi_nccl_version(), have));
    if (n->windows == ZI_WINDOWS_COPY_ENGINES && !KNOWS_POLICY)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "nccl_windows \"copy-engines\": zopt was built with nccl.h of NCCL %s; "
                       "2.28's is needed",
                       zi_nccl_version_text(NCCL_VERSION_CODE, have));
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ memory ------------------- */

zopt_status zi_nccl_alloc(zi_comm *comm, zi_category category, size_t bytes, void **out)
{
    const zi_nccl_comm *n = (const zi_nccl_comm *)comm;
    zi_queue *queue = comm->queue != NULL ? comm->queue : n->lane[0].queue;
    *out = NULL;
    if (!zi_cuda_enter(queue))
        return zi_cuda_wait(queue);
    ncclResult_t rc = n->nccl->MemAlloc(out, bytes);
    if (rc != ncclSuccess) {
        *out = NULL;
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for %zu bytes on GPU %d: ncclMemAlloc: %s",
                       zi_category_name(category), bytes, queue->ordinal,
                       n->nccl->GetErrorString(rc));
    }
    zi_device_cuda.zero(queue, *out, bytes);
    return ZOPT_OK;
}

/* Of a GPU whose work does not end it stays. */
void zi_nccl_free(zi_comm *comm, void *memory)
{
    const zi_nccl_comm *n = (const zi_nccl_comm *)comm;
    if (comm->queue == NULL || zi_cuda_settle(comm->queue))
        (void)n->nccl->MemFree(memory);
}

const zi_symmetric_source zi_nccl_window_memory = {.alloc = zi_nccl_alloc, .free = zi_nccl_free};

/* ------------------------------------------------------------------ windows ------------------ */

static zopt_status refuse(const zi_nccl_comm *n)
{
    return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                   "rank %d: nccl_windows: NCCL has no symmetric memory between these GPUs: all "
                   "ranks must reach each other's by NVLink or P2P, and NCCL_CUMEM_ENABLE and "
                   "NCCL_WIN_ENABLE must not be 0; set nccl_windows to \"off\"",
                   n->base.rank);
}

zopt_status zi_nccl_open_window(zi_nccl_comm *n, int lane, void *memory, size_t bytes,
                                void **window)
{
    zi_nccl_lane *on = &n->lane[lane];
    *window = NULL;
    zi_cuda_enter(on->queue);
    ZI_TRY(zi_nccl_finish(n, on, "ncclCommWindowRegister",
                          n->nccl->CommWindowRegister(on->comm, memory, bytes, window, SYMMETRIC)));
    return *window != NULL ? ZOPT_OK : refuse(n);
}

/* What NCCL writes while it is tried out: behind a wait that was given up too, so not on a stack.
 */
typedef struct trial {
    _Alignas(64) char device_comm[16 << 10]; /* more than any has */
    void *window[ZI_N_NCCL_LANES];
} trial;

/* Nothing is asked of it, which is zeros in every 2.28. NCCL that makes none keeps the error, and
 * its communicators can do no more. */
static zopt_status try_device_comm(zi_nccl_comm *n, zi_nccl_lane *lane, trial *t)
{
    static const _Alignas(64) char nothing[sizeof t->device_comm];
    if (zi_nccl_version() >= TELLS_BY_NULL || n->nccl->DevCommCreate == NULL)
        return ZOPT_OK;
    zi_cuda_enter(lane->queue);
    zopt_status status = zi_nccl_await(n, lane, "ncclDevCommCreate",
                                       n->nccl->DevCommCreate(lane->comm, nothing, t->device_comm));
    if (status == ZOPT_OK)
        return zi_nccl_finish(n, lane, "ncclDevCommDestroy",
                              n->nccl->DevCommDestroy(lane->comm, t->device_comm));
    return status == ZOPT_ERR_TIMEOUT ? zi_nccl_checked(n, status) : refuse(n);
}

static zopt_status try_memory(zi_nccl_comm *n, void *memory, size_t bytes, trial *t)
{
    ZI_TRY(try_device_comm(n, &n->lane[0], t));
    for (int i = 0; i < ZI_N_NCCL_LANES; i++) {
        ZI_TRY(zi_nccl_open_window(n, i, memory, bytes, &t->window[i]));
        ZI_TRY(zi_nccl_finish(n, &n->lane[i], "ncclCommWindowDeregister",
                              n->nccl->CommWindowDeregister(n->lane[i].comm, t->window[i])));
    }
    return ZOPT_OK;
}

zopt_status zi_nccl_try_windows(zi_nccl_comm *n)
{
    enum { BYTES = 2 << 20 };
    zi_comm *via = &n->meeting->base;
    void *memory = NULL;
    trial *t = NULL;
    if (n->windows == ZI_WINDOWS_OFF)
        return ZOPT_OK;
    zopt_status status = zi_mem_table(n->base.mem, sizeof *t, &t);
    if (status == ZOPT_OK)
        status = zi_nccl_alloc(&n->base, ZI_MEM_STAGING, BYTES, &memory);
    if (status == ZOPT_OK)
        status = zi_device_cuda.wait(n->lane[0].queue);
    status = zi_comm_agree(via, status);
    if (status == ZOPT_OK) {
        status = try_memory(n, memory, BYTES, t);
        if (status != ZOPT_OK) /* all know before any of them aborts */
            n->meeting->user.check = NULL;
        status = zi_comm_agree(via, status);
        if (status != ZOPT_OK)
            zi_nccl_abort(n);
    }
    if (memory != NULL)
        zi_nccl_free(&n->base, memory);
    zi_mem_free_table(n->base.mem, t, sizeof *t);
    return status;
}
