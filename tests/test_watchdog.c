/* The watchdog: who does not return in time is told on, once, with step, phase and call; who does
 * is not. Nothing here depends on how fast a machine is: calls that must expire wait until they
 * have, and calls that must not have an hour. */
#include <check.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/watchdog.h"

enum { HOUR_MS = 3600000 };

typedef struct told {
    int n, returned;
    char text[256];
    sem_t called;
} told;

static void remember(void *arg, const char *text)
{
    told *t = arg;
    t->n++;
    snprintf(t->text, sizeof t->text, "%s", text);
    sem_post(&t->called);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* let others run, if they do */
    t->returned = 1;
}

static zi_comm make_comm(told *t, int deadline_ms)
{
    sem_init(&t->called, 0, 0);
    return (zi_comm){.rank = 3,
                     .deadline_ms = deadline_ms,
                     .on_hang = remember,
                     .on_hang_arg = t,
                     .step = 7,
                     .phase = "gather",
                     .bucket = 2};
}

START_TEST(call_that_does_not_return_is_told_once)
{
    told t = {0};
    zi_watchdog dog;
    zi_comm comm = make_comm(&t, 30);
    ck_assert_int_eq(zi_watchdog_start(&dog, &comm), ZOPT_OK);
    for (int i = 1; i <= 2; i++) { /* and the next call again */
        t.returned = 0;
        zi_watchdog_arm(&dog, "a long call", 0);
        sem_wait(&t.called);
        ck_assert_int_eq(zi_watchdog_disarm(&dog), 1);
        ck_assert_int_eq(t.returned, 1); /* disarm has waited for on_hang */
        ck_assert_int_eq(t.n, i);
        ck_assert_str_eq(t.text, "rank 3 waited 0.03 s in step 7, phase gather, bucket 2: a long "
                                 "call has not returned");
        ck_assert_int_eq(zi_watchdog_disarm(&dog), 0);
    }
    zi_watchdog_stop(&dog);
}
END_TEST

START_TEST(rank_that_is_not_known_is_not_named)
{
    told t = {0};
    zi_watchdog dog;
    zi_comm comm = make_comm(&t, 20);
    comm.rank = -1;
    comm.step = 0;
    comm.phase = "start";
    ck_assert_int_eq(zi_watchdog_start(&dog, &comm), ZOPT_OK);
    zi_watchdog_arm(&dog, "MPI_Init_thread", 5);
    sem_wait(&t.called);
    zi_watchdog_disarm(&dog);
    ck_assert_str_eq(t.text, "waited 0.02 s in phase start: MPI_Init_thread has not returned");
    zi_watchdog_stop(&dog);
}
END_TEST

START_TEST(calls_that_return_in_time_are_not_told)
{
    told t = {0};
    zi_watchdog dog;
    zi_comm comm = make_comm(&t, HOUR_MS);
    ck_assert_int_eq(zi_watchdog_start(&dog, &comm), ZOPT_OK);
    for (int i = 0; i < 1000; i++) {
        comm.step++;
        zi_watchdog_arm(&dog, "a call", i);
        ck_assert_int_eq(zi_watchdog_disarm(&dog), 0);
    }
    zi_watchdog_stop(&dog); /* does not wait for the hour to pass */
    ck_assert_int_eq(t.n, 0);
}
END_TEST

/* The thread wakes up between a call's end and the next one's, over and over. */
START_TEST(deadline_of_a_call_is_not_the_next_ones)
{
    told t = {0};
    zi_watchdog dog;
    zi_comm comm = make_comm(&t, 1);
    ck_assert_int_eq(zi_watchdog_start(&dog, &comm), ZOPT_OK);
    for (int i = 0; i < 200; i++) {
        comm.step++;
        zi_watchdog_arm(&dog, "a call", HOUR_MS);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        ck_assert_int_eq(zi_watchdog_disarm(&dog), 0);
    }
    zi_watchdog_stop(&dog);
    ck_assert_int_eq(t.n, 0);
}
END_TEST

START_TEST(without_on_hang_nothing_is_watched)
{
    zi_watchdog dog;
    zi_comm comm = {.deadline_ms = 1};
    ck_assert_int_eq(zi_watchdog_start(&dog, &comm), ZOPT_OK);
    zi_watchdog_arm(&dog, "a call", 0);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    ck_assert_int_eq(zi_watchdog_disarm(&dog), 0);
    zi_watchdog_stop(&dog);
    zi_watchdog never = {0};
    zi_watchdog_stop(&never);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("watchdog");
    TCase *tests = tcase_create("watchdog");
    suite_add_tcase(suite, tests);
    tcase_add_test(tests, call_that_does_not_return_is_told_once);
    tcase_add_test(tests, rank_that_is_not_known_is_not_named);
    tcase_add_test(tests, calls_that_return_in_time_are_not_told);
    tcase_add_test(tests, deadline_of_a_call_is_not_the_next_ones);
    tcase_add_test(tests, without_on_hang_nothing_is_watched);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
