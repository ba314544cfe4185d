/* Files and directories of a checkpoint: what is written comes back, room is taken first, links are
 * not followed, steps appear whole, and one job at a time saves. */
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ckpt/disk.h"
#include "ckpt/folder.h"
#include "ckpt/seal.h"
#include "ckpt/writer.h"

static char dir[64];
static int fd;

static void set_up(void)
{
    snprintf(dir, sizeof dir, "ckpt_disk_XXXXXX");
    ck_assert_ptr_ne(mkdtemp(dir), NULL);
    ck_assert_int_eq(zi_folder_open(dir, ZI_FOLDER_READ, &fd), ZOPT_OK);
}

static void tear_down(void)
{
    char command[128];
    close(fd);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    ck_assert_int_eq(system(command), 0);
}

/* ------------------------------------------------------------------ files -------------------- */

static char *aligned(size_t bytes)
{
    char *data =
        aligned_alloc(ZI_DISK_ALIGN, (bytes + ZI_DISK_ALIGN) / ZI_DISK_ALIGN * ZI_DISK_ALIGN);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (char)(i * 2654435761u >> 13);
    return data;
}

START_TEST(files_come_back_whatever_their_alignment)
{
    size_t bytes = 3 * ZI_DISK_ALIGN + 77;
    char *data = aligned(bytes), *got = aligned(bytes);
    zi_disk_file file;
    ck_assert_int_eq(zi_disk_create(fd, "f", "dir/f", ZI_DISK_PRIVATE, bytes), ZOPT_OK);
    ck_assert_int_eq(zi_disk_open(fd, "f", "dir/f", ZI_DISK_WRITE, &file), ZOPT_OK);
    if (file.direct < 0)
        printf("SKIP: no direct I/O here, so none was tested\n");
    /* Behind first: the tail, then runs that are aligned and runs that are not. */
    static const size_t cuts[] = {3 * ZI_DISK_ALIGN + 77, 3 * ZI_DISK_ALIGN, 2 * ZI_DISK_ALIGN, 100,
                                  0};
    for (size_t i = 1; i < sizeof cuts / sizeof cuts[0]; i++)
        ck_assert_int_eq(zi_disk_write(&file, data + cuts[i], cuts[i - 1] - cuts[i], cuts[i]),
                         ZOPT_OK);
    ck_assert_int_eq(zi_disk_sync(&file), ZOPT_OK);
    ck_assert_int_eq(zi_disk_close(&file), ZOPT_OK);
    ck_assert_int_eq(zi_disk_open(fd, "f", "dir/f", ZI_DISK_READ, &file), ZOPT_OK);
    memset(got, 0, bytes);
    ck_assert_int_eq(zi_disk_read(&file, got, bytes, 0), ZOPT_OK);
    ck_assert(memcmp(got, data, bytes) == 0);
    memset(got, 0, bytes);
    ck_assert_int_eq(zi_disk_read(&file, got + 1, bytes - 1, 1), ZOPT_OK);
    ck_assert(memcmp(got + 1, data + 1, bytes - 1) == 0);
    ck_assert_int_eq(zi_disk_read(&file, got, bytes, 1), ZOPT_ERR_READ);
    ck_assert_msg(strstr(zopt_last_error(), "dir/f: ends at byte 12365") != NULL, "%s",
                  zopt_last_error());
    ck_assert_int_eq(zi_disk_close(&file), ZOPT_OK);
    free(data);
    free(got);
}
END_TEST

START_TEST(files_take_their_room_and_are_this_users_alone)
{
    struct stat info;
    ck_assert_int_eq(zi_disk_create(fd, "f", "f", ZI_DISK_PRIVATE, 1 << 20), ZOPT_OK);
    ck_assert_int_eq(fstatat(fd, "f", &info, 0), 0);
    ck_assert_int_eq(info.st_size, 1 << 20);
    ck_assert_int_ge(info.st_blocks * 512, 1 << 20);
    ck_assert_int_eq(info.st_mode & 0777, 0600);
    ck_assert_int_eq(zi_disk_create(fd, "f", "f", ZI_DISK_PRIVATE, 1), ZOPT_ERR_WRITE);
    ck_assert_int_eq(zi_disk_create(fd, "no/f", "no/f", ZI_DISK_PRIVATE, 1), ZOPT_ERR_WRITE);
}
END_TEST

