/* What one CUDA thread does for ZI_UNIT_TENSOR, as cuda_tile.h does it for the other units: sums of
 * squares by row and column, sums of squares of whole tensors, and the update.
 *
 * The sums by row and column need no barrier: every addition is one of integers that nobody reads
 * before the kernel has ended, so that threads may run in any order, one after the other too, as
 * tests do. A warp has a tile of 64 columns and walks down its rows: a thread keeps the sums of
 * its two columns in registers and adds them at the end; a row's sum is the warp's. */
#ifndef ZI_DEVICE_CUDA_TENSOR_H
#define ZI_DEVICE_CUDA_TENSOR_H

#include "base/grid.h"
#include "device/cuda_tile.h"
#include "optim/rule_adafactor.h"

enum {
    ZI_COLUMNS = 2, /* of a thread, a warp apart */
    ZI_TILE_COLUMNS = ZI_COLUMNS * ZI_WARP,
    ZI_TILE_ROWS = 32,
    ZI_WARP_ELEMS = ZI_TILE_COLUMNS * ZI_TILE_ROWS /* of the job, for each warp */
};

#ifdef __CUDACC__

ZI_TILE void zi_add_word(int64_t *to, int64_t value)
{
    atomicAdd((unsigned long long *)to, (unsigned long long)value);
}

/* Of all threads of a warp, which have one `to`; below 2^40 in magnitude. */
ZI_TILE void zi_add_of_warp(int64_t *to, int64_t value)
{
    if (!__any_sync(0xffffffffu, value != 0))
        return;
    int low = __reduce_add_sync(0xffffffffu, (int)(value & 0xffff));
    int high = __reduce_add_sync(0xffffffffu, (int)(value >> 16));
    if (threadIdx.x % ZI_WARP == 0)
        zi_add_word(to, (int64_t)high * 65536 + low);
}

#else

ZI_TILE void zi_add_word(int64_t *to, int64_t value)
{
    *to += value;
}

ZI_TILE void zi_add_of_warp(int64_t *to, int64_t value)
{
    *to += value;
}

#endif

/* Integer division of 64 bits is slow. */
ZI_TILE uint64_t zi_quotient(uint64_t a, uint64_t b)
{
    return (a | b) >> 32 == 0 ? (uint32_t)a / (uint32_t)b : a / b;
}

/* ---- sums by row and column ---- */

/* What a job has of a tensor, without padding: elements [first, end) of it, the first of them the
 * job's element `at`. */
typedef struct zi_tensor_part {
    const zi_tensor_statistics *tensor;
    uint64_t first, end, at;
} zi_tensor_part;

ZI_TILE zi_tensor_part zi_part_of(const zi_cuda_job *job, const zi_span *span)
{
    uint64_t begin = span == job->span ? 0 : span[-1].end;
    const zi_tensor_statistics *t = &job->tensor[span->tensor];
    zi_tensor_part part = {t, job->start + begin - t->start, job->start + span->end - t->start,
                           begin};
    part.end = part.end < t->n_elems ? part.end : t->n_elems;
    return part;
}

/* The gradients of this thread's columns in a row; zeros where the part has none. */
ZI_TILE void zi_load_row(const zi_cuda_job *job, const zi_tensor_part *part, uint64_t row,
                         uint64_t column, float g[ZI_COLUMNS])
{
    uint64_t n_cols = part->tensor->n_cols;
    float coef = job->control->coef;
    ZI_UNROLL
    for (int c = 0; c < ZI_COLUMNS; c++) {
        uint64_t x = column + (uint64_t)c * ZI_WARP, at = row * n_cols + x;
        g[c] = 0;
        if (x >= n_cols || at < part->first || at >= part->end)
            continue;
        for (int s = 0; s < job->n_sources; s++)
            g[c] += zi_load_one(job->source[s].data, job->source[s].dtype,
                                part->at + (at - part->first));
        g[c] *= coef;
    }
}

