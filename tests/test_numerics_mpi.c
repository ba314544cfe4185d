/* Transports mpi and shm give the bits of one rank alone, for worlds of 1, 2, 3, 5 and 6 ranks cut
 * out of this job, shm also on several nodes: dtypes, slots, bucket sizes, overflow, absent
 * gradients, exported files. Run with mpirun -n 6. */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zopt/zopt_mpi.h>

#include "harness.h"
#include "mpi_main.h"

static int job_rank, job_size;
/* ranks_per_node 0: those of one machine */
static const struct {
    const char *transport;
    int ranks_per_node;
} layouts[] = {{"mpi", 0}, {"shm", 0}, {"shm", 2}, {"shm", 3}};
enum { N_LAYOUTS = sizeof layouts / sizeof layouts[0] };
static const size_t bucket_elems[] = {700, 4 << 20};
static const int worlds[] = {1, 2, 3, 5, 6};
enum { N_WORLDS = sizeof worlds / sizeof worlds[0] };
enum { SHM = 1, MPI = 1 << 0, NODES = 1 << 2, ALL = (1 << N_LAYOUTS) - 1 };

/* Run the problem on the first `world` ranks of the job, in those of the layouts, bits of a set,
 * that there are, and compare with one rank alone. */
static void check_world(const h_problem *problem, int world, unsigned set, const h_result *want,
                        const char *name)
{
    MPI_Comm part;
    char what[128];
    MPI_Comm_split(MPI_COMM_WORLD, job_rank < world ? 0 : MPI_UNDEFINED, job_rank, &part);
    if (job_rank >= world)
        return;
    h_result got;
    zopt_options options = problem->options;
    zopt_options_set_comm(&options, part);
    for (int i = 0; i < N_LAYOUTS; i++) {
        int per_node = layouts[i].ranks_per_node;
        int is_none = per_node > 0 && (world % per_node != 0 || world == per_node);
        if (is_none || !(set & 1u << i))
            continue;
        options.transport = layouts[i].transport;
        options.ranks_per_node = per_node;
        /* Not part of the result: with small buckets alone. */
        options.shared_params = i >= SHM && options.bucket_elems == bucket_elems[0];
        h_run_one(problem, &options, &got);
        snprintf(what, sizeof what, "%s, %s, rank %d of %d, %d a node, buckets of %zu", name,
                 options.transport, job_rank, world, per_node, options.bucket_elems);
        h_compare(want, &got, what);
        h_free(&got);
    }
    MPI_Comm_free(&part);
}

static void check_worlds(h_problem *problem, const char *name)
{
    h_result want;
    h_run_alone(problem, &want);
    for (int w = 0; w < N_WORLDS; w++)
        for (int b = 0; b < 2; b++) {
            problem->options.bucket_elems = bucket_elems[b];
            check_world(problem, worlds[w], ALL, &want, name);
            MPI_Barrier(MPI_COMM_WORLD);
        }
    h_free(&want);
}

/* _i / 3: dtypes or mixed; _i % 3: slots. */
START_TEST(both_give_the_bits_of_one_rank)
{
    static const int slots[] = {1, 4, 7};
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i / 3 % 3), _i / 3 == 3);
    problem.options.slots = slots[_i % 3];
    problem.options.clip_norm = _i % 2 ? 0.5 : 0;
    check_worlds(&problem, "plain");
}
END_TEST

static float faulty_grad(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == 2 && tensor == 5 && element == 4000)
        return INFINITY;
    return h_wide_grad(step, slot, tensor, element);
}

static int some_absent(int step, int slot, int tensor)
{
    return (step + slot + tensor) % 3 == 0 && tensor != 5;
}

START_TEST(overflow_and_absent_gradients_too)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.grad = faulty_grad;
    problem.absent = some_absent;
    problem.options.dynamic_loss_scale = 1;
    problem.options.loss_scale = 128;
    check_worlds(&problem, "overflow");
}
END_TEST

/* A tensor whose slices are several pieces of a transfer each, where they travel by messages. */
START_TEST(large_tensors_travel_in_pieces)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.tensor[6].shape[0] = 5000001;
    problem.n_steps = 2;
    problem.options.slots = 2;
    h_result want;
    h_run_alone(&problem, &want);
    problem.options.bucket_elems = (size_t)1 << 30;
    for (int world = 2; world <= 4; world++) {
        check_world(&problem, world, world == 4 ? NODES : MPI, &want, "pieces");
        MPI_Barrier(MPI_COMM_WORLD);
    }
    h_free(&want);
}
END_TEST

