/* How an offloaded step orders its work, on the shim's GPU: the copies of one bucket are enqueued
 * beside the CPU's update of another, and nothing is overwritten before it has been read, however
 * early or late the device works. */
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "memory.h"
#include "shim.h"

enum { MAX_CALLS = 4000, MAX_COPIES = 200 };

/* The copies of one direction: where each is among the calls. */
typedef struct copies {
    size_t at[MAX_COPIES];
    int n;
    const void *stream;
} copies;

typedef struct steps_calls {
    shim_call call[MAX_CALLS];
    size_t n;
    copies down, up; /* from the device to page-locked memory, and back */
} steps_calls;

static void add(const steps_calls *calls, copies *to, size_t i)
{
    ck_assert_int_lt(to->n, MAX_COPIES);
    ck_assert(to->n == 0 || calls->call[i].stream == to->stream);
    to->stream = calls->call[i].stream;
    to->at[to->n++] = i;
}

/* What the second step of a run alone calls. */
static void trace_step(h_problem *problem, steps_calls *calls)
{
    zopt *z;
    calls->n = 0;
    calls->down.n = calls->up.n = 0;
    problem->options.transport = "self";
    problem->options.device = "cuda";
    problem->options.offload_optimizer = "cpu";
    ck_assert_int_eq(h_create(problem, &problem->options, &z), ZOPT_OK);
    ck_assert_int_eq(h_step(problem, z, 1), ZOPT_OK);
    shim_trace(calls->call, MAX_CALLS);
    ck_assert_int_eq(h_step(problem, z, 2), ZOPT_OK);
    calls->n = shim_n_traced();
    shim_trace(NULL, 0);
    ck_assert_uint_le(calls->n, MAX_CALLS);
    for (size_t i = 0; i < calls->n; i++) {
        const shim_call *c = &calls->call[i];
        if (strcmp(c->name, "cudaMemcpyAsync") == 0 && shim_is_locked(c->dst) &&
            shim_is_device(c->src))
            add(calls, &calls->down, i);
        if (strcmp(c->name, "cudaMemcpyAsync") == 0 && shim_is_device(c->dst) &&
            shim_is_locked(c->src))
            add(calls, &calls->up, i);
    }
    zopt_destroy(z);
}

/* The first call of that kind for the event, or its queue, behind `from`. */
static size_t next_call(const steps_calls *calls, size_t from, const char *name, const void *event)
{
    size_t i = from + 1;
    while (i < calls->n &&
           (strcmp(calls->call[i].name, name) != 0 || calls->call[i].event != event))
        i++;
    ck_assert_uint_lt(i, calls->n);
    return i;
}

/* The event that stands behind a copy. */
static const void *event_behind(const steps_calls *calls, size_t at)
{
    const shim_call *c = &calls->call[at + 1];
    ck_assert_str_eq(c->name, "cudaEventRecord");
    ck_assert_ptr_eq(c->stream, calls->call[at].stream);
    return c->event;
}

/* In one pass over n buckets, of which copy `first` is the first one down: the next bucket is on
 * its way when the host waits for this one. */
static size_t check_next_is_on_its_way(const steps_calls *calls, int first, int n, int k)
{
    const copies *down = &calls->down;
    size_t at = down->at[first + k];
    size_t wait = next_call(calls, at, "cudaEventSynchronize", event_behind(calls, at));
    if (k + 1 < n)
        ck_assert_uint_lt(down->at[first + k + 1], wait);
    return wait;
}

