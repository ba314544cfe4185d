/* A run on GPUs, or on the shim, for test_device_faults.sh: over the transport of the first
 * argument, and in its third step rank 1 fails as the second says (kill, stop, exit, loop; gpu, on
 * the shim: its GPU does; none: not at all). The others end as zopt's command would. A third
 * argument: ranks of a node. */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#ifdef ON_SHIM
#include "cuda_shim/shim.h"
#endif

static void fail_as(const char *kind)
{
    if (strcmp(kind, "exit") == 0)
        _exit(0);
    for (volatile int for_ever = strcmp(kind, "loop") == 0; for_ever;)
        ;
    if (strcmp(kind, "stop") == 0)
        kill(getpid(), SIGSTOP);
    if (strcmp(kind, "kill") == 0)
        kill(getpid(), SIGKILL);
}

static void hang(void *arg, const char *text)
{
    (void)arg;
    fprintf(stderr, "device_job: %s\n", text);
    _exit(zopt_status_exit_code(ZOPT_ERR_TIMEOUT));
}

/* What has been enqueued is done: a GPU goes on with it when its rank has stopped, the shim not. */
static void settle(const h_problem *problem, zopt *z)
{
    h_result result = {0};
    if (zopt_memory(z, &result.memory) == ZOPT_OK)
        h_collect(problem, z, &result);
    h_free(&result);
}

/* What waits for gradients waits for the GPU alone. */
static zopt_status step_on_a_stuck_gpu(const h_problem *problem, zopt *z)
{
    void *grad;
    for (int i = 0; i < problem->n_tensors; i++)
        if (zopt_grad_acquire(z, i, &grad) != ZOPT_OK)
            return ZOPT_ERR_FAILURE;
#ifdef ON_SHIM
    shim.stuck = 1;
#endif
    for (int i = 0; i < problem->n_tensors; i++)
        if (zopt_grad_ready(z, i) != ZOPT_OK)
            return ZOPT_ERR_FAILURE;
    zopt_status status = zopt_micro_end(z, 0);
    return status == ZOPT_OK ? zopt_step(z) : status;
}

int main(int argc, char **argv)
{
    h_problem problem;
    zopt *z;
    const char *kind = argc > 2 ? argv[2] : "";
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.device = "cuda";
    problem.options.transport = argc > 1 ? argv[1] : "";
    problem.options.bucket_elems = 700;
    problem.options.deadline_ms = 3000;
    problem.options.on_hang = hang;
    problem.options.ranks_per_node = argc > 3 ? atoi(argv[3]) : 0;
    zopt_status status = h_create(&problem, &problem.options, &z);
    for (int step = 1; step <= 5 && status == ZOPT_OK; step++) {
        if (step == 3)
            settle(&problem, z);
        if (step == 3 && zopt_rank(z) == 1)
            fail_as(kind);
        int is_stuck = step == 3 && zopt_rank(z) == 1 && strcmp(kind, "gpu") == 0;
        status = is_stuck ? step_on_a_stuck_gpu(&problem, z) : h_step(&problem, z, step);
    }
    if (status != ZOPT_OK)
        fprintf(stderr, "device_job: %s\n", zopt_last_error());
    zopt_destroy(z);
    zopt_finalize();
    return zopt_status_exit_code(status);
}
