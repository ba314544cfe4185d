/* Life of a local handle: its objects created and destroyed in order. Next: api_local.c, its calls.
 */
#include <stdio.h>
#include <stdlib.h>

#include "api_local.h"
#include "api_options.h"
#include "base/status.h"

static zopt_status connect(const zopt_options *o, zi_mem *mem, zi_comm **out)
{
    const zi_device_ops *device = zi_device_row(o->device ? o->device : "auto");
    zi_comm_config config = {
        .has_comm = o->has_comm,
        .comm_f = o->comm_f,
        .threads = o->threads,
        .threads_rank = o->threads_rank,
        .deadline_ms = o->deadline_ms,
        .on_hang = o->on_hang,
        .on_hang_arg = o->on_hang_arg,
        .plan_world = o->plan_world,
        .plan_rank = o->plan_rank,
        .ranks_per_node = o->ranks_per_node,
        .shared_params = o->shared_params != 0,
        .progress_thread = o->progress_thread != 0,
        .device = device != NULL && !device->on_host ? device : NULL,
    };
    (void)zi_options_nccl(o, &config); /* read already */
    return zi_comm_connect(o->transport ? o->transport : "auto", &config, mem, out);
}

/* The rank's queue of its device; symmetric memory is the device's from here on. */
static zopt_status open_device(zi_comm *comm, const zi_device_ops *device)
{
    if (!device->on_host && !comm->ops->device_memory)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "transport %s cannot use the memory of device %s",
                       comm->ops->name, device->name);
    if (!comm->planned)
        ZI_TRY(device->open(comm->local_rank, &comm->queue));
    comm->device = device;
    return ZOPT_OK;
}

void zi_local_destroy(zopt *z)
{
    zi_local *l = zi_local_of(z);
    zi_queue *queue = l->comm != NULL ? l->comm->queue : NULL;
    const zi_device_ops *device = l->comm != NULL ? l->comm->device : NULL;
    if (l->zero != NULL)
        (void)zi_owner_rest(l->zero);
    zi_ckpt_destroy(l->ckpt);
    if (l->comm != NULL)
        zi_mem_free_table(&l->mem, l->gathered, 2 * (size_t)l->comm->world * sizeof *l->gathered);
    zi_zero_destroy(l->zero);
    if (l->comm != NULL)
        l->comm->ops->destroy(l->comm);
    if (queue != NULL)
        device->close(queue);
    free(l);
}

/* Once for all ranks. */
static void warn_of_transport(const zopt_options *options, const zi_comm *comm)
{
    char text[160];
    if (comm->rank != 0 || !comm->ops->bits_vary)
        return;
    snprintf(text, sizeof text,
             "transport %s is not bit-invariant: results depend on the number of ranks",
             comm->ops->name);
    if (options->on_warning != NULL)
        options->on_warning(options->on_warning_arg, text);
    else
        fprintf(stderr, "zopt: warning: %s\n", text);
}

zopt_status zi_local_create(const zopt_options *options, zopt **out)
{
    zi_zero_config config = {0};
    zopt_options defaults, connectable = *options;
    zopt_status status = zi_options_read(options, &config);
    if (status != ZOPT_OK && options->plan_world != 0)
        return status; /* no peers to tell */
    zopt_options_init(&defaults);
    if (status != ZOPT_OK) /* perhaps because of this one */
        connectable.deadline_ms = defaults.deadline_ms;
    zi_local *l = calloc(1, sizeof *l);
    if (l == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a handle");
    l->handle.api = &zi_local_api;
    l->mem.dry = options->plan_world > 0;
    l->ckpt_config = (zi_ckpt_config){.async = options->async_save != 0,
                                      .part_bytes = options->part_bytes,
                                      .keep_last = options->keep_last,
                                      .keep_every = options->keep_every,
                                      .force = options->force_config != 0,
                                      .on_warning = options->on_warning,
                                      .on_warning_arg = options->on_warning_arg};
    zi_mem_count(&l->mem, ZI_MEM_TABLES, sizeof *l);
    /* Ranks with bad options connect all the same, so that the others hear of it. */
    zopt_status connected = connect(&connectable, &l->mem, &l->comm);
    if (connected != ZOPT_OK) {
        zi_local_destroy(&l->handle);
        return connected;
    }
    if (status == ZOPT_OK)
        status = open_device(l->comm, config.device);
    if (status == ZOPT_OK)
        status = zi_zero_create(&config, l->comm, &l->mem, &l->zero);
    if (status == ZOPT_OK)
        status =
            zi_mem_table(&l->mem, 2 * (size_t)l->comm->world * sizeof *l->gathered, &l->gathered);
    status = zi_comm_agree(l->comm, status);
    if (status != ZOPT_OK) {
        zi_local_destroy(&l->handle);
        return status;
    }
    warn_of_transport(options, l->comm);
    *out = &l->handle;
    return ZOPT_OK;
}
