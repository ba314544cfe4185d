/* The update kernel: every instruction set gives the same bits, stores are the rounded master, and
 * one update is AdamW within the error its FP32 operations allow. The float64 AdamW it is held
 * against (reference/adamw_f64.h) is itself held against PyTorch's. */
#include <stdio.h>

#include "kernel_sources.h"
#include "optim/rows.h"

enum { N_DESTS = 3, N_GROUPS = 3 };

typedef struct state {
    float master[N], exp_avg[N], exp_avg_sq[N];
    uint32_t dest[N_DESTS][N]; /* room for any dtype */
} state;

/* Group changes inside blocks, at their edges, and runs of one element. */
static const zi_span spans[] = {{1, 2, 0},   {2, 0, 0},   {33, 1, 0},   {255, 2, 0}, {256, 0, 0},
                                {300, 1, 0}, {768, 2, 0}, {1027, 0, 0}, {N, 1, 0}};

static const reference_hyper hypers[N_GROUPS] = {
    {.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1},
    {.lr = 1.0, .beta1 = 0.0, .beta2 = 0.999, .eps = 1e-6, .weight_decay = 0.0},
    {.lr = 1e-5, .beta1 = 0.95, .beta2 = 0.5, .eps = 1e-3, .weight_decay = 0.01},
};

static void start_state(reference_random *random, state *st)
{
    memset(st, 0xa5, sizeof *st);
    for (size_t i = 0; i < N; i++) {
        st->master[i] = gradient(random, i % 5 == 0 ? WIDE : ORDINARY, ZOPT_FP16);
        st->exp_avg[i] = gradient(random, ORDINARY, ZOPT_FP16) * 0.37f;
        float root = gradient(random, ORDINARY, ZOPT_FP16) * 0.71f;
        st->exp_avg_sq[i] = i % 7 == 0 ? 0.0f : root * root;
    }
}

static const zi_variant adamw = {
    ZI_RULE_ADAMW, ZI_UNIT_ELEMENT, 2, {{0, ZI_FORM_F32}, {1, ZI_FORM_F32}}};

static void run_update(const zi_cpu_kernels *kernels, double t, float coef, zopt_dtype dtype,
                       state *st)
{
    float scalars[N_GROUPS][ZI_MAX_SCALARS];
    for (int i = 0; i < N_GROUPS; i++) {
        const reference_hyper *h = &hypers[i];
        const double value[] = {h->lr, h->beta1, h->beta2, h->eps, h->weight_decay, 0};
        const double power[] = {pow(h->beta1, t), pow(h->beta2, t)};
        const zi_instant now = {.t = (uint64_t)t, .lr = h->lr, .power = power};
        zi_optim_adamw.scalars(value, &now, scalars[i]);
    }
    const zi_control control = {.coef = coef, .scalars = scalars};
    const zi_dest dest[N_DESTS] = {
        {st->dest[0], dtype}, {st->dest[1], dtype}, {st->dest[2], dtype}};
    const zi_job job = {.n_elems = N,
                        .source = source,
                        .n_sources = n_sources,
                        .dest = dest,
                        .n_dests = N_DESTS,
                        .master = st->master,
                        .state = {{st->exp_avg, NULL}, {st->exp_avg_sq, NULL}},
                        .span = spans,
                        .n_spans = sizeof spans / sizeof spans[0],
                        .control = &control};
    kernels->update(&adamw, &job);
}

static void check_equal_bits(const zi_cpu_kernels *kernels, reference_random *random)
{
    const zi_cpu_kernels *portable = &zi_cpu_kernels_portable;
    static state start, want, got;
    start_state(random, &start);
    for (int d = 0; d < ZI_N_DTYPES; d++) {
        want = got = start;
        run_update(portable, 3, 0.3f, (zopt_dtype)d, &want);
        run_update(kernels, 3, 0.3f, (zopt_dtype)d, &got);
        size_t different = n_different(want.master, got.master, N) +
                           n_different(want.exp_avg, got.exp_avg, N) +
                           n_different(want.exp_avg_sq, got.exp_avg_sq, N);
        ck_assert_msg(different == 0, "%s: %zu elements differ", kernels->name, different);
        if (d != ZOPT_FP32) /* 16-bit NaNs are canonical, FP32 ones may differ as the master's do */
            ck_assert_mem_eq(want.dest, got.dest, sizeof want.dest);
    }
}

