/* See harness.h. Failed checks inside a rank's thread abort the test program: with CK_FORK=no
 * Check's own longjmp must not leave a thread. */
#include "harness.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(call)                                                                            \
    do {                                                                                      \
        zopt_status status_ = (call);                                                         \
        if (status_ != ZOPT_OK) {                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, zopt_last_error()); \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* 11 significant bits and exponents from 2^-12 to 2^3: exact in FP16, rounded in BF16. */
float h_wide_grad(int step, int slot, int tensor, uint64_t element)
{
    uint64_t key =
        mix(mix((uint64_t)step << 32 | (uint64_t)slot) ^ ((uint64_t)tensor << 40) ^ element);
    float mantissa = (float)(1024 + (key & 1023)) / 1024.0f;
    int exponent = (int)(key >> 10 & 15) - 12;
    for (; exponent < 0; exponent++)
        mantissa /= 2;
    for (; exponent > 0; exponent--)
        mantissa *= 2;
    return key >> 63 ? -mantissa : mantissa;
}

float h_start_value(int tensor, uint64_t element)
{
    return (float)((int64_t)(mix((uint64_t)tensor << 40 ^ element ^ 77) & 0xffff) - 32768) /
           65536.0f;
}

uint64_t h_elems(const h_tensor *tensor)
{
    uint64_t n = 1;
    for (int d = 0; d < tensor->ndim; d++)
        n *= tensor->shape[d];
    return n;
}

void h_uneven(h_problem *problem, zopt_dtype dtype, int mixed)
{
    static const h_tensor shapes[] = {
        {"scalar", 0, 0, {0}, 0},       {"one", 0, 1, {1}, 1},     {"n255", 0, 1, {255}, 0},
        {"n256", 0, 1, {256}, 0},       {"n257", 0, 1, {257}, 1},  {"n4095", 0, 1, {4095}, 1},
        {"n4096", 0, 1, {4096}, 0},     {"m3x5", 0, 2, {3, 5}, 0}, {"m64x63", 0, 2, {64, 63}, 1},
        {"t2x3x5", 0, 3, {2, 3, 5}, 0},
    };
    memset(problem, 0, sizeof *problem);
    problem->n_tensors = (int)(sizeof shapes / sizeof shapes[0]);
    memcpy(problem->tensor, shapes, sizeof shapes);
    for (int i = 0; i < problem->n_tensors; i++)
        problem->tensor[i].dtype = mixed ? (zopt_dtype)(i % 3) : dtype;
    problem->n_steps = 4;
    problem->lr = 1e-2;
    problem->weight_decay[0] = 0.1;
    zopt_options_init(&problem->options);
    problem->options.slots = 4;
}

static float *start_values(const h_problem *problem, int tensor)
{
    uint64_t n = h_elems(&problem->tensor[tensor]);
    float *values = malloc(n * sizeof *values);
    for (uint64_t e = 0; e < n; e++)
        values[e] = problem->start ? problem->start(0, 0, tensor, e) : h_start_value(tensor, e);
    return values;
}

zopt_status h_create(const h_problem *problem, const zopt_options *options, zopt **out)
{
    zopt *z;
    zopt_status status = zopt_create(options, &z);
    *out = NULL;
    if (status != ZOPT_OK)
        return status;
    for (int g = 0; g < 2; g++) {
        int group;
        const zopt_setting *more = problem->group_setting[g];
        const zopt_setting settings[] = {{"lr", problem->lr * (g + 1), NULL},
                                         {"weight_decay", problem->weight_decay[g], NULL},
                                         more[0],
                                         more[1]};
        size_t n = more[0].name == NULL ? 2 : more[1].name == NULL ? 3 : 4;
        MUST(zopt_add_group(z, settings, n, &group));
    }
    for (int i = 0; i < problem->n_tensors; i++) {
        const h_tensor *t = &problem->tensor[i];
        int id;
        MUST(zopt_add_tensor(z, t->name, t->dtype, t->ndim, t->shape, t->group, &id));
    }
    if (problem->agreed != NULL)
        MUST(zopt_agree(z, "run file", problem->agreed));
    status = zopt_commit(z);
    if (status != ZOPT_OK || options->plan_world > 0) {
        *out = status == ZOPT_OK ? z : NULL;
        if (status != ZOPT_OK)
            zopt_destroy(z);
        return status;
    }
    for (int i = 0; i < problem->n_tensors; i++) {
        float *values = start_values(problem, i);
        MUST(zopt_set_master(z, i, 0, h_elems(&problem->tensor[i]), values));
        free(values);
    }
    *out = z;
    return ZOPT_OK;
}

#define TRY(call)                     \
    do {                              \
        zopt_status status_ = (call); \
        if (status_ != ZOPT_OK)       \
            return status_;           \
    } while (0)

/* `bytes` bytes of the tensor's dtype. */
static zopt_status hand_over(zopt *z, int tensor, const void *rounded, size_t bytes)
{
    void *grad;
    TRY(zopt_grad_acquire(z, tensor, &grad));
    TRY(zopt_copy(z, grad, rounded, bytes));
    return zopt_grad_ready(z, tensor);
}

static zopt_status write_grad(const h_problem *problem, zopt *z, int step, int slot, int tensor)
{
    const h_tensor *t = &problem->tensor[tensor];
    uint64_t n = h_elems(t);
    const float *scale;
    float times;
    int needed;
    TRY(zopt_needs_grad(z, tensor, &needed));
    if (!needed)
        return ZOPT_OK;
    TRY(zopt_loss_scale(z, &scale));
    TRY(zopt_copy(z, &times, scale, sizeof times));
    size_t bytes = n * zopt_dtype_bytes(t->dtype);
    float *values = malloc(n * sizeof *values);
    void *rounded = malloc(bytes);
    for (uint64_t e = 0; e < n; e++)
        values[e] = times * (problem->grad ? problem->grad : h_wide_grad)(step, slot, tensor, e);
    MUST(zopt_convert(rounded, t->dtype, values, ZOPT_FP32, n));
    zopt_status status = hand_over(z, tensor, rounded, bytes);
    free(rounded);
    free(values);
    return status;
}

zopt_status h_step(const h_problem *problem, zopt *z, int step)
{
    for (int k = 0; k < zopt_micro_steps(z); k++) {
        int slot;
        MUST(zopt_slot(z, &slot));
        for (int i = problem->n_tensors - 1; slot >= 0 && i >= 0; i--)
            if (problem->absent == NULL || !problem->absent(step, slot, i))
                TRY(write_grad(problem, z, step, slot, i));
        TRY(zopt_micro_end(z, slot < 0 ? -1e9 : 1.0 + slot / 3.0 + step * 0.1));
    }
    return zopt_step(z);
}

static void check_params(const h_problem *problem, zopt *z, int tensor, const float *master)
{
    const h_tensor *t = &problem->tensor[tensor];
    uint64_t n = h_elems(t);
    size_t bytes = n * zopt_dtype_bytes(t->dtype);
    const void *param;
    void *rounded = malloc(bytes), *got = malloc(bytes);
    MUST(zopt_param_acquire(z, tensor, &param));
    MUST(zopt_copy(z, got, param, bytes));
    MUST(zopt_convert(rounded, t->dtype, master, ZOPT_FP32, n));
    if (memcmp(rounded, got, bytes) != 0) {
        fprintf(stderr, "rank %d: parameters of '%s' are not the rounded master weights\n",
                zopt_rank(z), t->name);
        abort();
    }
    MUST(zopt_param_release(z, tensor));
    free(rounded);
    free(got);
}

/* Every rank's parameters before the first step. */
static void check_start(const h_problem *problem, zopt *z)
{
    for (int i = 0; i < problem->n_tensors; i++) {
        float *values = start_values(problem, i);
        check_params(problem, z, i, values);
        free(values);
    }
}

/* The optimizer's states: those memory categories that zopt_get_state knows. */
static void find_states(zopt *z, int n_tensors, h_result *result)
{
    for (int c = 0; c < result->memory.n && result->n_states < H_MAX_STATES; c++) {
        const char *name = result->memory.category[c].name;
        int found = 0;
        for (int i = 0; i < n_tensors && !found; i++)
            found = zopt_get_state(z, name, i, 0, 0, NULL) == ZOPT_OK;
        if (found)
            snprintf(result->state_name[result->n_states++], sizeof result->state_name[0], "%s",
                     name);
    }
}

/* Elements of the tensor's state of that name; rows and columns of its matrices may be fewer. */
static uint64_t state_elems(const h_tensor *tensor, const char *name)
{
    int rows = strstr(name, "_row") != NULL, cols = strstr(name, "_col") != NULL;
    if (!rows && !cols)
        return h_elems(tensor);
    return tensor->ndim < 2 ? 0 : h_elems(tensor) / tensor->shape[tensor->ndim - (rows ? 1 : 2)];
}

/* Zeros behind the state's elements, and all where the tensor does not have it. */
static void get_state(const h_problem *problem, zopt *z, const char *name, int i, float *values)
{
    const h_tensor *tensor = &problem->tensor[i];
    uint64_t n = state_elems(tensor, name);
    memset(values, 0, h_elems(tensor) * sizeof *values);
    zopt_status status = zopt_get_state(z, name, i, 0, n, values);
    if (status != ZOPT_ERR_ARGUMENT)
        MUST(status);
}

void h_collect(const h_problem *problem, zopt *z, h_result *result)
{
    uint64_t total = 0;
    for (int i = 0; i < problem->n_tensors; i++)
        total += h_elems(&problem->tensor[i]);
    result->n_elems = total;
    find_states(z, problem->n_tensors, result);
    result->master = malloc((1 + (size_t)result->n_states) * total * sizeof(float));
    for (int s = 0; s < result->n_states; s++)
        result->state[s] = result->master + (uint64_t)(1 + s) * total;
    uint64_t at = 0;
    for (int i = 0; i < problem->n_tensors; i++) {
        uint64_t n = h_elems(&problem->tensor[i]);
        MUST(zopt_get_master(z, i, 0, n, result->master + at));
        for (int s = 0; s < result->n_states; s++)
            get_state(problem, z, result->state_name[s], i, result->state[s] + at);
        check_params(problem, z, i, result->master + at);
        at += n;
    }
}

/* Whether ranks of a node add up for those of others. */
static int sums_travel(const zopt_options *options, uint64_t world, uint64_t node)
{
    uint64_t group = (uint64_t)options->reduce_group;
    return node < world && group > 1 && group < (uint64_t)options->slots && node % group == 0;
}

static int has_mixed_dtypes(const h_problem *problem)
{
    int mixed = 0;
    for (int i = 1; i < problem->n_tensors; i++)
        mixed |= problem->tensor[i].dtype != problem->tensor[0].dtype;
    return mixed;
}

/* What zopt plan says: a slot's gradients, or sums of them, go to their owners, updated parameters,
 * which take as many bytes, to every rank, or to every other node where its ranks read the same. */
static void check_bytes_sent(const h_problem *problem, zopt *z, const zopt_options *options,
                             const zopt_memory_usage *memory, const zopt_step_report *report)
{
    uint64_t world = (uint64_t)zopt_world(z), rank = (uint64_t)zopt_rank(z);
    uint64_t slots = (uint64_t)options->slots;
    uint64_t n_mine = slots > rank ? (slots - rank - 1) / world + 1 : 0;
    uint64_t slice = memory->category[1].bytes / world; /* "grads" */
    uint64_t node = options->ranks_per_node > 0 ? (uint64_t)options->ranks_per_node : world;
    uint64_t n_readers = options->shared_params ? world / node : world;
    uint64_t n_slices = (world - 1) * n_mine, sums = 0;
    uint64_t group = (uint64_t)options->reduce_group;
    uint64_t elem = zopt_dtype_bytes(problem->tensor[0].dtype);
    int travel = sums_travel(options, world, node);
    if (travel && has_mixed_dtypes(problem)) /* then slices are not of one size of element */
        return;
    if (travel && group * elem > sizeof(float)) {
        uint64_t first = rank / group * group, n_owners = (world - node) / group;
        n_slices -= n_owners * n_mine;
        sums = n_owners * (slots > first ? (slots - first - 1) / world + 1 : 0);
        sums *= slice / elem * sizeof(float);
    }
    /* Where the GPU decides, parameters go on their way before anybody knows. */
    int is_ahead = strncmp(zopt_step_path(z), "zopt_step is enqueued", 21) == 0;
    uint64_t n_gathered = report->skipped && !is_ahead ? 0 : n_readers - 1;
    uint64_t want = slice * (n_slices + n_gathered) + sums;
    if (report->bytes_sent != want) {
        fprintf(stderr, "step %d, rank %d of %d: sent %" PRIu64 " bytes, want %" PRIu64 "\n",
                (int)report->step, (int)rank, (int)world, report->bytes_sent, want);
        abort();
    }
}

void h_run_one(const h_problem *problem, const zopt_options *options, h_result *result)
{
    zopt *z;
    memset(result, 0, sizeof *result);
    MUST(h_create(problem, options, &z));
    MUST(zopt_memory(z, &result->memory));
    check_start(problem, z);
    if (problem->adjust != NULL)
        problem->adjust(z);
    for (int step = 1; step <= problem->n_steps && result->status == ZOPT_OK; step++) {
        result->status = h_step(problem, z, step);
        zopt_step_report *report = &result->report[step - 1];
        zopt_status reported = zopt_report(z, 1, report); /* of this step, where it did not wait */
        if (result->status == ZOPT_OK)
            result->status = reported;
        check_bytes_sent(problem, z, options, &result->memory, report);
        memset(report->phase_ms, 0, sizeof report->phase_ms);
    }
    h_collect(problem, z, result);
    zopt_destroy(z);
}

typedef struct rank_start {
    pthread_t thread;
    int rank;
    zopt_threads *threads;
    void (*f)(int rank, zopt_threads *threads, void *arg);
    void *arg;
} rank_start;

static void *start_rank(void *arg)
{
    rank_start *start = arg;
    start->f(start->rank, start->threads, start->arg);
    return NULL;
}

void h_on_threads(int n_ranks, void (*f)(int rank, zopt_threads *threads, void *arg), void *arg)
{
    zopt_threads *threads;
    rank_start *start = calloc((size_t)n_ranks, sizeof *start);
    MUST(zopt_threads_create(n_ranks, &threads));
    for (int r = 0; r < n_ranks; r++) {
        start[r] = (rank_start){.rank = r, .threads = threads, .f = f, .arg = arg};
        if (pthread_create(&start[r].thread, NULL, start_rank, &start[r]) != 0)
            abort();
    }
    for (int r = 0; r < n_ranks; r++)
        pthread_join(start[r].thread, NULL);
    zopt_threads_destroy(threads);
    free(start);
}
