/* The public calls: refused at the wrong time and with the wrong arguments; memory planned and
 * counted; export. Transport threads. api_ranks.c: what takes several ranks. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api_ranks.h"
#include "harness.h"

#define ASSERT_FAILS(call, want, part)                                                           \
    do {                                                                                         \
        ck_assert_int_eq((call), (want));                                                        \
        ck_assert_msg(strstr(zopt_last_error(), (part)) != NULL, "text: %s", zopt_last_error()); \
    } while (0)

static zopt *plain_handle(zopt_options *options)
{
    zopt *z;
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, 0);
    *options = problem.options;
    options->transport = "self";
    options->slots = 2;
    ck_assert_int_eq(h_create(&problem, options, &z), ZOPT_OK);
    return z;
}

START_TEST(calls_at_the_wrong_time_are_refused)
{
    zopt_options options;
    zopt *z = plain_handle(&options);
    zopt_step_report report;
    void *grad;
    int id;
    uint64_t shape[] = {4};
    ASSERT_FAILS(zopt_step(z), ZOPT_ERR_ORDER, "0 of 2 micro-steps");
    ASSERT_FAILS(zopt_report(z, 1, &report), ZOPT_ERR_ORDER, "before the first");
    ASSERT_FAILS(zopt_grad_ready(z, 0), ZOPT_ERR_ORDER, "'scalar' is not acquired");
    ck_assert_int_eq(zopt_grad_acquire(z, 0, &grad), ZOPT_OK);
    ASSERT_FAILS(zopt_grad_acquire(z, 0, &grad), ZOPT_ERR_ORDER, "is acquired");
    ck_assert_int_eq(zopt_grad_ready(z, 0), ZOPT_OK);
    ASSERT_FAILS(zopt_grad_acquire(z, 0, &grad), ZOPT_ERR_ORDER, "is ready");
    ASSERT_FAILS(zopt_add_tensor(z, "late", ZOPT_FP16, 1, shape, 0, &id), ZOPT_ERR_ORDER,
                 "after zopt_commit");
    ck_assert_int_eq(zopt_micro_end(z, 0), ZOPT_OK);
    ck_assert_int_eq(zopt_micro_end(z, 0), ZOPT_OK);
    ASSERT_FAILS(zopt_micro_end(z, 0), ZOPT_ERR_ORDER, "zopt_step is due");
    ASSERT_FAILS(zopt_grad_acquire(z, 0, &grad), ZOPT_ERR_ORDER, "zopt_step is due");
    ck_assert_int_eq(zopt_step(z), ZOPT_OK);
    ASSERT_FAILS(zopt_commit(z), ZOPT_ERR_ORDER, "twice");
    zopt_destroy(z);
}
END_TEST

START_TEST(arguments_are_checked)
{
    zopt_options options;
    zopt *z = plain_handle(&options);
    float values[4];
    const void *param;
    ASSERT_FAILS(zopt_set_master(z, 2, 254, 2, values), ZOPT_ERR_ARGUMENT, "'n255' has 255");
    ASSERT_FAILS(zopt_set_master(z, 2, UINT64_MAX, 2, values), ZOPT_ERR_ARGUMENT, "'n255'");
    ASSERT_FAILS(zopt_param_acquire(z, 99, &param), ZOPT_ERR_ARGUMENT, "no tensor 99");
    ASSERT_FAILS(zopt_get_state(z, "exp_avg_sw", 0, 0, 1, values), ZOPT_ERR_ARGUMENT, "exp_avg_sq");
    ASSERT_FAILS(zopt_group_set_lr(z, 0, -1), ZOPT_ERR_CONFIG, "lr = -1");
    ASSERT_FAILS(zopt_commit(NULL), ZOPT_ERR_ARGUMENT, "NULL");
    ASSERT_FAILS(zopt_threads_create(2, NULL), ZOPT_ERR_ARGUMENT, "NULL");
    ck_assert_int_eq(zopt_rank(NULL), -1);
    zopt_options_init(NULL);
    zopt_inventory(NULL, NULL);
    zopt_destroy(z);
    zopt_destroy(NULL);
}
END_TEST

START_TEST(options_are_checked)
{
    zopt_options o;
    zopt *z;
#define REFUSED(change, want, part)                \
    zopt_options_init(&o);                         \
    o.transport = "self";                          \
    change;                                        \
    ASSERT_FAILS(zopt_create(&o, &z), want, part); \
    ck_assert_ptr_null(z)
    REFUSED(o.struct_size = sizeof o + 8, ZOPT_ERR_ARGUMENT, "zopt_options_init");
    REFUSED(o.struct_size = 8, ZOPT_ERR_ARGUMENT, "zopt_options_init");
    REFUSED(o.stage = 3, ZOPT_ERR_UNSUPPORTED, "stage 3");
    REFUSED(o.plan_world = -1, ZOPT_ERR_CONFIG, "plan_world");
    REFUSED(o.plan_world = 2; o.plan_rank = 2, ZOPT_ERR_CONFIG, "plan_rank");
    REFUSED(o.n_settings = 1, ZOPT_ERR_ARGUMENT, "settings is NULL");
    REFUSED(o.slots = -1, ZOPT_ERR_CONFIG, "slots = -1");
    REFUSED(o.loss_scale = 3, ZOPT_ERR_CONFIG, "power of two");
    REFUSED(o.loss_scale = 0, ZOPT_ERR_CONFIG, "power of two");
    REFUSED(o.clip_norm = -0.5, ZOPT_ERR_CONFIG, "clip_norm");
    REFUSED(o.clip_norm = 0.0 / 0.0, ZOPT_ERR_CONFIG, "clip_norm");
    REFUSED(o.optimizer = "adanw", ZOPT_ERR_CONFIG, "did you mean 'AdamW'");
    REFUSED(o.transport = "mpii", ZOPT_ERR_CONFIG, "mpi");
    REFUSED(o.device = "tpu", ZOPT_ERR_CONFIG, "tpu");
    REFUSED(o.transport = "threads", ZOPT_ERR_ARGUMENT, "options.threads");
    REFUSED(o.dynamic_loss_scale = 1; o.check_overflow = 0, ZOPT_ERR_CONFIG, "check_overflow");
#undef REFUSED
}
END_TEST

START_TEST(tensors_are_checked)
{
    zopt_options o;
    zopt *z;
    int group, id;
    uint64_t shape[] = {3, 0}, huge[] = {1ull << 40, 1ull << 40};
    zopt_options_init(&o);
    o.transport = "self";
    ck_assert_int_eq(zopt_create(&o, &z), ZOPT_OK);
    ASSERT_FAILS(zopt_commit(z), ZOPT_ERR_ORDER, "without tensors");
    ASSERT_FAILS(zopt_add_tensor(z, "a", ZOPT_FP16, 1, shape, 0, &id), ZOPT_ERR_ARGUMENT,
                 "no group 0");
    ck_assert_int_eq(zopt_add_group(z, NULL, 0, &group), ZOPT_OK);
    ASSERT_FAILS(zopt_add_tensor(z, "a", ZOPT_FP16, 2, shape, 0, &id), ZOPT_ERR_ARGUMENT,
                 "dimension 1 is 0");
    ASSERT_FAILS(zopt_add_tensor(z, "a", ZOPT_FP16, 2, huge, 0, &id), ZOPT_ERR_ARGUMENT, "2^56");
    ASSERT_FAILS(zopt_add_tensor(z, "a", ZOPT_FP16, 9, shape, 0, &id), ZOPT_ERR_ARGUMENT,
                 "9 dimensions");
    ASSERT_FAILS(zopt_add_tensor(z, "", ZOPT_FP16, 1, shape, 0, &id), ZOPT_ERR_ARGUMENT, "name");
    ASSERT_FAILS(zopt_add_tensor(z, "\xff", ZOPT_FP16, 1, shape, 0, &id), ZOPT_ERR_ARGUMENT,
                 "UTF-8");
    ck_assert_int_eq(zopt_add_tensor(z, "a", ZOPT_FP16, 1, shape, 0, &id), ZOPT_OK);
    ASSERT_FAILS(zopt_add_tensor(z, "a", ZOPT_FP16, 1, shape, 0, &id), ZOPT_ERR_ARGUMENT,
                 "two tensors named 'a'");
    zopt_destroy(z);
}
END_TEST

START_TEST(memory_planned_is_memory_counted)
{
    static const int slots[] = {1, 4};
    static const int worlds[] = {1, 2, 3, 5};
    h_problem problem;
    h_uneven(&problem, ZOPT_FP16, _i / 8 == 1);
    problem.options.slots = slots[_i % 2];
    problem.options.reduce_group = 1 + _i / 2 % 3;
    problem.options.bucket_elems = 3000;
    problem.n_steps = 1;
    int world = worlds[_i / 2 % 4];
    h_result counted;
    h_run_threads(&problem, world, &counted);
    zopt *z;
    zopt_memory_usage planned;
    problem.options.transport = "threads";
    problem.options.plan_world = world;
    ck_assert_int_eq(h_create(&problem, &problem.options, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_memory(z, &planned), ZOPT_OK);
    h_compare_memory(&planned, &counted.memory, "threads");
    void *grad;
    ASSERT_FAILS(zopt_grad_acquire(z, 0, &grad), ZOPT_ERR_ORDER, "planning");
    zopt_destroy(z);
    h_free(&counted);
}
END_TEST

static uint64_t peak_of(const zopt_memory_usage *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->category[i].name, name) == 0)
            return m->category[i].peak_bytes;
    ck_abort_msg("no category %s", name);
    return 0;
}

/* Bytes per parameter of a large tensor: 4 + 12/N, 4 + 16/N with more slots than ranks or groups of
 * slots, and 4 + 20/N where groups span micro-steps. */