START_TEST(every_instruction_set_updates_to_the_same_bits)
{
    each_mix(check_equal_bits);
}
END_TEST

/* Section 5: 16 bits by nearest even, FP32 as it is; nothing beyond the last element. */
static void check_stores(const zi_cpu_kernels *kernels, reference_random *random)
{
    static state st;
    for (int d = 0; d < ZI_N_DTYPES; d++) {
        start_state(random, &st);
        run_update(kernels, 2, 1.0f, (zopt_dtype)d, &st);
        size_t wrong = 0, bytes = N * zopt_dtype_bytes((zopt_dtype)d);
        for (int copy = 0; copy < N_DESTS; copy++) {
            const uint16_t *half = (const uint16_t *)(const void *)st.dest[copy];
            for (size_t i = 0; i < N; i++)
                wrong += d == ZOPT_FP32   ? st.dest[copy][i] != zi_float_bits(st.master[i])
                         : d == ZOPT_FP16 ? half[i] != zi_float_to_half(st.master[i])
                                          : half[i] != zi_float_to_bf16(st.master[i]);
            if (bytes < sizeof st.dest[copy])
                wrong += ((const unsigned char *)half)[bytes] != 0xa5;
        }
        ck_assert_msg(wrong == 0, "%s, %s: %zu", kernels->name, zi_dtype_name((zopt_dtype)d),
                      wrong);
    }
}

START_TEST(every_destination_gets_the_rounded_master)
{
    each_mix(check_stores);
}
END_TEST

/* The bound of one step, to first order in u = 2^-24, each FP32 operation and each scalar's
 * rounding being one u. M = b1|m| + (1-b1)|g|, D the denominator, s the step.
 *   decayed: scalar, product                                      2u |p|
 *   m':      |b1 m| 1u, |(1-b1) g| 2u, the fma's sum 1u            3u M
 *   v':      (1-b2) g g 3u, the fma's sum 1u; all terms >= 0       4u v'
 *   D:       root of v' 2u, sqrt 1u, sum 1u; eps is one scalar     4u D
 *   m'/D:    3u M/D + 4u |m'|/D + 1u of it, and |m'| <= M          8u M/D
 *   p':      s 1u, so 9u s M/D + 2u |p|, and the fma's sum 1u      10u s M/D + 3u |p|
 * 1.001 covers the second order. What underflows, below 2^-126, moves D by less than 2^-60 beside
 * eps >= 1e-8, and the rest by less than 2^-120. */
static size_t n_beyond_bound(const reference_hyper *h, double t, float g, const float before[3],
                             const float after[3])
{
    const double u = 1.001 * 0x1p-24, tiny = 0x1p-120;
    double p = before[0], m = before[1], v = before[2];
    reference_adamw(h, t, g, &p, &m, &v);
    double m_terms = h->beta1 * fabs(before[1]) + (1 - h->beta1) * fabs(g);
    double bc1 = 1 - pow(h->beta1, t), bc2 = 1 - pow(h->beta2, t);
    double step = h->lr / bc1 * m_terms / (sqrt(v / bc2) + h->eps);
    int wrong_p = fabs(after[0] - p) > u * (10 * step + 3 * fabs(before[0])) + tiny;
    int wrong_m = fabs(after[1] - m) > 3 * u * m_terms + tiny;
    int wrong_v = fabs(after[2] - v) > 4 * u * v + tiny;
    return wrong_p || wrong_m || wrong_v ? 1 : 0;
}

static uint32_t group_of(size_t i)
{
    size_t s = 0;
    while (spans[s].end <= i)
        s++;
    return spans[s].group;
}

START_TEST(one_update_is_adamw_within_the_rounding_of_its_operations)
{
    static const double steps[] = {1, 2, 10, 1000};
    static const zopt_dtype dtypes[] = {ZOPT_FP16, ZOPT_FP16};
    static state before, after;
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++)
        for (int round = 0; round < 80; round++) {
            reference_random random = {(uint64_t)round + 1};
            float sum[N], coef = round % 2 ? 0.5f : 1.0f / 3;
            size_t wrong = 0;
            /* Every third round has halves of all exponents, 2^-24 and zero among them. */
            make_sources(&random, round % 3 == 0 ? WIDE : ORDINARY, dtypes, 2);
            start_state(&random, &before);
            after = before;
            expected_sum(NULL, sum);
            run_update(*k, steps[round % 4], coef, ZOPT_FP16, &after);
            for (size_t i = 0; i < N; i++) {
                const float was[3] = {before.master[i], before.exp_avg[i], before.exp_avg_sq[i]};
                const float is[3] = {after.master[i], after.exp_avg[i], after.exp_avg_sq[i]};
                wrong +=
                    n_beyond_bound(&hypers[group_of(i)], steps[round % 4], sum[i] * coef, was, is);
            }
            ck_assert_msg(wrong == 0, "%s, round %d: %zu", (*k)->name, round, wrong);
            free_sources();
        }
}
END_TEST

