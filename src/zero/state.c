/* The optimizer's states of what a rank owns: allocated by space, since all tensors of a space have
 * one variant; begun, lent to kernels slice by slice, and read back as floats whatever their form.
 * Next: reduce.c, which puts them into jobs. */
#include <string.h>

#include "base/status.h"
#include "zero/zero.h"

static uint64_t space_owned(const zi_zero *z, const zi_space *space)
{
    return space->n_padded / (uint64_t)z->layout.world;
}

static int n_states(const zi_space *space)
{
    return space->variant != NULL ? space->variant->n_states : 0;
}

static size_t data_bytes(zi_form form, uint64_t n_elems)
{
    return n_elems * (form == ZI_FORM_F32 ? sizeof(float) : sizeof(uint8_t));
}

static size_t absmax_bytes(zi_form form, uint64_t n_elems)
{
    return form == ZI_FORM_F32 ? 0 : n_elems / ZI_BLOCK * sizeof(float);
}

uint64_t zi_states_bytes(const zi_zero *z)
{
    uint64_t bytes = 0;
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_space *space = &z->layout.space[s];
        uint64_t n = space_owned(z, space);
        for (int i = 0; i < n_states(space); i++) {
            zi_form form = space->variant->state[i].form;
            bytes += data_bytes(form, n) + absmax_bytes(form, n);
        }
    }
    return bytes;
}

zopt_status zi_states_alloc(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_space *space = &z->layout.space[s];
        uint64_t n = space_owned(z, space);
        for (int i = 0; i < n_states(space); i++) {
            const zi_state_row *row = &space->variant->state[i];
            zi_state_slice *state = &z->memory[s].state[i];
            zi_category category = (zi_category)(ZI_MEM_STATE + row->name);
            ZI_TRY(device->alloc(z->mem, category, data_bytes(row->form, n), &state->data));
            ZI_TRY(device->alloc(z->mem, category, absmax_bytes(row->form, n), &state->absmax));
        }
    }
    return ZOPT_OK;
}

void zi_states_free(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_space *space = &z->layout.space[s];
        uint64_t n = space_owned(z, space);
        for (int i = 0; i < n_states(space); i++) {
            const zi_state_row *row = &space->variant->state[i];
            zi_state_slice *state = &z->memory[s].state[i];
            zi_category category = (zi_category)(ZI_MEM_STATE + row->name);
            device->free(z->mem, category, state->data, data_bytes(row->form, n));
            device->free(z->mem, category, state->absmax, absmax_bytes(row->form, n));
        }
    }
}

/* What is at `at`, an owned element of the rank, in a state of the space. */
static zi_state_slice state_at(const zi_zero *z, uint32_t space, int i, uint64_t at)
{
    const zi_space *in = &z->layout.space[space];
    zi_state_slice state = z->memory[space].state[i];
    uint64_t first = at - in->owned_start;
    size_t bytes = data_bytes(in->variant->state[i].form, 1);
    if (state.data != NULL)
        state.data = (char *)state.data + first * bytes;
    if (state.absmax != NULL)
        state.absmax += first / ZI_BLOCK;
    return state;
}

void zi_states_slice(const zi_zero *z, const zi_bucket *bucket, zi_job *job)
{
    for (int i = 0; i < n_states(&z->layout.space[bucket->space]); i++)
        job->state[i] = state_at(z, bucket->space, i, bucket->owned_start);
}

/* n floats of device memory, from a block on the host. */
static void fill(const zi_zero *z, float *array, uint64_t n, float value)
{
    float block[ZI_BLOCK];
    for (int i = 0; i < ZI_BLOCK; i++)
        block[i] = value;
    for (uint64_t at = 0; at < n; at += ZI_BLOCK) {
        uint64_t m = n - at < ZI_BLOCK ? n - at : ZI_BLOCK;
        z->config.device->copy(NULL, array + at, block, (size_t)m * sizeof *block);
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
                fill(z, state_at(z, bucket->space, i, bucket->owned_start + at).data,
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

void zi_state_read(const zi_zero *z, const zi_tensor *tensor, int state, uint64_t owned_at,
                   uint64_t n, float *values)
{
    zi_state_slice from = state_at(z, tensor->space, state, owned_at);
    z->config.device->copy(NULL, values, from.data, n * sizeof *values);
}
