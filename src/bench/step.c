/* The subjects of `bench step`: a ZeRO step as a trainer takes it, through the public header alone
 * but for what a trace has counted.
 * A round of bench_step is from the last gradient written to the last parameter usable: nothing of
 * it is hidden behind a backward pass. One of bench_overlap begins with a backward pass, whose time
 * by itself is taken off. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_local.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/contestant.h"
#include "bench/work.h"

typedef struct step {
    bench_work work;
    bench_case own; /* bench_no_graph's */
    const bench_case *c;
    bench_tensors tensors;
    zopt *z;
    int *id;
    void **grad;    /* where each tensor's goes */
    void *staged;   /* a tensor on the host, where the handle's memory is not; else NULL */
    double call_ms; /* of the last zopt_step */
} step;

uint64_t bench_tensor_elems(const bench_tensors *tensors, uint64_t i, uint64_t *first)
{
    uint64_t each = tensors->n_elems / tensors->n;
    *first = tensors->first + i * each;
    return i + 1 < tensors->n ? each : tensors->n_elems - i * each;
}

zi_shape bench_tensor_shape(uint64_t n_elems, uint64_t extent[2])
{
    uint64_t columns = 1;
    while (columns < 1024 && n_elems % (2 * columns) == 0)
        columns *= 2;
    extent[0] = n_elems / columns;
    extent[1] = columns;
    return (zi_shape){.ndim = 2, .extent = extent, .n_elems = n_elems};
}

static zopt_status add_tensor(const bench_case *c, zopt *z, uint64_t number, uint64_t n_elems,
                              int group, int *id)
{
    uint64_t extent[2];
    zi_shape shape = bench_tensor_shape(n_elems, extent);
    char name[32];
    snprintf(name, sizeof name, "layer.%llu", (unsigned long long)number);
    return zopt_add_tensor(z, name, c->data->dtype, shape.ndim, shape.extent, group, id);
}

static zopt_status set_start(const bench_case *c, zopt *z, int id, uint64_t first, uint64_t n)
{
    enum { CHUNK = 16384 };
    float values[CHUNK];
    for (uint64_t at = 0; at < n; at += CHUNK) {
        uint64_t m = n - at < CHUNK ? n - at : CHUNK;
        bench_fill_start(c->data, first + at, m, values);
        ZI_TRY(zopt_set_master(z, id, at, m, values));
    }
    return ZOPT_OK;
}

static zopt_status build(const bench_case *c, const bench_tensors *tensors, int *id, zopt *z)
{
    int group;
    uint64_t first;
    ZI_TRY(zopt_add_group(z, NULL, 0, &group));
    for (uint64_t i = 0; i < tensors->n; i++)
        ZI_TRY(add_tensor(c, z, i, bench_tensor_elems(tensors, i, &first), group, &id[i]));
    ZI_TRY(zopt_commit(z));
    for (uint64_t i = 0; i < tensors->n; i++) {
        uint64_t n = bench_tensor_elems(tensors, i, &first);
        ZI_TRY(set_start(c, z, id[i], first, n));
    }
    return ZOPT_OK;
}

zopt_status bench_open(const bench_case *c, const char *transport, const bench_tensors *tensors,
                       int **id, zopt **z)
{
    zopt_options options;
    zopt_options_init(&options);
    options.transport = transport;
    if (c->crew->threads != NULL) {
        options.threads = c->crew->threads;
        options.threads_rank = c->crew->rank;
    }
    options.device = c->device;
    options.optimizer = c->rule.optim->name;
    options.bucket_elems = (size_t)c->request->bucket_elems;
    options.slots = c->n_slots;
    options.shared_params = c->request->shared_params && strcmp(transport, "self") != 0;
    options.progress_thread = c->request->progress_thread;
    options.async_save = c->async_save;
    options.cuda_graph = c->no_graph ? 0 : -1;
    options.check_overflow = c->norm;
    options.clip_norm = c->norm ? 1e30 : 0; /* never reached: the coefficient stays 1 / slots */
    *id = calloc((size_t)tensors->n, sizeof **id);
    if (*id == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %llu tensors",
                       (unsigned long long)tensors->n);
    ZI_TRY(zopt_create(&options, z));
    return build(c, tensors, *id, *z);
}

zopt *bench_step_handle(const void *self, const int **id)
{
    const step *s = self;
    *id = s->id;
    return s->z;
}

/* All steps of the subject. */
static zopt_status begin_trace(const step *s)
{
    const char *file = s->c->request->trace;
    return file != NULL && !s->c->no_graph ? zopt_trace(s->z, file, UINT64_MAX) : ZOPT_OK;
}

