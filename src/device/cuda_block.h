/* The update of blocks with 8-bit states (optim/quantize.h), as cuda_tile.h does it for floats: a
 * block of 256 is a warp's, and a thread has two groups of four of its elements. Between the two
 * functions the warp agrees on the largest magnitude of each state. */
#ifndef ZI_DEVICE_CUDA_BLOCK_H
#define ZI_DEVICE_CUDA_BLOCK_H

#include "device/cuda_tile.h"
#include "optim/quantize.h"

enum { ZI_HALF_BLOCK = ZI_WARP * ZI_QUAD };

/* A thread's part of a block's new states. */
typedef struct zi_block_part {
    zi_quad state[ZI_MAX_STATES][ZI_GROUPS];
    float largest[ZI_MAX_STATES];
} zi_block_part;

ZI_TILE uint64_t zi_half_block_element(uint64_t block, int half, uint32_t thread)
{
    return block * ZI_BLOCK + (uint64_t)half * ZI_HALF_BLOCK + thread * ZI_QUAD;
}

ZI_TILE zi_quad zi_decode(zi_form form, uint32_t codes, float absmax)
{
    zi_quad q;
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++) {
        uint8_t code = (uint8_t)(codes >> (8 * e));
        q.x[e] = form == ZI_FORM_Q8_SIGNED ? zi_q8_decode_signed(code, absmax)
                                           : zi_q8_decode_unsigned(code, absmax);
    }
    return q;
}

ZI_TILE uint32_t zi_encode(zi_form form, zi_quad q, float inverse)
{
    uint32_t codes = 0;
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++) {
        uint32_t code = form == ZI_FORM_Q8_SIGNED ? zi_q8_encode_signed(q.x[e], inverse)
                                                  : zi_q8_encode_unsigned(q.x[e], inverse);
        codes |= code << (8 * e);
    }
    return codes;
}

/* Master and parameters; the new states are kept for the next function. Returns 0 where the step is
 * skipped. */
ZI_TILE int zi_update_block_thread(zi_rule rule, int n_states, const zi_cuda_job *job,
                                   uint64_t block, uint32_t thread, zi_block_part *part)
{
    zi_group_of_four group[ZI_GROUPS];
    uint32_t codes[ZI_MAX_STATES][ZI_GROUPS];
    float absmax[ZI_MAX_STATES];
    ZI_UNROLL
    for (int j = 0; j < ZI_GROUPS; j++)
        zi_load_group(job, 0, zi_half_block_element(block, j, thread), &group[j]);
    ZI_UNROLL
    for (int s = 0; s < n_states; s++) {
        const uint8_t *data = (const uint8_t *)job->state[s].data;
        absmax[s] = job->state[s].absmax[block];
        ZI_UNROLL
        for (int j = 0; j < ZI_GROUPS; j++)
            codes[s][j] = zi_load_word(data + zi_half_block_element(block, j, thread));
    }
    if (job->control->skip)
        return 0;
    ZI_UNROLL
    for (int j = 0; j < ZI_GROUPS; j++) {
        uint64_t i = zi_half_block_element(block, j, thread);
        ZI_UNROLL
        for (int s = 0; s < n_states; s++)
            group[j].state[s] = zi_decode(job->form[s], codes[s][j], absmax[s]);
        zi_update_group(rule, job, i, &group[j]);
        zi_store_group(job, 0, i, &group[j]);
    }
    ZI_UNROLL
    for (int s = 0; s < n_states; s++) {
        part->largest[s] = 0;
        ZI_UNROLL
        for (int j = 0; j < ZI_GROUPS; j++) {
            part->state[s][j] = group[j].state[s];
            ZI_UNROLL
            for (int e = 0; e < ZI_QUAD; e++)
                part->largest[s] = zi_q8_larger(part->largest[s], group[j].state[s].x[e]);
        }
    }
    return 1;
}

/* part->largest: of the whole block. */
ZI_TILE void zi_encode_block_thread(int n_states, const zi_cuda_job *job, uint64_t block,
                                    uint32_t thread, const zi_block_part *part)
{
    ZI_UNROLL
    for (int s = 0; s < n_states; s++) {
        uint8_t *data = (uint8_t *)job->state[s].data;
        float absmax = zi_q8_absmax(part->largest[s]), inverse = zi_q8_inverse(absmax);
        if (thread == 0)
            job->state[s].absmax[block] = absmax;
        ZI_UNROLL
        for (int j = 0; j < ZI_GROUPS; j++)
            zi_store_word(data + zi_half_block_element(block, j, thread),
                          zi_encode(job->form[s], part->state[s][j], inverse));
    }
}

#endif