START_TEST(bytes_per_parameter_are_the_contract)
{
    const uint64_t n = 1000000000;
    for (int world = 1; world <= 64; world *= 4)
        for (int many = 0; many < 2; many++)
            for (int in_group = 1; in_group <= 3; in_group += 2) {
                zopt_options o;
                zopt *z;
                int group, id;
                zopt_memory_usage m;
                zopt_options_init(&o);
                o.plan_world = world;
                o.slots = many ? 4 * world : world;
                o.reduce_group = in_group;
                ck_assert_int_eq(zopt_create(&o, &z), ZOPT_OK);
                ck_assert_int_eq(zopt_add_group(z, NULL, 0, &group), ZOPT_OK);
                ck_assert_int_eq(zopt_add_tensor(z, "w", ZOPT_FP16, 1, &n, group, &id), ZOPT_OK);
                ck_assert_int_eq(zopt_commit(z), ZOPT_OK);
                ck_assert_int_eq(zopt_memory(z, &m), ZOPT_OK);
                int grouped =
                    in_group > 1 && in_group < o.slots; /* and 3 divides no power of two */
                double want =
                    4 + (12.0 + (many || grouped ? 4 : 0) + (many && grouped ? 4 : 0)) / world;
                uint64_t ckpt = peak_of(&m, "checkpoint");
                double got = (double)(m.total_peak_bytes - ckpt) / (double)n;
                /* Six pieces of 8 MiB and what aligns them, whatever the model. */
                ck_assert_uint_le(ckpt, (48 << 20) + 8192);
                /* Padding, tables and staging: O(bucket). */
                ck_assert_msg(got >= want && got < want + 0.02, "%d ranks: %g, want %g", world, got,
                              want);
                zopt_destroy(z);
            }
}
END_TEST