START_TEST(links_are_not_followed)
{
    zi_disk_file file;
    ck_assert_int_eq(zi_disk_write_small(fd, "f", "f", "abc", 3), ZOPT_OK);
    ck_assert_int_eq(symlinkat("f", fd, "link"), 0);
    ck_assert_int_eq(zi_disk_open(fd, "link", "link", ZI_DISK_READ, &file), ZOPT_ERR_PERMISSION);
    ck_assert_int_eq(zi_disk_open(fd, "link", "link", ZI_DISK_WRITE, &file), ZOPT_ERR_PERMISSION);
    ck_assert_int_eq(zi_disk_open(fd, ".", ".", ZI_DISK_READ, &file), ZOPT_ERR_READ);
    ck_assert_int_eq(mkfifoat(fd, "fifo", 0600), 0);
    ck_assert_int_eq(zi_disk_open(fd, "fifo", "fifo", ZI_DISK_READ, &file), ZOPT_ERR_READ);
}
END_TEST

/* ------------------------------------------------------------------ writing behind ----------- */

static void write_behind(size_t n_buffers)
{
    enum { N = 9, BYTES = 2 * ZI_DISK_ALIGN };
    static const char *const name[] = {"a", "b"};
    const zi_writer_room room = {.n_buffers = n_buffers, .buffer_bytes = BYTES};
    uint64_t hash[N];
    zi_mem mem = {0};
    zi_writer *writer;
    size_t length;
    ck_assert_int_eq(zi_disk_create(fd, "a", "a", ZI_DISK_PRIVATE, 5 * BYTES), ZOPT_OK);
    ck_assert_int_eq(zi_disk_create(fd, "b", "b", ZI_DISK_PRIVATE, 4 * BYTES), ZOPT_OK);
    ck_assert_int_eq(zi_writer_create(&mem, &room, &writer), ZOPT_OK);
    ck_assert_uint_ge(mem.row[ZI_MEM_CKPT].bytes, n_buffers * BYTES);
    ck_assert_int_eq(zi_writer_start(writer, fd, dir, name), ZOPT_OK);
    for (int i = 0; i < N; i++) {
        char *data = zi_writer_take(writer);
        ck_assert_uint_eq((uintptr_t)data % ZI_DISK_ALIGN, 0);
        memset(data, 'A' + i, BYTES);
        uint32_t file = i >= 5;
        uint64_t at = (uint64_t)(file ? i - 5 : i) * BYTES;
        zi_writer_put(writer, (zi_write){file, at, BYTES, &hash[i]});
    }
    zi_writer_end(writer);
    ck_assert_int_eq(zi_writer_finish(writer), ZOPT_OK);
    ck_assert_int_eq(zi_writer_is_done(writer), 1);
    for (int i = 0; i < N; i++) {
        char want[BYTES], *text;
        memset(want, 'A' + i, BYTES);
        ck_assert_uint_eq(hash[i], zi_seal_hash(want, BYTES));
        ck_assert_int_eq(zi_disk_read_small(fd, name[i >= 5], "f", 10 * BYTES, &text, &length),
                         ZOPT_OK);
        ck_assert(memcmp(text + (i >= 5 ? i - 5 : i) * BYTES, want, BYTES) == 0);
        free(text);
    }
    zi_writer_destroy(writer);
    ck_assert_uint_eq(mem.total_bytes, 0);
    ck_assert_int_eq(unlinkat(fd, "a", 0) | unlinkat(fd, "b", 0), 0);
}

START_TEST(writers_write_behind)
{
    write_behind(1);
    write_behind(2);
    write_behind(20);
}
END_TEST

START_TEST(writers_keep_their_first_failure)
{
    static const char *const name[] = {"missing", "b"};
    const zi_writer_room room = {.n_buffers = 2, .buffer_bytes = 10};
    uint64_t hash[4];
    zi_mem mem = {0};
    zi_writer *writer;
    ck_assert_int_eq(zi_disk_create(fd, "b", "b", ZI_DISK_PRIVATE, 10), ZOPT_OK);
    ck_assert_int_eq(zi_writer_create(&mem, &room, &writer), ZOPT_OK);
    ck_assert_int_eq(zi_writer_start(writer, fd, dir, name), ZOPT_OK);
    for (int i = 0; i < 4; i++) {
        memset(zi_writer_take(writer), 'x', 10);
        zi_writer_put(writer, (zi_write){i >= 2, 0, 10, &hash[i]});
    }
    ck_assert_int_eq(zi_writer_finish(writer), ZOPT_ERR_WRITE);
    ck_assert_msg(strstr(zopt_last_error(), "/missing: cannot open") != NULL, "%s",
                  zopt_last_error());
    /* And can be started again. */
    ck_assert_int_eq(zi_writer_start(writer, fd, dir, name), ZOPT_OK);
    zi_writer_destroy(writer);
    ck_assert_uint_eq(mem.total_bytes, 0);
}
END_TEST

/* ------------------------------------------------------------------ directories -------------- */

static void make_step(uint64_t step)
{
    int tmp;
    ck_assert_int_eq(zi_folder_begin(fd, dir, step, &tmp), ZOPT_OK);
    ck_assert_int_eq(zi_disk_write_small(tmp, "f", "f", &step, sizeof step), ZOPT_OK);
    close(tmp);
    ck_assert_msg(zi_folder_commit(fd, dir, step) == ZOPT_OK, "%s", zopt_last_error());
}

