/* The step's kernels on the CPU, a block at a time: sum the sources, then square, accumulate or
 * update. A block's sum stays in the first-level cache, so each kernel is one pass over memory.
 * Compiled once for each instruction set; ZI_VARIANT names it. */
#include "device/cpu.h"
#include "device/cpu_block.h"
#include "device/cpu_quantize.h"
#include "device/cpu_tensor.h"

#define JOIN2(a, b) a##b
#define JOIN(a, b)  JOIN2(a, b)
#define TEXT2(a)    #a
#define TEXT(a)     TEXT2(a)

static int block_is_bad(const float *restrict x)
{
    uint32_t largest = 0;
    for (size_t i = 0; i < ZI_BLOCK; i++) {
        uint32_t exponent = zi_float_bits(x[i]) & 0x7f800000u;
        largest = exponent > largest ? exponent : largest;
    }
    return largest == 0x7f800000u;
}

static void accumulate(const zi_job *job, float *acc, int64_t *n_bad)
{
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        sum_lines(acc + first, acc + first, job, MIXED, first, 1.0f);
        *n_bad += block_is_bad(acc + first);
    }
}

static inline __attribute__((always_inline)) void
norm_of(const zi_job *job, tables_kind kind, int n_sources, zi_exact *sum, int64_t *n_bad)
{
    _Static_assert((int)ZI_LINE == (int)ZI_LANES, "a line has one element for each lane");
    float g[ZI_LINE];
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        double lane[ZI_LANES] = {0};
        for (size_t line = 0; line < ZI_BLOCK; line += ZI_LINE) {
            sum_line(g, NULL, job, kind, n_sources, first + line, 1.0f);
            add_line_squares(lane, g);
        }
        double squares = sum_of_lanes(lane);
        if (isfinite(squares))
            zi_exact_add(sum, squares);
        else
            ++*n_bad;
    }
}

static void norm(const zi_job *job, zi_exact *sum, int64_t *n_bad)
{
    tables_kind kind = kind_of_tables(job);
    int n = job->n_sources;
    if (kind == ALL_FP16 && n == 1)
        norm_of(job, ALL_FP16, 1, sum, n_bad);
    else if (kind == ALL_FP16 && n == 2)
        norm_of(job, ALL_FP16, 2, sum, n_bad);
    else if (kind == ALL_FP16 && n == 4)
        norm_of(job, ALL_FP16, 4, sum, n_bad);
    else if (kind == ALL_FP16)
        norm_of(job, ALL_FP16, n, sum, n_bad);
    else if (kind == ALL_BF16)
        norm_of(job, ALL_BF16, n, sum, n_bad);
    else
        norm_of(job, MIXED, n, sum, n_bad);
}

/* Elements of one group, or of one tensor, and what a rule reads and writes of them. */
typedef struct range {
    size_t n;
    const float *g; /* averaged, clipped gradient */
    float *master, *state[ZI_MAX_STATES];
    const float *k; /* scalars of the group */
} range;

/* The state arrays of a rule that has 0 to 3 of them: as parameters, as what a table of them begins
 * with, and a pointer to element i of each. */
#define PARAMETERS_0
#define PARAMETERS_1 float *restrict state0,
#define PARAMETERS_2 PARAMETERS_1 float *restrict state1,
#define PARAMETERS_3 PARAMETERS_2 float *restrict state2,
#define ARGUMENTS_0(state)
#define ARGUMENTS_1(state) state(0),
#define ARGUMENTS_2(state) ARGUMENTS_1(state) state(1),
#define ARGUMENTS_3(state) ARGUMENTS_2(state) state(2),
#define STATES_0(i)
#define STATES_1(i)    &state0[i],
#define STATES_2(i)    STATES_1(i) & state1[i],
#define STATES_3(i)    STATES_2(i) & state2[i],
#define RANGE_STATE(s) r->state[s]
#define LINE_STATE(s)  state[s] + line

/* Elements of one group in whole blocks. */
typedef struct lines {
    const zi_job *job;
    size_t first, n; /* of the job's elements */
    float *state[ZI_MAX_STATES];
    const float *k;
} lines;

