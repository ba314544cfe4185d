/* Transport nccl over the runtimes of cuda_shim and nccl_shim: the suite of every transport, whole
 * runs against one rank on the CPU, bit for bit; nccl_steps.c has what a step does, and nccl_ends.c
 * the rest. Run with mpirun -n 1 to 4, or as the table of modes at the end says. */
#include <math.h>
#include <unistd.h>

#include "mpi_main.h"
#include "nccl_runs.h"

int job_rank, job_world;

const zi_comm_ops *nccl_row(const char *name)
{
    for (size_t i = 0; i < zi_n_comms; i++)
        if (strcmp(zi_comms[i]->name, name) == 0)
            return zi_comms[i];
    return NULL;
}

void assert_all_passed(const suite_failure *failure)
{
    int failed = failure->text[0] != '\0', any = 0;
    if (failed)
        fprintf(stderr, "rank %d: %s\n", job_rank, failure->text);
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    ck_assert_msg(!any, "rank %d: %s", job_rank, failed ? failure->text : "another rank failed");
}

/* Communicators of zopt's own, all of which must have ended. */
static void assert_all_ended(int n_before, int n_aborted)
{
    ck_assert_int_eq(nccl_shim.n_begun - n_before,
                     nccl_shim.n_destroyed + nccl_shim.n_aborted - n_before);
    ck_assert_int_eq(nccl_shim.n_aborted, n_aborted);
}

zi_comm_config on_gpus = {.deadline_ms = DEADLINE_MS};

/* ------------------------------------------------------------------ the suite ---------------- */

START_TEST(nccl_does_what_a_transport_must)
{
    suite_failure failure = {""};
    comm_suite_run(nccl_row("nccl"), &on_gpus, &failure);
    assert_all_passed(&failure);
    assert_all_ended(0, nccl_shim.n_aborted);
}
END_TEST

static void sum_on_the_queue(suite_failure *failure)
{
    enum { N = 70000 };
    zi_mem mem = {0}, other = {0};
    zi_comm *comm;
    int64_t *values, *host = malloc(N * sizeof *host);
    const zi_comm_ops *ops = nccl_row("nccl");
    SUITE_OK(failure, ops->create(&on_gpus, &mem, &comm));
    const zi_device_ops *device = on_gpus.device;
    comm->device = device;
    SUITE_OK(failure, device->open(comm->local_rank, &comm->queue));
    SUITE_OK(failure, ops->reserve(comm, 2, 64));
    SUITE_OK(failure,
             device->alloc(comm->queue, &other, ZI_MEM_STAGING, N * sizeof *host, &values));
    for (int64_t i = 0; i < N; i++)
        host[i] = i * 1000000007 - comm->rank;
    device->copy(comm->queue, values, host, N * sizeof *host);
    SUITE_OK(failure, ops->sum_enqueue(comm, values, N));
    device->copy(comm->queue, host, values, N * sizeof *host);
    SUITE_OK(failure, device->wait(comm->queue));
    int64_t n = comm->world;
    for (int64_t i = 0; i < N; i++)
        SUITE_EXPECT(failure, host[i] == n * i * 1000000007 - n * (n - 1) / 2, "sum %d is %lld",
                     (int)i, (long long)host[i]);
    device->free(comm->queue, &other, ZI_MEM_STAGING, values, N * sizeof *host);
    zi_queue *queue = comm->queue;
    ops->destroy(comm);
    device->close(queue);
    free(host);
    SUITE_EXPECT(failure, mem.total_bytes == 0, "bytes still counted");
}

START_TEST(sums_are_enqueued_where_kernels_are)
{
    suite_failure failure = {""};
    sum_on_the_queue(&failure);
    assert_all_passed(&failure);
}
END_TEST

/* ------------------------------------------------------------------ whole runs --------------- */

void on_nccl(h_problem *problem, const char *transport)
{
    problem->options.transport = transport;
    problem->options.device = "cuda";
    problem->options.deadline_ms = DEADLINE_MS;
}

void compare_with_the_cpu(h_problem *problem, const char *name)
{
    h_result want, got;
    char what[96];
    h_run_alone(problem, &want);
    on_nccl(problem, "nccl");
    h_run_one(problem, &problem->options, &got);
    snprintf(what, sizeof what, "%s, rank %d", name, job_rank);
    h_compare(&want, &got, what);
    h_free(&got);
    h_free(&want);
}

