/* Checkpoints through the public calls: files that do not depend on the number of ranks, loads at
 * any other, runs that go on to the same bits, and refusals that name everything that is wrong. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

static char root[64];

static void set_up(void)
{
    snprintf(root, sizeof root, "ckpt_XXXXXX");
    ck_assert_ptr_ne(mkdtemp(root), NULL);
}

static void tear_down(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0);
}

#define MUST(call)                                                                            \
    do {                                                                                      \
        zopt_status status_ = (call);                                                         \
        if (status_ != ZOPT_OK) {                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, zopt_last_error()); \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

/* ------------------------------------------------------------------ runs --------------------- */

/* One job: resume from or load a checkpoint, make steps, save at some, hand back the result. */
typedef struct job {
    const h_problem *problem;
    const char *load; /* path of zopt_load, or NULL */
    const char *dir;  /* of zopt_resume and zopt_save, or NULL */
    int resume, save_every, last_step;
    zopt_status load_status;
    char error[1024];    /* of a load that failed */
    char warnings[4096]; /* of rank 0 */
    h_result *result;    /* [ranks], or NULL */
} job;

static void keep_warning(void *arg, const char *text)
{
    job *j = arg;
    size_t used = strlen(j->warnings);
    snprintf(j->warnings + used, sizeof j->warnings - used, "%s\n", text);
}

static void run_rank(int rank, zopt_threads *threads, void *arg)
{
    job *j = arg;
    zopt *z;
    int resumed;
    zopt_options options = j->problem->options;
    options.transport = "threads";
    options.threads = threads;
    options.threads_rank = rank;
    options.on_warning = keep_warning;
    options.on_warning_arg = j;
    MUST(h_create(j->problem, &options, &z));
    zopt_status status = j->load != NULL ? zopt_load(z, j->load)
                         : j->resume     ? zopt_resume(z, j->dir, &resumed)
                                         : ZOPT_OK;
    if (rank == 0 && status != ZOPT_OK) {
        j->load_status = status;
        snprintf(j->error, sizeof j->error, "%s", zopt_last_error());
    }
    for (int step = (int)zopt_steps(z) + 1; status == ZOPT_OK && step <= j->last_step; step++) {
        char position[32];
        MUST(h_step(j->problem, z, step));
        snprintf(position, sizeof position, "after step %d", step);
        MUST(zopt_note(z, "position", position));
        if (j->save_every > 0 && step % j->save_every == 0)
            MUST(zopt_save(z, j->dir));
    }
    if (status == ZOPT_OK) {
        MUST(zopt_save_wait(z));
        if (j->result != NULL) {
            MUST(zopt_memory(z, &j->result[rank].memory));
            h_collect(j->problem, z, &j->result[rank]);
        }
    }
    zopt_destroy(z);
}

static void run_job(job *j, int n_ranks)
{
    j->load_status = ZOPT_OK;
    j->error[0] = j->warnings[0] = '\0';
    h_on_threads(n_ranks, run_rank, j);
}

/* The same, with rank 0's result. */
static h_result result_of(job *j, int n_ranks)
{
    h_result all[8] = {{0}};
    j->result = all;
    run_job(j, n_ranks);
    ck_assert_msg(j->load_status == ZOPT_OK, "%s", j->error);
    for (int r = 1; r < n_ranks; r++)
        h_free(&all[r]);
    j->result = NULL;
    return all[0];
}

static char *path_of(const char *name)
{
    static char text[4][256];
    static int next;
    next = (next + 1) % 4;
    snprintf(text[next], sizeof text[0], "%s/%s", root, name);
    return text[next];
}

static char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s", path);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*bytes + 1);
    ck_assert_uint_eq(fread(data, 1, *bytes, file), *bytes);
    data[*bytes] = '\0';
    fclose(file);
    return data;
}

static int n_entries(const char *path)
{
    DIR *dir = opendir(path);
    int n = -2;
    ck_assert_ptr_ne(dir, NULL);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static void same_files(const char *a, const char *b)
{
    DIR *dir = opendir(a);
    ck_assert_msg(dir != NULL, "%s", a);
    ck_assert_int_eq(n_entries(a), n_entries(b));
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char x[512], y[512];
        size_t nx, ny;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(x, sizeof x, "%s/%s", a, entry->d_name);
        snprintf(y, sizeof y, "%s/%s", b, entry->d_name);
        char *data_x = read_file(x, &nx), *data_y = read_file(y, &ny);
        ck_assert_msg(nx == ny && memcmp(data_x, data_y, nx) == 0, "%s and %s differ", x, y);
        free(data_x);
        free(data_y);
    }
    closedir(dir);
}

/* ------------------------------------------------------------------ any number of ranks ------ */

/* Uneven tensors of all dtypes with a schedule, clipping, a dynamic scale and a skipped step. */
static float sometimes_infinite(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == 1 && tensor == 3 && element == 7)
        return __builtin_inff();
    return h_wide_grad(step, slot, tensor, element);
}

