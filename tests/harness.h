/* Runs a small training problem on N ranks and hands back every bit of its result, so that tests
 * can compare worlds, transports, bucket sizes and kernels. Gradients are a function of (step,
 * slot, tensor, element) alone. Ranks are threads of this process, or those of a communicator. */
#ifndef TESTS_HARNESS_H
#define TESTS_HARNESS_H

#include <check.h>
#include <zopt/zopt.h>

enum { H_MAX_TENSORS = 32, H_MAX_STEPS = 200, H_MAX_STATES = 4 };

typedef struct h_tensor {
    const char *name;
    zopt_dtype dtype;
    int ndim;
    uint64_t shape[4];
    int group; /* 0 or 1 */
} h_tensor;

typedef struct h_problem {
    h_tensor tensor[H_MAX_TENSORS];
    int n_tensors;
    int n_steps;
    zopt_options options; /* transport, ranks and threads are filled in by the run */
    double weight_decay[2], lr;
    zopt_setting group_setting[2][2]; /* more settings of groups 0 and 1; a NULL name ends them */
    /* The slot's unscaled gradient; the harness multiplies by the loss scale and rounds. NULL: the
     * default of wide exponents. */
    float (*grad)(int step, int slot, int tensor, uint64_t element);
    /* The same with step 0: the parameters' start values. NULL: h_start_value. */
    float (*start)(int step, int slot, int tensor, uint64_t element);
    const char *agreed; /* a text for zopt_agree, or NULL */
    /* Called with every handle before its first step. NULL: nothing. */
    void (*adjust)(zopt *z);
    /* 1: leave this tensor out in this slot. NULL: never. */
    int (*absent)(int step, int slot, int tensor);
} h_problem;

typedef struct h_result {
    uint64_t n_elems;                    /* of all tensors */
    int n_states;                        /* that the optimizer has */
    float *master, *state[H_MAX_STATES]; /* [n_elems], tensor after tensor; one allocation */
    char state_name[H_MAX_STATES][32];
    zopt_step_report report[H_MAX_STEPS]; /* rank 0's, times zeroed */
    zopt_memory_usage memory;             /* rank 0's, after commit */
    zopt_status status;                   /* of the first step that failed, else OK */
} h_result;

/* The uneven shapes of the issue, all of one dtype; mixed: dtypes in turn. */
void h_uneven(h_problem *problem, zopt_dtype dtype, int mixed);
float h_wide_grad(int step, int slot, int tensor, uint64_t element);
/* The same, but halves overflow in step 2 of slot 1, and in step 3 a sum does, of numbers that do
 * not. */
float h_overflow_grad(int step, int slot, int tensor, uint64_t element);
uint64_t h_elems(const h_tensor *tensor);
float h_start_value(int tensor, uint64_t element);

/* Make the handle of a problem, up to and including commit; groups and master weights set. */
zopt_status h_create(const h_problem *problem, const zopt_options *options, zopt **out);
/* One whole step of this rank: gradients, micro-steps, zopt_step. */
zopt_status h_step(const h_problem *problem, zopt *z, int step);

/* Weights and states of a handle; result->memory names the states. Checks the parameters. */
void h_collect(const h_problem *problem, zopt *z, h_result *result);

/* Run it all. Every rank checks that its parameters are the rounded master weights. */
void h_run_threads(const h_problem *problem, int n_ranks, h_result *result);
/* On 1, 2, 3 and 5 ranks with two bucket sizes, parameters shared with one of them, each equal to
 * the run on one rank. */
void h_check_worlds(h_problem *problem, const char *name);
void h_run_one(const h_problem *problem, const zopt_options *options, h_result *result);
/* By one rank on the CPU, whatever the problem's options say of transport, device and nodes. */
void h_run_alone(const h_problem *problem, h_result *result);
void h_free(h_result *result);

/* Equal bits in weights, states and reports, or the test fails and says where; `what` names b. */
void h_compare(const h_result *a, const h_result *b, const char *what);

/* The same peaks in every category. */
void h_compare_memory(const zopt_memory_usage *planned, const zopt_memory_usage *counted,
                      const char *what);

/* Call f(rank, world of threads, arg) on n threads and wait for them. */
void h_on_threads(int n_ranks, void (*f)(int rank, zopt_threads *threads, void *arg), void *arg);

#endif
