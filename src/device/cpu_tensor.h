/* The CPU kernels of ZI_UNIT_TENSOR: the sums of both rounds of statistics, and the update. They
 * work on parts: what a block holds of one tensor, without padding. Included by cpu_kernels.c, once
 * for each instruction set. */
#ifndef ZI_DEVICE_CPU_TENSOR_H
#define ZI_DEVICE_CPU_TENSOR_H

#include "base/grid_sum.h"
#include "device/cpu_block.h"
#include "optim/rule_adafactor.h"

typedef struct part {
    zi_tensor_statistics *tensor;
    size_t first, n; /* in the block */
    uint64_t at;     /* of the first element in the tensor */
    int is_last;     /* of its tensor in the job */
} part;

/* The next part of the block that begins at `first`: 0 if *at has reached its end. Moves *at and
 * *span on. n is 0 where all is padding. */
static int next_part(const zi_job *job, size_t first, size_t *at, const zi_span **span, part *p)
{
    size_t end = first + ZI_BLOCK;
    if (*at == end)
        return 0;
    size_t stop = (*span)->end < end ? (size_t)(*span)->end : end;
    zi_tensor_statistics *t = &job->tensor[(*span)->tensor];
    uint64_t in_tensor = job->start + *at - t->start;
    uint64_t left = in_tensor < t->n_elems ? t->n_elems - in_tensor : 0;
    p->tensor = t;
    p->first = *at - first;
    p->n = stop - *at < left ? stop - *at : (size_t)left;
    p->at = in_tensor;
    p->is_last = stop == (*span)->end;
    *at = stop;
    if (p->is_last)
        ++*span;
    return 1;
}

/* A part's run inside one row of a matrix. */
typedef struct row_run {
    size_t first, n;      /* in the part */
    uint64_t row, column; /* of the first element, counted over all matrices */
} row_run;

static int next_run(const part *p, row_run *run)
{
    uint64_t n_cols = p->tensor->n_cols, n_rows = p->tensor->n_rows;
    run->first += run->n;
    if (run->first == p->n)
        return 0;
    uint64_t at = p->at + run->first, in_row = at % n_cols;
    size_t left = p->n - run->first;
    run->row = at / n_cols;
    run->column = run->row / n_rows * n_cols + in_row;
    run->n = n_cols - in_row < left ? (size_t)(n_cols - in_row) : left;
    return 1;
}

/* The squares of n elements that begin at `first` of their block, summed as block sums are. */
static void add_squares(zi_exact *sum, zi_tensor_statistics *t, const float *x, size_t first,
                        size_t n)
{
    float block[ZI_BLOCK] = {0};
    memcpy(block + first, x, n * sizeof *x);
    double squares = block_sum_of_squares(block);
    if (isfinite(squares))
        zi_exact_add(sum, squares);
    else
        t->sum[ZI_EXACT_LIMBS]++;
}

static void end_of_tensor(zi_exact *sum, zi_tensor_statistics *t)
{
    zi_exact_carry(sum->limb);
    for (size_t i = 0; i < ZI_EXACT_LIMBS; i++)
        t->sum[i] += sum->limb[i];
    zi_exact_clear(sum);
}

/* Squares of the gradient, by row and column, and of the parameters. */
static void add_moments(const zi_job *job, const part *p, const float *g, zi_exact *sum)
{
    zi_tensor_statistics *t = p->tensor;
    row_run run = {0};
    while (t->n_cols > 0 && next_run(p, &run))
        zi_grid_add_squares(g + run.first, run.n, t->col_sum + run.column, t->row_sum + run.row,
                            t->stride);
    add_squares(sum, t, job->master + (p->at + t->start - job->start), p->first, p->n);
}

/* The estimate of the squared gradient's mean, where it is an element's own moved on. */
static void estimate(const zi_job *job, const part *p, const float *restrict g,
                     float *restrict variance)
{
    const zi_tensor_statistics *t = p->tensor;
    row_run run = {0};
    if (t->n_cols == 0) {
        const float *restrict own =
            (const float *)job->state[0].data + (p->at + t->start - job->start);
        for (size_t i = 0; i < p->n; i++)
            variance[i] = zi_adafactor_moved(g[i], own[i], t->scalar);
        return;
    }
    while (next_run(p, &run)) {
        const float *restrict col = t->col + run.column;
        float factor = zi_adafactor_row_factor(t->row[run.row], t->row_mean[run.row / t->n_rows]);
        for (size_t i = 0; i < run.n; i++)
            variance[run.first + i] = factor * col[i];
    }
}

/* u over the variance it is made from. */
static void scale(const part *p, const float *restrict g, float *restrict variance)
{
    const float *k = p->tensor->scalar;
    for (size_t i = 0; i < p->n; i++)
        variance[i] = zi_adafactor_scaled(g[i], variance[i], k);
}

static void add_update(const zi_job *job, const part *p, const float *g, zi_exact *sum)
{
    float u[ZI_BLOCK];
    estimate(job, p, g, u);
    scale(p, g, u);
    add_squares(sum, p->tensor, u, p->first, p->n);
}

typedef void add_part(const zi_job *job, const part *p, const float *g, zi_exact *sum);

static add_part *const add_part_in_round[ZI_N_STATISTICS] = {
    [ZI_STATISTICS_MOMENTS] = add_moments,
    [ZI_STATISTICS_UPDATE] = add_update,
};

static void statistics(zi_statistics_round round, const zi_job *job)
{
    float g[ZI_BLOCK];
    zi_exact sum;
    part p;
    const zi_span *span = job->span;
    zi_exact_clear(&sum);
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        gradient_block(g, job, first);
        for (size_t at = first; next_part(job, first, &at, &span, &p);) {
            add_part_in_round[round](job, &p, g + p.first, &sum);
            if (p.is_last)
                end_of_tensor(&sum, p.tensor);
        }
    }
}

static void update_part(const zi_variant *variant, const zi_job *job, const part *p, const float *g)
{
    const zi_tensor_statistics *t = p->tensor;
    size_t at = (size_t)(p->at + t->start - job->start);
    int n_second = t->n_cols > 0 ? 2 : 1;
    const float *restrict k = t->scalar;
    float *restrict master = job->master + at;
    float u[ZI_BLOCK];
    estimate(job, p, g, u);
    if (t->n_cols == 0)
        memcpy((float *)job->state[0].data + at, u, p->n * sizeof *u);
    scale(p, g, u);
    if (variant->n_states == n_second) {
        for (size_t i = 0; i < p->n; i++)
            zi_adafactor_step(u[i], &master[i], k);
        return;
    }
    float *restrict exp_avg = (float *)job->state[n_second].data + at;
    for (size_t i = 0; i < p->n; i++)
        zi_adafactor_step_with_moment(u[i], &master[i], &exp_avg[i], k);
}

static void update_tensors(const zi_variant *variant, const zi_job *job)
{
    float g[ZI_BLOCK];
    part p;
    const zi_span *span = job->span;
    for (size_t first = 0; first < job->n_elems; first += ZI_BLOCK) {
        gradient_block(g, job, first);
        for (size_t at = first; next_part(job, first, &at, &span, &p);)
            update_part(variant, job, &p, g + p.first);
        store(job, first);
    }
}

#endif