/* For each rule: a loop; a range; and lines, each in one go from the gradients to the stored
 * parameters. The usual tables, of 1, 2 or 4 ranks, are constants of the loop. */
#define RULE_FUNCTIONS(NAME, function, states)                                            \
    static inline __attribute__((always_inline)) void loop_##function(                    \
        const float *restrict g, float *restrict master,                                  \
        PARAMETERS_##states const float *restrict k, size_t n)                            \
    {                                                                                     \
        for (size_t i = 0; i < n; i++)                                                    \
            function(g[i], &master[i], STATES_##states(i) k);                             \
    }                                                                                     \
    static void range_##function(const range *r)                                          \
    {                                                                                     \
        loop_##function(r->g, r->master, ARGUMENTS_##states(RANGE_STATE) r->k, r->n);     \
    }                                                                                     \
    static inline __attribute__((always_inline)) void lines_##function(                   \
        const lines *all, tables_kind kind, int n_sources, int n_dests)                   \
    {                                                                                     \
        const zi_job *job = all->job;                                                     \
        float g[ZI_LINE], k[ZI_MAX_SCALARS], *state[ZI_MAX_STATES];                       \
        float *master = job->master + all->first, coef = job->control->coef;              \
        memcpy(k, all->k, sizeof k);                                                      \
        memcpy(state, all->state, sizeof state);                                          \
        (void)state;                                                                      \
        for (size_t line = 0; line < all->n; line += ZI_LINE) {                           \
            fetch_line(master + line, sizeof *master);                                    \
            for (int s = 0; s < states; s++)                                              \
                fetch_line(state[s] + line, sizeof *state[s]);                            \
            sum_line(g, NULL, job, kind, n_sources, all->first + line, coef);             \
            loop_##function(g, master + line, ARGUMENTS_##states(LINE_STATE) k, ZI_LINE); \
            store_line(job, kind, n_dests, all->first + line);                            \
        }                                                                                 \
    }                                                                                     \
    static void fused_##function(const lines *all, tables_kind kind)                      \
    {                                                                                     \
        int n = all->job->n_sources, n_dests = all->job->n_dests;                         \
        if (kind == ALL_FP16 && n == 1 && n_dests == 1)                                   \
            lines_##function(all, ALL_FP16, 1, 1);                                        \
        else if (kind == ALL_FP16 && n == 2 && n_dests == 2)                              \
            lines_##function(all, ALL_FP16, 2, 2);                                        \
        else if (kind == ALL_FP16 && n == 4 && n_dests == 4)                              \
            lines_##function(all, ALL_FP16, 4, 4);                                        \
        else if (kind == ALL_FP16)                                                        \
            lines_##function(all, ALL_FP16, n, n_dests);                                  \
        else if (kind == ALL_BF16)                                                        \
            lines_##function(all, ALL_BF16, n, n_dests);                                  \
        else                                                                              \
            lines_##function(all, MIXED, n, n_dests);                                     \
    }
ZI_RULE_LIST(RULE_FUNCTIONS)

static const struct {
    void (*range)(const range *r);
    void (*fused)(const lines *all, tables_kind kind);
} of_rule[ZI_N_RULES] = {
#define RULE_ROW(NAME, function, states) [ZI_RULE_##NAME] = {range_##function, fused_##function},
    ZI_RULE_LIST(RULE_ROW)};

/* The rule on a block of several groups, span by span. Returns the span that the next block begins
 * in. */
static const zi_span *update_spans(zi_rule rule, const zi_job *job, size_t first,
                                   const zi_span *span, float *const state[ZI_MAX_STATES])
{
    float g[ZI_BLOCK];
    size_t at = first, end = first + ZI_BLOCK;
    gradient_block(g, job, first);
    while (at < end) {
        size_t stop = span->end < end ? (size_t)span->end : end, i = at - first;
        range r = {stop - at, g + i, job->master + at, {NULL}, job->control->scalars[span->group]};
        for (int s = 0; s < ZI_MAX_STATES; s++)
            r.state[s] = state[s] != NULL ? state[s] + i : NULL;
        of_rule[rule].range(&r);
        at = stop;
        if (at == span->end)
            span++;
    }
    store(job, first);
    return span;
}

