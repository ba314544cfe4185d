/* Every optimizer and variant over transports mpi and shm gives the bits of one rank alone, on
 * worlds of 1, 2, 3 and 5 ranks cut out of this job, and on several nodes. Run with mpirun -n 6. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <zopt/zopt_mpi.h>

#include "harness.h"
#include "mpi_main.h"
#include "optimizer_cases.h"

static int job_rank;
static const char *const transports[] = {"mpi", "shm"};
static const int worlds[] = {1, 2, 3, 5, 4, 6};
enum { N_WORLDS = sizeof worlds / sizeof worlds[0] };
static MPI_Comm part[N_WORLDS]; /* of the first ranks of the job; null on the others */

/* Worlds of several nodes, which take turns: the index of a world, and ranks of a node. */
static const struct {
    int world, ranks_per_node, shared_params;
} layouts[] = {{4, 2, 0}, {5, 2, 1}, {5, 3, 0}, {4, 2, 1}, {5, 2, 0}, {5, 3, 1}};
enum { N_FLAT_WORLDS = 4, N_LAYOUTS = sizeof layouts / sizeof layouts[0] };

static void check_world(const h_problem *problem, zopt_options *options, int w,
                        const h_result *want, const char *name)
{
    h_result got;
    char what[160];
    if (part[w] == MPI_COMM_NULL)
        return;
    zopt_options_set_comm(options, part[w]);
    h_run_one(problem, options, &got);
    snprintf(what, sizeof what, "%s, %s, rank %d of %d, %d a node, buckets of %zu", name,
             options->transport, job_rank, worlds[w], options->ranks_per_node,
             options->bucket_elems);
    h_compare(want, &got, what);
    h_free(&got);
}

/* Each transport with one of two bucket sizes, which take turns. */
static void check_worlds(h_problem *problem, const char *name, int turn)
{
    static const size_t bucket_elems[] = {700, 4 << 20};
    h_result want;
    zopt_options options = problem->options;
    options.transport = "self";
    h_run_one(problem, &options, &want);
    for (int w = 0; w < N_FLAT_WORLDS; w++)
        for (int i = 0; i < 2; i++) {
            options = problem->options;
            options.transport = transports[(i + turn) % 2];
            options.bucket_elems = bucket_elems[i];
            check_world(problem, &options, w, &want, name);
        }
    options.transport = "shm";
    options.bucket_elems = bucket_elems[turn % 2];
    options.ranks_per_node = layouts[turn % N_LAYOUTS].ranks_per_node;
    options.shared_params = layouts[turn % N_LAYOUTS].shared_params;
    check_world(problem, &options, layouts[turn % N_LAYOUTS].world, &want, name);
    h_free(&want);
    MPI_Barrier(MPI_COMM_WORLD);
}

/* _i / 3: the case; _i % 3: the dtype. */
START_TEST(both_give_the_bits_of_one_rank)
{
    const optimizer_case *c = &optimizer_cases[_i / 3];
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 3), 0);
    case_use(c, &problem);
    problem.options.clip_norm = _i % 2 ? 0.5 : 0;
    check_worlds(&problem, c->name, _i);
}
END_TEST

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    for (int w = 0; w < N_WORLDS; w++)
        MPI_Comm_split(MPI_COMM_WORLD, job_rank < worlds[w] ? 0 : MPI_UNDEFINED, job_rank,
                       &part[w]);
    Suite *suite = suite_create("optimizers over mpi");
    TCase *tests = tcase_create("mpi");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, both_give_the_bits_of_one_rank, 0, 3 * N_OPTIMIZER_CASES);
    suite_add_tcase(suite, tests);
    run_on_all_ranks(suite);
    for (int w = 0; w < N_WORLDS; w++)
        if (part[w] != MPI_COMM_NULL)
            MPI_Comm_free(&part[w]);
    MPI_Finalize();
    return 0;
}
