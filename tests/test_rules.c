/* Every element rule in the update kernel, for every optimizer and variant (optimizer_cases.h):
 * every instruction set gives the same bits, and padding stays zero. Values are held against
 * references in test_optimizers.c. */
#include <stdio.h>

#include "base/grid_sum.h"
#include "kernel_sources.h"
#include "optim/optim.h"
#include "optim/settle.h"
#include "optimizer_cases.h"

enum { N_GROUPS = 2, N_STATES = ZI_MAX_STATES };

/* Codes of an 8-bit state are the first bytes of its array; any byte is one. */
typedef struct state {
    float master[N], state[N_STATES][N], absmax[N_STATES][N_BLOCKS];
    uint32_t dest[N];
} state;

/* Group changes inside blocks and at their edges. */
static const zi_span spans[] = {{1, 1, 0},   {255, 0, 0}, {256, 1, 0},
                                {300, 0, 0}, {768, 1, 0}, {N, 0, 0}};

static const optimizer_case *the_case;

/* The tensors that a job may be: whole tensors work on them, elements have none. */
static const uint64_t extents[][3] = {{N - 5, 0, 0}, {N / 40, 40, 0}, {2, N / 10, 5}};
static const zi_shape shapes[] = {{1, extents[0], N - 5}, {2, extents[1], N}, {3, extents[2], N}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static const zi_shape *the_shape;

/* The case in step t: its row, settings and scalars, by group. */
typedef struct prepared {
    const zi_optim *optim;
    const zi_variant *variant;
    double value[ZI_MAX_SETTINGS], power[ZI_MAX_POWERS];
    zi_instant now;
    float scalars[N_GROUPS][ZI_MAX_SCALARS];
} prepared;

static void prepare(uint64_t t, prepared *p)
{
    double *value = p->value;
    ck_assert_int_eq(zi_optim_find(the_case->optimizer, &p->optim), ZOPT_OK);
    const zi_optim *optim = p->optim;
    zi_settings_default(optim->settings, (size_t)optim->n_settings, value);
    ck_assert_int_eq(zi_settings_apply(optim->name, optim->settings, (size_t)optim->n_settings,
                                       the_case->setting, case_n_settings(the_case), value),
                     ZOPT_OK);
    for (int g = 0; g < N_GROUPS; g++) {
        const zopt_setting decay = {"weight_decay", the_case->weight_decay * g, NULL};
        ck_assert_int_eq(zi_settings_apply(optim->name, optim->settings, (size_t)optim->n_settings,
                                           &decay, 1, value),
                         ZOPT_OK);
        for (int i = 0; i < optim->n_powers; i++)
            p->power[i] = pow(value[optim->power_setting[i]], (double)t);
        p->now = (zi_instant){.t = t, .lr = the_case->lr * (g + 1), .power = p->power};
        optim->scalars(value, &p->now, p->scalars[g]);
    }
    zi_shape shape = *the_shape;
    if (case_has_8bit_states(the_case)) /* a part of a tensor that is large enough */
        shape.n_elems = 1 << 20;
    p->variant = optim->variant(value, &shape);
}

/* Both rounds of statistics of the tensor, whose states of rows and columns are the first two. */
static void run_statistics(const zi_cpu_kernels *kernels, const prepared *p, const zi_job *job)
{
    static int64_t sum[ZI_EXACT_LIMBS + 1], factor_sum[2 * N * ZI_GRID_LIMBS];
    static float row_mean[2];
    zi_terms terms;
    zi_tensor_statistics *t = job->tensor;
    *t = (zi_tensor_statistics){.n_elems = the_shape->n_elems, .sum = sum, .row_mean = row_mean};
    if (the_shape->ndim > 1) {
        t->n_rows = the_shape->extent[the_shape->ndim - 2];
        t->n_cols = the_shape->extent[the_shape->ndim - 1];
        t->n_matrices = t->n_elems / t->n_rows / t->n_cols;
        t->row = job->state[0].data;
        t->col = job->state[1].data;
        t->stride = t->n_matrices * (t->n_rows + t->n_cols);
        t->row_sum = factor_sum;
        t->col_sum = factor_sum + t->n_matrices * t->n_rows;
    }
    memset(factor_sum, 0, sizeof factor_sum);
    for (int round = 0; round < ZI_N_STATISTICS; round++) {
        memset(sum, 0, sizeof sum);
        kernels->statistics((zi_statistics_round)round, job);
        p->optim->terms(p->value, &p->now, &terms);
        zi_settle_tensor((zi_statistics_round)round, &terms, p->scalars[N_GROUPS - 1], t);
    }
}

static void run_update(const zi_cpu_kernels *kernels, uint64_t t, zopt_dtype dtype, state *st)
{
    prepared p;
    prepare(t, &p);
    zi_tensor_statistics tensor;
    const zi_control control = {.coef = 0.3f, .scalars = p.scalars};
    const zi_dest dest = {st->dest, dtype};
    zi_job job = {.n_elems = N,
                  .source = source,
                  .n_sources = n_sources,
                  .dest = &dest,
                  .n_dests = 1,
                  .master = st->master,
                  .span = spans,
                  .n_spans = sizeof spans / sizeof spans[0],
                  .control = &control,
                  .tensor = &tensor};
    for (int s = 0; s < p.variant->n_states; s++) /* the others stay NULL: no rule may touch them */
        job.state[s] = (zi_state_slice){st->state[s], st->absmax[s]};
    if (p.variant->unit == ZI_UNIT_TENSOR)
        run_statistics(kernels, &p, &job);
    kernels->update(p.variant, &job);
}

static void start_state(reference_random *random, state *st)
{
    memset(st, 0xa5, sizeof *st);
    for (size_t i = 0; i < N; i++) {
        st->master[i] = gradient(random, i % 5 == 0 ? WIDE : ORDINARY, ZOPT_FP16);
        for (int s = 0; s < N_STATES; s++) { /* squares, so that any state may be a mean of them */
            float root = gradient(random, ORDINARY, ZOPT_FP16) * 0.71f;
            st->state[s][i] = i % 7 == 0 ? 0.0f : root * root;
            st->absmax[s][i / ZI_BLOCK] = root * root;
        }
    }
}

static void check_equal_bits(const zi_cpu_kernels *kernels, reference_random *random)
{
    static state start, want, got;
    start_state(random, &start);
    for (int d = 0; d < ZI_N_DTYPES; d++) {
        want = got = start;
        for (uint64_t t = 1; t <= 3; t++) {
            run_update(&zi_cpu_kernels_portable, t, (zopt_dtype)d, &want);
            run_update(kernels, t, (zopt_dtype)d, &got);
        }
        size_t different = n_different(want.master, got.master, N);
        for (int s = 0; s < N_STATES; s++)
            different += n_different(want.state[s], got.state[s], N);
        ck_assert_msg(different == 0, "%s, %s: %zu elements differ", the_case->name, kernels->name,
                      different);
        ck_assert_mem_eq(want.absmax, got.absmax, sizeof want.absmax);
        if (case_has_8bit_states(the_case)) /* codes, which are no NaNs */
            ck_assert_mem_eq(want.state, got.state, sizeof want.state);
        if (d != ZOPT_FP32) /* 16-bit NaNs are canonical, FP32 ones may differ as the master's do */
            ck_assert_mem_eq(want.dest, got.dest, sizeof want.dest);
    }
}

START_TEST(every_instruction_set_gives_the_same_bits)
{
    the_case = &optimizer_cases[_i / N_SHAPES];
    the_shape = &shapes[_i % N_SHAPES];
    each_mix(check_equal_bits);
}
END_TEST

/* rules.h: no gradient, on what the states begin at. Adagrad's sum may begin above zero. */
START_TEST(padding_stays_zero)
{
    static state st;
    static const float zeros[N];
    the_case = &optimizer_cases[_i / N_SHAPES];
    the_shape = &shapes[_i % N_SHAPES];
    n_sources = 0;
    for (const zi_cpu_kernels *const *k = zi_cpu_variants(); *k != NULL; k++) {
        memset(&st, 0, sizeof st);
        for (size_t i = 0; i < N && strcmp(the_case->optimizer, "Adagrad") == 0; i++)
            st.state[0][i] = i % 2 ? 0.5f : 0.0f;
        for (uint64_t t = 1; t <= 20; t++)
            run_update(*k, t, (zopt_dtype)(t % 3), &st);
        ck_assert_mem_eq(st.master, zeros, sizeof zeros);
        ck_assert_mem_eq(st.dest, zeros, sizeof zeros);
        if (case_has_8bit_states(the_case)) {
            ck_assert_mem_eq(st.state[0], zeros, sizeof zeros);
            ck_assert_mem_eq(st.state[1], zeros, sizeof zeros);
        }
    }
}
END_TEST

START_TEST(every_rule_has_a_case)
{
    the_shape = &shapes[0];
    int seen[ZI_N_RULES] = {0}, n = 0;
    for (int i = 0; i < N_OPTIMIZER_CASES; i++) {
        prepared p;
        the_case = &optimizer_cases[i];
        prepare(1, &p);
        if (p.variant->unit != ZI_UNIT_TENSOR)
            seen[p.variant->rule] = 1;
    }
    for (int r = 0; r < ZI_N_RULES; r++)
        n += seen[r];
    ck_assert_int_eq(n, ZI_N_RULES);
}
END_TEST

/* So that a new row cannot go untested by the suites over all cases. */
START_TEST(every_optimizer_has_a_case)
{
    const zi_optim *row = zi_optims[_i];
    int n = 0;
    for (int i = 0; i < N_OPTIMIZER_CASES; i++)
        n += strcmp(optimizer_cases[i].optimizer, row->name) == 0;
    ck_assert_msg(n > 0, "optimizer_cases.h has no case of %s", row->name);
    ck_assert_int_le(row->n_settings, ZI_MAX_SETTINGS);
    ck_assert_int_le(row->n_powers, ZI_MAX_POWERS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rules");
    TCase *tests = tcase_create("rules");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, every_instruction_set_gives_the_same_bits, 0,
                        N_SHAPES * N_OPTIMIZER_CASES);
    tcase_add_loop_test(tests, padding_stays_zero, 0, N_SHAPES * N_OPTIMIZER_CASES);
    tcase_add_test(tests, every_rule_has_a_case);
    tcase_add_loop_test(tests, every_optimizer_has_a_case, 0, (int)zi_n_optims);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    print_variants();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
