/* Part of comm_suite.h's: the ways in which a comm ends. */
#include <stdio.h>
#include <string.h>

#include "comm_suite_parts.h"

void comm_suite_order(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    zi_symmetric memory;
    SUITE_OK(failure, suite_open(ops, config, &mem, &comm));
    ops = comm->ops;
    SUITE_OK(failure, ops->alloc_symmetric(comm, ZI_MEM_GRADS, 64, &memory));
    SUITE_OK(failure, ops->reserve(comm, 2, 8));
    zi_transfer second = {.ordinal = 1, .memory = &memory, .slice_bytes = 8};
    zopt_status status = ops->expose(comm, &second);
    SUITE_EXPECT(failure, status == ZOPT_ERR_COMM, "expose out of order: status %d", (int)status);
    SUITE_EXPECT(failure, strstr(zopt_last_error(), "the next is 0"), "%s", zopt_last_error());
    status = ops->open(comm);
    SUITE_EXPECT(failure, status == ZOPT_ERR_COMM, "open of a broken comm: %d", (int)status);
    suite_close(comm);
}

static void remember(void *arg, const char *text)
{
    snprintf(((suite_failure *)arg)->text, sizeof((suite_failure *)arg)->text, "%s", text);
}

static void wait_in_vain(zi_comm *comm, const suite_failure *told, suite_failure *failure)
{
    const zi_comm_ops *ops = comm->ops;
    const void *source[8];
    zi_symmetric memory;
    SUITE_OK(failure, ops->alloc_symmetric(comm, ZI_MEM_GRADS, 64, &memory));
    SUITE_OK(failure, ops->reserve(comm, 2, 8));
    if (comm->rank != 0)
        return;
    zi_transfer transfer = {.memory = &memory, .slice_bytes = 8, .n_contributors = 2};
    comm->step = 12;
    comm->phase = "reduce";
    comm->bucket = 3;
    SUITE_OK(failure, ops->expose(comm, &transfer));
    int ready = 1;
    SUITE_OK(failure, ops->expose_test(comm, &transfer, &ready));
    SUITE_EXPECT(failure, !ready, "ready without rank 1");
    zopt_status status = ops->expose_wait(comm, &transfer, source);
    if (status == ZOPT_OK) /* the queue waits */
        status = comm->device->wait(comm->queue);
    SUITE_EXPECT(failure, status == ZOPT_ERR_TIMEOUT, "status %d: %s", (int)status,
                 zopt_last_error());
    char want[] = "rank 0 waited 0.2 s in step 12, phase reduce, bucket 3: gradients of rank 1 "
                  "have not arrived";
    SUITE_EXPECT(failure, strcmp(told->text, want) == 0, "on_hang: %s", told->text);
    SUITE_EXPECT(failure, strcmp(zopt_last_error(), want) == 0, "text: %s", zopt_last_error());
    SUITE_EXPECT(failure, comm->broken, "not broken");
}

static void await_message(const zi_comm_ops *ops, const zi_comm_config *config, int missing,
                          suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    static _Thread_local char data[100]; /* lives on, as receives of a failed call want it */
    SUITE_OK(failure, suite_open(ops, config, &mem, &comm));
    ops = comm->ops;
    comm->deadline_ms = comm->rank == 0 ? 200 : config->deadline_ms;
    const zi_message message = {.peer = comm->rank == 0 ? 1 : 0,
                                .receive = comm->rank == 0,
                                .data = data,
                                .bytes = comm->rank == 0 ? 10 : 9};
    zopt_status status = ZOPT_OK, want = missing ? ZOPT_ERR_TIMEOUT : ZOPT_ERR_COMM;
    const char *text = missing ? "rank 0 waited 0.2 s: messages of rank 1 have not arrived"
                               : "rank 1 sends 9 bytes to rank 0, which awaits 10";
    if (comm->rank == 0 || (comm->rank == 1 && !missing))
        status = ops->exchange(comm, &message, 1);
    else if (ops->peer_memory) /* stay until rank 0 has given up */
        (void)ops->all_gather(comm, "", 0, NULL);
    if (comm->rank == 0) {
        SUITE_EXPECT(failure, status == want, "status %d: %s", (int)status, zopt_last_error());
        SUITE_EXPECT(failure, strcmp(zopt_last_error(), text) == 0, "%s", zopt_last_error());
        SUITE_EXPECT(failure, comm->broken, "not broken");
    }
    suite_close(comm);
}

void comm_suite_message_missing(const zi_comm_ops *ops, const zi_comm_config *config,
                                suite_failure *failure)
{
    await_message(ops, config, 1, failure);
}

void comm_suite_message_size(const zi_comm_ops *ops, const zi_comm_config *config,
                             suite_failure *failure)
{
    await_message(ops, config, 0, failure);
}

void comm_suite_hang(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure)
{
    zi_mem mem = {0};
    zi_comm *comm;
    suite_failure told = {""};
    zi_comm_config patient = *config;
    patient.on_hang = remember;
    patient.on_hang_arg = &told;
    SUITE_OK(failure, suite_open(ops, &patient, &mem, &comm));
    ops = comm->ops;
    comm->deadline_ms = comm->rank == 0 ? 200 : config->deadline_ms;
    wait_in_vain(comm, &told, failure);
    if (comm->rank != 0 && ops->peer_memory) { /* told at once, not at its own deadline */
        zopt_status status = ops->all_gather(comm, "", 0, NULL);
        SUITE_EXPECT(failure, status == ZOPT_ERR_PEER, "status %d: %s", (int)status,
                     zopt_last_error());
        SUITE_EXPECT(failure, strcmp(zopt_last_error(), "rank 0 gave up") == 0, "%s",
                     zopt_last_error());
    }
    suite_close(comm);
}
