/* One case for each optimizer and variant: what the suites over all optimizers run.
 * reference/optimizers_torch.py has the same cases under the same names. */
#ifndef TESTS_OPTIMIZER_CASES_H
#define TESTS_OPTIMIZER_CASES_H

#include <string.h>
#include <zopt/zopt.h>

#include "harness.h"

enum { MAX_CASE_SETTINGS = 6 };

typedef struct optimizer_case {
    const char *name, *optimizer;
    double lr, weight_decay;
    zopt_setting setting[MAX_CASE_SETTINGS]; /* the others; a NULL name ends them */
    int n_states;
    const char *last_state; /* NULL: none */
} optimizer_case;

#define BETAS               \
    {"beta1", 0.9, NULL},   \
    {                       \
        "beta2", 0.99, NULL \
    }

static const optimizer_case optimizer_cases[] = {
    {"sgd", "SGD", 0.05, 0.01, {{NULL, 0, NULL}}, 0, NULL},
    {"sgd_momentum",
     "SGD",
     0.02,
     0.01,
     {{"momentum", 0.9, NULL}, {"dampening", 0.25, NULL}},
     1,
     "momentum_buffer"},
    {"sgd_nesterov",
     "SGD",
     0.02,
     0.0,
     {{"momentum", 0.8, NULL}, {"nesterov", 1, NULL}},
     1,
     "momentum_buffer"},
    {"rmsprop", "RMSprop", 0.01, 0.1, {{"alpha", 0.95, NULL}}, 1, "square_avg"},
    {"rmsprop_momentum",
     "RMSprop",
     0.003,
     0.0,
     {{"alpha", 0.9, NULL}, {"momentum", 0.9, NULL}},
     2,
     "momentum_buffer"},
    {"rmsprop_centered",
     "RMSprop",
     0.01,
     0.01,
     {{"alpha", 0.9, NULL}, {"centered", 1, NULL}, {"eps", 1e-6, NULL}},
     2,
     "grad_avg"},
    {"rmsprop_centered_momentum",
     "RMSprop",
     0.003,
     0.0,
     {{"alpha", 0.95, NULL}, {"centered", 1, NULL}, {"momentum", 0.5, NULL}, {"eps", 1e-4, NULL}},
     3,
     "momentum_buffer"},
    {"adagrad", "Adagrad", 0.1, 0.0, {{NULL, 0, NULL}}, 1, "sum"},
    {"adagrad_decay",
     "Adagrad",
     0.1,
     0.05,
     {{"lr_decay", 0.01, NULL}, {"initial_accumulator_value", 0.1, NULL}},
     1,
     "sum"},
    {"adam", "Adam", 0.003, 0.1, {BETAS}, 2, "exp_avg_sq"},
    {"adam_amsgrad", "Adam", 0.003, 0.0, {BETAS, {"amsgrad", 1, NULL}}, 3, "max_exp_avg_sq"},
    {"adamw", "AdamW", 0.003, 0.1, {BETAS}, 2, "exp_avg_sq"},
    {"adamw_amsgrad",
     "AdamW",
     0.003,
     0.01,
     {BETAS, {"amsgrad", 1, NULL}, {"eps", 1e-5, NULL}},
     3,
     "max_exp_avg_sq"},
    {"lion", "Lion", 0.003, 0.1, {BETAS}, 1, "exp_avg"},
    {"adafactor", "Adafactor", 0.02, 0.1, {{NULL, 0, NULL}}, 3, "exp_avg_sq"},
    {"adafactor_moment",
     "Adafactor",
     0.02,
     0.0,
     {{"beta1", 0.9, NULL}, {"beta2_decay", -0.5, NULL}, {"d", 0.5, NULL}},
     4,
     "exp_avg"},
    {"adafactor_relative",
     "Adafactor",
     0.01,
     0.1,
     {{"relative_step", 1, NULL}, {"warmup_init", 1, NULL}, {"eps1", 1e-15, NULL}},
     3,
     "exp_avg_sq"},
    {"adafactor_unscaled",
     "Adafactor",
     0.003,
     0.01,
     {{"scale_parameter", 0, NULL}, {"beta1", 0.5, NULL}, {"eps1", 1e-3, NULL}},
     4,
     "exp_avg"},
    {"adam8bit", "Adam8bit", 0.003, 0.1, {BETAS}, 2, "exp_avg_sq"},
    {"adamw8bit", "AdamW8bit", 0.003, 0.1, {BETAS}, 2, "exp_avg_sq"},
};

#undef BETAS

enum { N_OPTIMIZER_CASES = sizeof optimizer_cases / sizeof optimizer_cases[0] };

static inline size_t case_n_settings(const optimizer_case *c)
{
    size_t n = 0;
    while (n < MAX_CASE_SETTINGS && c->setting[n].name != NULL)
        n++;
    return n;
}

static inline void case_use(const optimizer_case *c, h_problem *problem)
{
    problem->lr = c->lr;
    problem->weight_decay[0] = c->weight_decay;
    problem->options.optimizer = c->optimizer;
    problem->options.settings = c->setting;
    problem->options.n_settings = case_n_settings(c);
}

/* Tensors of 4096 elements and more have states that PyTorch has not: test_adam8bit.c holds them
 * against a reference. Smaller ones are as those of the optimizer without "8bit". */
static inline int case_has_8bit_states(const optimizer_case *c)
{
    return strstr(c->optimizer, "8bit") != NULL;
}

#endif
