/* The optimizer's states of what a rank owns: allocated by space, since all tensors of a space have
 * one variant; begun, lent to kernels slice by slice, and read back as floats whatever their form.
 * Next: reduce.c, which puts them into jobs. */
#include <string.h>

#include "base/status.h"
#include "optim/quantize.h"
#include "zero/passes.h"

static int n_states(const zi_space *space)
{
    return space->variant != NULL ? space->variant->n_states : 0;
}

static int is_of_elements(zi_form form)
{
    return form != ZI_FORM_ROWS && form != ZI_FORM_COLS;
}

static size_t value_bytes(zi_form form)
{
    return form == ZI_FORM_Q8_SIGNED || form == ZI_FORM_Q8_UNSIGNED ? sizeof(uint8_t)
                                                                    : sizeof(float);
}

/* The two arrays of a state of a space. */
typedef struct state_bytes {
    size_t data, absmax;
} state_bytes;

static state_bytes bytes_of(const zi_zero *z, uint32_t space, zi_form form)
{
    uint64_t n = 0, owned = z->layout.space[space].n_padded / (uint64_t)z->layout.world;
    for (uint32_t i = 0; !is_of_elements(form) && i < z->n_tensors; i++)
        if (z->tensors[i].space == space)
            n += zi_factor_floats(&z->tensors[i], form);
    if (is_of_elements(form))
        n = owned;
    return (state_bytes){.data = n * value_bytes(form),
                         .absmax = value_bytes(form) == 1 ? owned / ZI_BLOCK * sizeof(float) : 0};
}

uint64_t zi_states_bytes(const zi_zero *z)
{
    uint64_t total = 0;
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_space *space = &z->layout.space[s];
        for (int i = 0; i < n_states(space); i++) {
            state_bytes bytes = bytes_of(z, s, space->variant->state[i].form);
            total += bytes.data + bytes.absmax;
        }
    }
    return total;
}

/* Rows and columns are the host's, which computes them; kernels read what place.c makes of them. */
static zopt_status alloc_data(zi_zero *z, const zi_state_row *row, size_t bytes, void **out)
{
    zi_category category = (zi_category)(ZI_MEM_STATE + row->name);
    return is_of_elements(row->form)
               ? z->config.home->alloc(z->home_queue, z->mem, category, bytes, out)
               : zi_mem_array(z->mem, category, bytes, out);
}

static void free_data(zi_zero *z, const zi_state_row *row, void *data, size_t bytes)
{
    zi_category category = (zi_category)(ZI_MEM_STATE + row->name);
    if (is_of_elements(row->form))
        z->config.home->free(z->home_queue, z->mem, category, data, bytes);
    else
        zi_mem_free_array(z->mem, category, data, bytes);
}

zopt_status zi_states_alloc(zi_zero *z)
{
    const zi_device_ops *home = z->config.home;
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_space *space = &z->layout.space[s];
        for (int i = 0; i < n_states(space); i++) {
            const zi_state_row *row = &space->variant->state[i];
            zi_state_slice *state = &z->memory[s].state[i];
            zi_category category = (zi_category)(ZI_MEM_STATE + row->name);
            state_bytes bytes = bytes_of(z, s, row->form);
            ZI_TRY(alloc_data(z, row, bytes.data, &state->data));
            ZI_TRY(home->alloc(z->home_queue, z->mem, category, bytes.absmax, &state->absmax));
        }
    }
    return ZOPT_OK;
}

void zi_states_free(zi_zero *z)
{
    const zi_device_ops *home = z->config.home;
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_space *space = &z->layout.space[s];
        for (int i = 0; i < n_states(space); i++) {
            const zi_state_row *row = &space->variant->state[i];
            zi_state_slice *state = &z->memory[s].state[i];
            zi_category category = (zi_category)(ZI_MEM_STATE + row->name);
            state_bytes bytes = bytes_of(z, s, row->form);
            free_data(z, row, state->data, bytes.data);
            home->free(z->home_queue, z->mem, category, state->absmax, bytes.absmax);
        }
    }
}

zi_state_slice zi_state_at(const zi_zero *z, uint32_t space, int i, uint64_t at)
{
    const zi_space *in = &z->layout.space[space];
    zi_form form = in->variant->state[i].form;
    zi_state_slice state = z->memory[space].state[i];
    uint64_t first = is_of_elements(form) ? at - in->owned_start : 0;
    if (state.data != NULL)
        state.data = (char *)state.data + first * value_bytes(form);
    if (state.absmax != NULL)
        state.absmax += first / ZI_BLOCK;
    return state;
}

