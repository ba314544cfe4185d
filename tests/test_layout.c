/* Layout and spans, element by element against the words of the design: for many tables of tensors,
 * worlds and bucket sizes, where everything starts, who owns what, in which order buckets go, and
 * which group each owned element updates with. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "reference/random.h"
#include "zero/layout.h"
#include "zero/spans.h"

enum { MAX_TENSORS = 3000, MAX_WORLD = 8 };

typedef struct table {
    const char *name;
    uint32_t n;
    zi_tensor tensor[MAX_TENSORS];
} table;

/* What the design says about a table, one entry for each element of a space. */
typedef struct expectation {
    uint64_t n_elems, size; /* to the last tensor's end; of the arrays */
    int32_t *tensor;        /* that the element belongs to, -1: padding */
    uint32_t *owner;        /* the same, padding with the preceding tensor */
} expectation;

static table current;
static expectation expected[ZI_MAX_SPACES];
static uint32_t n_expected;
static zi_layout layout;
static zi_mem mem;
static uint64_t bucket_elems;

/* Complaints are counted, as an assertion for each element would take minutes. */
static size_t n_wrong;
static char first_wrong[256];

#define MUST(condition)                                                                     \
    do {                                                                                    \
        if (!(condition) && n_wrong++ == 0)                                                 \
            snprintf(first_wrong, sizeof first_wrong, "line %d: %s", __LINE__, #condition); \
    } while (0)

static const zi_variant variants[3] = {{.n_states = 1}, {.n_states = 2}, {.unit = ZI_UNIT_TENSOR}};
static const zi_variant *next_variant = &variants[0]; /* of the tensors added next */

static void add_tensor(zopt_dtype dtype, uint64_t n_elems, int group)
{
    ck_assert_uint_lt(current.n, MAX_TENSORS);
    current.tensor[current.n++] = (zi_tensor){
        .name = "t", .dtype = dtype, .variant = next_variant, .group = group, .n_elems = n_elems};
}

/* ------------------------------------------------------------------ tables of tensors ------- */

static const uint64_t edge_sizes[] = {1,   15,  16,   17,   31,   32,    33,      255,
                                      256, 257, 4095, 4096, 4097, 3 * 5, 64 * 63, 10000};
enum { N_EDGES = sizeof edge_sizes / sizeof edge_sizes[0] };

static void one_element(void)
{
    add_tensor(ZOPT_FP16, 1, 3);
}

static void edges_in_one_dtype(void)
{
    for (int i = 0; i < 2 * N_EDGES; i++)
        add_tensor(ZOPT_BF16, edge_sizes[i * 5 % N_EDGES], i / 3 % 2);
}

static void edges_in_all_dtypes(void)
{
    for (int i = 0; i < 3 * N_EDGES; i++)
        add_tensor((zopt_dtype)(i * 7 % 5 % 3), edge_sizes[i * 4 % N_EDGES], i % 3);
}

static void one_dtype_after_the_other(void)
{
    for (int i = 0; i < N_EDGES; i++)
        add_tensor(i < 5 ? ZOPT_FP32 : ZOPT_FP16, edge_sizes[N_EDGES - 1 - i], 0);
}

static void thousands_of_small_ones(void)
{
    reference_random random = {42};
    for (int i = 0; i < MAX_TENSORS; i++)
        add_tensor(reference_between(&random, 0, 9) ? ZOPT_FP16 : ZOPT_FP32,
                   (uint64_t)reference_between(&random, 1, 40),
                   (int)reference_between(&random, 0, 2));
}

static void variants_and_frozen_ones(void)
{
    const zi_variant *const of[] = {&variants[0], NULL, &variants[2], &variants[1]};
    for (int i = 0; i < 4 * N_EDGES; i++) {
        next_variant = of[i * 5 % 7 % 4];
        add_tensor((zopt_dtype)(i % 3), edge_sizes[i * 4 % N_EDGES], i % 2);
    }
    next_variant = of[0];
}

static void no_tensors(void)
{
}

static const struct {
    const char *name;
    void (*fill)(void);
} tables[] = {
    {"one element", one_element},
    {"edges in one dtype", edges_in_one_dtype},
    {"edges in all dtypes", edges_in_all_dtypes},
    {"one dtype after the other", one_dtype_after_the_other},
    {"thousands of small ones", thousands_of_small_ones},
    {"variants and frozen ones", variants_and_frozen_ones},
    {"no tensors", no_tensors},
};
enum { N_TABLES = sizeof tables / sizeof tables[0] };

static const uint64_t bucket_sizes[] = {1,         257, 1000, 2048, 4099, 65536, UINT64_C(1) << 56,
                                        UINT64_MAX};
enum { N_BUCKET_SIZES = sizeof bucket_sizes / sizeof bucket_sizes[0] };

/* ------------------------------------------------------------------ expectations ------------ */

static void expect_room(uint32_t s)
{
    uint64_t size = 256 * MAX_WORLD; /* the padding of the last bucket */
    for (uint32_t i = 0; i < current.n; i++)
        size += current.tensor[i].n_elems + 256;
    expected[s] = (expectation){.tensor = malloc(size * sizeof(int32_t)),
                                .owner = calloc(size, sizeof(uint32_t)),
                                .size = size};
    ck_assert(expected[s].tensor != NULL && expected[s].owner != NULL);
    memset(expected[s].tensor, 0xff, size * sizeof(int32_t));
}

/* The space of a tensor: spaces are numbered as their first tensors come. */
static uint32_t space_of(uint32_t id)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i <= id; i++) {
        uint32_t j = 0;
        while (current.tensor[j].dtype != current.tensor[i].dtype ||
               current.tensor[j].variant != current.tensor[i].variant)
            j++;
        if (j == i)
            n++;
        if (current.tensor[i].dtype == current.tensor[id].dtype &&
            current.tensor[i].variant == current.tensor[id].variant)
            return n - 1;
    }
    return n;
}

