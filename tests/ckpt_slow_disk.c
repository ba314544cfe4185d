/* A disk that takes longer than the deadline, which is for peers: the saves of all ranks wait for
 * it. fsync and pwrite are this program's own here. */
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ckpt_calls.h"

enum { DEADLINE_MS = 1000, SLOW_MS = 2500, PIECE = 8 << 20 };

static atomic_int n_calls; /* of fsync, since a test began */
static int slow_call;      /* which of them is slow; 0: none */

static atomic_int slow_pieces; /* to be written slowly */

static void be_slow(void)
{
    const struct timespec slow = {.tv_sec = SLOW_MS / 1000,
                                  .tv_nsec = SLOW_MS % 1000 * INT64_C(1000000)};
    nanosleep(&slow, NULL);
}

int fsync(int fd)
{
    if (atomic_fetch_add(&n_calls, 1) + 1 == slow_call)
        be_slow();
    return (int)syscall(SYS_fsync, fd);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    if (bytes > PIECE / 2 && atomic_fetch_sub(&slow_pieces, 1) > 0)
        be_slow();
    return syscall(SYS_pwrite64, fd, data, bytes, at);
}

static void save_slowly(int rank, zopt_threads *threads, void *arg)
{
    zopt_options options = ((h_problem *)arg)->options;
    zopt *z;
    options.threads = threads;
    options.threads_rank = rank;
    options.deadline_ms = DEADLINE_MS;
    MUST(h_create(arg, &options, &z));
    MUST(zopt_save(z, path_of("dir")));
    MUST(zopt_save_wait(z));
    zopt_destroy(z);
}

/* _i: the first fsync, a rank's of what it wrote, or the last, of the step's name. */
START_TEST(a_slow_disk_is_no_missing_peer)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    slow_call = 0;
    atomic_store(&n_calls, 0);
    h_on_threads(2, save_slowly, &problem);
    int n = atomic_exchange(&n_calls, 0);
    ck_assert_int_gt(n, 2);
    slow_call = _i == 0 ? 1 : n;
    problem.options.async_save = _i;
    tear_down();
    set_up();
    h_on_threads(2, save_slowly, &problem);
    slow_call = 0;
    ck_assert_int_eq(atomic_load(&n_calls), n);
}
END_TEST

static void write_slowly(int rank, zopt_threads *threads, void *arg)
{
    zopt_options options = ((h_problem *)arg)->options;
    zopt *z;
    options.threads = threads;
    options.threads_rank = rank;
    options.deadline_ms = DEADLINE_MS;
    MUST(h_create(arg, &options, &z));
    atomic_store(&slow_pieces, 1);
    MUST(zopt_save(z, path_of("dir")));
    MUST(zopt_export(z, path_of("model.safetensors")));
    zopt_destroy(z);
}

/* While there are more pieces than buffers, so that its rank has none for the next. */
START_TEST(a_slow_piece_is_no_missing_peer)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.tensor[0] = (h_tensor){.name = "w", .ndim = 1, .shape = {5 * PIECE / 8}};
    problem.n_tensors = 1;
    h_on_threads(2, write_slowly, &problem);
    ck_assert_int_le(atomic_load(&slow_pieces), 0);
}
END_TEST

void add_slow_disk(TCase *tests)
{
    tcase_add_loop_test(tests, a_slow_disk_is_no_missing_peer, 0, 2);
    tcase_add_test(tests, a_slow_piece_is_no_missing_peer);
}
