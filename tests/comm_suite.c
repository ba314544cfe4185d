/* The suite of comm_suite.h: its run, memory planned and real, and what its files share. Next:
 * comm_suite_small.c, comm_suite_transfers.c; comm_suite_ends.c. */
#include "comm_suite_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void suite_fail(suite_failure *failure, const char *format, ...)
{
    va_list args;
    if (failure->text[0] != '\0')
        return;
    va_start(args, format);
    vsnprintf(failure->text, sizeof failure->text, format, args);
    va_end(args);
}

/* ------------------------------------------------------------------ a device's memory ------- */

zopt_status suite_open(const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem,
                       zi_comm **out)
{
    zopt_status status = ops->create(config, mem, out);
    if (status != ZOPT_OK || config->device == NULL)
        return status;
    (*out)->device = config->device;
    return (*out)->planned ? ZOPT_OK : config->device->open((*out)->local_rank, &(*out)->queue);
}

void suite_close(zi_comm *comm)
{
    const zi_device_ops *device = comm->device;
    zi_queue *queue = comm->queue;
    comm->ops->destroy(comm);
    if (queue != NULL)
        device->close(queue);
}

void suite_put(zi_comm *comm, void *dst, const void *src, size_t bytes)
{
    comm->device->copy(comm->queue, dst, src, bytes);
}

zopt_status suite_get(zi_comm *comm, void *dst, const void *src, size_t bytes)
{
    comm->device->copy(comm->queue, dst, src, bytes);
    return comm->device->wait(comm->queue);
}

zopt_status suite_copy_aside(zi_comm *comm, void *dst, const void *src, size_t bytes)
{
    zi_queue *aside = NULL;
    if (comm->queue != NULL) {
        zopt_status status = comm->device->open_beside(comm->queue, &aside);
        if (status != ZOPT_OK)
            return status;
    }
    comm->device->copy(aside, dst, src, bytes);
    zopt_status status = comm->device->wait(aside);
    if (aside != NULL)
        comm->device->close(aside);
    return status;
}

void suite_pattern(unsigned char *out, size_t n, size_t first, uint64_t who)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t x = (who * 1000003 + first + i) * UINT64_C(0x9e3779b97f4a7c15);
        out[i] = (unsigned char)(x >> 56);
    }
}

/* ------------------------------------------------------------------ memory ------------------ */

/* A node's first rank writes, the others read it, and nobody leaves before. */
static void check_shared(zi_comm *comm, const zi_symmetric *params, suite_failure *failure)
{
    int64_t here = 1;
    char *base_of = params->base, text[64] = "";
    SUITE_EXPECT(failure, (uintptr_t)base_of % 64 == 0, "not aligned");
    int base = comm->node.base, end = base + comm->node.size;
    for (int r = 0; r < comm->world; r++)
        SUITE_EXPECT(failure, params->peer[r] == (r >= base && r < end ? base_of : NULL),
                     "peer %d is not the shared", r);
    snprintf(text, sizeof text, "shared %d", base);
    if (comm->rank == base)
        SUITE_OK(failure, suite_copy_aside(comm, base_of, text, params->bytes));
    SUITE_OK(failure, comm->ops->all_reduce(comm, ZI_MIN, &here, 1));
    SUITE_OK(failure, suite_get(comm, text, base_of, params->bytes));
    SUITE_EXPECT(failure, strtol(text + 7, NULL, 10) == base, "rank %d's text is not here", base);
    SUITE_OK(failure, comm->ops->all_reduce(comm, ZI_MIN, &here, 1));
}

enum { GRAD_BYTES = 12345 };

static void use_memory(zi_comm *comm, suite_failure *failure)
{
    zi_symmetric grads, params, none;
    SUITE_OK(failure, comm->ops->alloc_symmetric(comm, ZI_MEM_GRADS, GRAD_BYTES, &grads));
    SUITE_OK(failure, comm->ops->alloc_symmetric(comm, ZI_MEM_PARAMS, 64, &params));
    SUITE_OK(failure, comm->ops->alloc_symmetric(comm, ZI_MEM_PARAMS, 0, &none));
    SUITE_OK(failure, comm->ops->reserve(comm, 10, 100));
    comm->ops->free_symmetric(comm, ZI_MEM_PARAMS, &none);
    SUITE_EXPECT(failure, (grads.peer != NULL) == comm->ops->peer_memory, "peers of %s",
                 comm->ops->name);
    if (comm->planned)
        return;
    SUITE_EXPECT(failure, (uintptr_t)grads.base % 64 == 0, "not aligned");
    char zero[GRAD_BYTES];
    SUITE_OK(failure, suite_get(comm, zero, grads.base, grads.bytes));
    for (size_t i = 0; i < grads.bytes; i++)
        SUITE_EXPECT(failure, zero[i] == 0, "byte %zu is not zero", i);
    SUITE_EXPECT(failure, grads.peer == NULL || grads.peer[comm->rank] == grads.base, "own peer");
    SUITE_EXPECT(failure, params.shared == comm->shared_params && !grads.shared, "shared");
    if (params.shared)
        check_shared(comm, &params, failure);
}

static void plan_counts_what_a_real_one_allocates(const zi_comm_ops *ops,
                                                  const zi_comm_config *config,
                                                  suite_failure *failure)
{
    zi_mem real = {0}, dry = {.dry = 1};
    zi_comm *comm, *plan;
    SUITE_OK(failure, suite_open(ops, config, &real, &comm));
    use_memory(comm, failure);
    zi_comm_config planning = {.plan_world = comm->world,
                               .plan_rank = comm->rank,
                               .ranks_per_node = config->ranks_per_node,
                               .shared_params = config->shared_params,
                               .device = config->device,
                               .between_nodes = config->between_nodes,
                               .nccl_windows = config->nccl_windows};
    SUITE_OK(failure, suite_open(ops, &planning, &dry, &plan));
    use_memory(plan, failure);
    SUITE_EXPECT(failure, plan->world == comm->world && plan->rank == comm->rank, "plan's world");
    for (int i = 0; i < ZI_N_CATEGORIES; i++)
        SUITE_EXPECT(failure, real.row[i].bytes == dry.row[i].bytes,
                     "category %d: %llu bytes planned, %llu real", i,
                     (unsigned long long)dry.row[i].bytes, (unsigned long long)real.row[i].bytes);
    SUITE_EXPECT(failure, real.row[ZI_MEM_TABLES].bytes > 0, "no tables counted");
    int64_t params = (int64_t)real.row[ZI_MEM_PARAMS].bytes;
    if (config->shared_params)
        SUITE_OK(failure, comm->ops->all_reduce(comm, ZI_SUM, &params, 1));
    int want = 64 * (config->shared_params ? comm->world / comm->node.size : 1);
    SUITE_EXPECT(failure, params == want, "parameters of %d bytes counted", (int)params);
    suite_close(plan);
    suite_close(comm);
    SUITE_EXPECT(failure, real.total_bytes == 0 && dry.total_bytes == 0, "bytes still counted");
}

/* ------------------------------------------------------------------ running ----------------- */

void comm_suite_run(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    SUITE_OK(failure, ops->create(config, &mem, &comm));
    int world = comm->world, has_messages = comm->node.size < world && !ops->device_direct;
    suite_run_small(comm, failure);
    comm->ops->destroy(comm);
    zi_comm_config shared = *config;
    shared.shared_params = ops->peer_memory;
    plan_counts_what_a_real_one_allocates(ops, config, failure);
    plan_counts_what_a_real_one_allocates(ops, &shared, failure);
    suite_run_transfers(ops, config, world, has_messages, failure);
}
