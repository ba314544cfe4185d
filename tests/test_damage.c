/* One bit flipped in the parameters that one rank computes with is found before the next step
 * updates, and rank, tensor and element are named by all ranks. On threads, or under mpirun. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

enum { MAX_RANKS = 5 };

/* Where the bit is. The last tensor of h_uneven, or whatever has that many elements. */
static const struct {
    zopt_dtype dtype;
    int every, flip_before; /* step */
    int world, rank, tensor;
    int last; /* 1: the tensor's last element; 0: its first */
} cases[] = {
    {ZOPT_FP16, 1, 1, 2, 0, 0, 0}, {ZOPT_FP16, 1, 3, 2, 1, 2, 1}, {ZOPT_BF16, 2, 4, 3, 2, 1, 1},
    {ZOPT_FP32, 1, 2, 3, 1, 3, 0}, {ZOPT_FP16, 3, 3, 5, 4, 0, 1},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

typedef struct outcome {
    int index;
    zopt_status status[MAX_RANKS];
    int failed_step[MAX_RANKS];
    char text[MAX_RANKS][512];
    zopt_status after[MAX_RANKS]; /* of one more call */
    const char *save_to;          /* a directory to save to before the step that fails */
    int async;
} outcome;

static void flip(zopt *z, const h_problem *problem, int index, uint64_t *element)
{
    const void *param;
    const h_tensor *tensor = &problem->tensor[cases[index].tensor];
    *element = cases[index].last ? h_elems(tensor) - 1 : 0;
    if (zopt_param_acquire(z, cases[index].tensor, &param) != ZOPT_OK)
        abort();
    size_t bytes = zopt_dtype_bytes(tensor->dtype);
    /* What a cosmic ray does; the library lends this memory to be read only. */
    unsigned char *byte = (unsigned char *)(uintptr_t)param + *element * bytes + bytes / 2;
    *byte ^= 0x04;
}

static h_problem make_problem(int index)
{
    h_problem problem;
    h_uneven(&problem, cases[index].dtype, 0);
    problem.options.slots = cases[index].world;
    problem.options.bucket_elems = 2000;
    problem.options.check_params_every = cases[index].every;
    return problem;
}

/* Steps until one fails, or six. */
static void train(const h_problem *problem, const zopt_options *options, outcome *o)
{
    zopt *z;
    uint64_t element;
    if (h_create(problem, options, &z) != ZOPT_OK)
        abort();
    int rank = zopt_rank(z), index = o->index;
    for (int step = 1; step <= 6 && o->status[rank] == ZOPT_OK; step++) {
        if (step == cases[index].flip_before && rank == cases[index].rank)
            flip(z, problem, index, &element);
        /* Nobody goes on before it has been. */
        if (zopt_gather_f64(z, rank, 0, (double[MAX_RANKS]){0}, &(int){0}) != ZOPT_OK)
            abort();
        if (step == cases[index].flip_before && o->save_to != NULL)
            o->status[rank] = zopt_save(z, o->save_to);
        if (o->status[rank] == ZOPT_OK) /* an asynchronous save leaves it to the step */
            o->status[rank] = h_step(problem, z, step);
        o->failed_step[rank] = step;
    }
    snprintf(o->text[rank], sizeof o->text[rank], "%s", zopt_last_error());
    o->after[rank] = zopt_gather_f64(z, rank, 0, (double[MAX_RANKS]){0}, &(int){0});
    zopt_destroy(z);
}

static void check(const outcome *o, int rank)
{
    int index = o->index;
    h_problem problem = make_problem(index);
    const h_tensor *tensor = &problem.tensor[cases[index].tensor];
    char want[256];
    snprintf(want, sizeof want,
             "after step %d: the parameters on rank %d are damaged: not what their owners have, "
             "first in '%s' at element %llu",
             cases[index].flip_before - 1, cases[index].rank, tensor->name,
             (unsigned long long)(cases[index].last ? h_elems(tensor) - 1 : 0));
    ck_assert_int_eq(o->status[rank], ZOPT_ERR_NUMERICS);
    ck_assert_int_eq(o->failed_step[rank], cases[index].flip_before);
    ck_assert_str_eq(o->text[rank], want);
    ck_assert_int_eq(o->after[rank], ZOPT_ERR_ORDER); /* only zopt_destroy is left */
}

static void on_thread(int rank, zopt_threads *threads, void *arg)
{
    outcome *o = arg;
    h_problem problem = make_problem(o->index);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    problem.options.async_save = o->async;
    train(&problem, &problem.options, o);
}

START_TEST(flipped_bit_is_found_and_named)
{
    outcome o = {.index = _i};
    h_on_threads(cases[_i].world, on_thread, &o);
    for (int rank = 0; rank < cases[_i].world; rank++)
        check(&o, rank);
}
END_TEST

static void check_not_saved(int index, int async)
{
    char dir[] = "/tmp/zopt-damage-XXXXXX", path[64], lock[80];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/checkpoints", dir);
    snprintf(lock, sizeof lock, "%s/lock", path);
    outcome o = {.index = index, .save_to = path, .async = async};
    h_on_threads(cases[index].world, on_thread, &o);
    for (int rank = 0; rank < cases[index].world; rank++)
        check(&o, rank);
    ck_assert_int_eq(remove(lock), 0);
    ck_assert_int_eq(rmdir(path), 0); /* nothing else is there */
    ck_assert_int_eq(rmdir(dir), 0);
}

START_TEST(damaged_parameters_are_not_saved)
{
    check_not_saved(_i, 0);
}
END_TEST

START_TEST(damaged_parameters_are_not_saved_asynchronously)
{
    check_not_saved(_i, 1);
}
END_TEST

START_TEST(flipped_bit_is_found_under_mpi)
{
    outcome o = {.index = _i};
    h_problem problem = make_problem(_i);
    problem.options.transport = "mpi";
    const char *size = getenv("OMPI_COMM_WORLD_SIZE"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (strtol(size, NULL, 10) != cases[_i].world)
        return;
    train(&problem, &problem.options, &o);
    check(&o, (int)strtol(rank, NULL, 10));
}
END_TEST

static void share_on_thread(int rank, zopt_threads *threads, void *arg)
{
    outcome *o = arg;
    h_problem problem = make_problem(o->index);
    problem.options.shared_params = 1;
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    problem.options.async_save = o->async;
    train(&problem, &problem.options, o);
}

/* No rank has another copy to compare with; the owner's master weights are there all the same. */
START_TEST(flipped_bit_in_shared_parameters_is_found)
{
    outcome o = {.index = _i};
    char want[128];
    h_problem problem = make_problem(_i);
    const h_tensor *tensor = &problem.tensor[cases[_i].tensor];
    h_on_threads(cases[_i].world, share_on_thread, &o);
    snprintf(want, sizeof want, "first in '%s' at element %llu", tensor->name,
             (unsigned long long)(cases[_i].last ? h_elems(tensor) - 1 : 0));
    for (int rank = 0; rank < cases[_i].world; rank++) {
        ck_assert_int_eq(o.status[rank], ZOPT_ERR_NUMERICS);
        ck_assert_int_eq(o.failed_step[rank], cases[_i].flip_before);
        ck_assert_ptr_nonnull(strstr(o.text[rank], "the shared parameters are damaged"));
        ck_assert_ptr_nonnull(strstr(o.text[rank], want));
    }
}
END_TEST

/* Nobody looks, or looks at a time when it has healed: the result has no other bits for that. */
START_TEST(looking_changes_nothing)
{
    h_problem problem = make_problem(3);
    h_result with, without;
    problem.n_steps = 4;
    problem.options.check_params_every = 1;
    h_run_threads(&problem, 3, &with);
    problem.options.check_params_every = 0;
    h_run_threads(&problem, 3, &without);
    ck_assert_int_eq(with.status, ZOPT_OK);
    h_compare(&with, &without, "without a look");
    h_free(&with);
    h_free(&without);
}
END_TEST

int main(void)
{
    int mpi = getenv("OMPI_COMM_WORLD_SIZE") != NULL;
    Suite *suite = suite_create("damage");
    TCase *tests = tcase_create("damage");
    suite_add_tcase(suite, tests);
    tcase_add_loop_test(
        tests, mpi ? flipped_bit_is_found_under_mpi : flipped_bit_is_found_and_named, 0, N_CASES);
    if (!mpi) {
        tcase_add_loop_test(tests, flipped_bit_in_shared_parameters_is_found, 0, N_CASES);
        tcase_add_loop_test(tests, damaged_parameters_are_not_saved, 0, N_CASES);
        tcase_add_loop_test(tests, damaged_parameters_are_not_saved_asynchronously, 0, N_CASES);
        tcase_add_test(tests, looking_changes_nothing);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    zopt_finalize();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