static size_t n_steps(void)
{
    uint64_t *steps;
    size_t n;
    ck_assert_int_eq(zi_folder_scan(fd, dir, &steps, &n), ZOPT_OK);
    for (size_t i = 1; i < n; i++)
        ck_assert_uint_gt(steps[i - 1], steps[i]);
    free(steps);
    return n;
}

START_TEST(steps_appear_whole_and_go_whole)
{
    uint64_t step;
    int tmp;
    make_step(5);
    make_step(123456789);
    ck_assert_int_eq(zi_folder_begin(fd, dir, 7, &tmp), ZOPT_OK); /* and dies */
    close(tmp);
    ck_assert_uint_eq(n_steps(), 2);
    ck_assert_int_eq(zi_folder_latest(fd, dir, &step), ZOPT_OK);
    ck_assert_uint_eq(step, 123456789);
    make_step(5); /* again, over the one that is there */
    ck_assert_uint_eq(n_steps(), 2);
    ck_assert_int_eq(zi_folder_clean(fd, dir), ZOPT_OK);
    ck_assert_int_eq(faccessat(fd, "step-00000007.tmp", F_OK, 0), -1);
    ck_assert_int_eq(faccessat(fd, "step-00000005.tmp", F_OK, 0), -1);
    ck_assert_int_eq(zi_folder_delete(fd, dir, 5), ZOPT_OK);
    ck_assert_uint_eq(n_steps(), 1);
    ck_assert_int_eq(zi_folder_latest(fd, dir, &step), ZOPT_ERR_DATA);
    ck_assert_int_eq(zi_folder_delete(fd, dir, 5), ZOPT_ERR_WRITE);
}
END_TEST

START_TEST(links_in_the_place_of_steps_are_refused)
{
    int tmp;
    ck_assert_int_eq(mkdirat(fd, "elsewhere", 0700), 0);
    ck_assert_int_eq(zi_disk_write_small(fd, "elsewhere/f", "f", "x", 1), ZOPT_OK);
    ck_assert_int_eq(symlinkat("elsewhere", fd, "step-00000003.tmp"), 0);
    ck_assert_int_eq(zi_folder_clean(fd, dir), ZOPT_OK);
    ck_assert_int_eq(zi_folder_begin(fd, dir, 3, &tmp), ZOPT_ERR_PERMISSION);
    ck_assert_int_eq(symlinkat("elsewhere", fd, "step-00000004"), 0);
    ck_assert_int_eq(zi_folder_open_below(fd, dir, "step-00000004", ZI_FOLDER_WRITE, &tmp),
                     ZOPT_ERR_PERMISSION);
    ck_assert_int_eq(faccessat(fd, "elsewhere/f", F_OK, 0), 0);
}
END_TEST

/* A file, folders in each other and links out of them. */
static void make_tree(const char *name, int depth)
{
    char path[ZI_PATH_BYTES], out[PATH_MAX];
    ck_assert_ptr_ne(realpath(dir, out), NULL);
    size_t used = (size_t)snprintf(path, sizeof path, "%s", name);
    for (int i = 0; i <= depth; i++) {
        ck_assert_int_eq(mkdirat(fd, path, 0700), 0);
        size_t at = used;
        used += (size_t)snprintf(path + used, sizeof path - used, "/link");
        ck_assert_int_eq(symlinkat(out, fd, path), 0);
        snprintf(path + at, sizeof path - at, "/file");
        ck_assert_int_eq(zi_disk_write_small(fd, path, path, "x", 1), ZOPT_OK);
        used = at + (size_t)snprintf(path + at, sizeof path - at, "/d");
    }
}

/* Whoever put folders there: a step is saved over what is left of it, and deleted with them. */
START_TEST(folders_in_what_is_left_of_a_step_go_with_it)
{
    int tmp;
    ck_assert_int_eq(zi_disk_write_small(fd, "mine", "mine", "x", 1), ZOPT_OK);
    make_tree("step-00000003.tmp", 3);
    make_step(3);
    make_tree("step-00000003/notes", 3);
    make_step(3); /* once more, in its place */
    make_tree("step-00000003/notes", 3);
    ck_assert_int_eq(zi_folder_delete(fd, dir, 3), ZOPT_OK);
    make_tree("step-00000004.tmp", 3);
    ck_assert_int_eq(zi_folder_clean(fd, dir), ZOPT_OK);
    ck_assert_int_eq(faccessat(fd, "step-00000004.tmp", F_OK, 0), -1);
    ck_assert_int_eq(faccessat(fd, "step-00000003.tmp", F_OK, 0), -1);
    ck_assert_uint_eq(n_steps(), 0);
    ck_assert_int_eq(faccessat(fd, "mine", F_OK, 0), 0); /* which links led to */
    /* Deeper than there may be descriptors for: refused, and told. */
    make_tree("step-00000005.tmp", 40);
    ck_assert_int_eq(zi_folder_begin(fd, dir, 5, &tmp), ZOPT_ERR_WRITE);
    ck_assert_msg(strstr(zopt_last_error(), "step-00000005.tmp: cannot create: what is there") !=
                      NULL,
                  "%s", zopt_last_error());
}
END_TEST

