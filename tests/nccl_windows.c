/* Transports nccl and nccl-native on symmetric windows: the suite, whole runs against one rank on
 * the CPU, bit for bit, what is refused, and what `zopt doctor` says. The stand-in for NCCL ends a
 * test whose collective is not on a window, or whose window outlives its memory. */
#include <math.h>

#include "nccl_runs.h"

static const char *const kinds[] = {"on", "copy-engines"};

static void compare_windows_with_the_cpu(h_problem *problem, const char *windows, const char *name)
{
    h_result want, got;
    char what[96];
    int ranks_per_node = problem->options.ranks_per_node, before = nccl_shim.n_windowed;
    problem->options.transport = "self";
    problem->options.device = "cpu";
    problem->options.ranks_per_node = 0;
    h_run_one(problem, &problem->options, &want);
    on_nccl(problem, "nccl");
    problem->options.ranks_per_node = ranks_per_node;
    problem->options.nccl_windows = windows;
    h_run_one(problem, &problem->options, &got);
    ck_assert_int_gt(nccl_shim.n_windowed, before);
    snprintf(what, sizeof what, "%s on windows \"%s\", rank %d", name, windows, job_rank);
    h_compare(&want, &got, what);
    h_free(&got);
    h_free(&want);
}

static void assert_all_taken_back(void)
{
    ck_assert_int_gt(nccl_shim.n_allocated, 0);
    ck_assert_int_eq(nccl_shim.n_allocated, nccl_shim.n_freed);
    ck_assert_int_eq(nccl_shim.n_registered, nccl_shim.n_deregistered);
    ck_assert_int_eq(nccl_shim.n_begun, nccl_shim.n_destroyed + nccl_shim.n_aborted);
}

START_TEST(windows_do_what_a_transport_must)
{
    suite_failure failure = {""};
    zi_comm_config config = on_gpus;
    config.nccl_windows = ZI_WINDOWS_ON;
    comm_suite_run(nccl_row("nccl"), &config, &failure);
    assert_all_passed(&failure);
    ck_assert_int_eq(nccl_shim.n_zero_ctas, 0);
    assert_all_taken_back();
}
END_TEST

/* _i: optimizer; dtypes, slots and buckets go with it, and whether the step is a graph. */
START_TEST(windows_give_the_cpus_bits)
{
    static const int slots[] = {4, 2, 6, 1};
    h_problem problem;
    h_uneven(&problem, (zopt_dtype)(_i % 2), _i % 3 == 0);
    problem.options.optimizer = zi_optims[_i]->name;
    problem.options.clip_norm = _i % 2 ? 0 : 0.5;
    problem.options.slots = slots[_i % 4];
    problem.options.bucket_elems = _i % 3 == 2 ? 0 : 700;
    problem.options.cuda_graph = _i % 2 ? 0 : -1;
    int before = nccl_shim.n_zero_ctas;
    compare_windows_with_the_cpu(&problem, kinds[_i % 2], problem.options.optimizer);
    ck_assert_int_eq(nccl_shim.n_zero_ctas - before, _i % 2 ? 2 : 0);
    assert_all_taken_back();
}
END_TEST

START_TEST(sums_of_groups_travel_beside_windows)
{
    h_problem problem;
    if (job_world < 4)
        return;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.options.ranks_per_node = 2;
    problem.options.reduce_group = 2;
    problem.options.slots = 2 * job_world;
    problem.options.clip_norm = 0.5;
    problem.options.bucket_elems = 700;
    compare_windows_with_the_cpu(&problem, "copy-engines", "sums of groups");
    assert_all_taken_back();
}
END_TEST

/* As near as without windows: test_nccl.c. */
START_TEST(native_sums_on_windows_are_near)
{
    h_result want, got;
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = "SGD";
    problem.options.slots = 2 * job_world;
    problem.options.bucket_elems = 700;
    problem.options.transport = "self";
    problem.options.device = "cpu";
    h_run_one(&problem, &problem.options, &want);
    on_nccl(&problem, "nccl-native");
    problem.options.nccl_windows = "on";
    int before = nccl_shim.n_windowed;
    h_run_one(&problem, &problem.options, &got);
    ck_assert_int_gt(nccl_shim.n_windowed, before);
    for (uint64_t i = 0; i < want.n_elems; i++)
        ck_assert_msg(fabsf(want.master[i] - got.master[i]) <= 0.001f,
                      "element %d: %g, and exactly %g", (int)i, (double)got.master[i],
                      (double)want.master[i]);
    h_free(&got);
    h_free(&want);
    assert_all_taken_back();
}
END_TEST