/* _i % 2: with one dtype or several, which ranks share; _i / 2: the layout. */
START_TEST(memory_planned_is_memory_counted_under_mpi)
{
    h_problem problem;
    zopt *z;
    zopt_memory_usage planned, counted;
    h_uneven(&problem, ZOPT_FP16, _i % 2);
    problem.options.bucket_elems = 3000;
    problem.options.transport = layouts[_i / 2].transport;
    problem.options.ranks_per_node = layouts[_i / 2].ranks_per_node;
    problem.options.shared_params = _i / 2 >= SHM && _i % 2;
    if (problem.options.ranks_per_node > 0 && job_size % problem.options.ranks_per_node != 0)
        return;
    zopt_options options = problem.options;
    zopt_options_set_comm(&options, MPI_COMM_WORLD);
    h_result result;
    problem.n_steps = 2;
    h_run_one(&problem, &options, &result);
    counted = result.memory;
    options = problem.options;
    options.plan_world = job_size;
    options.plan_rank = job_rank;
    ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_memory(z, &planned), ZOPT_OK);
    h_compare_memory(&planned, &counted, problem.options.transport);
    zopt_destroy(z);
    h_free(&result);
}
END_TEST

START_TEST(ranks_that_read_different_tensors_are_refused)
{
    h_problem problem;
    zopt *z;
    float values[4096];
    h_uneven(&problem, ZOPT_FP16, 0);
    zopt_options options = problem.options;
    zopt_options_set_comm(&options, MPI_COMM_WORLD);
    ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
    int odd = job_size > 1 && job_rank == job_size - 1;
    if (odd) /* fails on this rank alone; the others wait for it in the next call */
        ck_assert_int_eq(zopt_get_master(z, 99, 0, 256, values), ZOPT_ERR_ARGUMENT);
    ck_assert_int_eq(zopt_get_master(z, odd ? 3 : 2, 0, 255, values),
                     job_size > 1 ? ZOPT_ERR_DISAGREE : ZOPT_OK);
    zopt_destroy(z);
}
END_TEST

/* This program starts MPI without support for threads. */
START_TEST(a_thread_that_would_call_mpi_is_refused)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.progress_thread = 1;
    problem.options.transport = layouts[_i].transport;
    problem.options.ranks_per_node = layouts[_i].ranks_per_node;
    zopt_options options = problem.options;
    zopt_options_set_comm(&options, MPI_COMM_WORLD);
    zopt_status want = _i == SHM ? ZOPT_OK : ZOPT_ERR_UNSUPPORTED;
    ck_assert_int_eq(h_create(&problem, &options, &z), want);
    if (want != ZOPT_OK)
        ck_assert_msg(strstr(zopt_last_error(), "MPI_THREAD_MULTIPLE") != NULL, "text: %s",
                      zopt_last_error());
    zopt_destroy(z);
}
END_TEST

START_TEST(ranks_that_disagree_are_refused)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    if (job_rank == job_size - 1)
        problem.tensor[3].shape[0] = 999;
    zopt_options options = problem.options;
    zopt_options_set_comm(&options, MPI_COMM_WORLD);
    zopt_status want = job_size > 1 ? ZOPT_ERR_DISAGREE : ZOPT_OK;
    ck_assert_int_eq(h_create(&problem, &options, &z), want);
    if (job_size > 1)
        ck_assert_msg(strstr(zopt_last_error(), "tensor 3: 'n256' fp16 group 0 [999]") != NULL,
                      "text: %s", zopt_last_error());
    zopt_destroy(z);
}
END_TEST

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &job_size);
    Suite *suite = suite_create("numerics over mpi");
    TCase *tests = tcase_create("mpi");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, both_give_the_bits_of_one_rank, 0, 12);
    tcase_add_test(tests, overflow_and_absent_gradients_too);
    tcase_add_test(tests, large_tensors_travel_in_pieces);
    tcase_add_loop_test(tests, memory_planned_is_memory_counted_under_mpi, 0, 2 * N_LAYOUTS);
    tcase_add_loop_test(tests, a_thread_that_would_call_mpi_is_refused, 0, N_LAYOUTS);
    tcase_add_test(tests, ranks_that_disagree_are_refused);
    tcase_add_test(tests, ranks_that_read_different_tensors_are_refused);
    suite_add_tcase(suite, tests);
    run_on_all_ranks(suite);
    MPI_Finalize();
    return 0;
}