ZI_TILE void zi_add_square(float g, int64_t column[ZI_GRID_LIMBS], int64_t row[ZI_GRID_LIMBS])
{
    double rest = zi_grid_square(g);
    ZI_UNROLL
    for (int l = ZI_GRID_LIMBS - 1; l >= 0; l--)
        if (fabs(rest) > zi_grid_weight(l) / 2) {
            int64_t piece = zi_grid_take(&rest, zi_grid_weight(l));
            column[l] += piece;
            row[l] += piece;
        }
}

ZI_TILE void zi_add_limbs(int64_t *to, uint64_t stride, const int64_t sum[ZI_GRID_LIMBS])
{
    ZI_UNROLL
    for (int l = 0; l < ZI_GRID_LIMBS; l++)
        if (sum[l] != 0)
            zi_add_word(&to[(uint64_t)l * stride], sum[l]);
}

/* This thread's columns of rows [row, end), all of one matrix. */
ZI_TILE void zi_add_tile(const zi_cuda_job *job, const zi_tensor_part *part, uint64_t matrix,
                         uint64_t row, uint64_t end, uint64_t column)
{
    const zi_tensor_statistics *t = part->tensor;
    int64_t sum[ZI_COLUMNS][ZI_GRID_LIMBS] = {{0}};
    float next[ZI_COLUMNS];
    zi_load_row(job, part, row, column, next);
    for (; row < end; row++) {
        int64_t of_row[ZI_GRID_LIMBS] = {0};
        float g[ZI_COLUMNS];
        ZI_UNROLL
        for (int c = 0; c < ZI_COLUMNS; c++)
            g[c] = next[c];
        if (row + 1 < end)
            zi_load_row(job, part, row + 1, column, next);
        ZI_UNROLL
        for (int c = 0; c < ZI_COLUMNS; c++)
            zi_add_square(g[c], sum[c], of_row);
        ZI_UNROLL
        for (int l = 0; l < ZI_GRID_LIMBS; l++)
            zi_add_of_warp(&t->row_sum[(uint64_t)l * t->stride + row], of_row[l]);
    }
    int64_t *to = t->col_sum + matrix * t->n_cols + column;
    ZI_UNROLL
    for (int c = 0; c < ZI_COLUMNS; c++, to += ZI_WARP)
        zi_add_limbs(to, t->stride, sum[c]);
}

/* Tiles `share`, share + n_shares, ... of a part: of tiles side by side, then below each other. */
ZI_TILE void zi_add_tiles(const zi_cuda_job *job, const zi_tensor_part *part, uint64_t share,
                          uint64_t n_shares, uint32_t thread)
{
    const zi_tensor_statistics *t = part->tensor;
    uint64_t first_row = zi_quotient(part->first, t->n_cols);
    uint64_t last_row = zi_quotient(part->end - 1, t->n_cols);
    uint64_t n_side = (t->n_cols + ZI_TILE_COLUMNS - 1) / ZI_TILE_COLUMNS;
    uint64_t n_below = (last_row - first_row) / ZI_TILE_ROWS + 1;
    for (uint64_t tile = share; tile < n_side * n_below; tile += n_shares) {
        uint64_t below = zi_quotient(tile, n_side), side = tile - below * n_side;
        uint64_t row = first_row + below * ZI_TILE_ROWS, end = row + ZI_TILE_ROWS;
        end = end < last_row + 1 ? end : last_row + 1;
        while (row < end) { /* matrix by matrix */
            uint64_t matrix = zi_quotient(row, t->n_rows), stop = (matrix + 1) * t->n_rows;
            stop = stop < end ? stop : end;
            zi_add_tile(job, part, matrix, row, stop, side * ZI_TILE_COLUMNS + thread);
            row = stop;
        }
    }
}

