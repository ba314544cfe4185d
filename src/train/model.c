/* Joins the layers into a model and hands out each gradient as soon as it is final, so that its
 * reduction can begin while the rest of the backward pass goes on. layers.c computes. */
#include "train/model.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "train/fail.h"

/* What one layer keeps for backward; rows = batch * time, width = n_embd. */
typedef struct layer_acts {
    real *x;                   /* [rows, width] the layer's input */
    real *ln1_stats, *ln1;     /* [rows, 2], [rows, width] */
    real *qkv, *probs, *heads; /* [rows, 3 width], [batch, head, time, time], [rows, width] */
    real *mid;                 /* [rows, width] x + attention */
    real *ln2_stats, *ln2;
    real *up, *gate, *act; /* [rows, 4 width] */
} layer_acts;

struct model {
    model_shape shape;
    int max_batch, n_params;
    size_t n_elements;
    param *params;
    real *weights, *grads; /* [n_elements] */
    layer_acts *layers;    /* [n_layer] */
    real *final, *final_stats, *final_norm;
    real *probs; /* [rows, vocab] */
    real *dx, *dwide, *dnarrow,
        *dscores; /* [rows, width], [rows, 4 width], [rows, width], [time^2] */
    real *arena;
    model_batch batch; /* of the last forward pass */
};

/* Hand out the arena's arrays: with base NULL only the sizes are added up. */
typedef struct carver {
    real *base;
    size_t used;
} carver;

static real *carve(carver *c, size_t n)
{
    real *piece = c->base ? c->base + c->used : NULL;
    c->used += (n + 15) / 16 * 16; /* cache lines of floats */
    return piece;
}

static size_t lay_out(model *m, real *base)
{
    const model_shape *s = &m->shape;
    size_t width = (size_t)s->n_embd, time = (size_t)s->n_ctx, batch = (size_t)m->max_batch;
    size_t rows = batch * time;
    carver c = {base, 0};
    m->weights = carve(&c, m->n_elements);
    m->grads = carve(&c, m->n_elements);
    for (int i = 0; i < s->n_layer; i++) {
        layer_acts *a = &m->layers[i];
        a->x = carve(&c, rows * width);
        a->ln1_stats = carve(&c, rows * 2);
        a->ln1 = carve(&c, rows * width);
        a->qkv = carve(&c, rows * 3 * width);
        a->probs = carve(&c, rows * time * (size_t)s->n_head);
        a->heads = carve(&c, rows * width);
        a->mid = carve(&c, rows * width);
        a->ln2_stats = carve(&c, rows * 2);
        a->ln2 = carve(&c, rows * width);
        a->up = carve(&c, rows * 4 * width);
        a->gate = carve(&c, rows * 4 * width);
        a->act = carve(&c, rows * 4 * width);
    }
    m->final = carve(&c, rows * width);
    m->final_stats = carve(&c, rows * 2);
    m->final_norm = carve(&c, rows * width);
    m->probs = carve(&c, rows * (size_t)s->vocab);
    m->dx = carve(&c, rows * width);
    m->dwide = carve(&c, rows * 4 * width);
    m->dnarrow = carve(&c, rows * width);
    m->dscores = carve(&c, time * time);
    return c.used;
}

/* The bytes as a double, which cannot wrap around as a sum of size_t can. */
static double estimate_bytes(const model_shape *s, int max_batch)
{
    double width = s->n_embd, rows = (double)max_batch * s->n_ctx;
    double layer = rows * (18 * width + (double)s->n_head * s->n_ctx) + 24 * width * width;
    return sizeof(real) * (s->n_layer * layer + (rows + 2 * width) * s->vocab + rows * 8 * width);
}

static zopt_status allocate(model *m)
{
    double bytes = estimate_bytes(&m->shape, m->max_batch);
    if (bytes > 0x1p46 || (double)m->max_batch * m->shape.n_ctx > INT_MAX)
        return train_fail(ZOPT_ERR_MEMORY,
                          "the model and a micro-batch of it would take %.3g bytes", bytes);
    m->params = calloc((size_t)m->n_params, sizeof *m->params);
    m->layers = calloc((size_t)m->shape.n_layer, sizeof *m->layers);
    if (!m->params || !m->layers)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for the model's tables");
    m->n_elements = params_table(&m->shape, m->params);
    size_t n = lay_out(m, NULL);
    m->arena = aligned_alloc(64, n * sizeof(real));
    if (!m->arena)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for the model: %zu bytes", n * sizeof(real));
    lay_out(m, m->arena);
    return ZOPT_OK;
}

