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
#include "optimizer_cases.h"

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
    h_problem problem = {.n_tensors = 3, .n_steps = 1, .lr = 1e-2};
    static const h_tensor tensors[] = {{"b", ZOPT_BF16, 1, {2200001}, 0},
                                       {"a", ZOPT_BF16, 2, {3, 1000}, 1},
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
    problem.options.part_bytes = 8 << 20;
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

/* ------------------------------------------------------------------ every optimizer ---------- */

/* Saved half way on 3 ranks, finished on 2. */
static void check_resumes(h_problem *problem, const char *name)
{
    char dir[256], step[256];
    snprintf(dir, sizeof dir, "%s/%s", root, name);
    snprintf(step, sizeof step, "%s/%s/step-00000002", root, name);
    problem->options.bucket_elems = 900;
    job whole = {.problem = problem, .dir = dir, .save_every = 2, .last_step = 4};
    h_result want = result_of(&whole, 3);
    problem->options.bucket_elems = 4 << 20;
    job rest = {.problem = problem, .load = step, .last_step = 4};
    h_result got = result_of(&rest, 2);
    h_compare(&want, &got, name);
    h_free(&got);
    h_free(&want);
}

START_TEST(every_optimizer_resumes)
{
    const optimizer_case *c = &optimizer_cases[_i];
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 1);
    problem.lr = c->lr;
    problem.weight_decay[0] = c->weight_decay;
    problem.options.optimizer = c->optimizer;
    problem.options.settings = c->setting;
    problem.options.n_settings = case_n_settings(c);
    check_resumes(&problem, c->name);
}
END_TEST

START_TEST(frozen_tensors_resume)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_BF16, 1);
    problem.group_setting[1][0] = (zopt_setting){"frozen", 1, NULL};
    check_resumes(&problem, "frozen");
}
END_TEST

/* ------------------------------------------------------------------ refusals ----------------- */

static int count(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)) != NULL; text++)
        n++;
    return n;
}

static void make_first(h_problem *problem, char path[256])
{
    h_uneven(problem, ZOPT_FP32, 0);
    snprintf(path, 256, "%s/first", root);
    job first = {.problem = problem, .dir = path, .save_every = 1, .last_step = 1};
    run_job(&first, 2);
}

START_TEST(other_tensors_are_refused_and_all_are_told)
{
    h_problem problem;
    char path[256];
    make_first(&problem, path);
    problem.options.force_config = 1; /* which tensors are in a group is configuration, too */
    problem.tensor[2].name = "renamed";
    problem.tensor[4].shape[0] = 258;
    job load = {.problem = &problem, .load = path};
    run_job(&load, 3);
    ck_assert_int_eq(load.load_status, ZOPT_ERR_DATA);
    ck_assert_msg(strstr(load.error, "9 tensors are not this run's") != NULL, "%s", load.error);
    /* Each in the model and in two states. */
    ck_assert_int_eq(count(load.warnings, "n255' F32 [255] is not one of this run's"), 3);
    ck_assert_int_eq(count(load.warnings, "renamed' F32 [255] is missing"), 3);
    ck_assert_int_eq(count(load.warnings, "n257' is F32 [257], and F32 [258] in this run"), 3);
}
END_TEST

START_TEST(other_settings_are_refused_unless_forced)
{
    h_problem problem;
    char path[256];
    make_first(&problem, path);
    problem.lr *= 2;
    problem.options.clip_norm = 3;
    job load = {.problem = &problem, .load = path, .last_step = 1};
    run_job(&load, 2);
    ck_assert_int_eq(load.load_status, ZOPT_ERR_CONFIG);
    ck_assert_int_eq(count(load.warnings, "\n"), 3);
    ck_assert_int_eq(count(load.warnings, "clip_norm: 0 in the checkpoint, 3 in this run"), 1);
    ck_assert_int_eq(count(load.warnings, "group.1.lr: "), 1);
    problem.options.force_config = 1;
    run_job(&load, 2);
    ck_assert_int_eq(load.load_status, ZOPT_OK);
    ck_assert_int_eq(count(load.warnings, "\n"), 3);
}
END_TEST

