/* Traces of steps on transport threads: each bucket has each of its spans, in order; what a long
 * backward pass hides is before its end; no bit of a result, and none of a plan's bytes, is
 * another's; what cannot be written is refused, or ends the trace with a warning. */
#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "zero/trace.h" /* before overlap_cases.h: a parameter has the name of a type there */

#include "base/status.h"
#include "overlap_cases.h"
#include "trace_run.h"

enum { N_RANKS = 3, N_STEPS = 4 };

static char path[64];

/* ---- what is in a trace ---- */

typedef struct traced_case {
    int slots, thread;
    trace_want want;
} traced_case;

static void run_traced(int rank, zopt_threads *threads, void *arg)
{
    traced_case *c = arg;
    trace_want want;
    h_problem problem;
    zopt *z;
    trace_problem(&problem, c->slots);
    problem.options.progress_thread = c->thread;
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    MUST(h_create(&problem, &problem.options, &z));
    trace_steps(&problem, z, path, N_STEPS, &want);
    if (rank == 0)
        c->want = want;
    zopt_destroy(z);
}

/* _i: with calls and with a thread, in one micro-step and in three. */
START_TEST(buckets_are_done_with_before_a_backward_pass_that_is_long_enough)
{
    traced_case c = {.slots = _i / 2 == 0 ? N_RANKS : 3 * N_RANKS, .thread = _i % 2};
    trace_name(path);
    h_on_threads(N_RANKS, run_traced, &c);
    ck_assert_int_ge(c.want.n_early, 5);
    ck_assert_int_lt(c.want.n_early, c.want.n_buckets);
    trace_check(path, &c.want);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

START_TEST(a_trace_ends_where_it_was_told_to)
{
    h_problem problem;
    trace_want want;
    zopt *z;
    trace_problem(&problem, 1);
    trace_name(path);
    problem.options.transport = "self";
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    trace_steps(&problem, z, path, 2, &want);
    for (int i = 0; i < 3; i++)
        trace_step(&problem, z);
    ck_assert_ptr_null(zi_zero_of(z)->trace);
    trace_check(path, &want); /* while the handle goes on */

    ck_assert_int_eq(zopt_trace(z, path, 100), ZOPT_OK);
    for (int i = 0; i < 3; i++)
        trace_step(&problem, z);
    ck_assert_int_eq(zopt_trace(z, NULL, 0), ZOPT_OK);
    trace_step(&problem, z);
    want.first_step = 7;
    want.n_steps = 3;
    trace_check(path, &want);
    ck_assert_uint_eq(zi_zero_of(z)->overlap.n_steps, 3);
    zopt_destroy(z);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

/* How long the call took does not count: on a device it has other things to do. */
START_TEST(parameters_are_waited_for_that_come_after_they_are_looked_for)
{
    static const struct {
        double wanted, gathered, waited;
        int is_awaited;
    } buckets[] = {{10, 5, 20, 0}, {10, 15, 20, 1}, {10, 15, 0, 1}, {0, 15, 0, 0}, {10, 0, 0, 0}};
    enum { N = sizeof buckets / sizeof buckets[0] };
    h_problem problem;
    zi_overlap overlap = {0};
    uint64_t n_awaited = 0;
    zopt *z;
    trace_problem(&problem, 1);
    trace_name(path);
    problem.options.transport = "self";
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_trace(z, path, 1), ZOPT_OK);
    zi_zero *zero = zi_local_of(z)->zero;
    const zi_traced *kept = &zero->trace->kept[0];
    ck_assert_uint_ge(zero->layout.n_exchanged, N);
    for (uint32_t i = 0; i < N; i++) {
        const zi_bucket *bucket = &zero->layout.bucket[zero->layout.order[i]];
        kept->ms[zi_trace_place(zero, ZI_AT_PARAM_WAIT, 0, bucket)] = buckets[i].wanted;
        kept->ms[zi_trace_place(zero, ZI_AT_GATHERED, 0, bucket)] = buckets[i].gathered;
        kept->ms[zi_trace_place(zero, ZI_AT_PARAM_WAITED, 0, bucket)] = buckets[i].waited;
        n_awaited += (uint64_t)buckets[i].is_awaited;
    }
    (void)zi_trace_draw(zero, kept, &overlap);
    ck_assert_uint_eq(overlap.n_awaited, n_awaited);
    zopt_destroy(z);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

/* ---- what a trace leaves alone ---- */

static void (*adjust_more)(zopt *z);

static void begin_trace(zopt *z)
{
    if (adjust_more != NULL)
        adjust_more(z);
    MUST(zopt_trace(z, path, 2));
}

/* Of overflows, absent and frozen tensors, groups of slots; whenever passes are made. */
START_TEST(no_bit_depends_on_a_trace)
{
    h_problem problem;
    h_result want, got;
    set_problem(&problem, &overlap_cases[_i]);
    problem.options.reduce_group = _i % 2 + 1;
    trace_name(path);
    for (moment when = LATE; when < N_MOMENTS; when++) {
        set_moment(&problem, when);
        h_run_threads(&problem, N_RANKS, &want);
        adjust_more = problem.adjust;
        problem.adjust = begin_trace;
        h_run_threads(&problem, N_RANKS, &got);
        h_compare(&want, &got, moment_names[when]);
        h_free(&want);
        h_free(&got);
    }
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

static void count_memory(const h_problem *problem, const char *file, zopt_memory_usage *before,
                         zopt_memory_usage *after)
{
    zopt *z;
    MUST(h_create(problem, &problem->options, &z));
    MUST(zopt_memory(z, before));
    MUST(zopt_trace(z, file, N_STEPS));
    MUST(zopt_memory(z, after));
    zopt_destroy(z);
}

START_TEST(memory_planned_is_memory_counted)
{
    h_problem problem;
    zopt_memory_usage none, real, planned;
    trace_problem(&problem, 1);
    trace_name(path);
    problem.options.transport = "self";
    count_memory(&problem, path, &none, &real);
    problem.options.plan_world = 1;
    count_memory(&problem, NULL, &none, &planned);
    ck_assert_uint_gt(real.total_bytes, none.total_bytes);
    ck_assert_int_eq(real.n, planned.n);
    for (int i = 0; i < real.n; i++)
        ck_assert_uint_eq(real.category[i].peak_bytes, planned.category[i].peak_bytes);
    ck_assert_uint_eq(real.total_peak_bytes, planned.total_peak_bytes);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

/* ---- what cannot be written ---- */

static void expect_refused(zopt *z, const char *file, zopt_status want, const char *words)
{
    zopt_memory_usage before, after;
    MUST(zopt_memory(z, &before));
    zopt_status status = zopt_trace(z, file, 1);
    if (status != want || strstr(zopt_last_error(), words) == NULL) {
        fprintf(stderr, "%s: %d, %s\n", file, (int)status, zopt_last_error());
        abort();
    }
    MUST(zopt_memory(z, &after));
    if (after.total_bytes != before.total_bytes)
        abort();
}

static void refuse(int rank, zopt_threads *threads, void *arg)
{
    const char *fifo = arg;
    h_problem problem;
    zopt *z;
    trace_problem(&problem, 2);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    MUST(zopt_create(&problem.options, &z));
    if (zopt_trace(z, path, 1) != ZOPT_ERR_ORDER)
        abort();
    zopt_destroy(z);
    MUST(h_create(&problem, &problem.options, &z));
    expect_refused(z, "/no/such/folder/trace.json", ZOPT_ERR_WRITE, "No such file");
    expect_refused(z, "/tmp", ZOPT_ERR_WRITE, "Is a directory");
    expect_refused(z, "/dev/null", ZOPT_ERR_ARGUMENT, "no plain file");
    expect_refused(z, fifo, ZOPT_ERR_ARGUMENT, "no plain file");
    expect_refused(z, NULL, ZOPT_ERR_ARGUMENT, "path is NULL");
    trace_step(&problem, z);
    for (int i = problem.n_tensors - 1; i >= 0; i--)
        trace_give(&problem, z, i);
    expect_refused(z, path, ZOPT_ERR_ORDER, "in the middle of a step");
    zopt_destroy(z);
}

START_TEST(what_cannot_be_written_is_refused_on_all_ranks)
{
    char fifo[80];
    ck_assert_int_eq(zopt_status_exit_code(ZOPT_ERR_WRITE), 73);
    trace_name(path);
    snprintf(fifo, sizeof fifo, "%s.fifo", path);
    ck_assert_int_eq(mkfifo(fifo, 0600), 0);
    h_on_threads(2, refuse, fifo);
    ck_assert_int_eq(remove(fifo), 0);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

/* What one rank alone has wrong is an error on both, and the trace before goes on. */
static void differ(int rank, zopt_threads *threads, void *arg)
{
    h_problem problem;
    zopt *z;
    (void)arg;
    trace_problem(&problem, 2);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    MUST(h_create(&problem, &problem.options, &z));
    MUST(zopt_trace(z, path, 100));
    if (zopt_trace(z, rank == 0 ? path : "/tmp/zopt-other", 1) != ZOPT_ERR_DISAGREE ||
        zopt_trace(z, path, rank == 0 ? 2 : 3) != ZOPT_ERR_DISAGREE ||
        zopt_trace(z, path, rank == 0 ? 0 : 3) != ZOPT_ERR_DISAGREE ||
        zopt_trace(z, rank == 0 ? NULL : path, 3) != ZOPT_ERR_ARGUMENT)
        abort();
    for (int i = problem.n_tensors - 1; rank == 1 && i >= 0; i--)
        trace_give(&problem, z, i);
    if (zopt_trace(z, path, 3) != ZOPT_ERR_ORDER || zi_zero_of(z)->trace == NULL)
        abort();
    for (int i = problem.n_tensors - 1; rank == 0 && i >= 0; i--)
        trace_give(&problem, z, i);
    MUST(zopt_micro_end(z, 0));
    MUST(zopt_step(z));
    zopt_destroy(z);
}

START_TEST(ranks_that_differ_are_refused_and_the_trace_before_goes_on)
{
    trace_name(path);
    h_on_threads(2, differ, NULL);
    ck_assert_int_eq(access("/tmp/zopt-other", F_OK), -1);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

/* Each rank in a folder of its own, as on machines that share none. */
static void in_own_folder(int rank, zopt_threads *threads, void *arg)
{
    const char *const *folder = arg;
    h_problem problem;
    zopt *z;
    if (unshare(CLONE_FS) != 0 || chdir(folder[rank]) != 0)
        abort();
    trace_problem(&problem, 2);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    MUST(h_create(&problem, &problem.options, &z));
    expect_refused(z, "t.json", ZOPT_ERR_WRITE, "not the file that rank 0 has made");
    zopt_destroy(z);
}

START_TEST(a_file_of_that_name_that_is_not_rank_0_s_is_left_alone)
{
    static const char text[] = "another's";
    char name[2][32], file[2][80], is[sizeof text] = "";
    const char *folder[2] = {name[0], name[1]};
    for (int i = 0; i < 2; i++) {
        snprintf(name[i], sizeof name[i], "/tmp/zopt-trace-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(name[i]));
        snprintf(file[i], sizeof file[i], "%s/t.json", name[i]);
    }
    FILE *other = fopen(file[1], "w+");
    ck_assert_ptr_nonnull(other);
    ck_assert_int_eq(fputs(text, other) == EOF || fflush(other) != 0, 0);
    h_on_threads(2, in_own_folder, folder);
    ck_assert_int_eq(fseek(other, 0, SEEK_SET), 0);
    ck_assert_uint_eq(fread(is, 1, sizeof is, other), strlen(text));
    ck_assert_str_eq(is, text);
    fclose(other);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(remove(file[i]) | remove(name[i]), 0);
}
END_TEST

static int n_warnings;
static const char *warning;

static void count_warning(void *arg, const char *text)
{
    (void)arg;
    n_warnings++;
    ck_assert_ptr_nonnull(strstr(text, warning));
}

/* As a rank that has stopped in its turn does. */
START_TEST(a_lock_that_is_never_free_ends_the_trace_with_a_warning)
{
    h_problem problem;
    trace_want want;
    zopt *z;
    trace_problem(&problem, 1);
    trace_name(path);
    problem.options.transport = "self";
    problem.options.on_warning = count_warning;
    problem.options.deadline_ms = 200;
    warning = "another process has had it locked";
    n_warnings = 0;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    trace_steps(&problem, z, path, 1, &want);
    ck_assert_int_eq(zopt_trace(z, NULL, 0), ZOPT_OK);
    int fd = open(path, O_RDONLY);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    expect_refused(z, path, ZOPT_ERR_WRITE, warning);
    trace_check(path, &want); /* another's trace was not touched */
    ck_assert_int_eq(flock(fd, LOCK_UN), 0);
    trace_step(&problem, z);
    ck_assert_int_eq(zopt_trace(z, path, 100), ZOPT_OK);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    for (int i = 0; i < 3; i++)
        trace_step(&problem, z);
    ck_assert_int_eq(n_warnings, 1);
    ck_assert_ptr_null(zi_zero_of(z)->trace);
    zopt_destroy(z);
    close(fd);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

/* Steps go on, and what was written before is whole. */
START_TEST(a_file_that_cannot_grow_ends_the_trace_with_a_warning)
{
    h_problem problem;
    trace_want want;
    struct rlimit before;
    struct stat info;
    zopt *z;
    trace_problem(&problem, 1);
    trace_name(path);
    problem.options.transport = "self";
    problem.options.on_warning = count_warning;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    trace_steps(&problem, z, path, 1, &want);
    ck_assert_int_eq(zopt_trace(z, path, 100), ZOPT_OK);
    for (int i = 0; i < 2; i++)
        trace_step(&problem, z);
    ck_assert_int_eq(stat(path, &info), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit limit = {(rlim_t)info.st_size + 100, before.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    warning = "the trace cannot be written: File too large; it ends before step 4";
    n_warnings = 0;
    for (int i = 0; i < 3; i++)
        trace_step(&problem, z);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    ck_assert_int_eq(n_warnings, 1);
    ck_assert_ptr_null(zi_zero_of(z)->trace);
    want.first_step = 3;
    want.n_steps = 1;
    trace_check(path, &want);

    limit.rlim_cur = 10; /* Check writes files too */
    int failed = setrlimit(RLIMIT_FSIZE, &limit);
    zopt_status status = zopt_trace(z, path, 1);
    failed |= setrlimit(RLIMIT_FSIZE, &before);
    ck_assert_int_eq(failed, 0);
    ck_assert_int_eq(status, ZOPT_ERR_WRITE);
    ck_assert_int_eq(stat(path, &info), 0);
    ck_assert_int_eq(info.st_size, 0); /* and no end without a beginning */
    zopt_destroy(z);
    ck_assert_int_eq(remove(path), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trace");
    TCase *tcase = tcase_create("trace");
    make_late_ops();
    tcase_add_loop_test(tcase, buckets_are_done_with_before_a_backward_pass_that_is_long_enough, 0,
                        4);
    tcase_add_test(tcase, a_trace_ends_where_it_was_told_to);
    tcase_add_test(tcase, parameters_are_waited_for_that_come_after_they_are_looked_for);
    tcase_add_loop_test(tcase, no_bit_depends_on_a_trace, 0, N_OVERLAP_CASES);
    tcase_add_test(tcase, memory_planned_is_memory_counted);
    tcase_add_test(tcase, what_cannot_be_written_is_refused_on_all_ranks);
    tcase_add_test(tcase, ranks_that_differ_are_refused_and_the_trace_before_goes_on);
    tcase_add_test(tcase, a_file_of_that_name_that_is_not_rank_0_s_is_left_alone);
    tcase_add_test(tcase, a_lock_that_is_never_free_ends_the_trace_with_a_warning);
    tcase_add_test(tcase, a_file_that_cannot_grow_ends_the_trace_with_a_warning);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