zopt_status model_create(const model_shape *shape, int max_batch, model **out)
{
    *out = NULL;
    if (shape->n_embd % shape->n_head)
        return train_fail(ZOPT_ERR_CONFIG, "model.n_embd=%d is not a multiple of model.n_head=%d",
                          shape->n_embd, shape->n_head);
    model *m = calloc(1, sizeof *m);
    if (!m)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for the model");
    m->shape = *shape;
    m->max_batch = max_batch;
    m->n_params = param_count(shape);
    zopt_status status = allocate(m);
    if (status != ZOPT_OK) {
        model_destroy(m);
        return status;
    }
    *out = m;
    return ZOPT_OK;
}

void model_destroy(model *m)
{
    if (!m)
        return;
    free(m->arena);
    free(m->layers);
    free(m->params);
    free(m);
}

const model_shape *model_get_shape(const model *m)
{
    return &m->shape;
}

int model_n_params(const model *m)
{
    return m->n_params;
}

const param *model_params(const model *m)
{
    return m->params;
}

size_t model_n_elements(const model *m)
{
    return m->n_elements;
}

real *model_weights(model *m, int i)
{
    return m->weights + m->params[i].offset;
}

const real *model_grad(const model *m, int i)
{
    return m->grads + m->params[i].offset;
}

const real *model_probs(const model *m)
{
    return m->probs;
}

/* The shapes that a pass over m->batch has. */
typedef struct pass {
    int rows, width;
    norm_shape norm;
    linear_shape qkv, proj, up, down, head;
    attention_shape attention;
    batch_shape embed;
} pass;

static pass shapes_of(const model *m)
{
    int rows = m->batch.batch * m->batch.time, width = m->shape.n_embd;
    return (pass){.rows = rows,
                  .width = width,
                  .norm = {rows, width},
                  .qkv = {rows, width, 3 * width},
                  .proj = {rows, width, width},
                  .up = {rows, width, 4 * width},
                  .down = {rows, 4 * width, width},
                  .head = {rows, width, m->shape.vocab},
                  .attention = {m->batch.batch, m->batch.time, width, m->shape.n_head},
                  .embed = {m->batch.batch, m->batch.time, width}};
}

static const real *weights_of(const model *m, int layer, int which)
{
    return m->weights + m->params[param_layer(layer, which)].offset;
}

static void layer_forward(const model *m, const pass *p, int i, real *out)
{
    const layer_acts *a = &m->layers[i];
    norm_forward(p->norm, a->x, weights_of(m, i, LN1_W), weights_of(m, i, LN1_B), a->ln1,
                 a->ln1_stats);
    linear_forward(p->qkv, a->ln1, weights_of(m, i, QKV_W), weights_of(m, i, QKV_B), NULL, a->qkv);
    attention_forward(p->attention, a->qkv, a->probs, a->heads);
    linear_forward(p->proj, a->heads, weights_of(m, i, PROJ_W), weights_of(m, i, PROJ_B), a->x,
                   a->mid);
    norm_forward(p->norm, a->mid, weights_of(m, i, LN2_W), weights_of(m, i, LN2_B), a->ln2,
                 a->ln2_stats);
    linear_forward(p->up, a->ln2, weights_of(m, i, UP_W), weights_of(m, i, UP_B), NULL, a->up);
    gelu_forward((size_t)p->rows * 4 * (size_t)p->width, a->up, a->gate, a->act);
    linear_forward(p->down, a->act, weights_of(m, i, DOWN_W), weights_of(m, i, DOWN_B), a->mid,
                   out);
}

double model_forward(model *m, model_batch batch)
{
    m->batch = batch;
    pass p = shapes_of(m);
    int n_layer = m->shape.n_layer;
    const real *wte = model_weights(m, PARAM_WTE);
    embed_forward(p.embed, batch.inputs, wte, model_weights(m, PARAM_WPE), m->layers[0].x);
    for (int i = 0; i < n_layer; i++)
        layer_forward(m, &p, i, i + 1 < n_layer ? m->layers[i + 1].x : m->final);
    norm_forward(p.norm, m->final, weights_of(m, n_layer, LN_F_W), weights_of(m, n_layer, LN_F_B),
                 m->final_norm, m->final_stats);
    linear_forward(p.head, m->final_norm, wte, NULL, NULL, m->probs);
    return cross_entropy_forward(p.rows, m->shape.vocab, m->probs, batch.targets) / p.rows;
}

/* A backward pass under way. */
typedef struct backward {
    model *m;
    pass p;
    model_grad_done *grad_done;
    void *arg;
} backward;

static real *grad_of(const backward *b, int layer, int which)
{
    return b->m->grads + b->m->params[param_layer(layer, which)].offset;
}

/* Hand out the gradients of a layer's parameters [which, which + n), last one first. */
static zopt_status done(const backward *b, int layer, int which, int n)
{
    for (int i = n - 1; i >= 0; i--)
        TRAIN_TRY(b->grad_done(b->arg, param_layer(layer, which + i)));
    return ZOPT_OK;
}