zi_job zi_home_job(const zi_zero *z, const zi_bucket *bucket)
{
    uint32_t b = (uint32_t)(bucket - z->layout.bucket);
    const zi_space *space = &z->layout.space[bucket->space];
    zi_job job = {
        .n_elems = bucket->slice_elems,
        .start = bucket->start + (uint64_t)z->comm->rank * bucket->slice_elems,
        .master = z->master + bucket->owned_start,
        .span = z->placed.span + z->spans.first[b],
        .n_spans = z->spans.first[b + 1] - z->spans.first[b],
        .control = z->config.home->on_host ? &z->control : z->placed.control,
        .tensor = z->placed.statistics,
    };
    for (int i = 0; i < n_states(space); i++)
        if (is_of_elements(space->variant->state[i].form))
            job.state[i] = zi_state_at(z, bucket->space, i, bucket->owned_start);
    return job;
}

/* n floats of home's memory, from a block on the host. */
static void fill(const zi_zero *z, float *array, uint64_t n, float value)
{
    float block[ZI_BLOCK];
    for (int i = 0; i < ZI_BLOCK; i++)
        block[i] = value;
    for (uint64_t at = 0; at < n; at += ZI_BLOCK) {
        uint64_t m = n - at < ZI_BLOCK ? n - at : ZI_BLOCK;
        z->config.home->copy(z->home_queue, array + at, block, (size_t)m * sizeof *block);
    }
}

static void start_slice(zi_zero *z, uint32_t b)
{
    const zi_bucket *bucket = &z->layout.bucket[b];
    const zi_space *space = &z->layout.space[bucket->space];
    uint64_t at = 0;
    for (uint64_t s = z->spans.first[b]; s < z->spans.first[b + 1]; s++) {
        const zi_span *span = &z->spans.span[s];
        for (int i = 0; i < n_states(space); i++) {
            const zi_state_row *row = &space->variant->state[i];
            if (row->form == ZI_FORM_F32)
                fill(z, zi_state_at(z, bucket->space, i, bucket->owned_start + at).data,
                     span->end - at,
                     z->config.optim->start(z->groups[span->group].value, row->name));
        }
        at = span->end;
    }
}

void zi_states_start(zi_zero *z)
{
    if (z->config.optim->start == NULL || z->comm->planned)
        return;
    for (uint32_t b = 0; b < z->layout.n_buckets; b++)
        start_slice(z, b);
}

int zi_state_find(const zi_tensor *tensor, int name)
{
    for (int i = 0; tensor->variant != NULL && i < tensor->variant->n_states; i++)
        if (tensor->variant->state[i].name == name)
            return i;
    return -1;
}

int zi_state_used(const zi_zero *z, int name)
{
    for (uint32_t i = 0; i < z->n_tensors; i++)
        if (zi_state_find(&z->tensors[i], name) >= 0)
            return 1;
    return 0;
}

uint64_t zi_state_elems(const zi_tensor *tensor, int state)
{
    zi_form form = tensor->variant->state[state].form;
    return is_of_elements(form) ? tensor->n_elems : zi_factor_floats(tensor, form);
}

const float *zi_state_factors(const zi_zero *z, int id, int state)
{
    zi_form form = z->tensors[id].variant->state[state].form;
    if (is_of_elements(form))
        return NULL;
    return form == ZI_FORM_ROWS ? z->statistics[id].row : z->statistics[id].col;
}

static void decode(zi_form form, const uint8_t *code, float absmax, uint64_t n, float *values)
{
    for (uint64_t i = 0; i < n; i++)
        values[i] = form == ZI_FORM_Q8_SIGNED ? zi_q8_decode_signed(code[i], absmax)
                                              : zi_q8_decode_unsigned(code[i], absmax);
}

/* n elements of an 8-bit state, the first of them element `at` of its block. */
static zopt_status read_codes(const zi_zero *z, zi_form form, zi_state_slice from, uint64_t at,
                              uint64_t n, float *values)
{
    const zi_device_ops *home = z->config.home;
    uint8_t code[ZI_BLOCK];
    float absmax;
    while (n > 0) {
        uint64_t m = n < ZI_BLOCK - at ? n : ZI_BLOCK - at;
        home->copy(z->home_queue, code, from.data, m);
        home->copy(z->home_queue, &absmax, from.absmax++, sizeof absmax);
        ZI_TRY(home->wait(z->home_queue));
        decode(form, code, absmax, m, values);
        from.data = (uint8_t *)from.data + m;
        values += m;
        n -= m;
        at = 0;
    }
    return ZOPT_OK;
}

zopt_status zi_state_read(const zi_zero *z, const zi_tensor *tensor, int state, uint64_t owned_at,
                          uint64_t n, float *values)
{
    const zi_device_ops *home = z->config.home;
    zi_form form = tensor->variant->state[state].form;
    zi_state_slice from = zi_state_at(z, tensor->space, state, owned_at);
    if (form != ZI_FORM_F32)
        return read_codes(z, form, from, owned_at % ZI_BLOCK, n, values);
    home->copy(z->home_queue, values, from.data, n * sizeof *values);
    return home->wait(z->home_queue);
}