/* In a process of its own, whose mounts nobody else sees. Returns 77 where there are none to be
 * had, else whether the step was refused. */
static int begin_over_a_mount(void)
{
    char here[ZI_PATH_BYTES], there[ZI_PATH_BYTES];
    int tmp;
    snprintf(here, sizeof here, "%s/mine", dir);
    snprintf(there, sizeof there, "%s/step-00000003.tmp/d", dir);
    if ((unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount(here, there, NULL, MS_BIND, NULL) != 0)
        return 77;
    int failed = zi_folder_begin(fd, dir, 3, &tmp) != ZOPT_ERR_WRITE ||
                 strstr(zopt_last_error(), "remove it by hand") == NULL;
    return failed || zi_folder_clean(fd, dir) != ZOPT_OK;
}

START_TEST(what_is_mounted_in_what_is_left_of_a_step_stays)
{
    int status;
    ck_assert_int_eq(mkdirat(fd, "mine", 0700), 0);
    ck_assert_int_eq(zi_disk_write_small(fd, "mine/file", "mine", "x", 1), ZOPT_OK);
    make_tree("step-00000003.tmp", 1);
    pid_t child = fork();
    if (child == 0)
        _exit(begin_over_a_mount());
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        printf("skipped: this machine lets nobody mount a folder\n");
    else
        ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_assert_int_eq(faccessat(fd, "mine/file", F_OK, 0), 0);
}
END_TEST

START_TEST(names_that_are_no_steps_are_left_alone)
{
    static const char *const names[] = {"step-1", "step-00000001x", "steps",    "lock.tmp",
                                        ".tmp",   "x.tmp",          "step-.tmp"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ck_assert_int_eq(mkdirat(fd, names[i], 0700), 0);
    ck_assert_int_eq(zi_folder_clean(fd, dir), ZOPT_OK);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ck_assert_int_eq(faccessat(fd, names[i], F_OK, 0), 0);
    ck_assert_uint_eq(n_steps(), 0);
}
END_TEST

START_TEST(one_job_saves_at_a_time)
{
    int first, second, other, status;
    ck_assert_int_eq(zi_folder_lock(fd, dir, 1, zi_folder_clean, &first), ZOPT_OK);
    ck_assert_int_eq(zi_folder_lock(fd, dir, 0, zi_folder_clean, &second), ZOPT_OK);
    ck_assert_int_eq(zi_folder_lock(fd, dir, 1, zi_folder_clean, &other), ZOPT_ERR_WRITE);
    char want[64];
    snprintf(want, sizeof want, "another job saves here: process %d on ", (int)getpid());
    ck_assert_msg(strstr(zopt_last_error(), want) != NULL, "%s", zopt_last_error());
    close(first); /* the first rank is dead, another still lives */
    ck_assert_int_eq(zi_folder_lock(fd, dir, 1, zi_folder_clean, &other), ZOPT_ERR_WRITE);
    close(second);
    /* A job that was killed leaves its lock's file, and no lock. */
    pid_t child = fork();
    if (child == 0) {
        int lock;
        if (zi_folder_lock(fd, dir, 1, zi_folder_clean, &lock) == ZOPT_OK)
            raise(SIGKILL);
        _exit(1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status));
    ck_assert_int_eq(zi_folder_lock(fd, dir, 1, zi_folder_clean, &other), ZOPT_OK);
    close(other);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_disk");
    TCase *tests = tcase_create("disk");
    suite_add_tcase(suite, tests);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, files_come_back_whatever_their_alignment);
    tcase_add_test(tests, files_take_their_room_and_are_this_users_alone);
    tcase_add_test(tests, links_are_not_followed);
    tcase_add_test(tests, writers_write_behind);
    tcase_add_test(tests, writers_keep_their_first_failure);
    tcase_add_test(tests, steps_appear_whole_and_go_whole);
    tcase_add_test(tests, links_in_the_place_of_steps_are_refused);
    tcase_add_test(tests, folders_in_what_is_left_of_a_step_go_with_it);
    tcase_add_test(tests, what_is_mounted_in_what_is_left_of_a_step_stays);
    tcase_add_test(tests, names_that_are_no_steps_are_left_alone);
    tcase_add_test(tests, one_job_saves_at_a_time);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
