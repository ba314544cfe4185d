/* One row for each kind of parameter; extents are multiples of the width but for wte and wpe. */
#include "train/params.h"

#include <math.h>
#include <stdio.h>

#include "train/random.h"

typedef struct param_row {
    const char *name;
    int rows, columns; /* in units of n_embd; columns 0: a vector */
    param_init init;
} param_row;

static const param_row layer_rows[LAYER_PARAMS] = {
    [LN1_W] = {"ln_1.weight", 1, 0, INIT_ONE},
    [LN1_B] = {"ln_1.bias", 1, 0, INIT_ZERO},
    [QKV_W] = {"attn.c_attn.weight", 3, 1, INIT_LINEAR},
    [QKV_B] = {"attn.c_attn.bias", 3, 0, INIT_ZERO},
    [PROJ_W] = {"attn.c_proj.weight", 1, 1, INIT_RESIDUAL},
    [PROJ_B] = {"attn.c_proj.bias", 1, 0, INIT_ZERO},
    [LN2_W] = {"ln_2.weight", 1, 0, INIT_ONE},
    [LN2_B] = {"ln_2.bias", 1, 0, INIT_ZERO},
    [UP_W] = {"mlp.c_fc.weight", 4, 1, INIT_LINEAR},
    [UP_B] = {"mlp.c_fc.bias", 4, 0, INIT_ZERO},
    [DOWN_W] = {"mlp.c_proj.weight", 1, 4, INIT_RESIDUAL},
    [DOWN_B] = {"mlp.c_proj.bias", 1, 0, INIT_ZERO},
};
static const param_row final_rows[FINAL_PARAMS] = {
    [LN_F_W] = {"ln_f.weight", 1, 0, INIT_ONE},
    [LN_F_B] = {"ln_f.bias", 1, 0, INIT_ZERO},
};

static size_t place(param *p, size_t offset)
{
    p->ndim = p->shape[1] ? 2 : 1;
    p->n = (size_t)(p->shape[0] * (p->shape[1] ? p->shape[1] : 1));
    p->offset = offset;
    return offset + p->n;
}

static size_t place_row(const model_shape *s, const param_row *row, int layer, param *p,
                        size_t offset)
{
    uint64_t width = (uint64_t)s->n_embd;
    *p = (param){.shape = {(uint64_t)row->rows * width, (uint64_t)row->columns * width},
                 .init = row->init};
    if (layer < 0)
        snprintf(p->name, sizeof p->name, "%s", row->name);
    else
        snprintf(p->name, sizeof p->name, "h.%d.%s", layer, row->name);
    return place(p, offset);
}

size_t params_table(const model_shape *s, param *params)
{
    uint64_t width = (uint64_t)s->n_embd;
    params[PARAM_WTE] =
        (param){.name = "wte.weight", .shape = {(uint64_t)s->vocab, width}, .init = INIT_EMBEDDING};
    params[PARAM_WPE] =
        (param){.name = "wpe.weight", .shape = {(uint64_t)s->n_ctx, width}, .init = INIT_EMBEDDING};
    size_t n = place(&params[PARAM_WPE], place(&params[PARAM_WTE], 0));
    for (int layer = 0; layer < s->n_layer; layer++)
        for (int i = 0; i < LAYER_PARAMS; i++)
            n = place_row(s, &layer_rows[i], layer, &params[param_layer(layer, i)], n);
    for (int i = 0; i < FINAL_PARAMS; i++)
        n = place_row(s, &final_rows[i], -1, &params[param_final(s, i)], n);
    return n;
}

static double deviation(const model_shape *s, const param *p)
{
    double linear = 1 / sqrt(3.0 * (double)p->shape[1]);
    switch (p->init) {
    case INIT_EMBEDDING:
        return 0.02;
    case INIT_LINEAR:
        return linear;
    case INIT_RESIDUAL:
        return linear / sqrt(2.0 * s->n_layer);
    default:
        return 0;
    }
}

void params_init(const model_shape *s, const param *params, int tensor, uint64_t seed,
                 uint64_t offset, size_t n, float *values)
{
    const param *p = &params[tensor];
    if (p->init == INIT_ZERO || p->init == INIT_ONE) {
        for (size_t i = 0; i < n; i++)
            values[i] = p->init == INIT_ONE;
        return;
    }
    double scale = deviation(s, p);
    for (size_t i = 0; i < n; i++)
        values[i] = (float)(scale * random_normal(seed, (uint64_t)tensor, offset + i));
}