static zopt_status end_trace(void *self, zi_overlap *overlap)
{
    step *s = self;
    int goes_on = zi_zero_of(s->z)->trace != NULL;
    zopt_status status = zopt_trace(s->z, NULL, 0);
    *overlap = zi_zero_of(s->z)->overlap;
    if (status == ZOPT_OK && !goes_on)
        status = ZI_FAIL(ZOPT_ERR_WRITE, "the trace %s lacks steps", s->c->request->trace);
    return status;
}

static zopt_status create(void *self, const bench_case *c)
{
    step *s = self;
    s->c = c;
    s->tensors = (bench_tensors){.n_elems = c->params, .n = c->n_tensors};
    s->work.run = bench_work_kernel();
    s->grad = calloc((size_t)c->n_tensors, sizeof *s->grad);
    if (s->grad == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %llu tensors",
                       (unsigned long long)c->n_tensors);
    ZI_TRY(bench_open(c, c->transport, &s->tensors, &s->id, &s->z));
    if (zopt_world(s->z) != c->crew->world)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "transport %s connects %d of %d ranks",
                       zopt_transport(s->z), zopt_world(s->z), c->crew->world);
    ZI_TRY(begin_trace(s));
    if (c->crew->device->on_host)
        return ZOPT_OK;
    uint64_t first, largest = bench_tensor_elems(&s->tensors, s->tensors.n - 1, &first);
    s->staged = malloc((size_t)largest * sizeof(uint16_t));
    return s->staged != NULL ? ZOPT_OK
                             : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a tensor to copy from");
}

static void destroy(void *self)
{
    step *s = self;
    zopt_destroy(s->z);
    free(s->id);
    free(s->grad);
    free(s->staged);
}

static zopt_status acquire(void *self)
{
    step *s = self;
    for (uint64_t i = 0; i < s->tensors.n; i++)
        ZI_TRY(zopt_grad_acquire(s->z, s->id[i], &s->grad[i]));
    return ZOPT_OK;
}

static zopt_status write_gradient(const step *s, uint64_t i)
{
    uint64_t first, n = bench_tensor_elems(&s->tensors, i, &first);
    bench_fill(s->c->data, s->c->slot, first, n, s->staged != NULL ? s->staged : s->grad[i]);
    return s->staged == NULL ? ZOPT_OK
                             : zopt_copy(s->z, s->grad[i], s->staged, (size_t)n * sizeof(uint16_t));
}

/* Its parameters, to be read on the host until the next call. */
static zopt_status read_params(const step *s, uint64_t i, const void **param)
{
    uint64_t first, n = bench_tensor_elems(&s->tensors, i, &first);
    ZI_TRY(zopt_param_acquire(s->z, s->id[i], param));
    if (s->staged == NULL)
        return ZOPT_OK;
    ZI_TRY(zopt_copy(s->z, s->staged, *param, (size_t)n * sizeof(uint16_t)));
    *param = s->staged;
    return ZOPT_OK;
}

static zopt_status prepare(void *self)
{
    step *s = self;
    ZI_TRY(acquire(s));
    for (uint64_t i = 0; i < s->tensors.n; i++)
        ZI_TRY(write_gradient(s, i));
    return ZOPT_OK;
}

/* What comes behind the last gradient, up to where a GPU is done with it. */
static zopt_status take_step(step *s)
{
    zopt_step_report report;
    const void *param;
    ZI_TRY(zopt_micro_end(s->z, 0));
    double before = zi_now_ms();
    ZI_TRY(zopt_step(s->z));
    s->call_ms = zi_now_ms() - before;
    for (uint64_t i = 0; i < s->tensors.n; i++)
        ZI_TRY(zopt_param_acquire(s->z, s->id[i], &param));
    return s->staged != NULL ? zopt_report(s->z, 1, &report) : ZOPT_OK;
}

static zopt_status one_round(void *self)
{
    step *s = self;
    for (uint64_t i = s->tensors.n; i-- > 0;)
        ZI_TRY(zopt_grad_ready(s->z, s->id[i]));
    return take_step(s);
}

/* Arithmetic, then its gradient, tensor by tensor, those of the last layer first. */
static zopt_status backward(step *s, int hand_over)
{
    for (uint64_t i = s->tensors.n; i-- > 0;) {
        uint64_t first, n = bench_tensor_elems(&s->tensors, i, &first);
        bench_work_do(&s->work, n * s->c->request->fmas);
        ZI_TRY(write_gradient(s, i));
        if (hand_over)
            ZI_TRY(zopt_grad_ready(s->z, s->id[i]));
    }
    return ZOPT_OK;
}

