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

static inline __attribute__((always_inline)) void norm_of(const zi_job *job, sources_kind kind,
                                                          zi_exact *sum, int64_t *n_bad)
{
    float g[ZI_BLOCK];
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        sum_lines(g, NULL, job, kind, first, 1.0f);
        double squares = block_sum_of_squares(g);
        if (isfinite(squares))
            zi_exact_add(sum, squares);
        else
            ++*n_bad;
    }
}

static void norm(const zi_job *job, zi_exact *sum, int64_t *n_bad)
{
    sources_kind kind = kind_of_sources(job);
    if (kind == ALL_FP16)
        norm_of(job, ALL_FP16, sum, n_bad);
    else if (kind == ALL_BF16)
        norm_of(job, ALL_BF16, sum, n_bad);
    else
        norm_of(job, MIXED, sum, n_bad);
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

/* For each rule: a loop; a range; and a block of one group in one go, line by line from the
 * gradients to the stored parameters. */
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
        const zi_job *job, sources_kind kind, size_t first, const float *scalars,         \
        float *const state[ZI_MAX_STATES])                                                \
    {                                                                                     \
        float g[ZI_LINE], k[ZI_MAX_SCALARS], *master = job->master + first;               \
        (void)state;                                                                      \
        memcpy(k, scalars, sizeof k);                                                     \
        for (size_t line = 0; line < ZI_BLOCK; line += ZI_LINE) {                         \
            sum_line(g, NULL, job, kind, first + line, job->control->coef);               \
            loop_##function(g, master + line, ARGUMENTS_##states(LINE_STATE) k, ZI_LINE); \
            store_line(job, first + line);                                                \
        }                                                                                 \
    }                                                                                     \
    static void fused_##function(const zi_job *job, sources_kind kind, size_t first,      \
                                 const float *scalars, float *const state[ZI_MAX_STATES]) \
    {                                                                                     \
        if (kind == ALL_FP16)                                                             \
            lines_##function(job, ALL_FP16, first, scalars, state);                       \
        else if (kind == ALL_BF16)                                                        \
            lines_##function(job, ALL_BF16, first, scalars, state);                       \
        else                                                                              \
            lines_##function(job, MIXED, first, scalars, state);                          \
    }
ZI_RULE_LIST(RULE_FUNCTIONS)

static const struct {
    void (*range)(const range *r);
    void (*fused)(const zi_job *job, sources_kind kind, size_t first, const float *scalars,
                  float *const state[ZI_MAX_STATES]);
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

/* A block from gradients to parameters; state[]: where its elements' states are. */
static const zi_span *update_block(zi_rule rule, const zi_job *job, sources_kind kind, size_t first,
                                   const zi_span *span, float *const state[ZI_MAX_STATES])
{
    if (span->end < first + ZI_BLOCK)
        return update_spans(rule, job, first, span, state);
    of_rule[rule].fused(job, kind, first, job->control->scalars[span->group], state);
    return span + (span->end == first + ZI_BLOCK);
}

static void update_elements(const zi_variant *variant, const zi_job *job)
{
    float *state[ZI_MAX_STATES] = {NULL};
    const zi_span *span = job->span;
    const sources_kind kind = kind_of_sources(job);
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        for (int s = 0; s < variant->n_states; s++)
            state[s] = (float *)job->state[s].data + first;
        span = update_block(variant->rule, job, kind, first, span, state);
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
    const sources_kind kind = kind_of_sources(job);
    for (int i = 0; i < 2 * ZI_MAX_STATES; i++)
        state[i / ZI_MAX_STATES][i % ZI_MAX_STATES] = wide[i / ZI_MAX_STATES][i % ZI_MAX_STATES];
    decode_states(variant, job, 0, state[0]);
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        size_t now = first / ZI_BLOCK % 2;
        span = update_block(variant->rule, job, kind, first, span, state[now]);
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
