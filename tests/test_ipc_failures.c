/* Transport ipc where the machine cannot do it, on a CUDA runtime that fails as it is told: GPUs
 * without access to each other's memory, without IPC, and a container that refuses it. All ranks
 * hear of one's, by rank and reason; "auto" goes on with mpi. Under mpirun with 2 to 4 processes.
 */
#include <stdlib.h>

#include "comm_world.h"
#include "cuda_shim/shim.h"
#include "harness.h"
#include "mpi_main.h"

static int my_rank;

static void expect_refusal(const char *text)
{
    zopt_options options;
    zopt *z;
    zopt_options_init(&options);
    options.device = "cuda";
    options.transport = "ipc";
    options.deadline_ms = 20000;
    ck_assert_int_eq(zopt_create(&options, &z), ZOPT_ERR_UNSUPPORTED);
    ck_assert_ptr_null(z);
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "'%s' is not in: %s", text,
                  zopt_last_error());
    const char *way_out = "; use transport \"nccl\" or \"mpi\"";
    ck_assert_msg(strstr(zopt_last_error(), way_out) != NULL, "%s", zopt_last_error());
    options.transport = "auto";
    ck_assert_msg(zopt_create(&options, &z) == ZOPT_OK, "%s", zopt_last_error());
    ck_assert_str_eq(zopt_transport(z), "mpi");
    zopt_destroy(z);
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
    shim = shim_healthy;
}

START_TEST(gpus_without_access_to_each_other_are_refused)
{
    shim.n_gpus = 2;
    shim.no_peers = 1;
    expect_refusal("has no P2P access to the memory of GPU");
}
END_TEST

START_TEST(ranks_that_share_a_gpu_need_no_access_between_gpus)
{
    zopt_options options;
    zopt *z;
    shim.no_peers = 1;
    zopt_options_init(&options);
    options.device = "cuda";
    ck_assert_msg(zopt_create(&options, &z) == ZOPT_OK, "%s", zopt_last_error());
    ck_assert_str_eq(zopt_transport(z), "ipc");
    zopt_destroy(z);
    shim = shim_healthy;
}
END_TEST

START_TEST(one_rank_without_ipc_is_named_to_all)
{
    shim.no_ipc = my_rank == 1;
    expect_refusal(my_rank == 1 ? "GPU 0 cannot share memory between processes"
                                : "rank 1: GPU 0 cannot share memory between processes");
}
END_TEST

START_TEST(a_container_that_refuses_is_named_with_cudas_words)
{
    shim.no_opening = my_rank == 1;
    expect_refusal(my_rank == 1 ? "GPU 0: cudaIpcOpenMemHandle: mapping of buffer object failed "
                                  "(in containers all ranks need one IPC and one PID namespace)"
                                : "rank 1: GPU 0: cudaIpcOpenMemHandle: mapping");
}
END_TEST

START_TEST(one_rank_without_a_gpu_is_named_to_all)
{
    shim.driver_version = my_rank == 1 ? 0 : shim.driver_version;
    zopt_options options;
    zopt *z;
    zopt_options_init(&options);
    options.device = "cuda";
    options.transport = "ipc";
    options.deadline_ms = 20000;
    ck_assert_int_eq(zopt_create(&options, &z), ZOPT_ERR_UNSUPPORTED);
    ck_assert_msg(strstr(zopt_last_error(), "no NVIDIA driver") != NULL, "%s", zopt_last_error());
    shim = shim_healthy;
}
END_TEST

/* The array of the trial is there, and then a rank's parameters do not fit. */
START_TEST(too_little_memory_on_one_rank_ends_all_and_frees_all)
{
    const uint64_t shape[] = {8 << 20};
    zopt_options options;
    zopt *z;
    int group, id;
    shim.memory_bytes = my_rank == 1 ? 4 << 20 : shim.memory_bytes;
    zopt_options_init(&options);
    options.device = "cuda";
    options.slots = 4;
    ck_assert_msg(zopt_create(&options, &z) == ZOPT_OK, "%s", zopt_last_error());
    ck_assert_int_eq(zopt_add_group(z, NULL, 0, &group), ZOPT_OK);
    ck_assert_int_eq(zopt_add_tensor(z, "w", ZOPT_FP16, 1, shape, group, &id), ZOPT_OK);
    ck_assert_int_eq(zopt_commit(z), ZOPT_ERR_MEMORY);
    zopt_destroy(z);
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
    shim = shim_healthy;
}
END_TEST

/* What goes over MPI from a GPU's memory leaves from memory that the GPU copies to by itself. */
START_TEST(staging_for_mpi_is_page_locked)
{
    const uint64_t shape[] = {1000};
    zopt_options options;
    zopt *z;
    int group, id;
    zopt_options_init(&options);
    options.device = "cuda";
    options.transport = "mpi";
    ck_assert_msg(zopt_create(&options, &z) == ZOPT_OK, "%s", zopt_last_error());
    ck_assert_int_eq(zopt_add_group(z, NULL, 0, &group), ZOPT_OK);
    ck_assert_int_eq(zopt_add_tensor(z, "w", ZOPT_FP16, 1, shape, group, &id), ZOPT_OK);
    shim.no_locked = my_rank == 1;
    ck_assert_int_eq(zopt_commit(z), ZOPT_ERR_MEMORY);
    ck_assert_msg(strstr(zopt_last_error(), "staging: no memory for ") != NULL &&
                      strstr(zopt_last_error(), " page-locked bytes") != NULL,
                  "%s", zopt_last_error());
    zopt_destroy(z);
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
    shim = shim_healthy;
}
END_TEST