static uint64_t start_multiple(const zi_tensor *tensor)
{
    int whole = tensor->variant != NULL && tensor->variant->unit == ZI_UNIT_TENSOR;
    return tensor->n_elems >= 4096 ? 256 : whole ? 32 : 16;
}

/* Registration order; multiples of 256 for >= 4096 elements, else of 32 for rules that work on
 * whole tensors and of 16 for others. A tensor's group holds to the next tensor's start, the last
 * one's to the end. */
static void expect_all(void)
{
    uint32_t owner[ZI_MAX_SPACES] = {0};
    n_expected = 0;
    for (uint32_t i = 0; i < current.n; i++) {
        uint32_t s = space_of(i);
        const zi_tensor *tensor = &current.tensor[i];
        expectation *e = &expected[s];
        if (s == n_expected)
            expect_room(n_expected++);
        for (; e->n_elems % start_multiple(tensor) != 0; e->n_elems++)
            e->owner[e->n_elems] = owner[s];
        owner[s] = i;
        for (uint64_t j = 0; j < tensor->n_elems; j++, e->n_elems++) {
            e->tensor[e->n_elems] = (int32_t)i;
            e->owner[e->n_elems] = i;
        }
    }
    for (uint32_t s = 0; s < n_expected; s++)
        for (uint64_t at = expected[s].n_elems; at < expected[s].size; at++)
            expected[s].owner[at] = owner[s];
}

/* ------------------------------------------------------------------ checks of a layout ------ */

static void starts_are_the_designs(void)
{
    for (uint32_t i = 0; i < current.n; i++) {
        const zi_tensor *tensor = &current.tensor[i];
        MUST(tensor->space == space_of(i));
        const int32_t *owner = expected[tensor->space].tensor + tensor->start;
        MUST(owner[0] == (int32_t)i && owner[tensor->n_elems - 1] == (int32_t)i);
        MUST(tensor->start == 0 || owner[-1] != (int32_t)i);
    }
    MUST(layout.n_spaces == n_expected);
    for (uint32_t s = 0; s < n_expected; s++)
        MUST(layout.space[s].n_elems == expected[s].n_elems);
}

