/* The public calls of several ranks: refused where they disagree, deadlines that name who is
 * missing and in what, numbers gathered. Part of test_api. */
#include "api_ranks.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

typedef struct disagreement {
    int odd_rank, kind;
    zopt_status status[5];
    char text[5][1024];
} disagreement;

static char long_text[2][4001]; /* that differ at byte 3000 */

static void disagree(int rank, zopt_threads *threads, void *arg)
{
    disagreement *d = arg;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    if (rank == d->odd_rank && d->kind == 0)
        problem.tensor[6].shape[0] = 4097;
    if (rank == d->odd_rank && d->kind == 1)
        problem.tensor[2].dtype = ZOPT_BF16;
    if (rank == d->odd_rank && d->kind == 2)
        problem.n_tensors--;
    if (rank == d->odd_rank && (d->kind == 3 || d->kind == 6))
        problem.options.bucket_elems = 1024;
    if (d->kind == 6) /* more than can be allocated: not even tried */
        problem.tensor[6].shape[0] = UINT64_C(1) << 55;
    if (rank == d->odd_rank && d->kind == 4)
        problem.weight_decay[1] = 0.5;
    problem.agreed = d->kind == 5 ? long_text[rank == d->odd_rank] : NULL;
    d->status[rank] = h_create(&problem, &problem.options, &z);
    snprintf(d->text[rank], sizeof d->text[rank], "%s", zopt_last_error());
    zopt_destroy(z);
}

START_TEST(ranks_that_disagree_are_refused_and_the_first_difference_named)
{
    static const char *const part[][2] = {
        {"tensor 6: 'n4096' fp16 group 0 [4096]", "[4097]"},
        {"tensor 2: 'n255' fp16 group 0 [255]", "bf16"},
        {"tensor 9: 't2x3x5'", "nothing (its list ends here)"},
        {"buckets of 4194304", "buckets of 1024"},
        {"group 1:", "weight_decay 0.5"},
        {"run file: xxx", "the difference comes later"},
        {"buckets of 4194304", "buckets of 1024"},
    };
    disagreement d = {.odd_rank = 1 + _i % 2, .kind = _i};
    memset(long_text[0], 'x', 4000);
    memset(long_text[1], 'x', 4000);
    long_text[1][3000] = 'y';
    h_on_threads(3, disagree, &d);
    for (int r = 0; r < 3; r++) {
        char rank[32];
        snprintf(rank, sizeof rank, "rank %d has", d.odd_rank);
        ck_assert_int_eq(d.status[r], ZOPT_ERR_DISAGREE);
        ck_assert_msg(strstr(d.text[r], part[_i][0]) && strstr(d.text[r], part[_i][1]) &&
                          strstr(d.text[r], rank) && !strstr(d.text[r], "hysteresis"),
                      "text: %s", d.text[r]); /* of many options, the one */
    }
}
END_TEST

static void odd_saves(int rank, zopt_threads *threads, void *arg)
{
    disagreement *d = arg;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    problem.options.async_save = d->kind == 0 && rank == d->odd_rank;
    problem.options.part_bytes = d->kind == 1 && rank == d->odd_rank ? 1 << 16 : 0;
    d->status[rank] = h_create(&problem, &problem.options, &z);
    snprintf(d->text[rank], sizeof d->text[rank], "%s", zopt_last_error());
    zopt_destroy(z);
}

/* Their buffers, which peers store into, would differ. */
START_TEST(ranks_that_would_save_in_different_ways_are_refused)
{
    static const char *const option[] = {"async_save", "part_bytes"};
    disagreement d = {.odd_rank = 1, .kind = _i};
    h_on_threads(3, odd_saves, &d);
    for (int r = 0; r < 3; r++) {
        ck_assert_int_eq(d.status[r], ZOPT_ERR_DISAGREE);
        ck_assert_msg(strstr(d.text[r], option[_i]) != NULL, "text: %s", d.text[r]);
    }
}
END_TEST

static zopt_status make_step(const h_problem *problem, zopt *z)
{
    return h_step(problem, z, 1);
}

static zopt_status save(const h_problem *problem, zopt *z)
{
    (void)problem;
    return zopt_save(z, "nowhere");
}

static zopt_status load(const h_problem *problem, zopt *z)
{
    (void)problem;
    return zopt_load(z, "nowhere");
}

static zopt_status export(const h_problem *problem, zopt *z)
{
    (void)problem;
    return zopt_export(z, "nowhere/at/all");
}

static zopt_status get_master(const h_problem *problem, zopt *z)
{
    float value;
    (void)problem;
    return zopt_get_master(z, 0, 0, 1, &value);
}

static zopt_status get_state(const h_problem *problem, zopt *z)
{
    float value;
    (void)problem;
    return zopt_get_state(z, "exp_avg", 0, 0, 1, &value);
}

static zopt_status gather_one(const h_problem *problem, zopt *z)
{
    double values[3];
    int n;
    (void)problem;
    return zopt_gather_f64(z, zopt_rank(z), 1, values, &n);
}

/* What two ranks do while the third does not, and how that is told. */
static const struct {
    zopt_status (*call)(const h_problem *problem, zopt *z);
    const char *text;
} missed[] = {
    {make_step, "in step 1, phase reduce"},
    {save, "in step 1, phase save"},
    {load, "in step 1, phase load"},
    {export, "in step 1, phase export"},
    {get_master, "in step 1, phase get_master"},
    {get_state, "in step 1, phase get_state"},
    {gather_one, "in step 1, phase gather_f64"},
};