/* dx: gradient of the layer's output in, of its middle out. */
static zopt_status mlp_backward(const backward *b, int i)
{
    const model *m = b->m;
    const pass *p = &b->p;
    const layer_acts *a = &m->layers[i];
    linear_backward_params(p->down, a->act, m->dx, grad_of(b, i, DOWN_W), grad_of(b, i, DOWN_B));
    TRAIN_TRY(done(b, i, DOWN_W, 2));
    linear_backward_input(p->down, weights_of(m, i, DOWN_W), m->dx, m->dwide);
    gelu_backward((size_t)p->rows * 4 * (size_t)p->width, a->up, a->gate, m->dwide, m->dwide);
    linear_backward_params(p->up, a->ln2, m->dwide, grad_of(b, i, UP_W), grad_of(b, i, UP_B));
    TRAIN_TRY(done(b, i, UP_W, 2));
    linear_backward_input(p->up, weights_of(m, i, UP_W), m->dwide, m->dnarrow);
    norm_backward_params(p->norm, a->mid, a->ln2_stats, m->dnarrow, grad_of(b, i, LN2_W),
                         grad_of(b, i, LN2_B));
    TRAIN_TRY(done(b, i, LN2_W, 2));
    norm_backward_input(p->norm, a->mid, a->ln2_stats, weights_of(m, i, LN2_W), m->dnarrow, m->dx);
    return ZOPT_OK;
}

/* dx: gradient of the layer's middle in, of its input out. */
static zopt_status attention_part_backward(const backward *b, int i)
{
    const model *m = b->m;
    const pass *p = &b->p;
    const layer_acts *a = &m->layers[i];
    linear_backward_params(p->proj, a->heads, m->dx, grad_of(b, i, PROJ_W), grad_of(b, i, PROJ_B));
    TRAIN_TRY(done(b, i, PROJ_W, 2));
    linear_backward_input(p->proj, weights_of(m, i, PROJ_W), m->dx, m->dnarrow);
    attention_backward(p->attention, a->qkv, a->probs, m->dnarrow, m->dwide, m->dscores);
    linear_backward_params(p->qkv, a->ln1, m->dwide, grad_of(b, i, QKV_W), grad_of(b, i, QKV_B));
    TRAIN_TRY(done(b, i, QKV_W, 2));
    linear_backward_input(p->qkv, weights_of(m, i, QKV_W), m->dwide, m->dnarrow);
    norm_backward_params(p->norm, a->x, a->ln1_stats, m->dnarrow, grad_of(b, i, LN1_W),
                         grad_of(b, i, LN1_B));
    TRAIN_TRY(done(b, i, LN1_W, 2));
    norm_backward_input(p->norm, a->x, a->ln1_stats, weights_of(m, i, LN1_W), m->dnarrow, m->dx);
    return ZOPT_OK;
}

/* Leaves the output's part in wte's gradient; the embedding's is added last. */
static zopt_status head_backward(const backward *b, real scale)
{
    const model *m = b->m;
    const pass *p = &b->p;
    int n_layer = m->shape.n_layer;
    cross_entropy_backward(p->rows, m->shape.vocab, m->probs, m->batch.targets,
                           scale / (real)p->rows);
    linear_backward_params(p->head, m->final_norm, m->probs, m->grads + m->params[PARAM_WTE].offset,
                           NULL);
    linear_backward_input(p->head, m->weights + m->params[PARAM_WTE].offset, m->probs, m->dnarrow);
    norm_backward_params(p->norm, m->final, m->final_stats, m->dnarrow, grad_of(b, n_layer, LN_F_W),
                         grad_of(b, n_layer, LN_F_B));
    TRAIN_TRY(done(b, n_layer, LN_F_W, 2));
    memset(m->dx, 0, (size_t)p->rows * (size_t)p->width * sizeof *m->dx);
    norm_backward_input(p->norm, m->final, m->final_stats, weights_of(m, n_layer, LN_F_W),
                        m->dnarrow, m->dx);
    return ZOPT_OK;
}

zopt_status model_backward(model *m, real scale, model_grad_done *grad_done, void *arg)
{
    backward b = {m, shapes_of(m), grad_done, arg};
    TRAIN_TRY(head_backward(&b, scale));
    for (int i = m->shape.n_layer - 1; i >= 0; i--) {
        TRAIN_TRY(mlp_backward(&b, i));
        TRAIN_TRY(attention_part_backward(&b, i));
    }
    const param *wte = &m->params[PARAM_WTE], *wpe = &m->params[PARAM_WPE];
    memset(m->grads + wpe->offset, 0, wpe->n * sizeof *m->grads);
    embed_backward(b.p.embed, m->batch.inputs, m->dx, m->grads + wte->offset,
                   m->grads + wpe->offset);
    TRAIN_TRY(grad_done(arg, PARAM_WPE));
    return grad_done(arg, PARAM_WTE);
}
