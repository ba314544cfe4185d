/* The calls for checkpoints: refusals that name everything that is wrong, what a handle does after
 * them, and checkpoints without a handle. */
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "ckpt_calls.h"

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
    problem.options.force_config = _i;
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

START_TEST(other_groups_of_slots_are_refused_unless_forced)
{
    h_problem problem;
    h_uneven(&problem, ZOPT_FP32, 0);
    problem.options.reduce_group = 2;
    job first = {.problem = &problem, .dir = path_of("grouped"), .save_every = 1, .last_step = 1};
    run_job(&first, 2);
    job load = {.problem = &problem, .load = path_of("grouped"), .last_step = 1};
    run_job(&load, 3);
    ck_assert_int_eq(load.load_status, ZOPT_OK);
    for (int group = 1; group <= 3; group += 2) {
        problem.options.reduce_group = group;
        problem.options.force_config = 0;
        run_job(&load, 2);
        ck_assert_int_eq(load.load_status, ZOPT_ERR_CONFIG);
        ck_assert_int_eq(count(load.warnings, "reduce_group: 2 in the checkpoint"), 1);
        problem.options.force_config = 1;
        run_job(&load, 2);
        ck_assert_int_eq(load.load_status, ZOPT_OK);
    }
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

typedef struct full_disk {
    int async;
    char left[256]; /* what a rank found behind a failed save */
} full_disk;

static void save_too_much(int rank, zopt_threads *threads, void *arg)
{
    full_disk *f = arg;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    problem.options.async_save = f->async;
    MUST(h_create(&problem, &problem.options, &z));
    for (int i = 0; i < 50; i++) {
        zopt_status status = zopt_save(z, root);
        expect(status == ZOPT_OK ? zopt_save_wait(z) : status, ZOPT_ERR_WRITE, "File too large");
        if (access(path_of("step-00000000.tmp"), F_OK) == 0)
            snprintf(f->left, sizeof f->left, "rank %d, save %d", rank, i);
    }
    zopt_destroy(z);
}

/* Where a rank ends for it, a launcher ends the others, and with them the one that removes files.
 */
START_TEST(no_rank_returns_before_a_failed_save_has_removed_its_files)
{
    full_disk f = {.async = _i};
    struct rlimit before;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 16, before.rlim_max}), 0);
    h_on_threads(3, save_too_much, &f);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    ck_assert_str_eq(f.left, "");
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

typedef struct counted {
    h_problem problem;
    zopt_memory_usage usage[5];
} counted;

/* All that takes memory behind zopt_commit, one after the other and on top of each other. */
static void use_checkpoints(int rank, zopt_threads *threads, void *arg)
{
    counted *c = arg;
    zopt_options options = c->problem.options;
    zopt *z;
    options.threads = threads;
    options.threads_rank = rank;
    MUST(h_create(&c->problem, &options, &z));
    MUST(h_step(&c->problem, z, 1));
    MUST(zopt_save(z, path_of("dir")));
    MUST(zopt_export(z, path_of("32")));
    MUST(zopt_export_params(z, path_of("16")));
    MUST(zopt_load(z, path_of("dir")));
    MUST(zopt_save(z, path_of("dir")));
    MUST(zopt_memory(z, &c->usage[rank]));
    zopt_destroy(z);
}

START_TEST(saves_exports_and_loads_take_what_a_plan_says)
{
    static const int worlds[] = {1, 2, 5};
    counted c;
    zopt *z;
    int world = worlds[_i / 2];
    h_uneven(&c.problem, ZOPT_FP16, 1);
    c.problem.options.async_save = _i % 2;
    FILE *taken = fopen(path_of("32.tmp"), "w"); /* so that ranks need another name */
    ck_assert(taken != NULL && fclose(taken) == 0);
    h_on_threads(world, use_checkpoints, &c);
    c.problem.options.transport = "threads";
    c.problem.options.plan_world = world;
    for (int rank = 0; rank < world; rank++) {
        zopt_memory_usage plan;
        c.problem.options.plan_rank = rank;
        MUST(h_create(&c.problem, &c.problem.options, &z));
        MUST(zopt_memory(z, &plan));
        zopt_destroy(z);
        for (int i = 0; i < plan.n; i++)
            ck_assert_msg(plan.category[i].peak_bytes == c.usage[rank].category[i].peak_bytes,
                          "rank %d of %d, %s: planned %llu, counted %llu", rank, world,
                          plan.category[i].name, (unsigned long long)plan.category[i].peak_bytes,
                          (unsigned long long)c.usage[rank].category[i].peak_bytes);
        ck_assert_uint_eq(plan.total_peak_bytes, c.usage[rank].total_peak_bytes);
    }
}
END_TEST