static void extents_cover_each_space_once(void)
{
    uint64_t at[ZI_MAX_SPACES] = {0};
    for (uint32_t i = 0; i < current.n; i++) {
        const zi_tensor *tensor = &current.tensor[i];
        MUST(tensor->start == at[tensor->space] && tensor->extent >= tensor->n_elems);
        at[tensor->space] += tensor->extent;
    }
    for (uint32_t s = 0; s < layout.n_spaces; s++)
        MUST(at[s] == layout.space[s].n_padded);
}

/* Buckets of a space follow each other, are cut into world whole-block slices, and only the tail
 * is padded, by less than a block for each rank. */
static void buckets_cover_each_space(void)
{
    uint64_t world = (uint64_t)layout.world, quantum = 256 * world;
    uint64_t size = (bucket_elems > ZI_MAX_ELEMS ? ZI_MAX_ELEMS : bucket_elems) + quantum - 1;
    uint32_t b = 0;
    size -= size % quantum;
    for (uint32_t s = 0; s < layout.n_spaces; s++) {
        const zi_space *space = &layout.space[s];
        MUST(space->first_bucket == b);
        uint64_t at = 0;
        for (uint32_t i = 0; i < space->n_buckets; i++, b++) {
            const zi_bucket *bucket = &layout.bucket[b];
            MUST(bucket->space == s && bucket->dtype == space->dtype && bucket->start == at);
            MUST(bucket->slice_elems > 0 && bucket->slice_elems % 256 == 0);
            MUST(bucket->n_elems == world * bucket->slice_elems);
            MUST(i + 1 == space->n_buckets ? bucket->n_elems <= size : bucket->n_elems == size);
            MUST(space->variant == NULL ||
                 bucket->slice_elems * zopt_dtype_bytes(bucket->dtype) <= layout.max_slice_bytes);
            MUST(zi_layout_bucket_at(&layout, bucket->space, at) == bucket);
            at += bucket->n_elems;
            MUST(zi_layout_bucket_at(&layout, bucket->space, at - 1) == bucket);
        }
        MUST(at == space->n_padded && at >= space->n_elems && at - space->n_elems < quantum);
    }
    MUST(b == layout.n_buckets);
}

static void owned_indices_are_a_bijection(void)
{
    unsigned char *taken = calloc(layout.owned_elems + 1, 1);
    uint64_t n_taken = 0;
    ck_assert_ptr_nonnull(taken);
    for (uint32_t b = 0; b < layout.n_buckets; b++) {
        const zi_bucket *bucket = &layout.bucket[b];
        for (uint64_t i = 0; i < bucket->slice_elems; i++, n_taken++) {
            uint64_t at = bucket->owned_start + i;
            MUST(at < layout.owned_elems);
            if (at < layout.owned_elems)
                MUST(taken[at]++ == 0);
            MUST((layout.space[bucket->space].variant != NULL) == (at < layout.trained_elems));
        }
    }
    MUST(n_taken == layout.owned_elems);
    free(taken);
}

/* What a bucket says of its tensors, and the order: later first tensors first. */
static void buckets_know_their_tensors_and_their_turn(void)
{
    unsigned char *seen = calloc(layout.n_buckets + 1, 1);
    const zi_bucket *previous = NULL;
    ck_assert_ptr_nonnull(seen);
    for (uint32_t i = 0; i < layout.n_exchanged; i++) {
        MUST(layout.order[i] < layout.n_buckets && seen[layout.order[i]]++ == 0);
        const zi_bucket *bucket = &layout.bucket[layout.order[i]];
        MUST(bucket->position == i);
        int32_t first = -1, last = -1;
        uint32_t n = 0;
        for (uint64_t at = bucket->start; at < bucket->start + bucket->n_elems; at++) {
            int32_t tensor = expected[bucket->space].tensor[at];
            if (tensor < 0 || tensor == last)
                continue;
            first = first < 0 ? tensor : first;
            last = tensor;
            n++;
        }
        MUST(first == (int32_t)bucket->first_tensor && n == bucket->n_tensors);
        if (previous != NULL && previous->first_tensor == bucket->first_tensor)
            MUST(previous->space == bucket->space && previous->start > bucket->start);
        else
            MUST(previous == NULL || previous->first_tensor > bucket->first_tensor);
        previous = bucket;
    }
    for (uint32_t b = 0; b < layout.n_buckets; b++)
        MUST((seen[b] != 0) == (layout.space[layout.bucket[b].space].variant != NULL));
    free(seen);
}