/* Whole blocks of one group, up to `end`; 0: the block at first has several. */
static size_t one_group(const zi_span *span, size_t first, size_t end)
{
    size_t stop = span->end < end ? (size_t)span->end : end;
    return (stop - first) / ZI_BLOCK * ZI_BLOCK;
}

/* At least a block, and at most up to `end`, from gradients to parameters; state[]: where the first
 * one's elements' states are. Returns how many elements. */
static size_t update_some(zi_rule rule, const zi_job *job, tables_kind kind, size_t first,
                          size_t end, const zi_span **span, float *const state[ZI_MAX_STATES])
{
    lines all = {job, first, one_group(*span, first, end), {NULL}, NULL};
    if (all.n == 0) {
        *span = update_spans(rule, job, first, *span, state);
        return ZI_BLOCK;
    }
    memcpy(all.state, state, sizeof all.state);
    all.k = job->control->scalars[(*span)->group];
    of_rule[rule].fused(&all, kind);
    *span += (*span)->end == first + all.n;
    return all.n;
}

static void update_elements(const zi_variant *variant, const zi_job *job)
{
    float *state[ZI_MAX_STATES] = {NULL};
    const zi_span *span = job->span;
    const tables_kind kind = kind_of_tables(job);
    for (size_t first = 0; first < job->n_elems;) {
        for (int s = 0; s < variant->n_states; s++)
            state[s] = (float *)job->state[s].data + first;
        first += update_some(variant->rule, job, kind, first, job->n_elems, &span, state);
    }
}

static zi_state_slice state_block(const zi_state_slice *state, size_t first)
{
    return (zi_state_slice){(uint8_t *)state->data + first, state->absmax + first / ZI_BLOCK};
}

static void decode_states(const zi_variant *variant, const zi_job *job, size_t first,
                          float *const state[ZI_MAX_STATES])
{
    for (int s = 0; s < variant->n_states && first < job->n_elems; s++) {
        const zi_state_slice block = state_block(&job->state[s], first);
        decode_block(variant->state[s].form, state[s], &block);
    }
}

/* The next block is decoded while the reciprocals of this one's absmax are made. */
static void update_blocks(const zi_variant *variant, const zi_job *job)
{
    float wide[2][ZI_MAX_STATES][ZI_BLOCK], *state[2][ZI_MAX_STATES];
    encoding to_codes[ZI_MAX_STATES];
    const zi_span *span = job->span;
    const tables_kind kind = kind_of_tables(job);
    for (int i = 0; i < 2 * ZI_MAX_STATES; i++)
        state[i / ZI_MAX_STATES][i % ZI_MAX_STATES] = wide[i / ZI_MAX_STATES][i % ZI_MAX_STATES];
    decode_states(variant, job, 0, state[0]);
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        size_t now = first / ZI_BLOCK % 2;
        update_some(variant->rule, job, kind, first, first + ZI_BLOCK, &span, state[now]);
        for (int s = 0; s < variant->n_states; s++) {
            const zi_state_slice block = state_block(&job->state[s], first);
            encode_begin(variant->state[s].form, &block, wide[now][s], &to_codes[s]);
        }
        decode_states(variant, job, first + ZI_BLOCK, state[1 - now]);
        for (int s = 0; s < variant->n_states; s++)
            encode_end(variant->state[s].form, &to_codes[s]);
    }
}

static void (*const update_of_unit[ZI_N_UNITS])(const zi_variant *variant, const zi_job *job) = {
    [ZI_UNIT_ELEMENT] = update_elements,
    [ZI_UNIT_BLOCK] = update_blocks,
    [ZI_UNIT_TENSOR] = update_tensors,
};

static void update(const zi_variant *variant, const zi_job *job)
{
    update_of_unit[variant->unit](variant, job);
    store_end();
}

const zi_cpu_kernels JOIN(zi_cpu_kernels_, ZI_VARIANT) = {
    .name = TEXT(ZI_VARIANT),
    .accumulate = accumulate,
    .norm = norm,
    .statistics = statistics,
    .update = update,
    .decode = decode_block,
    .encode = encode_block,
};