static void make_problem(h_problem *problem)
{
    static const zopt_setting schedule[] = {{"total_num_steps", 20, NULL},
                                            {"warmup_num_steps", 5, NULL}};
    h_uneven(problem, ZOPT_FP16, 1);
    problem->options.schedule = "WarmupCosineLR";
    problem->options.schedule_settings = schedule;
    problem->options.n_schedule_settings = 2;
    problem->options.clip_norm = 1;
    problem->options.dynamic_loss_scale = 1;
    problem->options.loss_scale = 1024;
    problem->options.growth_interval = 2;
    problem->grad = sometimes_infinite;
}

START_TEST(files_and_what_follows_do_not_depend_on_ranks)
{
    static const int worlds[] = {1, 2, 3, 7};
    static const size_t buckets[] = {700, 4 << 20, 2000, 5000};
    h_problem problem;
    make_problem(&problem);
    job whole = {.problem = &problem, .dir = path_of("whole"), .save_every = 3, .last_step = 6};
    h_result want = result_of(&whole, 4);
    for (size_t i = 0; i < sizeof worlds / sizeof worlds[0]; i++) {
        char name[16], what[64], a[256], b[256];
        snprintf(name, sizeof name, "on%d", worlds[i]);
        problem.options.bucket_elems = buckets[i];
        snprintf(a, sizeof a, "%s/whole/step-00000003", root);
        job rest = {
            .problem = &problem, .load = a, .dir = path_of(name), .save_every = 3, .last_step = 6};
        h_result got = result_of(&rest, worlds[i]);
        snprintf(what, sizeof what, "resumed on %d ranks", worlds[i]);
        h_compare(&want, &got, what);
        h_free(&got);
        ck_assert_str_eq(rest.warnings, "");
        snprintf(a, sizeof a, "%s/whole/step-00000006", root);
        snprintf(b, sizeof b, "%s/%s/step-00000006", root, name);
        same_files(a, b);
    }
    h_free(&want);
}
END_TEST

START_TEST(files_are_equal_for_every_number_of_ranks)
{
    h_problem problem;
    make_problem(&problem);
    for (int n = 1; n <= 5; n++) {
        char a[256], b[256];
        snprintf(b, sizeof b, "%s/n%d", root, n);
        problem.options.bucket_elems = (size_t)n * 900;
        problem.options.async_save = n % 2;
        job j = {.problem = &problem, .dir = b, .save_every = 1, .last_step = 3};
        run_job(&j, n);
        for (int step = 1; step <= 3; step++) {
            snprintf(a, sizeof a, "%s/n1/step-%08d", root, step);
            snprintf(b, sizeof b, "%s/n%d/step-%08d", root, n, step);
            same_files(a, b);
        }
    }
}
END_TEST

/* Tensors of several pieces, and a piece of several tensors; in parts, too. */
START_TEST(large_tensors_go_piece_by_piece)
{
    h_problem problem = {.n_tensors = 4, .n_steps = 1, .lr = 1e-2};
    static const h_tensor tensors[] = {{"b", ZOPT_BF16, 1, {2500001}, 0},
                                       {"a", ZOPT_BF16, 2, {3, 1000}, 1},
                                       {"c", ZOPT_FP32, 1, {2200000}, 1},
                                       {"d", ZOPT_BF16, 1, {70000}, 0}};
    memcpy(problem.tensor, tensors, sizeof tensors);
    zopt_options_init(&problem.options);
    problem.options.slots = 3;
    char one[256];
    snprintf(one, sizeof one, "%s/one", root);
    job j = {.problem = &problem, .dir = one, .save_every = 1, .last_step = 1};
    h_result want = result_of(&j, 1);
    for (int n = 2; n <= 4; n++) {
        char dir[256], a[256], b[256];
        snprintf(dir, sizeof dir, "%s/on%d", root, n);
        snprintf(a, sizeof a, "%s/one/step-00000001", root);
        snprintf(b, sizeof b, "%s/on%d/step-00000001", root, n);
        problem.options.bucket_elems = 300000u * (unsigned)n;
        problem.options.async_save = n == 3;
        job save = {.problem = &problem, .dir = dir, .save_every = 1, .last_step = 1};
        run_job(&save, n);
        same_files(a, b);
        job load = {.problem = &problem, .load = a, .last_step = 1};
        h_result got = result_of(&load, n);
        h_compare(&want, &got, "large tensors");
        h_free(&got);
    }
    problem.options.part_bytes = 9 << 20;
    char parts[256], again[256];
    snprintf(parts, sizeof parts, "%s/parts", root);
    job save = {.problem = &problem, .dir = parts, .save_every = 1, .last_step = 1};
    run_job(&save, 2);
    snprintf(again, sizeof again, "%s/parts/step-00000001", root);
    ck_assert_int_eq(n_entries(again), 3 + 1 + 5 + 1);
    job load = {.problem = &problem, .load = parts, .last_step = 1};
    h_result got = result_of(&load, 3);
    h_compare(&want, &got, "parts");
    h_free(&got);
    h_free(&want);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt");
    TCase *tests = tcase_create("ckpt");
    suite_add_tcase(suite, tests);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, files_and_what_follows_do_not_depend_on_ranks);
    tcase_add_test(tests, files_are_equal_for_every_number_of_ranks);
    tcase_add_test(tests, large_tensors_go_piece_by_piece);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