/* Section 5: g = +0.0f + ..., so that zeros of any sign sum to +0, and b1 * -0 + (1-b1) * +0 is +0
 * where a negative gradient zero would leave -0. */
START_TEST(negative_zeros_sum_to_positive_zero)
{
    static state st;
    static const zopt_dtype dtypes[] = {ZOPT_FP16, ZOPT_FP32};
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++) {
        reference_random random = {1};
        size_t wrong = 0;
        make_sources(&random, ORDINARY, dtypes, 2);
        for (size_t i = 0; i < N; i++) {
            ((uint16_t *)(uintptr_t)source[0].data)[i] = 0x8000;
            ((float *)(uintptr_t)source[1].data)[i] = -0.0f;
            st.exp_avg[i] = -0.0f;
        }
        run_update(*k, 1, 1.0f, ZOPT_FP16, &st);
        for (size_t i = 0; i < N; i++)
            wrong += zi_float_bits(st.exp_avg[i]) != 0;
        ck_assert_uint_eq(wrong, 0);
        free_sources();
    }
}
END_TEST

START_TEST(padding_stays_zero)
{
    static state st;
    static const unsigned char zeros[sizeof st];
    n_sources = 0;
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++) {
        memset(&st, 0, sizeof st);
        for (int t = 1; t <= 20; t++)
            for (int d = 0; d < ZI_N_DTYPES; d++)
                run_update(*k, t, 0.25f, (zopt_dtype)d, &st);
        ck_assert_mem_eq(&st, zeros, sizeof st);
    }
}
END_TEST

/* Ties the references together: torch's float64 AdamW and the paper's formula in C do the same
 * algorithm in another order of operations. Each of 200 steps adds a few roundings of 2^-53 to
 * numbers of size |p| and lr: 200 * 10 * 2^-53 = 2.2e-13, stated as 1e-12 of |p| + 200 lr. */
START_TEST(float64_reference_agrees_with_pytorch)
{
    double p[REFERENCE_ELEMS], m[REFERENCE_ELEMS] = {0}, v[REFERENCE_ELEMS] = {0};
    FILE *file = fopen(ZOPT_TESTS_DIR "/reference/adamw_200.txt", "r");
    char line[256];
    uint32_t t = 0;
    int n_values = 0;
    ck_assert_ptr_nonnull(file);
    for (uint32_t i = 0; i < REFERENCE_ELEMS; i++)
        p[i] = reference_number(0, i);
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned step, i;
        double wide, single;
        if (line[0] == '#')
            continue;
        ck_assert_int_eq(sscanf(line, "%u %u %la %la", &step, &i, &wide, &single), 4);
        ck_assert(step >= t && step <= REFERENCE_STEPS && i < REFERENCE_ELEMS);
        for (; t < step; t++)
            for (uint32_t j = 0; j < REFERENCE_ELEMS; j++)
                reference_adamw(&reference_problem, t + 1, reference_number(t + 1, j), &p[j], &m[j],
                                &v[j]);
        double tolerance = 1e-12 * (fabs(wide) + REFERENCE_STEPS * reference_problem.lr);
        ck_assert_double_eq_tol(p[i], wide, tolerance);
        n_values++;
    }
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(n_values, 5 * REFERENCE_ELEMS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("update");
    TCase *tcase = tcase_create("update");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, every_instruction_set_updates_to_the_same_bits);
    tcase_add_test(tcase, every_destination_gets_the_rounded_master);
    tcase_add_test(tcase, one_update_is_adamw_within_the_rounding_of_its_operations);
    tcase_add_test(tcase, negative_zeros_sum_to_positive_zero);
    tcase_add_test(tcase, padding_stays_zero);
    tcase_add_test(tcase, float64_reference_agrees_with_pytorch);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    print_variants();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
