/* Kernels of whole tensors (ZI_UNIT_TENSOR) on every device that is not the CPU, against the CPU's,
 * bit for bit: sums by row and column, sums of squares of parameters and of u, and the update.
 * Matrices of every awkward shape share a space, of which jobs are any run of blocks, as ranks and
 * buckets cut it. */
#include <string.h>

#include "device/cpu.h"
#include "kernel_values.h"
#include "on_devices.h"
#include "optim/rule_adafactor.h"

enum { MAX_TABLE = 8, MAX_TENSORS = 16, ARENA_BYTES = 64 << 20 };

static const uint64_t shapes[][3] = {
    /* matrices, rows, columns */
    {1, 1, 1},    {1, 3, 5},   {1, 64, 63},  {2, 3, 5},    {1, 7, 1},     {1, 1, 300},
    {3, 40, 129}, {300, 1, 2}, {1, 31, 512}, {1, 33, 128}, {1, 257, 4096}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

/* All that kernels read or write lies in an arena, at the same offsets on the host and there. */
typedef struct arena {
    char *base;
    size_t used;
} arena;

static void *take(arena *a, size_t bytes)
{
    void *p = a->base + a->used;
    a->used += (bytes + 255) / 256 * 256;
    ck_assert_uint_le(a->used, ARENA_BYTES);
    return p;
}

typedef struct space {
    arena arena;
    zi_variant variant;
    int n_tensors;
    uint64_t n_elems; /* padded */
    zi_tensor_statistics *tensor;
    zi_control *control;
    zi_span *span;
    float *master, *state[2]; /* of elements */
    void *source[MAX_TABLE], *dest[2];
    zopt_dtype source_dtype[MAX_TABLE], dest_dtype;
    int n_sources;
    int64_t *sums;
    size_t n_sums;
} space;

static float positive(reference_random *random)
{
    return reference_u64(random) % 9 == 0 ? 0.0f : fabsf(gradient(random, ORDINARY, ZOPT_FP32));
}

/* Of the first `n_tensors` shapes, or vectors of as many elements. */
static void describe(space *s, reference_random *random, int is_factored)
{
    s->tensor = take(&s->arena, (size_t)s->n_tensors * sizeof *s->tensor);
    for (int i = 0; i < s->n_tensors; i++) {
        zi_tensor_statistics *t = &s->tensor[i];
        const uint64_t *shape = shapes[i];
        t->n_elems = shape[0] * shape[1] * shape[2];
        uint64_t align = t->n_elems >= 4096 ? ZI_BLOCK : ZI_LANES;
        t->start = (s->n_elems + align - 1) / align * align;
        s->n_elems = t->start + (t->n_elems + ZI_LANES - 1) / ZI_LANES * ZI_LANES;
        for (int k = 0; k < ZI_MAX_SCALARS; k++)
            t->scalar[k] = (float)(reference_u64(random) % 1000 + 1) / 1001.0f;
        t->scalar[ZI_ADAFACTOR_FLOOR] = 0x1p-46f;
        s->n_sums += ZI_EXACT_LIMBS + 1;
        if (!is_factored)
            continue;
        t->n_matrices = shape[0], t->n_rows = shape[1], t->n_cols = shape[2];
        t->stride = t->n_matrices * (t->n_rows + t->n_cols);
        s->n_sums += t->stride * 6;
    }
    s->n_elems = (s->n_elems + ZI_BLOCK - 1) / ZI_BLOCK * ZI_BLOCK;
}

static float *factors(space *s, reference_random *random, uint64_t n, float least)
{
    float *x = take(&s->arena, n * sizeof *x);
    for (uint64_t i = 0; i < n; i++)
        x[i] = positive(random) + least;
    return x;
}

static void place_sums(space *s, reference_random *random)
{
    int64_t *next = s->sums = take(&s->arena, s->n_sums * sizeof *s->sums);
    for (int i = 0; i < s->n_tensors; i++) {
        zi_tensor_statistics *t = &s->tensor[i];
        t->sum = next;
        next += ZI_EXACT_LIMBS + 1;
        if (t->n_cols == 0)
            continue;
        t->row_sum = next;
        t->col_sum = next + t->n_matrices * t->n_rows;
        next += t->stride * 6;
        t->row = factors(s, random, t->n_matrices * t->n_rows, 0);
        t->col = factors(s, random, t->n_matrices * t->n_cols, 0);
        t->row_mean = factors(s, random, t->n_matrices, 0x1p-23f);
    }
}

/* Now and then any half, signed zeros and subnormals among them. */
static float signed_value(reference_random *random, uint64_t i)
{
    return gradient(random, i % 5 == 0 ? WIDE : ORDINARY, ZOPT_FP16);
}

static float *floats(space *s, reference_random *random, int is_signed)
{
    float *x = take(&s->arena, s->n_elems * sizeof *x);
    for (uint64_t i = 0; i < s->n_elems; i++)
        x[i] = is_signed ? signed_value(random, i) : positive(random);
    return x;
}

static void fill_source(space *s, reference_random *random, int i)
{
    zopt_dtype dtype = s->source_dtype[i];
    float wide[ZI_BLOCK];
    for (uint64_t at = 0; at < s->n_elems; at += ZI_BLOCK) {
        for (int e = 0; e < ZI_BLOCK; e++)
            wide[e] = signed_value(random, (uint64_t)e);
        zi_convert((char *)s->source[i] + at * zopt_dtype_bytes(dtype), dtype, wide, ZOPT_FP32,
                   ZI_BLOCK);
    }
}

static void fill(space *s, uint64_t seed, int is_factored, int has_moment)
{
    reference_random random = {seed + 1};
    *s = (space){.arena = {calloc(1, ARENA_BYTES), 0}};
    ck_assert_ptr_nonnull(s->arena.base);
    s->n_tensors = seed % 10 == 0 ? N_SHAPES : N_SHAPES - 1;
    s->n_sources = (int)(seed % 5 == 4 ? MAX_TABLE : seed % 5);
    s->dest_dtype = (zopt_dtype)(seed % ZI_N_DTYPES);
    s->variant = (zi_variant){.unit = ZI_UNIT_TENSOR, .n_states = 1 + is_factored + has_moment};
    for (int i = 0; i <= is_factored; i++)
        s->variant.state[i].form = !is_factored ? ZI_FORM_F32
                                   : i == 0     ? ZI_FORM_ROWS
                                                : ZI_FORM_COLS;
    describe(s, &random, is_factored);
    place_sums(s, &random);
    s->span = take(&s->arena, (size_t)s->n_tensors * sizeof *s->span);
    s->control = take(&s->arena, sizeof *s->control);
    *s->control = (zi_control){.coef = seed % 2 ? 1.0f / 3 : 1};
    s->master = floats(s, &random, 1);
    s->state[0] = floats(s, &random, 0);
    s->state[1] = floats(s, &random, 1);
    for (int i = 0; i < s->n_sources; i++) {
        s->source_dtype[i] = i == 0 && seed % 2 ? ZOPT_FP32 : (zopt_dtype)(seed / 2 % 3);
        s->source[i] = take(&s->arena, s->n_elems * zopt_dtype_bytes(s->source_dtype[i]));
        fill_source(s, &random, i);
    }
    for (int i = 0; i < 2; i++)
        s->dest[i] = take(&s->arena, s->n_elems * sizeof(float));
}

/* The tensors' runs in elements [start, end) of the space. */
static size_t write_spans(space *s, uint64_t start, uint64_t end)
{
    size_t n = 0;
    for (int i = 0; i < s->n_tensors; i++) {
        uint64_t stop = i + 1 < s->n_tensors ? s->tensor[i + 1].start : s->n_elems;
        if (stop <= start || s->tensor[i].start >= end)
            continue;
        s->span[n++] = (zi_span){(stop < end ? stop : end) - start, 0, (uint32_t)i};
    }
    return n;
}

/* The same place in the arena that begins at `base`. */
static void *in(char *base, const space *s, const void *pointer)
{
    return pointer != NULL ? base + ((const char *)pointer - s->arena.base) : NULL;
}

typedef struct tables {
    zi_source source[MAX_TABLE];
    zi_dest dest[2];
} tables;

static zi_job job_of(const space *s, char *base, uint64_t start, uint64_t n_elems, size_t n_spans,
                     tables *t)
{
    int of_elements = s->variant.state[0].form == ZI_FORM_F32 ? 0 : 2;
    size_t wide = zopt_dtype_bytes(s->dest_dtype);
    zi_job job = {.n_elems = n_elems,
                  .start = start,
                  .source = t->source,
                  .n_sources = s->n_sources,
                  .dest = t->dest,
                  .n_dests = 2,
                  .master = in(base, s, s->master + start),
                  .span = in(base, s, s->span),
                  .n_spans = n_spans,
                  .control = in(base, s, s->control),
                  .tensor = in(base, s, s->tensor)};
    for (int i = 0; i < s->n_sources; i++)
        t->source[i] = (zi_source){
            in(base, s, (char *)s->source[i] + start * zopt_dtype_bytes(s->source_dtype[i])),
            s->source_dtype[i]};
    for (int i = 0; i < 2; i++)
        t->dest[i] = (zi_dest){in(base, s, (char *)s->dest[i] + start * wide), s->dest_dtype};
    for (int i = of_elements; i < s->variant.n_states; i++)
        job.state[i].data = in(base, s, s->state[i - of_elements] + start);
    return job;
}

static void run(const zi_device_ops *device, zi_queue *q, const space *s, const zi_job *job)
{
    device->statistics(q, ZI_STATISTICS_MOMENTS, job);
    device->statistics(q, ZI_STATISTICS_UPDATE, job);
    device->update(q, &s->variant, job);
}

/* Up, the kernels, and down again. */
static void run_there(const zi_device_ops *device, zi_queue *q, space *s, uint64_t start,
                      uint64_t n_elems, size_t n_spans)
{
    zi_mem mem = {0};
    char *there;
    tables t;
    zi_tensor_statistics moved[MAX_TENSORS], here[MAX_TENSORS];
    memcpy(here, s->tensor, (size_t)s->n_tensors * sizeof *here);
    memcpy(moved, here, sizeof moved);
    ck_assert_int_eq(device->alloc(q, &mem, ZI_MEM_STAGING, s->arena.used, &there), ZOPT_OK);
    for (int i = 0; i < s->n_tensors; i++) {
        float **const pointers[] = {&moved[i].row, &moved[i].col, &moved[i].row_mean};
        int64_t **const sums[] = {&moved[i].sum, &moved[i].row_sum, &moved[i].col_sum};
        for (int k = 0; k < 3; k++) {
            *pointers[k] = in(there, s, *pointers[k]);
            *sums[k] = in(there, s, *sums[k]);
        }
    }
    memcpy(s->tensor, moved, (size_t)s->n_tensors * sizeof *moved);
    device->copy(q, there, s->arena.base, s->arena.used);
    zi_job job = job_of(s, there, start, n_elems, n_spans, &t);
    run(device, q, s, &job);
    device->copy(q, s->arena.base, there, s->arena.used);
    ck_assert_msg(device->wait(q) == ZOPT_OK, "%s", zopt_last_error());
    memcpy(s->tensor, here, (size_t)s->n_tensors * sizeof *here);
    device->free(q, &mem, ZI_MEM_STAGING, there, s->arena.used);
    ck_assert_uint_eq(mem.total_bytes, 0);
}

static size_t n_wrong(const space *want, const space *got)
{
    size_t bytes = want->n_elems * zopt_dtype_bytes(want->dest_dtype);
    size_t wrong = n_different(want->master, got->master, want->n_elems);
    for (int i = 0; i < want->n_tensors; i++) { /* limbs are the same number, carried or not */
        zi_exact_carry(want->tensor[i].sum);
        zi_exact_carry(got->tensor[i].sum);
    }
    wrong += memcmp(want->sums, got->sums, want->n_sums * sizeof *want->sums) != 0;
    for (int i = 0; i < 2; i++) {
        wrong += n_different(want->state[i], got->state[i], want->n_elems);
        if (want->dest_dtype == ZOPT_FP32)
            wrong += n_different(want->dest[i], got->dest[i], want->n_elems);
        else
            wrong += memcmp(want->dest[i], got->dest[i], bytes) != 0;
    }
    return wrong;
}

/* All of the space, or any blocks of it. */
static void check(const zi_device_ops *device, uint64_t seed, int is_factored, int has_moment)
{
    reference_random random = {seed + 77};
    space want, got;
    zi_queue *q;
    tables t;
    fill(&want, seed, is_factored, has_moment);
    fill(&got, seed, is_factored, has_moment);
    uint64_t n_blocks = want.n_elems / ZI_BLOCK, last = n_blocks - 1;
    uint64_t first = seed % 2 ? (uint64_t)reference_between(&random, 0, (int64_t)last) : 0;
    if (seed % 4 != 0)
        last = (uint64_t)reference_between(&random, (int64_t)first, (int64_t)last);
    uint64_t start = first * ZI_BLOCK, n_elems = (last + 1 - first) * ZI_BLOCK;
    size_t n_spans = write_spans(&want, start, start + n_elems);
    write_spans(&got, start, start + n_elems);
    ck_assert_msg(device->open(0, &q) == ZOPT_OK, "%s", zopt_last_error());
    run_there(device, q, &got, start, n_elems, n_spans);
    device->close(q);
    zi_job job = job_of(&want, want.arena.base, start, n_elems, n_spans, &t);
    run(&zi_device_cpu, NULL, &want, &job);
    size_t wrong = n_wrong(&want, &got);
    ck_assert_msg(wrong == 0, "%s, seed %llu, elements [%llu, +%llu), %d sources: %zu differ",
                  device->name, (unsigned long long)seed, (unsigned long long)start,
                  (unsigned long long)n_elems, want.n_sources, wrong);
    free(want.arena.base);
    free(got.arena.base);
}

/* _i: whether tensors are factored, and whether there is a first moment. */
START_TEST(kernels_of_tensors_are_the_cpus_bits)
{
    for (size_t d = 0; d < zi_n_devices; d++)
        for (uint64_t seed = 0; seed < 30 && !zi_devices[d]->on_host; seed++)
            if (device_is_here(zi_devices[d]))
                check(zi_devices[d], seed, _i & 1, _i >> 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_tensor");
    TCase *tcase = tcase_create("device_tensor");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, kernels_of_tensors_are_the_cpus_bits, 0, 4);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