/* _i: optimizer; dtypes, slots and buckets go with it. */
START_TEST(every_optimizer_gives_the_cpus_bits)
{
    static const int slots[] = {4, 2, 6, 1};
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 2), _i % 3 == 0);
    problem.options.optimizer = zi_optims[_i]->name;
    problem.options.clip_norm = _i % 2 ? 0 : 0.5;
    problem.options.slots = slots[_i % 4];
    problem.options.bucket_elems = _i % 3 == 2 ? 0 : 700;
    compare_with_the_cpu(&problem, problem.options.optimizer);
}
END_TEST

START_TEST(groups_of_slots_give_the_cpus_bits)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 1);
    problem.options.reduce_group = 2;
    problem.options.slots = 5;
    problem.options.bucket_elems = 700;
    compare_with_the_cpu(&problem, "groups");
}
END_TEST

START_TEST(overflows_are_found_as_on_the_cpu)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.dynamic_loss_scale = 1;
    problem.options.bucket_elems = 700;
    problem.grad = h_overflow_grad;
    compare_with_the_cpu(&problem, "overflow");
}
END_TEST

static int bad_slot;

static float bad_grad_of_a_group(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == bad_slot && tensor == 5 && element == 4000)
        return INFINITY;
    return h_wide_grad(step, slot, tensor, element);
}

/* Sums of FP32 travel from groups of two on, those of FP16 from three on. _i: whether slots fill
 * the last group, and which of them is not finite, in its node's eyes or another's. */
START_TEST(groups_of_a_node_are_summed_before_they_travel)
{
    h_problem problem;
    int group = job_world == 6 ? 3 : 2;
    if (job_world < 4)
        return;
    h_uneven(&problem, group == 3 ? ZOPT_FP16 : ZOPT_FP32, 0);
    problem.options.ranks_per_node = group;
    problem.options.reduce_group = group;
    problem.options.slots = 2 * job_world - 1 - _i % 2;
    problem.options.check_overflow = 1;
    problem.options.clip_norm = 0.5;
    problem.options.bucket_elems = _i == 1 ? 0 : 700;
    problem.grad = bad_grad_of_a_group;
    bad_slot = 1 + 3 * _i;
    compare_with_the_cpu(&problem, "sums of groups");
}
END_TEST

static void remember(void *arg, const char *text)
{
    snprintf(((suite_failure *)arg)->text, sizeof((suite_failure *)arg)->text, "%s", text);
}

/* Gradients, parameters and staging, as long as they are there. */
START_TEST(buffers_are_registered_and_taken_back)
{
    h_problem problem;
    zopt *z;
    int before = nccl_shim.n_registered;
    ck_assert_int_eq(nccl_shim.n_deregistered, before);
    h_uneven(&problem, ZOPT_FP16, 0);
    on_nccl(&problem, "nccl");
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_ge(nccl_shim.n_registered - before, 2 + (job_world > 1));
    ck_assert_int_eq(nccl_shim.n_deregistered, before);
    zopt_destroy(z);
    ck_assert_int_eq(nccl_shim.n_deregistered, nccl_shim.n_registered);
}
END_TEST

/* A run of exact sums goes on with exact sums alone, on any transport that has them. */
START_TEST(a_checkpoint_tells_native_sums_from_exact_ones)
{
    static const char *const kinds[] = {"nccl", "nccl-native"};
    char dir[] = "/tmp/zopt-nccl-XXXXXX";
    h_problem problem;
    zopt *z;
    ck_assert(job_rank > 0 || mkdtemp(dir) != NULL);
    MPI_Bcast(dir, sizeof dir, MPI_CHAR, 0, MPI_COMM_WORLD);
    h_uneven(&problem, ZOPT_FP16, 0);
    for (int saves = 0; saves < 2; saves++)
        for (int loads = 0; loads < 2; loads++) {
            char path[64];
            suite_failure told = {""};
            snprintf(path, sizeof path, "%s/%d-%d", dir, saves, loads);
            on_nccl(&problem, kinds[saves]);
            problem.options.on_warning = remember;
            problem.options.on_warning_arg = &told;
            ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
            ck_assert_int_eq(zopt_save(z, path), ZOPT_OK);
            zopt_destroy(z);
            on_nccl(&problem, kinds[loads]);
            ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
            zopt_status status = zopt_load(z, path);
            ck_assert_msg(status == (saves == loads ? ZOPT_OK : ZOPT_ERR_CONFIG), "%s: %s", path,
                          zopt_last_error());
            ck_assert(saves == loads || strstr(zopt_last_error(), "sums") != NULL);
            zopt_destroy(z);
        }
    char command[64];
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    MPI_Barrier(MPI_COMM_WORLD);
    ck_assert(job_rank > 0 || system(command) == 0);
}
END_TEST