static void load_whole(int rank, zopt_threads *threads, void *arg)
{
    counted *c = arg;
    zopt_options options = c->problem.options;
    zopt *z;
    options.threads = threads;
    options.threads_rank = rank;
    MUST(h_create(&c->problem, &options, &z));
    MUST(zopt_load(z, path_of("whole")));
    MUST(zopt_memory(z, &c->usage[rank]));
    zopt_destroy(z);
}

/* Pieces are longer then than those of the handle's own checkpoints. */
START_TEST(loads_of_other_parts_take_what_a_plan_says)
{
    counted c;
    zopt *z;
    zopt_memory_usage plan;
    int world = _i + 1;
    h_uneven(&c.problem, ZOPT_FP16, 1);
    job first = {.problem = &c.problem, .dir = path_of("whole"), .save_every = 1, .last_step = 1};
    run_job(&first, 2);
    c.problem.options.part_bytes = 1;
    h_on_threads(world, load_whole, &c);
    c.problem.options.transport = "threads";
    c.problem.options.plan_world = world;
    c.problem.options.plan_rank = 0;
    MUST(h_create(&c.problem, &c.problem.options, &z));
    MUST(zopt_memory(z, &plan));
    zopt_destroy(z);
    ck_assert_uint_eq(plan.total_peak_bytes, c.usage[0].total_peak_bytes);
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

static void export_both(zopt *z, const char *path, zopt_status want, const char *text)
{
    zopt_checkpoint *c;
    expect(zopt_export(z, path), want, text);
    MUST(zopt_checkpoint_open(path_of("dir"), &c));
    expect(zopt_checkpoint_export(c, path, ZOPT_FP32), want, text);
    MUST(zopt_checkpoint_verify(c));
    zopt_checkpoint_close(c);
}

/* Neither a checkpoint's files, nor what no file can stand for, nor somebody's FILE.tmp. */
START_TEST(exports_replace_plain_files_and_nothing_else)
{
    static const char *const own[] = {"dir/step-00000001/model.safetensors",
                                      "link/new",
                                      "dir/lock",
                                      "dir/latest",
                                      "dir/step-00000009",
                                      "step-00000002.tmp/new"};
    h_problem problem;
    struct stat info;
    size_t n;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    MUST(h_create(&problem, &problem.options, &z));
    MUST(h_step(&problem, z, 1));
    MUST(zopt_save(z, path_of("dir")));
    ck_assert_int_eq(symlink("dir/step-00000001", path_of("link")), 0);
    ck_assert_int_eq(mkdir(path_of("step-00000002.tmp"), 0777), 0);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        export_both(z, path_of(own[i]), ZOPT_ERR_ARGUMENT, "export to somewhere else");
    ck_assert_int_eq(n_entries(path_of("dir")), 3);

    ck_assert_int_eq(mkfifo(path_of("fifo"), 0600), 0);
    ck_assert_int_eq(symlink("lock", path_of("to")), 0);
    export_both(z, path_of("fifo"), ZOPT_ERR_ARGUMENT, "is not a plain file");
    export_both(z, path_of("to"), ZOPT_ERR_ARGUMENT, "is not a plain file");
    export_both(z, path_of("dir"), ZOPT_ERR_ARGUMENT, "is not a plain file");
    ck_assert(lstat(path_of("fifo"), &info) == 0 && S_ISFIFO(info.st_mode));
    ck_assert(lstat(path_of("to"), &info) == 0 && S_ISLNK(info.st_mode));

    FILE *mine = fopen(path_of("out.tmp"), "w");
    ck_assert(mine != NULL && fputs("mine", mine) >= 0 && fclose(mine) == 0);
    int before = n_entries(root);
    export_both(z, path_of("out"), ZOPT_OK, "");
    ck_assert_int_eq(n_entries(root), before + 1);
    char *text = read_file(path_of("out.tmp"), &n);
    ck_assert_str_eq(text, "mine");
    free(text);
    zopt_destroy(z);
}
END_TEST

/* Take the checksum over all files out of a file, as older ones are. */
static void make_old(const char *path)
{
    static const char own_key[] = "\"zopt.header_xxh3\":\"", key[] = ",\"zopt.set_xxh3\":\"";
    enum { DIGITS = 16 };
    size_t bytes, gone = sizeof key - 1 + DIGITS + 1;
    uint64_t json_bytes;
    char digits[DIGITS + 1];
    char *text = read_file(path, &bytes);
    memcpy(&json_bytes, text, sizeof json_bytes);
    size_t header_bytes = 8 + (size_t)json_bytes;
    char *from = memmem(text, header_bytes, key, sizeof key - 1);
    ck_assert_ptr_nonnull(from);
    memmove(from, from + gone, (size_t)(text + header_bytes - from) - gone);
    memset(text + header_bytes - gone, ' ', gone);
    char *own = memmem(text, header_bytes, own_key, sizeof own_key - 1);
    ck_assert_ptr_nonnull(own);
    own += sizeof own_key - 1;
    size_t before = (size_t)(own - text);
    uint64_t hash = XXH3_64bits(text, before);
    hash = XXH3_64bits_withSeed(own + DIGITS, header_bytes - before - DIGITS, hash);
    snprintf(digits, sizeof digits, "%016llx", (unsigned long long)hash);
    memcpy(own, digits, DIGITS);
    FILE *file = fopen(path, "wb");
    ck_assert(file != NULL && fwrite(text, 1, bytes, file) == bytes && fclose(file) == 0);
    free(text);
}

static void expect_open(const char *name, zopt_status status)
{
    zopt_checkpoint *c;
    ck_assert_int_eq(zopt_checkpoint_open(path_of(name), &c), status);
    if (status == ZOPT_OK)
        MUST(zopt_checkpoint_verify(c));
    else
        ck_assert_msg(strstr(zopt_last_error(), "not of one checkpoint") != NULL, "%s",
                      zopt_last_error());
    zopt_checkpoint_close(c);
}

/* Two runs with the same settings, at the same step. */
START_TEST(files_of_two_checkpoints_are_not_one)
{
    static const float other = 0.5F;
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.transport = "self";
    MUST(h_create(&problem, &problem.options, &z));
    MUST(h_step(&problem, z, 1));
    MUST(zopt_save(z, path_of("a")));
    MUST(zopt_set_master(z, 0, 0, 1, &other));
    MUST(zopt_save(z, path_of("b")));
    MUST(zopt_save(z, path_of("c")));
    expect_open("a", ZOPT_OK);
    ck_assert_int_eq(rename(path_of("c/step-00000001/model.safetensors"),
                            path_of("a/step-00000001/model.safetensors")),
                     0);
    expect_open("a", ZOPT_ERR_DATA);
    ck_assert_int_eq(zopt_load(z, path_of("a")), ZOPT_ERR_DATA);

    make_old(path_of("b/step-00000001/model.safetensors"));
    expect_open("b", ZOPT_ERR_DATA);
    make_old(path_of("b/step-00000001/optimizer.safetensors"));
    expect_open("b", ZOPT_OK);
    MUST(zopt_load(z, path_of("b")));
    zopt_destroy(z);
}
END_TEST

/* Nothing is made in a directory that is none of checkpoints. */
START_TEST(prunes_need_checkpoints)
{
    h_problem problem;
    char path[256], hint[300];
    make_first(&problem, path);
    char *step = path_of("first/step-00000001");
    int before = n_entries(step);
    for (int dry_run = 0; dry_run < 2; dry_run++) {
        expect(zopt_checkpoint_prune(step, 1, 0, dry_run, NULL, NULL), ZOPT_ERR_READ, path);
        expect(zopt_checkpoint_prune(root, 1, 0, dry_run, NULL, NULL), ZOPT_ERR_READ,
               "there is no checkpoint");
    }
    ck_assert_int_eq(n_entries(step), before);
    ck_assert_int_eq(n_entries(root), 1);
    ck_assert_int_eq(rename(path, path_of("checkpoints")), 0);
    snprintf(hint, sizeof hint, "look in %s/checkpoints", root);
    expect(zopt_checkpoint_prune(root, 1, 0, 0, NULL, NULL), ZOPT_ERR_READ, hint);
    ck_assert_int_eq(n_entries(root), 1);
    MUST(zopt_checkpoint_prune(path_of("checkpoints"), 1, 0, 0, NULL, NULL));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_calls");
    TCase *tests = tcase_create("ckpt_calls");
    suite_add_tcase(suite, tests);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, other_tensors_are_refused_and_all_are_told, 0, 2);
    tcase_add_test(tests, other_settings_are_refused_unless_forced);
    tcase_add_test(tests, other_groups_of_slots_are_refused_unless_forced);
    tcase_add_test(tests, nothing_to_load_is_told_from_a_fresh_start);
    tcase_add_test(tests, a_handle_outlives_failed_saves);
    tcase_add_loop_test(tests, no_rank_returns_before_a_failed_save_has_removed_its_files, 0, 2);
    tcase_add_test(tests, calls_at_the_wrong_time_are_refused);
    tcase_add_loop_test(tests, saves_exports_and_loads_take_what_a_plan_says, 0, 6);
    tcase_add_test(tests, loads_bring_back_where_the_run_stood);
    tcase_add_loop_test(tests, loads_of_other_parts_take_what_a_plan_says, 0, 3);
    tcase_add_test(tests, checkpoints_open_without_a_handle);
    tcase_add_test(tests, exports_are_those_of_the_handle);
    tcase_add_test(tests, exports_replace_plain_files_and_nothing_else);
    tcase_add_test(tests, files_of_two_checkpoints_are_not_one);
    tcase_add_test(tests, prunes_need_checkpoints);
    add_slow_disk(tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