typedef struct hang {
    int missed; /* row */
    atomic_int n_hangs;
    char text[512];
    zopt_status status[3];
    atomic_int n_waited;
} hang;

static void on_hang(void *arg, const char *text)
{
    hang *h = arg;
    if (atomic_fetch_add(&h->n_hangs, 1) == 0)
        snprintf(h->text, sizeof h->text, "%s", text);
}

static void one_stays_away(int rank, zopt_threads *threads, void *arg)
{
    hang *h = arg;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.slots = 3;
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    problem.options.deadline_ms = 300;
    problem.options.on_hang = on_hang;
    problem.options.on_hang_arg = h;
    if (h_create(&problem, &problem.options, &z) != ZOPT_OK)
        abort();
    if (rank != 1) {
        h->status[rank] = missed[h->missed].call(&problem, z);
        atomic_fetch_add(&h->n_waited, 1);
    }
    while (atomic_load(&h->n_waited) < 2)
        usleep(1000);
    zopt_destroy(z);
}

START_TEST(a_rank_that_does_not_arrive_is_named_at_the_deadline)
{
    static hang h;
    memset(&h, 0, sizeof h);
    h.missed = _i;
    h_on_threads(3, one_stays_away, &h);
    ck_assert_int_ge(atomic_load(&h.n_hangs), 1);
    ck_assert_msg(strstr(h.text, missed[_i].text) && strstr(h.text, "rank 1"), "text: %s", h.text);
    for (int r = 0; r < 3; r += 2)
        ck_assert_msg(h.status[r] == ZOPT_ERR_TIMEOUT || h.status[r] == ZOPT_ERR_PEER, "status %d",
                      h.status[r]);
}
END_TEST

static void gather(int rank, zopt_threads *threads, void *arg)
{
    zopt_status *status = arg;
    h_problem problem;
    zopt *z;
    double out[4];
    int n;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    if (h_create(&problem, &problem.options, &z) != ZOPT_OK)
        abort();
    static const int64_t index[] = {7, -1, 2, 0};
    if (zopt_gather_f64(z, index[rank], rank + 0.5, out, &n) != ZOPT_OK)
        abort();
    if (n != 3 || out[0] != 3.5 || out[1] != 2.5 || out[2] != 0.5)
        abort();
    status[rank] = zopt_gather_f64(z, rank / 2, 0, out, &n);
    zopt_destroy(z);
}

START_TEST(gather_orders_by_index_and_refuses_an_index_twice)
{
    zopt_status status[4];
    h_on_threads(4, gather, status);
    for (int r = 0; r < 4; r++)
        ck_assert_int_eq(status[r], ZOPT_ERR_ARGUMENT);
}
END_TEST

static void other_lr(int rank, zopt_threads *threads, void *arg)
{
    zopt_status *status = arg;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    if (h_create(&problem, &problem.options, &z) != ZOPT_OK || h_step(&problem, z, 1) != ZOPT_OK ||
        zopt_group_set_lr(z, 1, 0.5) != ZOPT_OK || h_step(&problem, z, 2) != ZOPT_OK ||
        zopt_group_set_lr(z, 1, rank == 1 ? 0.25 : 0.125) != ZOPT_OK)
        abort();
    status[rank] = h_step(&problem, z, 3);
    zopt_destroy(z);
}

START_TEST(a_learning_rate_that_ranks_set_differently_is_refused)
{
    zopt_status status[3];
    h_on_threads(3, other_lr, status);
    for (int r = 0; r < 3; r++)
        ck_assert_msg(status[r] == ZOPT_ERR_DISAGREE || status[r] == ZOPT_ERR_PEER, "rank %d: %d",
                      r, status[r]);
}
END_TEST

/* A deadline that cannot be waited for must reach the peers as what it is. */
static void bad_deadline(int rank, zopt_threads *threads, void *arg)
{
    zopt_status *status = arg;
    zopt *z;
    zopt_options o;
    zopt_options_init(&o);
    o.threads = threads;
    o.threads_rank = rank;
    o.deadline_ms = rank == 0 ? -999 : 5000;
    status[rank] = zopt_create(&o, &z);
}

START_TEST(a_bad_option_on_one_rank_is_every_ranks_error)
{
    zopt_status status[3];
    h_on_threads(3, bad_deadline, status);
    for (int r = 0; r < 3; r++)
        ck_assert_int_eq(status[r], ZOPT_ERR_CONFIG);
}
END_TEST

void add_calls_of_several_ranks(TCase *tests)
{
    tcase_add_loop_test(tests, ranks_that_disagree_are_refused_and_the_first_difference_named, 0,
                        7);
    tcase_add_loop_test(tests, ranks_that_would_save_in_different_ways_are_refused, 0, 2);
    tcase_add_loop_test(tests, a_rank_that_does_not_arrive_is_named_at_the_deadline, 0,
                        sizeof missed / sizeof missed[0]);
    tcase_add_test(tests, gather_orders_by_index_and_refuses_an_index_twice);
    tcase_add_test(tests, a_learning_rate_that_ranks_set_differently_is_refused);
    tcase_add_test(tests, a_bad_option_on_one_rank_is_every_ranks_error);
}