/* _i: which launch of rank 1 breaks. It has CUDA's words, the others hear of it at once. */
START_TEST(a_kernel_that_breaks_on_one_rank_ends_all)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = "AdamW";
    problem.options.device = "cuda";
    problem.options.transport = "ipc";
    problem.options.bucket_elems = 700;
    problem.options.deadline_ms = DEADLINE_MS;
    ck_assert_msg(h_create(&problem, &problem.options, &z) == ZOPT_OK, "%s", zopt_last_error());
    shim.fail_at_launch = my_rank == 1 ? _i : 0;
    zopt_status status = ZOPT_OK;
    for (int step = 1; step < 10 && status == ZOPT_OK; step++)
        status = h_step(&problem, z, step);
    ck_assert_msg(status == (my_rank == 1 ? ZOPT_ERR_FAILURE : ZOPT_ERR_PEER), "status %d: %s",
                  (int)status, zopt_last_error());
    const char *text = my_rank == 1 ? "illegal memory access" : "rank 1";
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
    zopt_destroy(z);
    shim = shim_healthy;
}
END_TEST

/* Gradients of zeros. From the first that is ready on rank 1's GPU does nothing more: its host, and
 * its peers', go on, and what they wait for is the GPU alone. */
static zopt_status step_on_a_gpu_that_stops(const h_problem *problem, zopt *z)
{
    for (int i = 0; i < problem->n_tensors; i++) {
        void *grad;
        ck_assert_int_eq(zopt_grad_acquire(z, i, &grad), ZOPT_OK);
    }
    shim.stuck = my_rank == 1;
    for (int i = 0; i < problem->n_tensors; i++)
        ck_assert_int_eq(zopt_grad_ready(z, i), ZOPT_OK);
    zopt_status status = zopt_micro_end(z, 0);
    return status == ZOPT_OK ? zopt_step(z) : status;
}

/* Only rank 0's deadline is near. Nothing waits for the GPU behind it, and destroy returns. */
START_TEST(a_gpu_that_stops_is_given_up_at_the_deadline_and_its_rank_named)
{
    h_problem problem;
    zopt *z;
    int world;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = "AdamW";
    problem.options.clip_norm = 1;
    problem.options.slots = world;
    problem.options.device = "cuda";
    problem.options.transport = "ipc";
    problem.options.bucket_elems = 700;
    problem.options.deadline_ms = my_rank == 0 ? 2000 : DEADLINE_MS;
    ck_assert_msg(h_create(&problem, &problem.options, &z) == ZOPT_OK, "%s", zopt_last_error());
    ck_assert_int_eq(h_step(&problem, z, 1), ZOPT_OK);
    zopt_status status = step_on_a_gpu_that_stops(&problem, z);
    ck_assert_msg(zopt_status_exit_code(status) == 75, "status %d: %s", (int)status,
                  zopt_last_error());
    /* What rank 2 has enqueued may be behind what rank 1 has. */
    const char *one =
        my_rank == 0 ? "results of GPUs of rank 1 have not arrived" : "rank 0 gave up";
    const char *two = my_rank == 0 ? "results of GPUs of ranks 1, 2 have not arrived" : one;
    const char *told = zopt_last_error();
    ck_assert_msg(strstr(told, one) != NULL || strstr(told, two) != NULL, "%s", told);
    zopt_destroy(z);
    shim = shim_healthy;
}
END_TEST

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &my_rank);
    Suite *suite = suite_create("ipc_failures");
    TCase *tests = tcase_create("ipc_failures");
    suite_add_tcase(suite, tests);
    tcase_add_test(tests, gpus_without_access_to_each_other_are_refused);
    tcase_add_test(tests, ranks_that_share_a_gpu_need_no_access_between_gpus);
    tcase_add_test(tests, one_rank_without_ipc_is_named_to_all);
    tcase_add_test(tests, a_container_that_refuses_is_named_with_cudas_words);
    tcase_add_test(tests, one_rank_without_a_gpu_is_named_to_all);
    tcase_add_test(tests, too_little_memory_on_one_rank_ends_all_and_frees_all);
    tcase_add_test(tests, staging_for_mpi_is_page_locked);
    tcase_add_loop_test(tests, a_kernel_that_breaks_on_one_rank_ends_all, 1, 40);
    tcase_add_test(tests, a_gpu_that_stops_is_given_up_at_the_deadline_and_its_rank_named);
    run_on_all_ranks(suite);
    MPI_Finalize();
    return EXIT_SUCCESS;
}