/* A warp has an equal share of every part that lies, with some of it, in the warp's elements. */
ZI_TILE void zi_grid_sums_thread(const zi_cuda_job *job, uint64_t warp, uint32_t thread)
{
    uint64_t at = warp * ZI_WARP_ELEMS, end = at + ZI_WARP_ELEMS;
    end = end < job->n_elems ? end : job->n_elems;
    for (const zi_span *span = zi_find_span(job, at); at < end; span++) {
        zi_tensor_part part = zi_part_of(job, span);
        uint64_t first_warp = part.at / ZI_WARP_ELEMS;
        uint64_t last_warp = (span->end - 1) / ZI_WARP_ELEMS;
        if (part.tensor->n_cols > 0 && part.first < part.end)
            zi_add_tiles(job, &part, warp - first_warp, last_warp - first_warp + 1, thread);
        at = span->end;
    }
}

/* ---- u ---- */

/* Elements [at, at + n) of a tensor, those that are not padding: n in 0..4. */
ZI_TILE int zi_n_valid(const zi_tensor_statistics *t, uint64_t at)
{
    return at >= t->n_elems ? 0 : t->n_elems - at < ZI_QUAD ? (int)(t->n_elems - at) : ZI_QUAD;
}

/* The factored estimate of the squared gradient's mean. */
ZI_TILE zi_quad zi_factored(const zi_tensor_statistics *t, uint64_t at, int n)
{
    zi_quad variance = {{0, 0, 0, 0}};
    uint64_t row = zi_quotient(at, t->n_cols), column = at - row * t->n_cols;
    const float *col = NULL;
    float factor = 0;
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++) {
        if (e >= n)
            continue;
        if (column == t->n_cols) {
            column = 0;
            row++;
        }
        if (e == 0 || column == 0) {
            uint64_t matrix = t->n_matrices == 1 ? 0 : zi_quotient(row, t->n_rows);
            col = t->col + matrix * t->n_cols;
            factor = zi_adafactor_row_factor(t->row[row], t->row_mean[matrix]);
        }
        variance.x[e] = factor * col[column++];
    }
    return variance;
}

/* u of the tensor's elements [at, at + n). own: their own second moments, which move on, where the
 * tensor is not factored. */
ZI_TILE zi_quad zi_u_of(const zi_tensor_statistics *t, int is_factored, uint64_t at, int n,
                        zi_quad g, zi_quad *own)
{
    zi_quad u = {{0, 0, 0, 0}};
    if (is_factored)
        u = zi_factored(t, at, n);
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++) {
        if (e >= n)
            continue;
        if (!is_factored)
            u.x[e] = own->x[e] = zi_adafactor_moved(g.x[e], own->x[e], t->scalar);
        u.x[e] = zi_adafactor_scaled(g.x[e], u.x[e], t->scalar);
    }
    return u;
}

ZI_TILE zi_quad zi_averaged(const zi_cuda_job *job, zi_raw first, uint64_t i)
{
    zi_quad g = zi_summed_gradient(job, first, i);
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++)
        g.x[e] *= job->control->coef;
    return g;
}

/* ---- sums of squares of whole tensors ---- */

/* Rows [row, end) of a block, all of one tensor: spans end at multiples of 32. */
typedef struct zi_block_run {
    const zi_span *span;
    int row, end;
} zi_block_run;

ZI_TILE zi_block_run zi_before_block(const zi_cuda_job *job, uint64_t block)
{
    zi_block_run run = {zi_find_span(job, block * ZI_BLOCK), 0, 0};
    return run;
}

/* 0: the block has no other. */
ZI_TILE int zi_next_in_block(uint64_t block, zi_block_run *run)
{
    if (run->end == ZI_ROWS)
        return 0;
    if (run->end > 0)
        run->span++;
    uint64_t left = (run->span->end - block * ZI_BLOCK) / ZI_LANES;
    run->row = run->end;
    run->end = left < ZI_ROWS ? (int)left : ZI_ROWS;
    return 1;
}

