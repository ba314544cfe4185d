/* Transport ipc with NCCL between nodes: what a transport must do, whole runs against one rank on
 * the CPU, bit for bit, when NCCL is taken and when not, and how failures end. Nodes are declared:
 * 4 ranks are two of two, 6 two of three; each has GPUs of its own, hidden from the other's. */
#include <math.h>
#include <unistd.h>

#include "nccl_runs.h"
#include "optimizer_cases.h"

static int node_size(void)
{
    return job_world / 2;
}

static void hide_the_others_gpus(void)
{
    shim.n_gpus = node_size();
    shim.first_gpu = job_rank / node_size() * node_size();
}

static void on_nodes(h_problem *problem)
{
    problem->options.transport = "ipc";
    problem->options.device = "cuda";
    problem->options.ranks_per_node = node_size();
    problem->options.deadline_ms = DEADLINE_MS;
}

static void compare_nodes_with_the_cpu(h_problem *problem, const char *name)
{
    h_result want, got;
    char what[96];
    problem->options.transport = "self";
    problem->options.device = "cpu";
    problem->options.ranks_per_node = 0;
    h_run_one(problem, &problem->options, &want);
    on_nodes(problem);
    int before = nccl_shim.n_begun;
    h_run_one(problem, &problem->options, &got);
    ck_assert_int_eq(nccl_shim.n_begun - before, 2); /* NCCL did it */
    snprintf(what, sizeof what, "%s, rank %d", name, job_rank);
    h_compare(&want, &got, what);
    h_free(&got);
    h_free(&want);
}

/* ------------------------------------------------------------------ the suite ---------------- */

START_TEST(nodes_over_nccl_do_what_a_transport_must)
{
    suite_failure failure = {""};
    zi_comm_config config = on_gpus;
    config.ranks_per_node = node_size();
    config.between_nodes = ZI_BETWEEN_NCCL;
    comm_suite_run(nccl_row("ipc"), &config, &failure);
    assert_all_passed(&failure);
    ck_assert_int_gt(nccl_shim.n_begun, 0);
    ck_assert_int_eq(nccl_shim.n_begun, nccl_shim.n_destroyed);
    ck_assert_int_eq(nccl_shim.n_registered, nccl_shim.n_deregistered);
}
END_TEST

/* ------------------------------------------------------------------ whole runs --------------- */

/* Every optimizer; dtypes, slots, buckets, groups and shared parameters go with the case. */
START_TEST(nodes_over_nccl_give_the_cpus_bits)
{
    const optimizer_case *c = &optimizer_cases[_i];
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 3), _i % 4 == 0);
    problem.lr = c->lr;
    problem.weight_decay[0] = c->weight_decay;
    problem.options.optimizer = c->optimizer;
    problem.options.settings = c->setting;
    problem.options.n_settings = case_n_settings(c);
    problem.options.clip_norm = _i % 2 ? 0.5 : 0;
    problem.options.slots = 1 + _i % 7;
    problem.options.bucket_elems = _i % 3 == 1 ? 0 : 700;
    problem.options.shared_params = _i % 4 == 1;
    problem.options.reduce_group = _i % 2 ? node_size() : 1;
    compare_nodes_with_the_cpu(&problem, c->name);
}
END_TEST

static int bad_slot;

static float bad_grad(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == bad_slot && tensor == 5 && element == 4000)
        return INFINITY;
    return h_wide_grad(step, slot, tensor, element);
}

/* Sums of FP32 travel from groups of two on, those of FP16 from three on. _i: whether slots fill
 * the last group, and which of them is not finite. */
START_TEST(sums_between_nodes_tell_which_slot_is_not_finite)
{
    h_problem problem;
    int group = node_size();
    h_uneven(&problem, group == 3 ? ZOPT_FP16 : ZOPT_FP32, 0);
    problem.options.reduce_group = group;
    problem.options.slots = 2 * job_world - 1 - _i % 2;
    problem.options.check_overflow = 1;
    problem.options.clip_norm = 0.5;
    problem.options.bucket_elems = _i == 1 ? 0 : 700;
    problem.grad = bad_grad;
    bad_slot = 1 + 2 * _i;
    compare_nodes_with_the_cpu(&problem, "sums of groups");
}
END_TEST

/* ------------------------------------------------------------------ who carries -------------- */

static void expect_carrier(const char *between_nodes, const char *want)
{
    zopt_options options;
    zopt *z;
    zopt_options_init(&options);
    options.device = "cuda";
    options.transport = "ipc";
    options.ranks_per_node = node_size();
    options.between_nodes = between_nodes;
    ck_assert_msg(zopt_create(&options, &z) == ZOPT_OK, "%s", zopt_last_error());
    ck_assert_str_eq(zopt_transport(z), want);
    zopt_destroy(z);
}

static void expect_refusal(const zopt_options *options, zopt_status want, const char *text)
{
    zopt *z;
    ck_assert_int_eq(zopt_create(options, &z), want);
    ck_assert_int_eq(zopt_status_exit_code(want), 78);
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
    ck_assert_ptr_null(z);
}

