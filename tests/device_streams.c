/* Gradients and parameters on a stream of the caller's, on every device that is not the CPU:
 * ordered by events, and the CPU's bits. Part of test_device_step. */
#include <string.h>

#include "device_step.h"

enum { N_STREAM_STEPS = 10, N_STREAM_SLOTS = 2 };

/* What the caller enqueues: copies on two streams in turn, from and to page-locked memory. */
typedef struct caller {
    const h_problem *problem;
    const zi_device_ops *device; /* NULL: the CPU, and copies by zopt_copy */
    zopt *z;
    zi_mem mem;
    zi_queue *own, *stream[2];
    int n_streams;
    char *from, *to; /* what gradients come from, and parameters go to, of all steps */
    size_t step_bytes;
} caller;

/* The legacy default stream, and that of the thread, by CUDA's own numbers. */
static void *const streams[2] = {NULL, (void *)2};

static void move(const caller *c, int on, void *dst, const void *src, size_t bytes)
{
    if (c->device != NULL)
        c->device->copy(c->stream[on], dst, src, bytes);
    else
        MUST(zopt_copy(c->z, dst, src, bytes));
}

/* Odd tensors on the other stream, if there are two: which one it is. */
static int use_stream(const caller *c, int tensor)
{
    int on = c->n_streams == 2 ? tensor % 2 : 0;
    if (c->device != NULL && (c->n_streams == 2 || tensor == 0))
        MUST(zopt_set_stream(c->z, streams[on]));
    return on;
}

static void give_slot(caller *c, int step, int slot)
{
    const h_problem *p = c->problem;
    size_t at = ((size_t)step * N_STREAM_SLOTS + (size_t)slot) * c->step_bytes;
    for (int t = 0; t < p->n_tensors; t++) {
        uint64_t n = h_elems(&p->tensor[t]);
        size_t bytes = n * zopt_dtype_bytes(p->tensor[t].dtype);
        void *grad;
        for (uint64_t e = 0; e < n; e++) {
            float g = p->grad(step + 1, slot, t, e);
            MUST(zopt_convert(c->from + at + e * zopt_dtype_bytes(p->tensor[t].dtype),
                              p->tensor[t].dtype, &g, ZOPT_FP32, 1));
        }
        int on = use_stream(c, t);
        MUST(zopt_grad_acquire(c->z, t, &grad));
        move(c, on, grad, c->from + at, bytes);
        MUST(zopt_grad_ready(c->z, t));
        at += bytes;
    }
}

static void take_params(caller *c, int step)
{
    const h_problem *p = c->problem;
    size_t at = (size_t)step * c->step_bytes;
    for (int t = 0; t < p->n_tensors; t++) {
        size_t bytes = h_elems(&p->tensor[t]) * zopt_dtype_bytes(p->tensor[t].dtype);
        const void *param;
        int on = use_stream(c, t);
        MUST(zopt_param_acquire(c->z, t, &param));
        move(c, on, c->to + at, param, bytes);
        MUST(zopt_param_release(c->z, t));
        at += bytes;
    }
}

static void open_caller(caller *c, const h_problem *problem, const zi_device_ops *device)
{
    *c = (caller){.problem = problem, .device = device};
    for (int t = 0; t < problem->n_tensors; t++)
        c->step_bytes += h_elems(&problem->tensor[t]) * zopt_dtype_bytes(problem->tensor[t].dtype);
    size_t to = N_STREAM_STEPS * c->step_bytes, from = N_STREAM_SLOTS * to;
    if (device == NULL) {
        c->from = calloc(from, 1);
        c->to = calloc(to, 1);
        ck_assert(c->from != NULL && c->to != NULL);
        return;
    }
    MUST(device->open(0, &c->own));
    MUST(device->adopt(c->own, streams[0], &c->stream[0]));
    MUST(device->adopt(c->own, streams[1], &c->stream[1]));
    MUST(device->alloc_host(c->own, &c->mem, ZI_MEM_STAGING, from, &c->from));
    MUST(device->alloc_host(c->own, &c->mem, ZI_MEM_STAGING, to, &c->to));
}

static void close_caller(caller *c)
{
    size_t to = N_STREAM_STEPS * c->step_bytes;
    if (c->device == NULL) {
        free(c->from);
        free(c->to);
        return;
    }
    c->device->free_host(c->own, &c->mem, ZI_MEM_STAGING, c->from, N_STREAM_SLOTS * to);
    c->device->free_host(c->own, &c->mem, ZI_MEM_STAGING, c->to, to);
    c->device->close(c->stream[0]);
    c->device->close(c->stream[1]);
    c->device->close(c->own);
}

/* is_late: parameters are read at the last moment before the next step; ours_first: what is on the
 * library's queue is waited for before what is on the caller's. */
static void run_caller(caller *c, int is_late, int ours_first)
{
    zopt_step_report report;
    MUST(h_create(c->problem, &c->problem->options, &c->z));
    for (int step = 0; step < N_STREAM_STEPS; step++) {
        for (int slot = 0; slot < N_STREAM_SLOTS; slot++) {
            give_slot(c, step, slot);
            MUST(zopt_micro_end(c->z, 0));
        }
        if (is_late && step > 0)
            take_params(c, step - 1);
        MUST(zopt_step(c->z));
        if (ours_first)
            MUST(zopt_report(c->z, 1, &report));
        if (!is_late || step == N_STREAM_STEPS - 1)
            take_params(c, step);
    }
    for (int i = 0; i < 2 && c->device != NULL; i++)
        MUST(c->device->wait(c->stream[i]));
    zopt_destroy(c->z);
}

/* _i: each of two streams or one, ours first or not, and steps that wait or do not. */
START_TEST(work_on_the_callers_streams_is_ordered_by_events)
{
    h_problem problem;
    caller want, got;
    make_small(&problem, ZOPT_BF16, 0);
    problem.options.dynamic_loss_scale = 0;
    problem.options.loss_scale = 1;
    problem.options.check_overflow = 1;
    problem.options.slots = N_STREAM_SLOTS;
    problem.options.device = "cpu";
    open_caller(&want, &problem, NULL);
    run_caller(&want, 0, 0);
    FOR_DEVICES(device)
    {
        problem.options.device = device->name;
        problem.options.transport = _i < 4 ? "self" : "threads";
        problem.options.cuda_graph = _i < 4 ? 1 : -1;
        if (_i >= 4) /* whose steps wait */
            MUST(zopt_threads_create(1, &problem.options.threads));
        open_caller(&got, &problem, device);
        got.n_streams = 1 + _i / 2 % 2;
        run_caller(&got, got.n_streams == 1, _i % 2);
        ck_assert_int_eq(memcmp(want.to, got.to, N_STREAM_STEPS * want.step_bytes), 0);
        close_caller(&got);
        zopt_threads_destroy(problem.options.threads);
    }
    close_caller(&want);
}
END_TEST

void add_streams(TCase *tcase)
{
    tcase_add_loop_test(tcase, work_on_the_callers_streams_is_ordered_by_events, 0, 8);
}