START_TEST(nothing_to_load_is_told_from_a_fresh_start)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP32, 0);
    job load = {.problem = &problem, .load = path_of("nowhere")};
    run_job(&load, 2);
    ck_assert_int_eq(load.load_status, ZOPT_ERR_READ);
    load.load = root;
    run_job(&load, 2);
    ck_assert_int_eq(load.load_status, ZOPT_ERR_READ);
    ck_assert_msg(strstr(load.error, "there is no checkpoint") != NULL, "%s", load.error);
    job fresh = {.problem = &problem, .dir = path_of("new"), .resume = 1, .last_step = 1};
    run_job(&fresh, 2);
    ck_assert_int_eq(fresh.load_status, ZOPT_OK);
}
END_TEST

/* ------------------------------------------------------------------ one handle --------------- */

static void expect(zopt_status got, zopt_status want, const char *text)
{
    ck_assert_msg(got == want, "status %d, not %d: %s", got, want, zopt_last_error());
    ck_assert_msg(strstr(zopt_last_error(), text) != NULL, "%s", zopt_last_error());
}

/* A failed save changes nothing, and another can follow. */
START_TEST(a_handle_outlives_failed_saves)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    h_result want, got = {0};
    h_run_one(&problem, &problem.options, &want);
    zopt *z;
    MUST(h_create(&problem, &problem.options, &z));
    for (int step = 1; step <= problem.n_steps; step++) {
        expect(zopt_save(z, "nowhere/at/all"), ZOPT_ERR_WRITE, "No such file");
        MUST(h_step(&problem, z, step));
        MUST(zopt_save(z, path_of("dir")));
    }
    MUST(zopt_memory(z, &got.memory));
    h_collect(&problem, z, &got);
    memset(want.report, 0, sizeof want.report);
    h_compare(&want, &got, "with failed saves");
    zopt_destroy(z);
    h_free(&want);
    h_free(&got);
}
END_TEST

START_TEST(calls_at_the_wrong_time_are_refused)
{
    h_problem problem;
    const char *value;
    void *grad;
    int resumed;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.slots = 1;
    MUST(zopt_create(&problem.options, &z));
    expect(zopt_save(z, root), ZOPT_ERR_ORDER, "before zopt_commit");
    expect(zopt_note(z, "a", "b"), ZOPT_ERR_ORDER, "before zopt_commit");
    zopt_destroy(z);
    MUST(h_create(&problem, &problem.options, &z));
    expect(zopt_note(z, "", "b"), ZOPT_ERR_ARGUMENT, "empty or too long");
    expect(zopt_note(z, "a", "\xff"), ZOPT_ERR_ARGUMENT, "not UTF-8");
    MUST(zopt_noted(z, "a", &value));
    ck_assert_ptr_eq(value, NULL);
    MUST(zopt_grad_acquire(z, 9, &grad));
    MUST(zopt_micro_end(z, 0));
    expect(zopt_save(z, root), ZOPT_ERR_ORDER, "in the middle of a step");
    expect(zopt_load(z, root), ZOPT_ERR_ORDER, "in the middle of a step");
    expect(zopt_resume(z, root, &resumed), ZOPT_ERR_ORDER, "in the middle of a step");
    zopt_destroy(z);
}
END_TEST

/* What is loaded is what was saved, notes and loss scale too; then back to an earlier one. */
START_TEST(loads_bring_back_where_the_run_stood)
{
    h_problem problem;
    const char *value;
    const float *scale;
    zopt_step_report report;
    char path[256];
    zopt *z;
    make_problem(&problem);
    problem.options.transport = "self";
    MUST(h_create(&problem, &problem.options, &z));
    MUST(zopt_loss_scale(z, &scale));
    for (int step = 1; step <= 5; step++) {
        char text[32];
        MUST(h_step(&problem, z, step));
        snprintf(text, sizeof text, "\"%d\" of \xc3\xa4", step);
        MUST(zopt_note(z, "place", text));
        MUST(zopt_save(z, path_of("dir")));
    }
    float last = *scale;
    snprintf(path, sizeof path, "%s/dir/step-00000002/", root);
    MUST(zopt_load(z, path));
    ck_assert_uint_eq(zopt_steps(z), 2);
    ck_assert(*scale != last);
    MUST(zopt_noted(z, "place", &value));
    ck_assert_str_eq(value, "\"2\" of \xc3\xa4");
    expect(zopt_report(z, 1, &report), ZOPT_ERR_ORDER, "before the first");
    for (int step = 3; step <= 5; step++)
        MUST(h_step(&problem, z, step));
    ck_assert(*scale == last);
    zopt_destroy(z);
}
END_TEST