static void check_piece(const zi_tensor *tensor, const zi_piece *piece, uint64_t at, uint64_t end)
{
    const zi_bucket *bucket = zi_layout_bucket_at(&layout, tensor->space, tensor->start + at);
    uint64_t slice_start = bucket->start + (uint64_t)piece->owner * bucket->slice_elems;
    MUST(piece->tensor_at == at && piece->flat_at == tensor->start + at);
    MUST(piece->owner >= 0 && piece->owner < layout.world);
    MUST(piece->flat_at >= slice_start);
    MUST(piece->flat_at + piece->n_elems <= slice_start + bucket->slice_elems);
    MUST(piece->owned_at == bucket->owned_start + (piece->flat_at - slice_start));
    MUST(piece->n_elems > 0 && at + piece->n_elems <= end);
    /* As long as it can be: it ends with the range or with the slice. */
    MUST(at + piece->n_elems == end ||
         piece->flat_at + piece->n_elems == slice_start + bucket->slice_elems);
}

static void pieces_walk_every_tensor(void)
{
    reference_random random = {5};
    for (uint32_t i = 0; i < current.n; i++) {
        const zi_tensor *tensor = &current.tensor[i];
        int64_t from = reference_between(&random, 0, (int64_t)tensor->n_elems - 1);
        int64_t to = reference_between(&random, from + 1, (int64_t)tensor->n_elems);
        const uint64_t range[2][2] = {{0, tensor->n_elems}, {(uint64_t)from, (uint64_t)to}};
        for (int r = 0; r < 2; r++)
            for (uint64_t at = range[r][0]; at < range[r][1];) {
                zi_piece piece = zi_layout_piece(&layout, tensor, at, range[r][1]);
                check_piece(tensor, &piece, at, range[r][1]);
                at += piece.n_elems > 0 ? piece.n_elems : tensor->n_elems;
            }
        uint32_t first =
            (uint32_t)(zi_layout_bucket_at(&layout, tensor->space, tensor->start) - layout.bucket);
        uint64_t end = tensor->start + tensor->n_elems - 1;
        uint32_t last =
            (uint32_t)(zi_layout_bucket_at(&layout, tensor->space, end) - layout.bucket);
        MUST(tensor->first_bucket == first && tensor->n_buckets == last - first + 1);
    }
}

static void spans_give_every_owned_element_its_group(int rank)
{
    zi_spans spans;
    ck_assert_int_eq(zi_spans_build(&mem, &layout, current.tensor, rank, &spans), ZOPT_OK);
    MUST(spans.n_buckets == layout.n_buckets && spans.first[0] == 0);
    for (uint32_t b = 0; b < layout.n_buckets; b++) {
        const zi_bucket *bucket = &layout.bucket[b];
        const zi_variant *variant = layout.space[bucket->space].variant;
        int by_tensor = variant != NULL && variant->unit == ZI_UNIT_TENSOR;
        const uint32_t *owner =
            expected[bucket->space].owner + bucket->start + (uint64_t)rank * bucket->slice_elems;
        uint64_t at = 0;
        MUST(spans.first[b] < spans.first[b + 1]);
        for (uint64_t s = spans.first[b]; s < spans.first[b + 1]; s++) {
            const zi_span *span = &spans.span[s];
            MUST(span->end > at && span->end <= bucket->slice_elems);
            MUST(span->tensor == owner[at]);
            for (; at < span->end && at < bucket->slice_elems; at++)
                MUST(by_tensor ? owner[at] == span->tensor
                               : (uint32_t)current.tensor[owner[at]].group == span->group);
            MUST(s == spans.first[b] || by_tensor || span[-1].group != span->group);
        }
        MUST(at == bucket->slice_elems);
    }
    zi_spans_free(&mem, &spans);
}