/* Nodes that are declared on one machine whose ranks all see the same GPUs. */
START_TEST(gpus_that_ranks_share_are_left_to_mpi_unless_nccl_is_asked_for)
{
    zopt_options options;
    char who[64];
    expect_carrier("auto", "ipc+nccl");
    expect_carrier(NULL, "ipc+nccl");
    expect_carrier("nccl", "ipc+nccl");
    expect_carrier("mpi", "ipc");
    shim.first_gpu = 0;
    expect_carrier("auto", "ipc");
    zopt_options_init(&options);
    options.device = "cuda";
    options.transport = "ipc";
    options.ranks_per_node = node_size();
    options.between_nodes = "nccl";
    snprintf(who, sizeof who, "ranks 0 and %d are both on GPU 0000:", node_size());
    expect_refusal(&options, ZOPT_ERR_UNSUPPORTED, who);
    expect_refusal(&options, ZOPT_ERR_UNSUPPORTED, "set between_nodes to \"mpi\"");
    hide_the_others_gpus();
    options.transport = "mpi";
    expect_refusal(&options, ZOPT_ERR_UNSUPPORTED, "is for transport \"ipc\", not for \"mpi\"");
    options.transport = "ipc";
    options.between_nodes = "ncl";
    expect_refusal(&options, ZOPT_ERR_CONFIG, "there are 'auto', 'mpi', 'nccl'");
    options.between_nodes = job_rank == 0 ? "mpi" : "nccl";
    expect_refusal(&options, ZOPT_ERR_DISAGREE, "between_nodes");
}
END_TEST

/* ------------------------------------------------------------------ failures ----------------- */

static void begin_run(h_problem *problem, int deadline_ms, zopt **z, suite_failure *failure)
{
    h_uneven(problem, ZOPT_FP16, 0);
    on_nodes(problem);
    problem->options.deadline_ms = deadline_ms;
    problem->options.slots = job_world;
    problem->options.clip_norm = 0.5;
    problem->options.bucket_elems = 700;
    SUITE_OK(failure, h_create(problem, &problem->options, z));
    for (int step = 1; step <= 2; step++)
        SUITE_OK(failure, h_step(problem, *z, step));
    MPI_Barrier(MPI_COMM_WORLD); /* no rank fails while another is in the first steps */
}

/* word, other: what a rank hears first that others fail around. */
static void end_by_failure(const h_problem *problem, zopt *z, const char *word, const char *other,
                           suite_failure *failure)
{
    zopt_status status = ZOPT_OK;
    for (int step = 3; step <= 5 && status == ZOPT_OK; step++)
        status = h_step(problem, z, step);
    SUITE_EXPECT(failure, zopt_status_exit_code(status) == 75, "status %d: %s", (int)status,
                 zopt_last_error());
    const char *text = zopt_last_error();
    SUITE_EXPECT(failure, strstr(text, word) != NULL || strstr(text, other) != NULL, "%s", text);
}

/* Rank 0's NCCL meets an error: others hear of it from NCCL or from their node, and nobody waits
 * for the deadline. _i: when. */
START_TEST(errors_of_nccl_end_nodes_with_75_on_every_rank)
{
    h_problem problem;
    suite_failure failure = {""};
    zopt *z = NULL;
    begin_run(&problem, DEADLINE_MS, &z, &failure);
    nccl_shim.fail = job_rank == 0 ? 1 + 7 * _i : 0;
    if (failure.text[0] == '\0')
        end_by_failure(&problem, z, "NCCL: ", job_rank == 0 ? "NCCL: " : " gave up", &failure);
    zopt_destroy(z);
    assert_all_passed(&failure);
}
END_TEST

/* All but rank 0 compute for ever. */
START_TEST(silent_ranks_of_nodes_are_given_up_at_the_deadline)
{
    h_problem problem;
    suite_failure failure = {""};
    zopt *z = NULL;
    begin_run(&problem, 2000, &z, &failure);
    if (failure.text[0] == '\0' && job_rank == 0)
        end_by_failure(&problem, z, " of ranks 1, ", " of rank 1 ", &failure);
    if (job_rank > 0)
        usleep(4000 * 1000);
    zopt_destroy(z);
    assert_all_passed(&failure);
}
END_TEST

/* ------------------------------------------------------------------ running ------------------ */

void add_between(TCase *tests)
{
    tcase_add_unchecked_fixture(tests, hide_the_others_gpus, NULL);
    if (job_world == 4) /* for time */
        tcase_add_test(tests, nodes_over_nccl_do_what_a_transport_must);
    for (int i = job_world == 4; i < N_OPTIMIZER_CASES; i += 3)
        tcase_add_loop_test(tests, nodes_over_nccl_give_the_cpus_bits, i, i + 1);
    tcase_add_loop_test(tests, sums_between_nodes_tell_which_slot_is_not_finite, 0, 3);
    tcase_add_test(tests, gpus_that_ranks_share_are_left_to_mpi_unless_nccl_is_asked_for);
}

void add_breaking_between(TCase *tests)
{
    tcase_add_unchecked_fixture(tests, hide_the_others_gpus, NULL);
    tcase_add_loop_test(tests, errors_of_nccl_end_nodes_with_75_on_every_rank, 0, 3);
    tcase_add_test(tests, silent_ranks_of_nodes_are_given_up_at_the_deadline);
}
