/* User buffers of NCCL: memory that is registered once is read and written in place where NCCL and
 * the machine can (over networks with RDMA, NVLink's sums), in place of NCCL's own staging. What
 * cannot be is copied as before; NCCL tells nobody. Or, where they are asked for, its windows. */
#include "base/status.h"
#include "comm/nccl.h"

/* The note is counted where NCCL cannot register too, and on a planning comm: plans are exact. */
zopt_status zi_nccl_register(zi_nccl_comm *n, int lane, void *memory, size_t bytes)
{
    zi_nccl_buffer *buffer = NULL;
    if (bytes == 0)
        return ZOPT_OK;
    zopt_status status = zi_mem_table(n->base.mem, sizeof *buffer, &buffer);
    if (n->windows != ZI_WINDOWS_OFF && !n->base.planned)
        status = zi_comm_agree(&n->meeting->base, status); /* all open a window, or none */
    if (status != ZOPT_OK) {
        zi_mem_free_table(n->base.mem, buffer, sizeof *buffer);
        return status;
    }
    *buffer = (zi_nccl_buffer){.next = n->buffers, .memory = memory, .lane = lane};
    n->buffers = buffer;
    if (n->windows != ZI_WINDOWS_OFF)
        return n->base.planned ? ZOPT_OK
                               : zi_nccl_open_window(n, lane, memory, bytes, &buffer->handle);
    if (n->base.planned || n->nccl->CommRegister == NULL || n->nccl->CommDeregister == NULL)
        return ZOPT_OK;
    zi_cuda_enter(n->lane[lane].queue);
    return zi_nccl_finish(
        n, &n->lane[lane], "ncclCommRegister",
        n->nccl->CommRegister(n->lane[lane].comm, memory, bytes, &buffer->handle));
}

static void take_back(zi_nccl_comm *n, zi_nccl_lane *lane, void *handle)
{
    if (n->windows != ZI_WINDOWS_OFF)
        (void)zi_nccl_finish(n, lane, "ncclCommWindowDeregister",
                             n->nccl->CommWindowDeregister(lane->comm, handle));
    else
        (void)zi_nccl_finish(n, lane, "ncclCommDeregister",
                             n->nccl->CommDeregister(lane->comm, handle));
}

static void forget(zi_nccl_comm *n, zi_nccl_buffer **link)
{
    zi_nccl_buffer *buffer = *link;
    zi_nccl_lane *lane = &n->lane[buffer->lane];
    *link = buffer->next;
    if (buffer->handle != NULL && lane->comm != NULL)
        take_back(n, lane, buffer->handle);
    zi_mem_free_table(n->base.mem, buffer, sizeof *buffer);
}

void zi_nccl_deregister(zi_nccl_comm *n, const void *memory)
{
    for (zi_nccl_buffer **link = &n->buffers; *link != NULL;)
        if (memory == NULL || (*link)->memory == memory)
            forget(n, link);
        else
            link = &(*link)->next;
}
