/* What happens while backward goes on, on transport threads: the owner's first passes, counted, in
 * the caller's thread or the library's; the same bits whenever they are made; and parameters that
 * can be used while a peer still updates others. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "comm/common.h"
#include "device/cpu.h"
#include "overlap_cases.h"

#define MUST(call)                                                                            \
    do {                                                                                      \
        if ((call) != ZOPT_OK) {                                                              \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, zopt_last_error()); \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

#define EXPECT(condition)                                                       \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                            \
        }                                                                       \
    } while (0)

START_TEST(no_bit_depends_on_when_buckets_are_summed)
{
    static const int worlds[] = {1, 2, 3, 5};
    h_problem problem;
    h_result want, got;
    char what[96];
    set_problem(&problem, &overlap_cases[_i]);
    set_moment(&problem, LATE);
    h_run_threads(&problem, 1, &want);
    for (int w = 0; w < 4; w++)
        for (moment when = LATE; when < N_MOMENTS; when++) {
            set_moment(&problem, when);
            h_run_threads(&problem, worlds[w], &got);
            snprintf(what, sizeof what, "%s, %d ranks, %s", overlap_cases[_i].name, worlds[w],
                     moment_names[when]);
            h_compare(&want, &got, what);
            h_free(&got);
        }
    h_free(&want);
}
END_TEST

/* ------------------------------------------------------------------ counted ----------------- */

enum { N_RANKS = 3 };

/* Passes of all ranks, and those of them in threads that are no rank's. */
static atomic_int n_norms, n_accumulations, n_foreign;
static _Thread_local int is_rank;

static void count(atomic_int *which)
{
    atomic_fetch_add(which, 1);
    if (!is_rank)
        atomic_fetch_add(&n_foreign, 1);
}

static void counted_norm(zi_queue *q, const zi_job *job, zi_exact *sum, int64_t *n_bad)
{
    zi_device_cpu.norm(q, job, sum, n_bad);
    count(&n_norms);
}

static void counted_accumulate(zi_queue *q, const zi_job *job, float *acc, int64_t *n_bad)
{
    zi_device_cpu.accumulate(q, job, acc, n_bad);
    count(&n_accumulations);
}

static zi_device_ops counting;
static pthread_barrier_t barrier;

/* All threads see what all have counted. */
static void meet(void)
{
    pthread_barrier_wait(&barrier);
}

static void hand_over_all(const h_problem *problem, zopt *z)
{
    for (int i = problem->n_tensors - 1; i >= 0; i--) {
        void *grad;
        MUST(zopt_grad_acquire(z, i, &grad));
        memset(grad, 0, h_elems(&problem->tensor[i]) * zopt_dtype_bytes(problem->tensor[i].dtype));
        MUST(zopt_grad_ready(z, i));
    }
}

/* With calls alone the last rank to be ready sums its own buckets, the others theirs when they call
 * next; a thread needs no call. */
static void wait_for_passes(moment when, atomic_int *which, int n)
{
    while (when == THREAD && atomic_load(which) < n)
        sched_yield();
}

static void step_counted(int rank, zopt_threads *threads, void *arg)
{
    const moment when = *(const moment *)arg;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    set_moment(&problem, when);
    problem.options.slots = 2 * N_RANKS;
    problem.options.bucket_elems = 700;
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    is_rank = 1;
    MUST(h_create(&problem, &problem.options, &z));
    zi_zero *zero = zi_local_of(z)->zero;
    zero->config.device = zero->config.home = &counting;
    if (when == LATE)
        be_late(z);
    int n = N_RANKS * (int)zero->layout.n_exchanged;
    EXPECT(n >= 10 * N_RANKS);

    hand_over_all(&problem, z);
    wait_for_passes(when, &n_accumulations, n);
    meet();
    EXPECT(when != THREAD || atomic_load(&n_accumulations) == n);
    EXPECT(when != LATE || atomic_load(&n_accumulations) == 0);
    meet();
    MUST(zopt_micro_end(z, 0));
    meet();
    EXPECT(atomic_load(&n_accumulations) == n && atomic_load(&n_norms) == 0);

    hand_over_all(&problem, z);
    wait_for_passes(when, &n_norms, n);
    meet();
    MUST(zopt_micro_end(z, 0));
    meet();
    EXPECT(atomic_load(&n_norms) == (when == LATE ? 0 : n));
    EXPECT(atomic_load(&n_foreign) == (when == THREAD ? 2 * n : 0));
    meet();
    MUST(zopt_step(z));
    meet();
    EXPECT(atomic_load(&n_norms) == n && atomic_load(&n_accumulations) == n);
    meet();
    zopt_destroy(z);
}