/* ------------------------------------------------------------------ without a handle --------- */

static void add_step(void *arg, uint64_t step)
{
    uint64_t *sum = arg;
    *sum = *sum * 10 + step;
}

START_TEST(checkpoints_open_without_a_handle)
{
    h_problem problem;
    zopt_checkpoint *c;
    zopt_checkpoint_tensor t;
    uint64_t steps = 0;
    const char *key, *value;
    h_uneven(&problem, ZOPT_FP16, 0);
    char *dir = path_of("dir");
    problem.options.part_bytes = 10000;
    job j = {.problem = &problem, .dir = dir, .save_every = 1, .last_step = 3};
    h_result want = result_of(&j, 2);
    MUST(zopt_checkpoint_list(dir, add_step, &steps));
    ck_assert_uint_eq(steps, 321);
    MUST(zopt_checkpoint_open(dir, &c));
    ck_assert_uint_eq(zopt_checkpoint_step(c), 3);
    MUST(zopt_checkpoint_verify(c));
    size_t n = 0;
    for (; zopt_checkpoint_tensor_at(c, n, &t) == ZOPT_OK && t.name != NULL; n++)
        if (strcmp(t.name, "n4096") == 0) {
            float *values = malloc(t.bytes);
            ck_assert_uint_eq(t.bytes, 4096 * sizeof(float));
            MUST(zopt_checkpoint_read(c, n, 0, t.bytes, values));
            uint64_t at = 1 + 1 + 255 + 256 + 257 + 4095;
            ck_assert(memcmp(values, want.master + at, t.bytes) == 0);
            expect(zopt_checkpoint_read(c, n, 4, t.bytes, values), ZOPT_ERR_ARGUMENT, "bytes");
            free(values);
        }
    ck_assert_uint_eq(n, 3 * (size_t)problem.n_tensors);
    int found = 0;
    for (size_t i = 0; zopt_checkpoint_text_at(c, i, &key, &value) == ZOPT_OK && key; i++)
        found += strcmp(key, "zopt.note.position") == 0 && strcmp(value, "after step 3") == 0;
    ck_assert_int_eq(found, 1);
    zopt_checkpoint_close(c);
    h_free(&want);
}
END_TEST

/* The same file as the job itself writes of its 16-bit weights, and of its FP32 ones. */
START_TEST(exports_are_those_of_the_handle)
{
    h_problem problem;
    zopt_checkpoint *c;
    zopt *z;
    size_t na, nb;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    problem.options.part_bytes = 10000;
    MUST(h_create(&problem, &problem.options, &z));
    MUST(h_step(&problem, z, 1));
    MUST(zopt_save(z, path_of("dir")));
    MUST(zopt_export(z, path_of("32")));
    MUST(zopt_export_params(z, path_of("16")));
    zopt_destroy(z);
    MUST(zopt_checkpoint_open(path_of("dir"), &c));
    MUST(zopt_checkpoint_export(c, path_of("from32"), ZOPT_FP32));
    MUST(zopt_checkpoint_export(c, path_of("from16"), ZOPT_FP16));
    zopt_checkpoint_close(c);
    static const char *const pairs[][2] = {{"32", "from32"}, {"16", "from16"}};
    for (int i = 0; i < 2; i++) {
        char *a = read_file(path_of(pairs[i][0]), &na), *b = read_file(path_of(pairs[i][1]), &nb);
        ck_assert_uint_eq(na, nb);
        ck_assert_msg(memcmp(a, b, na) == 0, "%s", pairs[i][0]);
        free(a);
        free(b);
    }
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
    tcase_add_loop_test(tests, every_optimizer_resumes, 0,
                        (int)(sizeof optimizer_cases / sizeof optimizer_cases[0]));
    tcase_add_test(tests, frozen_tensors_resume);
    tcase_add_test(tests, other_tensors_are_refused_and_all_are_told);
    tcase_add_test(tests, other_settings_are_refused_unless_forced);
    tcase_add_test(tests, nothing_to_load_is_told_from_a_fresh_start);
    tcase_add_test(tests, a_handle_outlives_failed_saves);
    tcase_add_test(tests, calls_at_the_wrong_time_are_refused);
    tcase_add_test(tests, loads_bring_back_where_the_run_stood);
    tcase_add_test(tests, checkpoints_open_without_a_handle);
    tcase_add_test(tests, exports_are_those_of_the_handle);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