/* This thread's four of the 32 lanes of a run's sum of squares: of parameters, or of u. */
ZI_TILE void zi_squares_thread(zi_statistics_round round, const zi_cuda_job *job, uint64_t block,
                               const zi_block_run *run, uint32_t thread, double lane[ZI_QUAD])
{
    const zi_tensor_statistics *t = &job->tensor[run->span->tensor];
    zi_raw raw[ZI_ROWS] = {{{0, 0, 0, 0}}};
    ZI_UNROLL
    for (int row = 0; row < ZI_ROWS; row++) {
        uint64_t i = zi_team_element(block, row, thread);
        if (row < run->row || row >= run->end)
            continue;
        if (round == ZI_STATISTICS_MOMENTS)
            raw[row] = zi_load_raw(job->master, ZOPT_FP32, i);
        else if (job->n_sources > 0)
            raw[row] = zi_load_raw(job->source[0].data, job->source[0].dtype, i);
    }
    ZI_UNROLL
    for (int row = 0; row < ZI_ROWS; row++) {
        uint64_t i = zi_team_element(block, row, thread), at = job->start + i - t->start;
        int n = row < run->row || row >= run->end ? 0 : zi_n_valid(t, at);
        if (n == 0)
            continue;
        zi_quad x = zi_widen(raw[row], ZOPT_FP32), own = {{0, 0, 0, 0}};
        if (round == ZI_STATISTICS_UPDATE) {
            if (t->n_cols == 0)
                own = zi_load_quad((const float *)job->state[0].data + i);
            x = zi_u_of(t, t->n_cols > 0, at, n, zi_averaged(job, raw[row], i), &own);
        }
        ZI_UNROLL
        for (int e = 0; e < ZI_QUAD; e++)
            if (e < n)
                lane[e] += (double)x.x[e] * (double)x.x[e];
    }
}

/* ---- the update ---- */

ZI_TILE void zi_update_tensor_group(int is_factored, int n_states, const zi_cuda_job *job,
                                    uint64_t i, zi_group_of_four *group)
{
    const zi_tensor_statistics *t = &job->tensor[zi_find_span(job, i)->tensor];
    uint64_t at = job->start + i - t->start;
    int n = zi_n_valid(t, at), moment = is_factored ? 0 : 1;
    zi_quad u = zi_u_of(t, is_factored, at, n, zi_averaged(job, group->raw, i), &group->state[0]);
    ZI_UNROLL
    for (int e = 0; e < ZI_QUAD; e++) {
        if (e >= n)
            continue;
        if (n_states > moment)
            zi_adafactor_step_with_moment(u.x[e], &group->master.x[e], &group->state[moment].x[e],
                                          t->scalar);
        else
            zi_adafactor_step(u.x[e], &group->master.x[e], t->scalar);
    }
}

/* n_states: of elements. */
ZI_TILE void zi_update_tensor_thread(int is_factored, int n_states, const zi_cuda_job *job,
                                     uint64_t tile, uint32_t thread)
{
    zi_group_of_four group[ZI_GROUPS];
    uint64_t first = tile * ZI_UPDATE_TILE + thread * ZI_QUAD;
    ZI_UNROLL
    for (int j = 0; j < ZI_GROUPS; j++)
        if (first + (uint64_t)j * ZI_GROUP_PITCH < job->n_elems)
            zi_load_group(job, n_states, first + (uint64_t)j * ZI_GROUP_PITCH, &group[j]);
    if (job->control->skip)
        return;
    ZI_UNROLL
    for (int j = 0; j < ZI_GROUPS; j++) {
        uint64_t i = first + (uint64_t)j * ZI_GROUP_PITCH;
        if (i >= job->n_elems)
            continue;
        zi_update_tensor_group(is_factored, n_states, job, i, &group[j]);
        zi_store_group(job, n_states, i, &group[j]);
    }
}

#endif