/* _i: the moment. */
START_TEST(passes_are_made_before_zopt_step)
{
    moment when = (moment)_i;
    atomic_store(&n_norms, 0);
    atomic_store(&n_accumulations, 0);
    atomic_store(&n_foreign, 0);
    counting = zi_device_cpu;
    counting.norm = counted_norm;
    counting.accumulate = counted_accumulate;
    pthread_barrier_init(&barrier, NULL, N_RANKS);
    h_on_threads(N_RANKS, step_counted, &when);
    pthread_barrier_destroy(&barrier);
}
END_TEST

START_TEST(one_rank_has_summed_every_bucket_when_its_last_gradient_is_ready)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.slots = 1;
    problem.options.bucket_elems = 700;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    const zi_zero *zero = zi_zero_of(z);
    hand_over_all(&problem, z);
    ck_assert_uint_eq(zero->n_passed, zero->layout.n_exchanged);
    ck_assert_int_eq(zopt_micro_end(z, 0), ZOPT_OK);
    ck_assert_int_eq(zopt_step(z), ZOPT_OK);
    ck_assert_uint_eq(zero->n_passed, 0);
    zopt_destroy(z);
}
END_TEST

/* ------------------------------------------------------------------ parameters -------------- */

static atomic_int first_is_used;
static atomic_int n_updates;
static zi_device_ops hesitant;

/* Rank 1 does not update its last bucket before rank 0 has used the first tensor's parameters. */
static void hesitant_update(zi_queue *q, const zi_variant *variant, const zi_job *job)
{
    if (atomic_fetch_sub(&n_updates, 1) == 1)
        while (!atomic_load(&first_is_used))
            sched_yield();
    zi_device_cpu.update(q, variant, job);
}

static void use_early(int rank, zopt_threads *threads, void *arg)
{
    h_problem problem;
    zopt *z;
    const void *param;
    (void)arg;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.slots = 2;
    problem.options.bucket_elems = 700;
    problem.options.deadline_ms = 20000; /* the end of a wait for all parameters */
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    MUST(h_create(&problem, &problem.options, &z));
    zi_zero *zero = zi_local_of(z)->zero;
    EXPECT(zero->tensors[0].n_buckets < zero->layout.n_exchanged);
    if (rank == 1) {
        atomic_store(&n_updates, (int)zero->layout.n_exchanged);
        zero->config.device = zero->config.home = &hesitant;
    }
    MUST(h_step(&problem, z, 1));
    if (rank == 0) {
        MUST(zopt_param_acquire(z, 0, &param));
        atomic_store(&first_is_used, 1);
    }
    for (int i = 0; i < problem.n_tensors; i++)
        MUST(zopt_param_acquire(z, i, &param));
    zopt_destroy(z);
}

START_TEST(parameters_are_used_while_a_peer_updates_others)
{
    atomic_store(&first_is_used, 0);
    hesitant = zi_device_cpu;
    hesitant.update = hesitant_update;
    h_on_threads(2, use_early, NULL);
    ck_assert_int_eq(atomic_load(&first_is_used), 1);
}
END_TEST

/* ------------------------------------------------------------------ the thread -------------- */

static zi_comm_ops failing_ops, published_ops;
static zi_device_ops shared;
static pthread_t caller;
static atomic_int by_caller, by_thread;
static int n_published_early;

/* The caller's first kernel ends behind the thread's first, so that buckets end out of order. */
static void shared_update(zi_queue *q, const zi_variant *variant, const zi_job *job)
{
    int is_callers = pthread_equal(pthread_self(), caller) != 0;
    zi_device_cpu.update(q, variant, job);
    atomic_fetch_add(is_callers ? &by_caller : &by_thread, 1);
    for (int i = 0; is_callers && i < 10000 && atomic_load(&by_thread) == 0; i++)
        usleep(1000);
}

/* What the transport checks too: the order of ordinals. Bucket 0 of the order is the caller's. */
static zopt_status count_publish(zi_comm *comm, const zi_transfer *transfer)
{
    n_published_early += atomic_load(&by_caller) == 0;
    return zi_comm_self.publish(comm, transfer);
}

static zopt_status fail_publish(zi_comm *comm, const zi_transfer *transfer)
{
    if (atomic_load(&by_thread) == 0)
        return zi_comm_self.publish(comm, transfer);
    return ZI_FAIL(ZOPT_ERR_COMM, "transfer %d burns", (int)transfer->ordinal);
}

/* One step with this `publish` and the counting update. */
static void share_update(zopt_status (*publish)(zi_comm *, const zi_transfer *), zopt_status want)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.slots = 1;
    problem.options.bucket_elems = 700;
    problem.options.progress_thread = 1;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    zi_zero *zero = zi_local_of(z)->zero;
    published_ops = *zero->comm->ops;
    published_ops.publish = publish;
    zero->comm->ops = &published_ops;
    shared = zi_device_cpu;
    shared.update = shared_update;
    zero->config.device = zero->config.home = &shared;
    caller = pthread_self();
    n_published_early = 0;
    atomic_store(&by_caller, 0);
    atomic_store(&by_thread, 0);
    ck_assert_int_eq(h_step(&problem, z, 1), want);
    if (want == ZOPT_OK)
        ck_assert_uint_eq((uint32_t)(by_caller + by_thread), zero->layout.n_exchanged);
    zopt_destroy(z);
}