/* _i: how many slots; one comes down as it is, several as a sum. */
START_TEST(copies_of_one_bucket_are_beside_the_update_of_another)
{
    static steps_calls calls;
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.slots = 1 + _i;
    problem.options.bucket_elems = 700;
    trace_step(&problem, &calls);
    int n = calls.down.n;
    ck_assert_int_gt(n, 5);
    ck_assert_int_eq(calls.up.n, n);
    ck_assert_ptr_ne(calls.down.stream, calls.up.stream);
    for (int k = 0; k < n; k++) {
        size_t up = calls.up.at[k], update = check_next_is_on_its_way(&calls, 0, n, k);
        ck_assert_uint_lt(update, up);
        /* Nothing on the way down waits for it before the next bucket has been updated too. */
        size_t published = next_call(&calls, up, "cudaStreamWaitEvent", event_behind(&calls, up));
        ck_assert_ptr_eq(calls.call[published].stream, calls.down.stream);
        if (k + 1 < n)
            ck_assert_uint_lt(calls.up.at[k + 1], published);
    }
}
END_TEST

/* Two rounds before the update, each with the gradients once more. */
START_TEST(gradients_come_down_beside_statistics_too)
{
    static steps_calls calls;
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.optimizer = "Adafactor";
    problem.options.slots = 2;
    problem.options.bucket_elems = 700;
    trace_step(&problem, &calls);
    int n = calls.up.n;
    ck_assert_int_gt(n, 5);
    ck_assert_int_eq(calls.down.n, 3 * n);
    for (int i = 0; i < 3 * n; i++)
        (void)check_next_is_on_its_way(&calls, i / n * n, n, i % n);
}
END_TEST

/* _i: the optimizer. The other tests of offload run with the device as late as it may be. */
START_TEST(bits_do_not_depend_on_when_the_device_works)
{
    static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Adafactor"};
    h_problem problem;
    h_result want, got;
    h_uneven(&problem, (zopt_dtype)_i, 1);
    problem.options.optimizer = optimizers[_i];
    problem.options.slots = 1 + _i;
    problem.options.bucket_elems = 700;
    problem.options.transport = "self";
    problem.options.device = "cpu";
    h_run_one(&problem, &problem.options, &want);
    problem.options.device = "cuda";
    problem.options.offload_optimizer = "cpu";
    shim.eager = 1;
    h_run_one(&problem, &problem.options, &got);
    shim = shim_healthy;
    h_compare(&want, &got, "with an eager device");
    h_free(&got);
    h_free(&want);
}
END_TEST

/* A kernel that fails in the third bucket's sum. */
START_TEST(a_device_that_fails_in_an_offloaded_update_fails_the_step)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.device = "cuda";
    problem.options.offload_optimizer = "cpu";
    problem.options.slots = 2;
    problem.options.bucket_elems = 700;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_eq(h_step(&problem, z, 1), ZOPT_OK);
    int n_before = shim_n_launches();
    ck_assert_int_eq(h_step(&problem, z, 2), ZOPT_OK);
    int n_launches = shim_n_launches() - n_before, n_buckets = n_launches / 3;
    ck_assert_int_eq(n_launches, 3 * n_buckets); /* accumulate, norm, and the sum that comes down */
    shim.fail_at_launch = 2 * n_buckets + 3;
    ck_assert_int_eq(h_step(&problem, z, 3), ZOPT_ERR_FAILURE);
    ck_assert_int_eq(zopt_step(z), ZOPT_ERR_ORDER);
    zopt_destroy(z);
    shim = shim_healthy;
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
}
END_TEST

START_TEST(page_locked_memory_that_is_not_to_be_had_is_told_before_the_first_step)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.device = "cuda";
    problem.options.offload_optimizer = "cpu";
    shim.no_locked = 1;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_ERR_MEMORY);
    shim = shim_healthy;
    ck_assert_uint_eq(shim_bytes_in_use(), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("offload_order");
    TCase *tcase = tcase_create("offload_order");
    tcase_add_loop_test(tcase, copies_of_one_bucket_are_beside_the_update_of_another, 0, 2);
    tcase_add_test(tcase, gradients_come_down_beside_statistics_too);
    tcase_add_loop_test(tcase, bits_do_not_depend_on_when_the_device_works, 0, 3);
    tcase_add_test(tcase, a_device_that_fails_in_an_offloaded_update_fails_the_step);
    tcase_add_test(tcase, page_locked_memory_that_is_not_to_be_had_is_told_before_the_first_step);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