/* A micro-step's sum of n <= 4 gradients below 16 in size is rounded to 11 bits at up to 3 hops:
 * 3 * 16n * 2^-12, over n slots 0.012; times a rate of 0.02, in each of 4 steps: 0.00094. Every
 * rank has a slot in each micro-step, as the harness counts bytes. */
START_TEST(native_sums_are_near_and_labelled)
{
    h_result want, got;
    h_problem problem;
    suite_failure told = {""};
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = "SGD";
    problem.options.slots = 2 * job_world;
    problem.options.bucket_elems = 700;
    problem.options.on_warning = remember;
    problem.options.on_warning_arg = &told;
    h_run_alone(&problem, &want);
    ck_assert_str_eq(told.text, "");
    on_nccl(&problem, "nccl-native");
    h_run_one(&problem, &problem.options, &got);
    for (uint64_t i = 0; i < want.n_elems; i++)
        ck_assert_msg(fabsf(want.master[i] - got.master[i]) <= 0.001f,
                      "element %d: %g, and exactly %g", (int)i, (double)got.master[i],
                      (double)want.master[i]);
    ck_assert_msg(job_rank > 0 || strstr(told.text, "not bit-invariant") != NULL, "%s", told.text);
    h_free(&got);
    h_free(&want);
}
END_TEST

START_TEST(native_overflows_are_found_without_their_slot)
{
    zopt *z;
    zopt_step_report report;
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.dynamic_loss_scale = 1;
    problem.grad = h_overflow_grad;
    on_nccl(&problem, "nccl-native");
    problem.options.slots = job_world;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    for (int step = 1; step <= 2; step++)
        ck_assert_int_eq(h_step(&problem, z, step), ZOPT_OK);
    ck_assert_int_eq(zopt_report(z, 1, &report), ZOPT_OK);
    ck_assert_int_eq(report.skipped, job_world > 1);
    ck_assert_int_eq(report.bad_tensor, job_world > 1 ? 5 : -1);
    ck_assert_int_eq(report.bad_slot, -1);
    zopt_destroy(z);
}
END_TEST

/* ------------------------------------------------------------------ running ------------------ */

static void add_tests(TCase *tests)
{
    tcase_add_test(tests, nccl_does_what_a_transport_must);
    tcase_add_test(tests, sums_are_enqueued_where_kernels_are);
    tcase_add_loop_test(tests, every_optimizer_gives_the_cpus_bits, 0, (int)zi_n_optims);
    tcase_add_test(tests, groups_of_slots_give_the_cpus_bits);
    tcase_add_loop_test(tests, groups_of_a_node_are_summed_before_they_travel, 0, 3);
    add_steps(tests);
    tcase_add_test(tests, overflows_are_found_as_on_the_cpu);
    tcase_add_test(tests, buffers_are_registered_and_taken_back);
    tcase_add_test(tests, a_checkpoint_tells_native_sums_from_exact_ones);
    tcase_add_test(tests, native_sums_are_near_and_labelled);
    tcase_add_test(tests, native_overflows_are_found_without_their_slot);
}

static void add_whole(TCase *tests)
{
    add_tests(tests);
    add_refusals(tests);
}

static void add_groups(TCase *tests)
{
    tcase_add_loop_test(tests, groups_of_a_node_are_summed_before_they_travel, 0, 3);
}

/* The first argument. */
static const struct {
    const char *name; /* NULL: none */
    void (*add)(TCase *tests);
} modes[] = {
    {"broken", add_breaking_tests},           /* 2 or 3 ranks: what ends transports */
    {"groups", add_groups},                   /* 6: sums over nodes */
    {"windows", add_windows},                 /* 1 to 4: symmetric ones */
    {"null-windows", add_null_windows},       /* 2, with an NCCL of 2.29 */
    {"old-windows", add_old_windows},         /* 2, with one that has none */
    {"between", add_between},                 /* 4 and 6: between the nodes of ipc */
    {"between-broken", add_breaking_between}, /* 4 */
    {"old", add_old},                         /* 1, with one that is too old */
    {NULL, add_whole},
};

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &job_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &job_world);
    shim.n_gpus = N_GPUS;
    for (size_t i = 0; i < zi_n_devices; i++)
        on_gpus.device = zi_devices[i]->on_host ? on_gpus.device : zi_devices[i];
    Suite *suite = suite_create("nccl");
    TCase *tests = tcase_create("nccl");
    tcase_set_timeout(tests, 120);
    size_t m = 0;
    while (modes[m].name != NULL && strcmp(modes[m].name, mode) != 0)
        m++;
    modes[m].add(tests);
    suite_add_tcase(suite, tests);
    run_on_all_ranks(suite);
    MPI_Finalize();
    return 0;
}