/* ------------------------------------------------------------------ refusals ----------------- */

static void expect_refusal(const char *transport, const char *windows, zopt_status want,
                           const char *text)
{
    zopt_options options;
    zopt *z;
    zopt_options_init(&options);
    options.device = "cuda";
    options.transport = transport;
    options.nccl_windows = windows;
    options.deadline_ms = DEADLINE_MS;
    ck_assert_int_eq(zopt_create(&options, &z), want);
    ck_assert_int_eq(zopt_status_exit_code(want), 78);
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
    ck_assert_ptr_null(z);
}

START_TEST(gpus_without_symmetric_memory_are_refused)
{
    nccl_shim.no_windows = 1;
    expect_refusal("nccl", "on", ZOPT_ERR_UNSUPPORTED, "NCCL has no symmetric memory between");
    expect_refusal("nccl-native", "copy-engines", ZOPT_ERR_UNSUPPORTED,
                   "set nccl_windows to \"off\"");
    nccl_shim.no_windows = 0;
    assert_all_taken_back();
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
}
END_TEST

START_TEST(windows_are_for_nccl_alone)
{
    const char *text = "nccl_windows is for transports \"nccl\" and \"nccl-native\", not for \"";
    expect_refusal(job_world > 1 ? "ipc" : "self", "on", ZOPT_ERR_UNSUPPORTED, text);
    expect_refusal("mpi", "on", ZOPT_ERR_UNSUPPORTED, text);
    expect_refusal("nccl", "yes", ZOPT_ERR_CONFIG, "there are 'off', 'on', 'copy-engines'");
    if (job_world > 1)
        expect_refusal("nccl", job_rank == 0 ? "on" : "off", ZOPT_ERR_DISAGREE, "nccl_windows");
}
END_TEST

START_TEST(an_old_nccl_has_no_windows)
{
    expect_refusal("nccl", "on", ZOPT_ERR_UNSUPPORTED, "NCCL 2.27.5 is too old: 2.28 is needed");
}
END_TEST

/* ------------------------------------------------------------------ zopt doctor -------------- */

typedef struct doctor_line {
    const char *name;
    int usable;
    char note[160];
} doctor_line;

static void keep_line(void *arg, const char *kind, const char *name, int usable, const char *note)
{
    doctor_line *line = arg;
    if (strcmp(kind, "nccl") != 0 || strcmp(name, line->name) != 0)
        return;
    line->usable = usable;
    snprintf(line->note, sizeof line->note, "%s", note);
}

static void expect_line(const char *name, int usable, const char *text)
{
    doctor_line line = {.name = name, .usable = -1};
    zopt_inventory(keep_line, &line);
    ck_assert_int_eq(line.usable, usable);
    ck_assert_msg(strstr(line.note, text) != NULL, "%s: %s", name, line.note);
}

START_TEST(doctor_says_what_uses_windows)
{
    expect_line("symmetric windows", 1, "comm.nccl_windows=on");
    expect_line("copy engines", 1, "comm.nccl_windows=copy-engines");
    expect_line("alltoall", 1, "comm.nccl_windows");
    expect_line("user buffers", 1, "registered");
}
END_TEST

START_TEST(doctor_says_what_an_old_nccl_lacks)
{
    expect_line("symmetric windows", 0, "not in this NCCL: 2.28");
    expect_line("copy engines", 0, "not in this NCCL: 2.28");
}
END_TEST

/* ------------------------------------------------------------------ running ------------------ */

void add_windows(TCase *tests)
{
    tcase_add_test(tests, windows_do_what_a_transport_must);
    tcase_add_loop_test(tests, windows_give_the_cpus_bits, 0, (int)zi_n_optims);
    tcase_add_test(tests, sums_of_groups_travel_beside_windows);
    tcase_add_test(tests, native_sums_on_windows_are_near);
    tcase_add_test(tests, gpus_without_symmetric_memory_are_refused);
    tcase_add_test(tests, windows_are_for_nccl_alone);
    tcase_add_test(tests, doctor_says_what_uses_windows);
}

void add_null_windows(TCase *tests)
{
    tcase_add_test(tests, gpus_without_symmetric_memory_are_refused);
}

void add_old_windows(TCase *tests)
{
    tcase_add_test(tests, an_old_nccl_has_no_windows);
    tcase_add_test(tests, doctor_says_what_an_old_nccl_lacks);
}