static zopt_status backward_alone(void *self)
{
    return backward(self, 0);
}

static zopt_status overlapped_round(void *self)
{
    ZI_TRY(backward(self, 1));
    return take_step(self);
}

/* The norm, which every rank has alike, against one summed here. */
static zopt_status check_report(const step *s, uint64_t rounds, uint64_t *n_wrong)
{
    const bench_case *c = s->c;
    zopt_step_report report;
    ZI_TRY(zopt_report(s->z, 1, &report));
    *n_wrong += report.good_step != rounds;
    if (c->norm) {
        double norm = bench_norm(c->data, c->n_slots, c->params);
        *n_wrong += !(fabs(report.grad_norm - norm) <= 1e-12 * norm);
    }
    return ZOPT_OK;
}

/* Sampled masters, read back, and sampled parameters of this rank against the rule's replay. */
static zopt_status check_elements(const step *s, uint64_t rounds, uint64_t *n_wrong)
{
    const bench_case *c = s->c;
    float masters[BENCH_SAMPLE], master;
    bench_rule_replay(&c->rule, c->data, c->n_slots, rounds, &c->sample, masters);
    for (uint64_t i = 0; i < s->tensors.n; i++) {
        uint64_t first, n = bench_tensor_elems(&s->tensors, i, &first);
        const void *param;
        ZI_TRY(read_params(s, i, &param));
        *n_wrong += bench_compare_sample(c, masters, first, n, param);
        for (int k = 0; k < c->sample.n; k++)
            if (c->sample.element[k] >= first && c->sample.element[k] - first < n) {
                uint64_t at = c->sample.element[k] - first;
                ZI_TRY(zopt_get_master(s->z, s->id[i], at, 1, &master));
                *n_wrong += master != masters[k];
            }
    }
    return ZOPT_OK;
}

/* The first, the middle and the last tensor against what one rank alone makes of them. */
static zopt_status check_tensors(const step *s, uint64_t rounds, uint64_t *n_wrong)
{
    const uint64_t which[] = {0, s->tensors.n / 2, s->tensors.n - 1};
    for (int k = 0; k < 3; k++) {
        uint64_t first, n = bench_tensor_elems(&s->tensors, which[k], &first), wrong;
        const void *param;
        if (k > 0 && which[k] == which[k - 1])
            continue;
        ZI_TRY(read_params(s, which[k], &param));
        ZI_TRY(bench_compare_alone(s->c, first, n, rounds, n, param, &wrong));
        *n_wrong += wrong;
    }
    return ZOPT_OK;
}

static zopt_status check(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const step *s = self;
    *n_wrong = 0;
    ZI_TRY(check_report(s, rounds, n_wrong));
    return s->c->rule.variant->unit == ZI_UNIT_ELEMENT ? check_elements(s, rounds, n_wrong)
                                                       : check_tensors(s, rounds, n_wrong);
}

/* Every round has two backward passes, one by itself. */
static zopt_status check_overlapped(void *self, uint64_t rounds, uint64_t *n_wrong)
{
    const step *s = self;
    ZI_TRY(check(self, rounds, n_wrong));
    *n_wrong += s->work.n_wrong + (s->work.n_runs != 2 * rounds * s->tensors.n);
    return ZOPT_OK;
}

static const char *transport(const void *self)
{
    return zopt_transport(((const step *)self)->z);
}

static const char *path(const void *self)
{
    return zopt_step_path(((const step *)self)->z);
}

static double call_ms(const void *self)
{
    return ((const step *)self)->call_ms;
}

static zopt_status create_no_graph(void *self, const bench_case *c)
{
    step *s = self;
    s->own = *c;
    s->own.no_graph = 1;
    return create(self, &s->own);
}

const bench_contestant bench_step = {
    .bytes = sizeof(step),
    .create = create,
    .destroy = destroy,
    .prepare = prepare,
    .round = one_round,
    .call_ms = call_ms,
    .check = check,
    .transport = transport,
    .path = path,
    .trace = end_trace,
};

const bench_contestant bench_no_graph = {
    .bytes = sizeof(step),
    .create = create_no_graph,
    .destroy = destroy,
    .prepare = prepare,
    .round = one_round,
    .check = check,
};

const bench_contestant bench_overlap = {
    .bytes = sizeof(step),
    .create = create,
    .destroy = destroy,
    .prepare = acquire,
    .apart = backward_alone,
    .round = overlapped_round,
    .check = check_overlapped,
    .transport = transport,
    .trace = end_trace,
};
