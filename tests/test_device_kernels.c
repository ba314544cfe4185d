/* The kernels of every device that is not the CPU, against the CPU's portable ones, bit for bit:
 * each rule, sizes around the borders of tiles, runs of groups, and 0 to 8 sources and destinations
 * of every mix of dtypes. */
#include <string.h>

#include "device/cpu.h"
#include "kernel_values.h"
#include "on_devices.h"
#include "optim/rule_adam.h"

enum {
    N_GROUPS = 3,
    MAX_TABLE = 8,
    MAX_ELEMS = 17 * ZI_BLOCK,
    RUN = 16,
    MAX_SPANS = MAX_ELEMS / RUN
};

static const struct {
    zi_variant variant;
    const char *name;
} rules[] = {
#define ELEMENT(NAME, function, states) \
    {{ZI_RULE_##NAME, ZI_UNIT_ELEMENT, states, {{0, ZI_FORM_F32}}}, #NAME},
#define BLOCK(NAME, function, states)                                              \
    {{ZI_RULE_##NAME,                                                              \
      ZI_UNIT_BLOCK,                                                               \
      states,                                                                      \
      {{0, ZI_FORM_Q8_SIGNED}, {1, ZI_FORM_Q8_UNSIGNED}, {2, ZI_FORM_Q8_SIGNED}}}, \
     #NAME " in 8 bits"},
    ZI_RULE_LIST(ELEMENT) ZI_BLOCK_RULE_LIST(BLOCK)};
enum { N_RULES = sizeof rules / sizeof rules[0] };

static const size_t sizes[] = {1, 4, 7, 8, 9, 16, 17}; /* in blocks; a tile of the update has 8 */
static const int dest_tables[] = {1, 2, 4, 8};
static const int source_tables[] = {0, 1, 2, 3, 4, 8};

/* A job's memory: all that a kernel reads or writes, on the host or on a device. */
typedef struct memory {
    void *source[MAX_TABLE], *dest[MAX_TABLE];
    float *master, *state[ZI_MAX_STATES], *absmax[ZI_MAX_STATES], *acc; /* state: or codes */
    zi_span *span;
    float (*scalars)[ZI_MAX_SCALARS];
    zi_control *control;
    zi_exact *sum;
    int64_t *n_bad;
} memory;

typedef struct shape {
    size_t n_elems, n_spans;
    int n_sources, n_dests;
    zopt_dtype source_dtype[MAX_TABLE], dest_dtype;
} shape;

typedef struct row {
    void *at; /* of the pointer in a memory */
    size_t bytes;
} row;

enum { MAX_ROWS = 2 * MAX_TABLE + 2 * ZI_MAX_STATES + 8 };

static int list(const shape *s, memory *m, row rows[MAX_ROWS])
{
    int n = 0;
    size_t floats = s->n_elems * sizeof(float);
    for (int i = 0; i < s->n_sources; i++)
        rows[n++] = (row){&m->source[i], s->n_elems * zopt_dtype_bytes(s->source_dtype[i])};
    for (int i = 0; i < s->n_dests; i++)
        rows[n++] = (row){&m->dest[i], s->n_elems * zopt_dtype_bytes(s->dest_dtype)};
    for (int i = 0; i < ZI_MAX_STATES; i++)
        rows[n++] = (row){&m->state[i], floats};
    for (int i = 0; i < ZI_MAX_STATES; i++)
        rows[n++] = (row){&m->absmax[i], floats / ZI_BLOCK};
    rows[n++] = (row){&m->master, floats};
    rows[n++] = (row){&m->acc, floats};
    rows[n++] = (row){&m->span, s->n_spans * sizeof *m->span};
    rows[n++] = (row){&m->scalars, N_GROUPS * sizeof *m->scalars};
    rows[n++] = (row){&m->control, sizeof *m->control};
    rows[n++] = (row){&m->sum, sizeof *m->sum};
    rows[n++] = (row){&m->n_bad, sizeof *m->n_bad};
    return n;
}

static void *pointer(const row *r)
{
    void *p;
    memcpy(&p, r->at, sizeof p);
    return p;
}

static void allocate(const shape *s, memory *m)
{
    row rows[MAX_ROWS];
    int n = list(s, m, rows);
    for (int i = 0; i < n; i++) {
        void *p = calloc(1, rows[i].bytes);
        ck_assert_ptr_nonnull(p);
        memcpy(rows[i].at, &p, sizeof p);
    }
}

static void release(const shape *s, memory *m)
{
    row rows[MAX_ROWS];
    int n = list(s, m, rows);
    for (int i = 0; i < n; i++)
        free(pointer(&rows[i]));
}

static void fill_arrays(reference_random *random, const shape *s, int content, memory *m)
{
    float wide[MAX_ELEMS];
    for (int i = 0; i < s->n_sources; i++) {
        for (size_t e = 0; e < s->n_elems; e++)
            wide[e] = gradient(random, content, s->source_dtype[i]);
        zi_convert(m->source[i], s->source_dtype[i], wide, ZOPT_FP32, s->n_elems);
    }
    for (size_t e = 0; e < s->n_elems; e++) {
        m->master[e] = gradient(random, e % 5 == 0 ? WIDE : ORDINARY, ZOPT_FP16);
        m->acc[e] = gradient(random, ORDINARY, ZOPT_FP16);
        for (int i = 0; i < ZI_MAX_STATES; i++)
            m->state[i][e] = fabsf(gradient(random, ORDINARY, ZOPT_FP16));
    }
    for (int i = 0; i < ZI_MAX_STATES; i++)
        for (size_t b = 0; b < s->n_elems / ZI_BLOCK; b++)
            m->absmax[i][b] = b % 3 == 2 ? 0 : fabsf(gradient(random, ORDINARY, ZOPT_FP16));
}

static void fill(reference_random *random, shape *s, int content, memory *m)
{
    size_t at = 0;
    s->n_spans = MAX_SPANS;
    allocate(s, m);
    fill_arrays(random, s, content, m);
    s->n_spans = 0;
    while (at < s->n_elems) { /* runs of 16 to all that is left */
        size_t left = (s->n_elems - at) / RUN;
        size_t most = reference_u64(random) % 4 == 0 ? left : left < 9 ? left : 9;
        at += RUN * (size_t)reference_between(random, 1, (int64_t)most);
        m->span[s->n_spans++] = (zi_span){at, (uint32_t)(reference_u64(random) % N_GROUPS), 0};
    }
    for (int g = 0; g < N_GROUPS; g++)
        for (int k = 0; k < ZI_MAX_SCALARS; k++)
            m->scalars[g][k] = (float)(reference_u64(random) % 1000 + 1) / 1001.0f;
    *m->control = (zi_control){.coef = 1.0f / 3, .loss_scale = 8, .scalars = m->scalars};
}

typedef struct rig {
    const zi_device_ops *device;
    zi_queue *queue;
    zi_mem mem;
} rig;

static void upload(rig *r, const shape *s, memory *host, memory *there)
{
    row from[MAX_ROWS], to[MAX_ROWS];
    int n = list(s, host, from);
    list(s, there, to);
    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(
            r->device->alloc(r->queue, &r->mem, ZI_MEM_STAGING, from[i].bytes, to[i].at), ZOPT_OK);
        r->device->copy(r->queue, pointer(&to[i]), pointer(&from[i]), from[i].bytes);
    }
    zi_control control = *host->control;
    control.scalars = there->scalars;
    r->device->copy(r->queue, there->control, &control, sizeof control);
}

/* Everything back into `host`, and the device's memory freed. */
static void download(rig *r, const shape *s, memory *there, memory *host)
{
    row from[MAX_ROWS], to[MAX_ROWS];
    float(*scalars)[ZI_MAX_SCALARS] = host->scalars;
    int n = list(s, there, from);
    list(s, host, to);
    for (int i = 0; i < n; i++)
        r->device->copy(r->queue, pointer(&to[i]), pointer(&from[i]), from[i].bytes);
    ck_assert_msg(r->device->wait(r->queue) == ZOPT_OK, "%s", zopt_last_error());
    host->control->scalars = scalars;
    for (int i = 0; i < n; i++)
        r->device->free(r->queue, &r->mem, ZI_MEM_STAGING, pointer(&from[i]), from[i].bytes);
}

typedef struct tables_of {
    zi_source source[MAX_TABLE];
    zi_dest dest[MAX_TABLE];
} tables_of;

static zi_job job_of(const shape *s, const memory *m, tables_of *t)
{
    zi_job job = {.n_elems = s->n_elems,
                  .source = t->source,
                  .n_sources = s->n_sources,
                  .dest = t->dest,
                  .n_dests = s->n_dests,
                  .master = m->master,
                  .span = m->span,
                  .n_spans = s->n_spans,
                  .control = m->control};
    for (int i = 0; i < s->n_sources; i++)
        t->source[i] = (zi_source){m->source[i], s->source_dtype[i]};
    for (int i = 0; i < s->n_dests; i++)
        t->dest[i] = (zi_dest){m->dest[i], s->dest_dtype};
    for (int i = 0; i < ZI_MAX_STATES; i++)
        job.state[i] = (zi_state_slice){m->state[i], m->absmax[i]};
    return job;
}

static size_t n_wrong(const shape *s, zi_unit unit, const memory *want, const memory *got)
{
    size_t wrong = n_different(want->master, got->master, s->n_elems) +
                   n_different(want->acc, got->acc, s->n_elems);
    for (int i = 0; i < ZI_MAX_STATES; i++) {
        if (unit == ZI_UNIT_BLOCK)
            wrong += memcmp(want->state[i], got->state[i], s->n_elems * sizeof(float)) != 0;
        else
            wrong += n_different(want->state[i], got->state[i], s->n_elems);
        wrong += n_different(want->absmax[i], got->absmax[i], s->n_elems / ZI_BLOCK);
    }
    for (int d = 0; d < s->n_dests; d++) {
        if (s->dest_dtype == ZOPT_FP32)
            wrong += n_different(want->dest[d], got->dest[d], s->n_elems);
        else
            wrong += memcmp(want->dest[d], got->dest[d], s->n_elems * 2) != 0;
    }
    wrong += memcmp(want->sum->limb, got->sum->limb, sizeof want->sum->limb) != 0;
    return wrong + (*want->n_bad != *got->n_bad);
}

typedef void run_kernel(const zi_device_ops *device, zi_queue *q, const zi_variant *variant,
                        const memory *m, const zi_job *job);

/* One job on the device and on the CPU, from the same memory. */
static void check(rig *r, shape *s, uint64_t seed, run_kernel *run, int rule)
{
    reference_random random = {seed + 1}, again = {seed + 1};
    memory want, got, there;
    tables_of tables;
    memset(&there, 0, sizeof there);
    fill(&random, s, (int)(seed % N_CONTENTS), &want);
    fill(&again, s, (int)(seed % N_CONTENTS), &got);
    upload(r, s, &got, &there);
    zi_job job = job_of(s, &there, &tables);
    run(r->device, r->queue, &rules[rule].variant, &there, &job);
    download(r, s, &there, &got);
    job = job_of(s, &want, &tables);
    run(&zi_device_cpu, NULL, &rules[rule].variant, &want, &job);
    size_t wrong = n_wrong(s, rules[rule].variant.unit, &want, &got);
    ck_assert_msg(wrong == 0, "%s, %s, %zu elements, %d sources, %d destinations: %zu differ",
                  r->device->name, rules[rule].name, s->n_elems, s->n_sources, s->n_dests, wrong);
    release(s, &want);
    release(s, &got);
}

static shape shape_of(size_t size, int n_sources, uint64_t seed)
{
    shape s = {.n_elems = size * ZI_BLOCK,
               .n_sources = n_sources,
               .n_dests = dest_tables[seed % (sizeof dest_tables / sizeof dest_tables[0])],
               .dest_dtype = (zopt_dtype)(seed / 5 % ZI_N_DTYPES)};
    for (int i = 0; i < n_sources; i++) /* one dtype, or behind FP32 sums, or mixed */
        s.source_dtype[i] = (zopt_dtype)(seed % 2 == 0 ? seed / 2 % 2
                                         : i == 0      ? ZOPT_FP32
                                                       : (seed + (uint64_t)i) % ZI_N_DTYPES);
    return s;
}

static void each_shape(const zi_device_ops *device, run_kernel *run, int rule)
{
    rig r = {.device = device};
    uint64_t seed = (uint64_t)rule * 1000;
    if (device->on_host || !device_is_here(device))
        return;
    ck_assert_msg(device->open(0, &r.queue) == ZOPT_OK, "%s", zopt_last_error());
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t n = 0; n < sizeof source_tables / sizeof source_tables[0]; n++, seed++) {
            shape s = shape_of(sizes[i], source_tables[n], seed);
            check(&r, &s, seed, run, rule);
        }
    ck_assert_uint_eq(r.mem.total_bytes, 0);
    device->close(r.queue);
}

static void run_update(const zi_device_ops *device, zi_queue *q, const zi_variant *variant,
                       const memory *m, const zi_job *job)
{
    (void)m;
    device->update(q, variant, job);
}

START_TEST(updates_of_every_rule_are_the_cpus_bits)
{
    for (size_t d = 0; d < zi_n_devices; d++)
        each_shape(zi_devices[d], run_update, _i);
}
END_TEST

static void run_norm(const zi_device_ops *device, zi_queue *q, const zi_variant *variant,
                     const memory *m, const zi_job *job)
{
    (void)variant;
    device->norm(q, job, m->sum, m->n_bad);
    device->norm(q, job, m->sum, m->n_bad); /* adds */
}

START_TEST(norms_are_the_cpus_bits)
{
    for (size_t d = 0; d < zi_n_devices; d++)
        each_shape(zi_devices[d], run_norm, 0);
}
END_TEST

static void run_accumulate(const zi_device_ops *device, zi_queue *q, const zi_variant *variant,
                           const memory *m, const zi_job *job)
{
    (void)variant;
    device->accumulate(q, job, m->acc, m->n_bad);
}

START_TEST(accumulated_sums_are_the_cpus_bits)
{
    for (size_t d = 0; d < zi_n_devices; d++)
        each_shape(zi_devices[d], run_accumulate, 0);
}
END_TEST

/* The flag is read where the kernel runs. */
static void run_skipped(const zi_device_ops *device, zi_queue *q, const zi_variant *variant,
                        const memory *m, const zi_job *job)
{
    const int32_t skip = 1;
    device->copy(q, &m->control->skip, &skip, sizeof skip);
    device->update(q, variant, job);
}

START_TEST(a_skipped_update_writes_nothing)
{
    for (size_t d = 0; d < zi_n_devices; d++)
        each_shape(zi_devices[d], run_skipped, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_kernels");
    TCase *tcase = tcase_create("device_kernels");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, updates_of_every_rule_are_the_cpus_bits, 0, N_RULES);
    tcase_add_test(tcase, norms_are_the_cpus_bits);
    tcase_add_test(tcase, accumulated_sums_are_the_cpus_bits);
    tcase_add_test(tcase, a_skipped_update_writes_nothing);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