START_TEST(a_failed_commit_leaves_only_destroy)
{
    const uint64_t huge[] = {1ull << 55};
    zopt_options o;
    zopt *z;
    int group, id, slot;
    zopt_options_init(&o);
    o.transport = "self";
    ck_assert_int_eq(zopt_create(&o, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_add_group(z, NULL, 0, &group), ZOPT_OK);
    ck_assert_int_eq(zopt_add_tensor(z, "w", ZOPT_FP16, 1, huge, group, &id), ZOPT_OK);
    ASSERT_FAILS(zopt_commit(z), ZOPT_ERR_ARGUMENT, "make them larger");
    ASSERT_FAILS(zopt_commit(z), ZOPT_ERR_ORDER, "has failed");
    ASSERT_FAILS(zopt_slot(z, &slot), ZOPT_ERR_ORDER, "before zopt_commit");
    zopt_destroy(z);
}
END_TEST

START_TEST(conversions_refuse_overlap)
{
    float x[8] = {0};
    ASSERT_FAILS(zopt_convert(x, ZOPT_FP16, x, ZOPT_FP32, 8), ZOPT_ERR_ARGUMENT, "overlap");
    ck_assert_int_eq(zopt_convert(x, ZOPT_FP16, x + 4, ZOPT_FP32, 4), ZOPT_OK);
}
END_TEST

START_TEST(kernels_that_do_not_exist_are_refused_by_name)
{
    zopt_options o;
    zopt *z;
    zopt_options_init(&o);
    o.transport = "self";
    setenv("ZOPT_CPU_KERNELS", "sse9", 1);
    ASSERT_FAILS(zopt_create(&o, &z), ZOPT_ERR_UNSUPPORTED, "ZOPT_CPU_KERNELS");
    unsetenv("ZOPT_CPU_KERNELS");
}
END_TEST

START_TEST(more_memory_than_there_is_is_refused)
{
    const uint64_t huge[] = {1ull << 40};
    zopt_options o;
    zopt *z;
    int group, id;
    zopt_options_init(&o);
    o.transport = "self";
    ck_assert_int_eq(zopt_create(&o, &z), ZOPT_OK);
    ck_assert_int_eq(zopt_add_group(z, NULL, 0, &group), ZOPT_OK);
    ck_assert_int_eq(zopt_add_tensor(z, "w", ZOPT_FP16, 1, huge, group, &id), ZOPT_OK);
    ASSERT_FAILS(zopt_commit(z), ZOPT_ERR_MEMORY, "17592186044416 bytes");
    zopt_destroy(z);
}
END_TEST

static char folder[64];

static void export_after_two_steps(int rank, zopt_threads *threads, void *arg)
{
    h_problem problem;
    zopt *z;
    h_uneven(&problem, ZOPT_FP16, 0);
    problem.options.threads = threads;
    problem.options.threads_rank = rank;
    problem.options.bucket_elems = 700;
    if (h_create(&problem, &problem.options, &z) != ZOPT_OK)
        abort();
    for (int step = 1; step <= 2; step++)
        if (h_step(&problem, z, step) != ZOPT_OK)
            abort();
    char path[128];
    snprintf(path, sizeof path, "%s/no/such/folder", folder);
    if (zopt_export(z, path) != ZOPT_ERR_WRITE)
        abort();
    if (zopt_export(z, arg) != ZOPT_OK)
        abort();
    zopt_destroy(z);
}

static char *read_all(const char *path, size_t *bytes)
{
    struct stat stat_of;
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fstat(fileno(file), &stat_of), 0);
    *bytes = (size_t)stat_of.st_size;
    char *data = malloc(*bytes + 1);
    ck_assert_uint_eq(fread(data, 1, *bytes, file), *bytes);
    data[*bytes] = '\0';
    fclose(file);
    return data;
}

