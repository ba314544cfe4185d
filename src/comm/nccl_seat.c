/* Who sits where: each rank's machine and GPU, as all ranks see them. NCCL would hang on two that
 * share a GPU; sums of a group's gradients are for ranks of one node. Next: nccl.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/nccl.h"

/* Zero behind each text. One kernel has a GPU at one address, whatever its containers are called.
 */
typedef struct seat {
    char kernel[40], gpu[24], host[64];
} seat;

static zopt_status describe_seat(const zi_queue *queue, seat *mine)
{
    *mine = (seat){{0}, {0}, {0}};
    gethostname(mine->host, sizeof mine->host - 1);
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file == NULL || fgets(mine->kernel, sizeof mine->kernel, file) == NULL)
        snprintf(mine->kernel, sizeof mine->kernel, "%.*s", (int)sizeof mine->kernel - 1,
                 mine->host);
    if (file != NULL)
        fclose(file);
    char gpu[sizeof mine->gpu] = "";
    ZI_TRY(zi_cuda_check(cudaDeviceGetPCIBusId(gpu, sizeof gpu, queue->ordinal), queue->ordinal,
                         "cudaDeviceGetPCIBusId"));
    snprintf(mine->gpu, sizeof mine->gpu, "%s", gpu);
    return ZOPT_OK;
}

static int same_kernel(const seat *a, const seat *b)
{
    return strcmp(a->kernel, b->kernel) == 0;
}

/* Every rank looks at the same seats, so all refuse or none. */
static zopt_status check_seats(zi_nccl_comm *n, const seat *seats)
{
    int world = n->base.world;
    for (int r = 0; r < world; r++)
        for (int before = 0; before < r; before++) {
            if (!same_kernel(&seats[before], &seats[r]))
                continue;
            if (strcmp(seats[before].gpu, seats[r].gpu) == 0)
                return ZI_FAIL(
                    ZOPT_ERR_UNSUPPORTED,
                    "transport %s needs a GPU for each rank: ranks %d and %d are both on "
                    "GPU %s of '%s'; start no more ranks than GPUs, or %s",
                    n->base.ops->name, before, r, seats[r].gpu, seats[r].host,
                    n->between_nodes ? "set between_nodes to \"mpi\""
                                     : "use transport \"ipc\" or \"mpi\"");
        }
    return ZOPT_OK;
}

/* Ranks of each node, where these have equally many, next to each other; else 0. */
static int find_node_size(const seat *seats, int world)
{
    int size = 1;
    while (size < world && same_kernel(&seats[0], &seats[size]))
        size++;
    for (int r = 0; r < world; r++)
        if ((r > 0 && same_kernel(&seats[r - 1], &seats[r])) != (r % size > 0))
            return 0;
    return world % size == 0 ? size : 0;
}

int zi_nccl_declared_node_size(int ranks_per_node, int world)
{
    if (ranks_per_node == 0 || ranks_per_node >= world)
        return world;
    return world % ranks_per_node == 0 ? ranks_per_node : 0;
}

zopt_status zi_nccl_take_seats(zi_nccl_comm *n, const zi_comm_config *config)
{
    zi_comm *via = &n->meeting->base;
    seat mine;
    seat *seats = malloc((size_t)via->world * sizeof *seats);
    zopt_status status = describe_seat(n->lane[0].queue, &mine);
    if (seats == NULL)
        status = ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for the seats of %d ranks", via->world);
    status = zi_comm_agree(via, status);
    if (status == ZOPT_OK)
        status = via->ops->all_gather(via, &mine, sizeof mine, seats);
    if (status == ZOPT_OK && seats != NULL)
        status = check_seats(n, seats);
    if (status == ZOPT_OK && seats != NULL && config->ranks_per_node == 0)
        n->sums.node_size = find_node_size(seats, via->world);
    free(seats);
    return status;
}