/* ------------------------------------------------------------------ tests ------------------- */

static void each_layout(void (*check)(void))
{
    for (int t = 0; t < N_TABLES; t++) {
        current.n = 0;
        tables[t].fill();
        expect_all();
        for (int world = 1; world <= MAX_WORLD; world++)
            for (int b = 0; b < N_BUCKET_SIZES; b++) {
                bucket_elems = bucket_sizes[b];
                mem = (zi_mem){.dry = 0};
                zopt_status status =
                    zi_layout_build(&mem, current.tensor, current.n, world, bucket_elems, &layout);
                ck_assert_msg(status == ZOPT_OK, "%s", zopt_last_error());
                check();
                zi_layout_free(&mem, &layout);
                ck_assert_uint_eq(mem.total_bytes, 0);
                ck_assert_msg(n_wrong == 0, "%s, world %d, buckets of %llu: %zu wrong, first: %s",
                              tables[t].name, world, (unsigned long long)bucket_elems, n_wrong,
                              first_wrong);
            }
        for (uint32_t s = 0; s < n_expected; s++) {
            free(expected[s].tensor);
            free(expected[s].owner);
        }
    }
}

START_TEST(tensors_lie_where_the_design_says_for_every_world_and_bucket_size)
{
    each_layout(starts_are_the_designs);
    each_layout(extents_cover_each_space_once);
}
END_TEST

START_TEST(buckets_and_slices_cover_every_space_without_gap)
{
    each_layout(buckets_cover_each_space);
}
END_TEST

START_TEST(every_element_has_one_owner_and_one_owned_index)
{
    each_layout(owned_indices_are_a_bijection);
    each_layout(pieces_walk_every_tensor);
}
END_TEST

START_TEST(buckets_go_in_the_order_of_a_backward_pass)
{
    each_layout(buckets_know_their_tensors_and_their_turn);
}
END_TEST

static void spans_of_all_ranks(void)
{
    for (int rank = 0; rank < layout.world; rank++)
        spans_give_every_owned_element_its_group(rank);
}

START_TEST(spans_merge_runs_and_give_padding_to_the_tensor_before)
{
    each_layout(spans_of_all_ranks);
}
END_TEST

START_TEST(sizes_past_the_limits_are_refused)
{
    current.n = 0;
    mem = (zi_mem){.dry = 1};
    add_tensor(ZOPT_FP16, ZI_MAX_ELEMS - 4096, 0);
    add_tensor(ZOPT_FP32, ZI_MAX_ELEMS, 0);
    ck_assert_int_eq(zi_layout_build(&mem, current.tensor, 2, 3, UINT64_MAX, &layout), ZOPT_OK);
    ck_assert_uint_eq(layout.n_buckets, 2);
    zi_layout_free(&mem, &layout);
    add_tensor(ZOPT_FP16, 4097, 0);
    ck_assert_int_eq(zi_layout_build(&mem, current.tensor, 3, 3, UINT64_MAX, &layout),
                     ZOPT_ERR_ARGUMENT);
    zi_layout_free(&mem, &layout);
    ck_assert_int_eq(zi_layout_build(&mem, current.tensor, 2, 3, 256, &layout), ZOPT_ERR_ARGUMENT);
    zi_layout_free(&mem, &layout);
    ck_assert_uint_eq(mem.total_bytes, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("layout");
    TCase *tcase = tcase_create("layout");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, tensors_lie_where_the_design_says_for_every_world_and_bucket_size);
    tcase_add_test(tcase, buckets_and_slices_cover_every_space_without_gap);
    tcase_add_test(tcase, every_element_has_one_owner_and_one_owned_index);
    tcase_add_test(tcase, buckets_go_in_the_order_of_a_backward_pass);
    tcase_add_test(tcase, spans_merge_runs_and_give_padding_to_the_tensor_before);
    tcase_add_test(tcase, sizes_past_the_limits_are_refused);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