START_TEST(exported_files_are_equal_for_every_world)
{
    snprintf(folder, sizeof folder, "/tmp/zopt-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    char path[128];
    char *first = NULL;
    size_t first_bytes = 0;
    for (int world = 1; world <= 5; world++) {
        size_t bytes;
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        h_on_threads(world, export_after_two_steps, path);
        char *data = read_all(path, &bytes);
        if (first == NULL) {
            first = data;
            first_bytes = bytes;
            continue;
        }
        ck_assert_uint_eq(bytes, first_bytes);
        ck_assert_int_eq(memcmp(first, data, bytes), 0);
        free(data);
    }
    /* The header as the format says it, and one value where it says it is. */
    uint64_t length;
    memcpy(&length, first, sizeof length);
    ck_assert_uint_eq((length + 8) % 4096, 0);
    ck_assert_int_eq(strncmp(first + 8, "{\"__metadata__\":{\"format\":\"pt\"},\"m3x5\":{", 40), 0);
    char *entry =
        strstr(first + 8, "\"t2x3x5\":{\"dtype\":\"F32\",\"shape\":[2,3,5],\"data_offsets\":[");
    ck_assert_ptr_nonnull(entry);
    uint64_t begin, end;
    ck_assert_int_eq(sscanf(strstr(entry, "offsets") + 10, "%" SCNu64 ",%" SCNu64, &begin, &end),
                     2);
    ck_assert_uint_eq(end - begin, 30 * sizeof(float));
    ck_assert_uint_eq(8 + length + end, first_bytes); /* the last by name */
    free(first);
    unlink(path);
    rmdir(folder);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api");
    TCase *tests = tcase_create("calls");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, calls_at_the_wrong_time_are_refused);
    tcase_add_test(tests, arguments_are_checked);
    tcase_add_test(tests, options_are_checked);
    tcase_add_test(tests, tensors_are_checked);
    add_calls_of_several_ranks(tests);
    tcase_add_loop_test(tests, memory_planned_is_memory_counted, 0, 16);
    tcase_add_test(tests, bytes_per_parameter_are_the_contract);
    tcase_add_test(tests, a_failed_commit_leaves_only_destroy);
    tcase_add_test(tests, conversions_refuse_overlap);
    tcase_add_test(tests, kernels_that_do_not_exist_are_refused_by_name);
    tcase_add_test(tests, more_memory_than_there_is_is_refused);
    tcase_add_test(tests, exported_files_are_equal_for_every_world);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
