/* Sums by groups of slots over several nodes, whose ranks add up before anything travels, against a
 * scalar loop: nodes of one group and of two, groups that nodes do not divide into, slots that fill
 * the last group in part. Run with mpirun -n 8; with "cuda" as argument over transport ipc, with 6,
 * which leaves the larger worlds out. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zopt/zopt_mpi.h>

#include "mpi_main.h"
#include "slot_group.h"

static int job_rank, on_gpus;

static const struct {
    int world, ranks_per_node;
    const char *transport;
} layouts[] = {{4, 2, "shm"}, {6, 2, "shm"}, {6, 3, "shm"},
               {8, 4, "shm"}, {5, 0, "shm"}, {5, 0, "mpi"}};
enum { N_LAYOUTS = sizeof layouts / sizeof layouts[0] };
static MPI_Comm part[N_LAYOUTS]; /* null on ranks that are not in that world */

static void set_layout(zopt_options *options, int layout)
{
    zopt_options_set_comm(options, part[layout]);
    options->transport = layouts[layout].transport;
    if (on_gpus) {
        options->device = "cuda";
        options->transport = strcmp(options->transport, "shm") == 0 ? "ipc" : "mpi";
    }
    options->ranks_per_node = layouts[layout].ranks_per_node;
}

static const int slot_counts[] = {7, 13};
static const int groups[] = {2, 3, 4};
enum { N_SLOT_COUNTS = 2, N_GROUPS = 3 };

/* _i: the slots and the group; sums of two travel in FP32 alone. Bucket sizes take turns. */
START_TEST(every_layout_sums_in_the_order_that_is_stated)
{
    h_problem problem;
    h_result got;
    char what[128];
    int slots = slot_counts[_i % N_SLOT_COUNTS], group = groups[_i / N_SLOT_COUNTS % N_GROUPS];
    slot_group_problem(&problem, group > 2 ? ZOPT_FP16 : ZOPT_FP32, slots, group);
    for (int l = 0; l < N_LAYOUTS; l++) {
        if (part[l] == MPI_COMM_NULL)
            continue;
        zopt_options options = problem.options;
        set_layout(&options, l);
        options.bucket_elems = (_i + l) % 2 ? 700 : 4 << 20;
        options.shared_params = (_i + l) / 2 % 2 && layouts[l].ranks_per_node > 0;
        h_run_one(&problem, &options, &got);
        snprintf(what, sizeof what, "%d slots in groups of %d, %s, rank %d of %d, %d a node", slots,
                 group, options.transport, job_rank, layouts[l].world, options.ranks_per_node);
        slot_group_check(&problem, &got, what);
        h_free(&got);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}
END_TEST

static int bad_slot;

static float faulty_grad(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == bad_slot && tensor == 5 && element == 4000)
        return INFINITY;
    return h_wide_grad(step, slot, tensor, element);
}

/* Several steps, of which one overflows: reports, weights and states are those of one rank. The
 * rank that sums a group for another node names the slot. */
START_TEST(steps_are_those_of_one_rank)
{
    h_problem problem;
    h_result want, got;
    h_uneven(&problem, ZOPT_FP16, _i % 2);
    problem.n_steps = 3;
    problem.grad = faulty_grad;
    problem.options.slots = 13;
    problem.options.reduce_group = 3;
    problem.options.check_overflow = 1;
    bad_slot = 4 + 7 * _i;
    zopt_options options = problem.options;
    options.transport = "self";
    h_run_one(&problem, &options, &want);
    ck_assert_int_eq(want.report[1].bad_slot, bad_slot);
    for (int l = 0; l < N_LAYOUTS; l++) {
        if (part[l] == MPI_COMM_NULL)
            continue;
        options = problem.options;
        set_layout(&options, l);
        h_run_one(&problem, &options, &got);
        h_compare(&want, &got, layouts[l].transport);
        h_free(&got);
    }
    h_free(&want);
    MPI_Barrier(MPI_COMM_WORLD);
}
END_TEST

/* _i: the layout. */
START_TEST(memory_planned_is_memory_counted)
{
    h_problem problem;
    h_result got;
    zopt_memory_usage planned;
    zopt *z;
    slot_group_problem(&problem, ZOPT_FP16, 7, 3);
    if (part[_i] != MPI_COMM_NULL) {
        zopt_options options = problem.options;
        set_layout(&options, _i);
        h_run_one(&problem, &options, &got);
        options.has_comm = 0;
        options.plan_world = layouts[_i].world;
        options.plan_rank = job_rank;
        ck_assert_int_eq(h_create(&problem, &options, &z), ZOPT_OK);
        ck_assert_int_eq(zopt_memory(z, &planned), ZOPT_OK);
        h_compare_memory(&planned, &got.memory, layouts[_i].transport);
        zopt_destroy(z);
        h_free(&got);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}
END_TEST

int main(int argc, char **argv)
{
    int job_world;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &job_world);
    on_gpus = argc > 1 && strcmp(argv[1], "cuda") == 0;
    for (int l = 0; l < N_LAYOUTS; l++) {
        int is_in = job_rank < layouts[l].world && layouts[l].world <= job_world;
        MPI_Comm_split(MPI_COMM_WORLD, is_in ? 0 : MPI_UNDEFINED, job_rank, &part[l]);
    }
    Suite *suite = suite_create("groups of slots over nodes");
    TCase *tests = tcase_create("mpi");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, every_layout_sums_in_the_order_that_is_stated, 0,
                        N_SLOT_COUNTS * N_GROUPS);
    tcase_add_loop_test(tests, steps_are_those_of_one_rank, 0, 2);
    tcase_add_loop_test(tests, memory_planned_is_memory_counted, 0, N_LAYOUTS);
    suite_add_tcase(suite, tests);
    run_on_all_ranks(suite);
    for (int l = 0; l < N_LAYOUTS; l++)
        if (part[l] != MPI_COMM_NULL)
            MPI_Comm_free(&part[l]);
    MPI_Finalize();
    return 0;
}