START_TEST(the_thread_takes_a_part_of_the_update)
{
    share_update(count_publish, ZOPT_OK);
    ck_assert_int_gt(by_caller, 0);
    ck_assert_int_gt(by_thread, 0);
    ck_assert_int_eq(n_published_early, 0);
}
END_TEST

START_TEST(what_the_thread_meets_in_an_update_comes_out_of_zopt_step)
{
    share_update(fail_publish, ZOPT_ERR_COMM);
    ck_assert_ptr_nonnull(strstr(zopt_last_error(), "burns"));
}
END_TEST

static zopt_status fail_test(zi_comm *comm, const zi_transfer *transfer, int *ready)
{
    *ready = 0;
    if (transfer->ordinal < 3)
        return zi_comm_self.expose_test(comm, transfer, ready);
    return ZI_FAIL(ZOPT_ERR_COMM, "transfer %d burns", (int)transfer->ordinal);
}

START_TEST(what_the_thread_meets_comes_out_of_the_callers_next_call)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.slots = 1;
    problem.options.bucket_elems = 700;
    problem.options.progress_thread = 1;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    zi_comm *comm = zi_local_of(z)->comm;
    failing_ops = *comm->ops;
    failing_ops.expose_test = fail_test;
    comm->ops = &failing_ops;
    zopt_status status = h_step(&problem, z, 1);
    ck_assert_int_eq(status, ZOPT_ERR_COMM);
    ck_assert_str_eq(zopt_last_error(), "transfer 3 burns");
    zopt_destroy(z);
}
END_TEST

/* Calls that use the comm in the middle of a backward pass. */
static void call_between(int rank, zopt_threads *threads, void *arg)
{
    h_problem problem;
    zopt *z;
    (void)arg;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.slots = 4;
    problem.options.bucket_elems = 700;
    problem.options.progress_thread = 1;
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    MUST(h_create(&problem, &problem.options, &z));
    for (int step = 0; step < 3; step++) {
        for (int k = 0; k < zopt_micro_steps(z); k++) {
            for (int i = problem.n_tensors - 1; i >= 0; i--) {
                double all[2];
                float value;
                int n;
                void *grad;
                const void *param;
                MUST(zopt_param_acquire(z, i, &param));
                MUST(zopt_grad_acquire(z, i, &grad));
                memset(grad, 0, h_elems(&problem.tensor[i]) * 2);
                MUST(zopt_grad_ready(z, i));
                MUST(zopt_gather_f64(z, rank, 1, all, &n));
                MUST(zopt_get_master(z, i, 0, 1, &value));
            }
            MUST(zopt_micro_end(z, 0));
        }
        MUST(zopt_step(z));
    }
    zopt_destroy(z);
}

START_TEST(collective_calls_may_come_in_the_middle_of_backward)
{
    h_on_threads(2, call_between, NULL);
}
END_TEST

START_TEST(memory_planned_is_memory_counted_with_a_thread)
{
    h_problem problem;
    h_result counted;
    zopt_memory_usage planned;
    zopt *z;
    set_problem(&problem, &overlap_cases[0]);
    set_moment(&problem, THREAD);
    h_run_threads(&problem, 2, &counted);
    problem.options.transport = "threads";
    problem.options.plan_world = 2;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_memory(z, &planned), ZOPT_OK);
    ck_assert_uint_eq(planned.total_peak_bytes, counted.memory.total_peak_bytes);
    zopt_destroy(z);
    h_free(&counted);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("overlap");
    TCase *tcase = tcase_create("overlap");
    make_late_ops();
    tcase_add_loop_test(tcase, no_bit_depends_on_when_buckets_are_summed, 0, N_OVERLAP_CASES);
    tcase_add_loop_test(tcase, passes_are_made_before_zopt_step, 0, N_MOMENTS);
    tcase_add_test(tcase, one_rank_has_summed_every_bucket_when_its_last_gradient_is_ready);
    tcase_add_test(tcase, parameters_are_used_while_a_peer_updates_others);
    tcase_add_test(tcase, what_the_thread_meets_comes_out_of_the_callers_next_call);
    tcase_add_test(tcase, the_thread_takes_a_part_of_the_update);
    tcase_add_test(tcase, what_the_thread_meets_in_an_update_comes_out_of_zopt_step);
    tcase_add_test(tcase, collective_calls_may_come_in_the_middle_of_backward);
    tcase_add_test(tcase, memory_planned_is_memory_counted_with_a_thread);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
