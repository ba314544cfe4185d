/* Queues of every device that is not the host, their events, and page-locked memory: work behind an
 * event of another queue sees what was done before it, and the host that waited does too. */
#include <string.h>

#include "device/device.h"
#include "on_devices.h"

enum { N = 1 << 16, N_ROUNDS = 20 };

typedef struct pair {
    const zi_device_ops *device;
    zi_mem mem;
    zi_queue *q, *beside;
    zi_event *event, *back;
    int32_t *a, *b;   /* [N] the device's */
    int32_t *up, *to; /* [N] page-locked */
} pair;

static void open_pair(pair *p, const zi_device_ops *device)
{
    const size_t bytes = N * sizeof(int32_t);
    *p = (pair){.device = device};
    ck_assert_int_eq(device->open(0, &p->q), ZOPT_OK);
    ck_assert_int_eq(device->open_beside(p->q, &p->beside), ZOPT_OK);
    ck_assert_int_eq(device->event_create(p->q, &p->event), ZOPT_OK);
    ck_assert_int_eq(device->event_create(p->beside, &p->back), ZOPT_OK);
    ck_assert_int_eq(device->alloc(p->q, &p->mem, ZI_MEM_STAGING, bytes, &p->a), ZOPT_OK);
    ck_assert_int_eq(device->alloc(p->q, &p->mem, ZI_MEM_STAGING, bytes, &p->b), ZOPT_OK);
    ck_assert_int_eq(device->alloc_host(p->q, &p->mem, ZI_MEM_STAGING, bytes, &p->up), ZOPT_OK);
    ck_assert_int_eq(device->alloc_host(p->q, &p->mem, ZI_MEM_STAGING, bytes, &p->to), ZOPT_OK);
    ck_assert_uint_eq(p->mem.total_bytes, 4 * bytes);
    ck_assert_int_eq(device->wait(p->q), ZOPT_OK);
}

static void close_pair(pair *p)
{
    const size_t bytes = N * sizeof(int32_t);
    p->device->free(p->q, &p->mem, ZI_MEM_STAGING, p->a, bytes);
    p->device->free(p->q, &p->mem, ZI_MEM_STAGING, p->b, bytes);
    p->device->free_host(p->q, &p->mem, ZI_MEM_STAGING, p->up, bytes);
    p->device->free_host(p->q, &p->mem, ZI_MEM_STAGING, p->to, bytes);
    p->device->event_destroy(p->event);
    p->device->event_destroy(p->back);
    p->device->close(p->beside);
    p->device->close(p->q);
    ck_assert_uint_eq(p->mem.total_bytes, 0);
}

/* up -> a on one queue; a -> b -> to on the other, behind the event; the next round overwrites
 * behind the event back. */
static void pass_rounds(pair *p)
{
    const zi_device_ops *d = p->device;
    const size_t bytes = N * sizeof(int32_t);
    for (int32_t round = 1; round <= N_ROUNDS; round++) {
        for (int32_t i = 0; i < N; i++)
            p->up[i] = round * N + i;
        d->event_await(p->q, p->back);
        d->copy(p->q, p->a, p->up, bytes);
        d->event_record(p->q, p->event);
        d->event_await(p->beside, p->event);
        d->copy(p->beside, p->b, p->a, bytes);
        d->copy(p->beside, p->to, p->b, bytes);
        d->event_record(p->beside, p->back);
        ck_assert_int_eq(d->event_wait(p->back), ZOPT_OK);
        int done = 0;
        ck_assert_int_eq(d->event_query(p->event, &done), ZOPT_OK);
        ck_assert_int_eq(done, 1);
        ck_assert_int_eq(memcmp(p->to, p->up, bytes), 0);
    }
}

START_TEST(work_behind_an_event_sees_what_came_before_it)
{
    for (size_t i = 0; i < zi_n_devices; i++) {
        pair p;
        if (zi_devices[i]->on_host || !device_is_here(zi_devices[i]))
            continue;
        open_pair(&p, zi_devices[i]);
        pass_rounds(&p);
        close_pair(&p);
    }
}
END_TEST

START_TEST(an_event_that_was_never_recorded_holds_nothing_up)
{
    for (size_t i = 0; i < zi_n_devices; i++) {
        pair p;
        int done = 0;
        if (zi_devices[i]->on_host || !device_is_here(zi_devices[i]))
            continue;
        open_pair(&p, zi_devices[i]);
        p.device->event_await(p.q, p.event);
        ck_assert_int_eq(p.device->wait(p.q), ZOPT_OK);
        ck_assert_int_eq(p.device->event_query(p.event, &done), ZOPT_OK);
        ck_assert_int_eq(done, 1);
        close_pair(&p);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_queue");
    TCase *tcase = tcase_create("device_queue");
    tcase_add_test(tcase, work_behind_an_event_sees_what_came_before_it);
    tcase_add_test(tcase, an_event_that_was_never_recorded_holds_nothing_up);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
