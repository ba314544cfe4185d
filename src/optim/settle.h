/* What follows from a tensor's statistics before its update (ZI_UNIT_TENSOR, Adafactor's): its
 * second moments by row and column, and its scalars. Written once, as C and as CUDA C++: on the
 * host zi_settle_tensor does all of it, on a device the threads of a block share it out, with a
 * barrier between the factors and their means. Next: rule_adafactor.h, the update. */
#ifndef ZI_OPTIM_SETTLE_H
#define ZI_OPTIM_SETTLE_H

#include <math.h>

#include "base/exact.h"
#include "base/grid.h"
#include "optim/optim.h"
#include "optim/rule_adafactor.h"

enum { ZI_MEAN_LANES = 32 }; /* row i of a matrix is summed in lane i mod 32, lanes by halving */

/* Rows and columns of all matrices. */
ZI_SHARED uint64_t zi_settle_n_factors(const zi_tensor_statistics *t)
{
    return t->n_matrices * (t->n_rows + t->n_cols);
}

/* Factor i, of rows and behind them columns: the mean of its squares, mixed into what it was. */
ZI_SHARED void zi_settle_factor(const zi_terms *terms, const zi_tensor_statistics *t, uint64_t i)
{
    uint64_t n_rows = t->n_matrices * t->n_rows;
    int is_row = i < n_rows;
    const int64_t *sum = is_row ? t->row_sum + i : t->col_sum + (i - n_rows);
    float *factor = is_row ? t->row + i : t->col + (i - n_rows);
    double mean = zi_grid_value(sum, t->stride) / (double)(is_row ? t->n_cols : t->n_rows);
    *factor = (float)((1.0 - terms->fresh) * (double)*factor + terms->fresh * mean);
}

ZI_SHARED double zi_settle_lane(const zi_tensor_statistics *t, uint64_t matrix, uint32_t lane)
{
    double sum = 0;
    for (uint64_t i = lane; i < t->n_rows; i += ZI_MEAN_LANES)
        sum += (double)t->row[matrix * t->n_rows + i];
    return sum;
}

ZI_SHARED void zi_settle_mean(const zi_terms *terms, const zi_tensor_statistics *t, uint64_t matrix,
                              double sum)
{
    t->row_mean[matrix] = (float)fmax(sum / (double)t->n_rows, terms->eps1);
}

/* NaN stays NaN, so that parameters that are not finite do not go unnoticed. */
ZI_SHARED double zi_at_least(double x, double least)
{
    return x < least ? least : x;
}

/* The tensor's own sum is used up. scalars: its group's. */
ZI_SHARED void zi_settle_scalars(zi_statistics_round round, const zi_terms *terms,
                                 const float scalars[ZI_MAX_SCALARS], zi_tensor_statistics *t)
{
    double squares = t->sum[ZI_EXACT_LIMBS] > 0 ? NAN : zi_exact_round_off(t->sum);
    double rms = sqrt(squares / (double)t->n_elems);
    if (round == ZI_STATISTICS_UPDATE) {
        double step = t->alpha / zi_at_least(rms / terms->d, 1.0);
        t->scalar[ZI_ADAFACTOR_STEP] = (float)(terms->one_minus_beta1 * step);
        return;
    }
    t->alpha = terms->is_scaled ? terms->rho * zi_at_least(rms, terms->eps2) : terms->rho;
    for (int i = 0; i < ZI_MAX_SCALARS; i++)
        t->scalar[i] = scalars[i];
    if (terms->decays_by_alpha)
        t->scalar[ZI_ADAFACTOR_DECAY] = (float)(t->alpha * terms->decay);
}

/* All of it, on the host. */
static inline void zi_settle_tensor(zi_statistics_round round, const zi_terms *terms,
                                    const float scalars[ZI_MAX_SCALARS], zi_tensor_statistics *t)
{
    uint64_t n_factors = round == ZI_STATISTICS_MOMENTS ? zi_settle_n_factors(t) : 0;
    for (uint64_t i = 0; i < n_factors; i++)
        zi_settle_factor(terms, t, i);
    for (uint64_t m = 0; n_factors > 0 && m < t->n_matrices; m++) {
        double lane[ZI_MEAN_LANES];
        for (uint32_t i = 0; i < ZI_MEAN_LANES; i++)
            lane[i] = zi_settle_lane(t, m, i);
        for (int half = ZI_MEAN_LANES / 2; half > 0; half /= 2)
            for (int i = 0; i < half; i++)
                lane[i] += lane[i + half];
        zi_settle_mean(terms, t, m, lane[0]);
    }
    zi_settle_scalars(round, terms, scalars, t);
}

#endif
