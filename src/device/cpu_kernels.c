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
        for (int s = 0; s < job->n_sources; s++)
            add_source(acc + first, &job->source[s], first);
        *n_bad += block_is_bad(acc + first);
    }
}

static void norm(const zi_job *job, zi_exact *sum, int64_t *n_bad)
{
    float g[ZI_BLOCK];
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        sum_block(g, job, first);
        double squares = block_sum_of_squares(g);
        if (isfinite(squares))
            zi_exact_add(sum, squares);
        else
            ++*n_bad;
    }
}

/* Elements of one group, or of one tensor, and what a rule reads and writes of them. */
typedef struct range {
    size_t n;
    const float *g; /* averaged, clipped gradient */
    float *master, *state[ZI_MAX_STATES];
    const float *k; /* scalars of the group */
} range;

/* The state arrays of a rule that has 0 to 3 of them, and a pointer to element i of each. */
#define ARRAYS_0
#define ARRAYS_1 float *restrict state0 = r->state[0];
#define ARRAYS_2 ARRAYS_1 float *restrict state1 = r->state[1];
#define ARRAYS_3 ARRAYS_2 float *restrict state2 = r->state[2];
#define STATES_0(i)
#define STATES_1(i) &state0[i],
#define STATES_2(i) STATES_1(i) & state1[i],
#define STATES_3(i) STATES_2(i) & state2[i],

/* One function for each rule. */
#define RULE_RANGE(NAME, function, states)                       \
    static void range_##function(const range *r)                 \
    {                                                            \
        const float *restrict g = r->g, *restrict k = r->k;      \
        float *restrict master = r->master;                      \
        ARRAYS_##states for (size_t i = 0, n = r->n; i < n; i++) \
            function(g[i], &master[i], STATES_##states(i) k);    \
    }
ZI_RULE_LIST(RULE_RANGE)

static void (*const range_of_rule[ZI_N_RULES])(const range *r) = {
#define RULE_ROW(NAME, function, states) [ZI_RULE_##NAME] = range_##function,
    ZI_RULE_LIST(RULE_ROW)};

/* The rule on a block, span by span; state[] is where its elements' states are. Returns the span
 * that the next block begins in. */
static const zi_span *apply_rule(zi_rule rule, const zi_job *job, size_t first, const zi_span *span,
                                 const float *g, float *const state[ZI_MAX_STATES])
{
    size_t at = first, end = first + ZI_BLOCK;
    while (at < end) {
        size_t stop = span->end < end ? (size_t)span->end : end, i = at - first;
        range r = {stop - at, g + i, job->master + at, {NULL}, job->control->scalars[span->group]};
        for (int s = 0; s < ZI_MAX_STATES; s++)
            r.state[s] = state[s] != NULL ? state[s] + i : NULL;
        range_of_rule[rule](&r);
        at = stop;
        if (at == span->end)
            span++;
    }
    return span;
}

static void update_elements(const zi_variant *variant, const zi_job *job)
{
    float g[ZI_BLOCK];
    const zi_span *span = job->span;
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        float *state[ZI_MAX_STATES] = {NULL};
        for (int s = 0; s < variant->n_states; s++)
            state[s] = (float *)job->state[s].data + first;
        gradient_block(g, job, first);
        span = apply_rule(variant->rule, job, first, span, g, state);
        store(job, first);
    }
}

static zi_state_slice state_block(const zi_state_slice *state, size_t first)
{
    return (zi_state_slice){(uint8_t *)state->data + first, state->absmax + first / ZI_BLOCK};
}

static void update_blocks(const zi_variant *variant, const zi_job *job)
{
    float g[ZI_BLOCK], wide[ZI_MAX_STATES][ZI_BLOCK];
    const zi_span *span = job->span;
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        float *state[ZI_MAX_STATES] = {NULL};
        for (int s = 0; s < variant->n_states; s++) {
            const zi_state_slice block = state_block(&job->state[s], first);
            state[s] = wide[s];
            decode_block(variant->state[s].form, wide[s], &block);
        }
        gradient_block(g, job, first);
        span = apply_rule(variant->rule, job, first, span, g, state);
        for (int s = 0; s < variant->n_states; s++) {
            const zi_state_slice block = state_block(&job->state[s], first);
            encode_block(variant->state[s].form, &block, wide[s]);
        }
        store(job, first);
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
