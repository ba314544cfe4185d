/* Every element-wise optimizer in float64, written from the papers and from the formulas in
 * PyTorch's documentation, and beside each number how far FP32 arithmetic may be from it. Shares
 * nothing with src/: powers come from pow(), options are branches.
 *
 * The bounds are a running error analysis (Higham, Accuracy and Stability of Numerical Algorithms,
 * section 3.3): an operation on numbers with errors a and b has the propagated error of its
 * operands and one rounding more, u times its result, u = 2^-24. A scalar that is rounded once from
 * double begins with that. What is computed with fewer roundings (fma) is inside the same bound. */
#ifndef REFERENCE_OPTIMIZERS_F64_H
#define REFERENCE_OPTIMIZERS_F64_H

#include <math.h>
#include <string.h>

#include "optimizer_cases.h"

/* A number and the largest |FP32 value - number|. */
typedef struct bounded {
    double x, e;
} bounded;

static inline bounded b_round(double x, double propagated)
{
    return (bounded){x, propagated + 0x1p-24 * fabs(x)};
}

static inline bounded b_exact(double x)
{
    return (bounded){x, 0};
}

static inline bounded b_scalar(double x)
{
    return b_round(x, 0);
}

static inline bounded b_add(bounded a, bounded b)
{
    return b_round(a.x + b.x, a.e + b.e);
}

static inline bounded b_sub(bounded a, bounded b)
{
    return b_round(a.x - b.x, a.e + b.e);
}

static inline bounded b_mul(bounded a, bounded b)
{
    return b_round(a.x * b.x, fabs(a.x) * b.e + fabs(b.x) * a.e + a.e * b.e);
}

/* Without a bound where b may be zero. */
static inline bounded b_div(bounded a, bounded b)
{
    double q = a.x / b.x, least = fabs(b.x) - b.e;
    return b_round(q, least > 0 ? (a.e + fabs(q) * b.e) / least : INFINITY);
}

static inline bounded b_sqrt(bounded a)
{
    double root = sqrt(a.x), low = sqrt(fmax(a.x - a.e, 0.0));
    return b_round(root, root + low > 0 ? a.e / (root + low) : sqrt(a.e));
}

/* decay * old + (1 - decay) * fresh */
static inline bounded b_mean(double decay, bounded old, bounded fresh)
{
    return b_add(b_mul(b_scalar(decay), old), b_mul(b_scalar(1 - decay), fresh));
}

static inline double hyper(const optimizer_case *c, const char *name, double fallback)
{
    for (size_t i = 0; i < case_n_settings(c); i++)
        if (strcmp(c->setting[i].name, name) == 0)
            return c->setting[i].value;
    return fallback;
}

/* A parameter and its state. */
typedef struct reference_state {
    bounded p, s[3];
} reference_state;

static inline bounded with_l2(const optimizer_case *c, const reference_state *r, double g)
{
    return b_add(b_exact(g), b_mul(b_scalar(c->weight_decay), r->p));
}

static inline void b_descend(reference_state *r, double lr, bounded direction)
{
    r->p = b_sub(r->p, b_mul(b_scalar(lr), direction));
}

static inline void reference_sgd(const optimizer_case *c, double t, double g, reference_state *r)
{
    double momentum = hyper(c, "momentum", 0), dampening = hyper(c, "dampening", 0);
    bounded d = with_l2(c, r, g);
    if (momentum > 0) {
        r->s[0] =
            t == 1 ? d
                   : b_add(b_mul(b_scalar(momentum), r->s[0]), b_mul(b_scalar(1 - dampening), d));
        d = hyper(c, "nesterov", 0) > 0 ? b_add(d, b_mul(b_scalar(momentum), r->s[0])) : r->s[0];
    }
    b_descend(r, c->lr, d);
}

/* s: square_avg, grad_avg, momentum buffer, wherever the library keeps them. */
static inline void reference_rmsprop(const optimizer_case *c, double t, double g,
                                     reference_state *r)
{
    double alpha = hyper(c, "alpha", 0.99), momentum = hyper(c, "momentum", 0);
    bounded d = with_l2(c, r, g), mean_square;
    (void)t;
    r->s[0] = b_mean(alpha, r->s[0], b_mul(d, d));
    mean_square = r->s[0];
    if (hyper(c, "centered", 0) > 0) {
        r->s[1] = b_mean(alpha, r->s[1], d);
        mean_square = b_sub(r->s[0], b_mul(r->s[1], r->s[1]));
    }
    d = b_div(d, b_add(b_sqrt(mean_square), b_scalar(hyper(c, "eps", 1e-8))));
    if (momentum > 0)
        d = r->s[2] = b_add(b_mul(b_scalar(momentum), r->s[2]), d);
    b_descend(r, c->lr, d);
}

static inline void reference_adagrad(const optimizer_case *c, double t, double g,
                                     reference_state *r)
{
    bounded d = with_l2(c, r, g);
    if (t == 1)
        r->s[0] = b_scalar(hyper(c, "initial_accumulator_value", 0));
    r->s[0] = b_add(r->s[0], b_mul(d, d));
    d = b_div(d, b_add(b_sqrt(r->s[0]), b_scalar(hyper(c, "eps", 1e-10))));
    b_descend(r, c->lr / (1 + (t - 1) * hyper(c, "lr_decay", 0)), d);
}

/* p times 1 - lr * weight_decay. */
static inline void b_decay(const optimizer_case *c, reference_state *r)
{
    r->p = b_mul(r->p, b_scalar(1 - c->lr * c->weight_decay));
}

static inline void adam_step(const optimizer_case *c, double t, bounded g, reference_state *r)
{
    double beta1 = hyper(c, "beta1", 0.9), beta2 = hyper(c, "beta2", 0.999);
    bounded v;
    r->s[0] = b_mean(beta1, r->s[0], g);
    v = r->s[1] = b_mean(beta2, r->s[1], b_mul(g, g));
    if (hyper(c, "amsgrad", 0) > 0) {
        /* Near a tie either may be taken: they are then as close as their errors. */
        r->s[2] = (bounded){fmax(r->s[2].x, v.x), fmax(r->s[2].e, v.e)};
        v = r->s[2];
    }
    bounded root = b_div(b_sqrt(v), b_scalar(sqrt(1 - pow(beta2, t))));
    bounded d = b_div(r->s[0], b_add(root, b_scalar(hyper(c, "eps", 1e-8))));
    b_descend(r, c->lr / (1 - pow(beta1, t)), d);
}

static inline void reference_adam(const optimizer_case *c, double t, double g, reference_state *r)
{
    adam_step(c, t, with_l2(c, r, g), r);
}

static inline void reference_adamw_case(const optimizer_case *c, double t, double g,
                                        reference_state *r)
{
    b_decay(c, r);
    adam_step(c, t, b_exact(g), r);
}

/* Source: Chen et al., Symbolic Discovery of Optimization Algorithms, Algorithm 2: theta -= lr *
 * (sign(beta1 m + (1 - beta1) g) + lambda theta). A mix whose sign FP32 may miss ends the bound. */
static inline void reference_lion(const optimizer_case *c, double t, double g, reference_state *r)
{
    bounded mix = b_mean(hyper(c, "beta1", 0.9), r->s[0], b_exact(g));
    double sign = mix.x > 0 ? 1 : mix.x < 0 ? -1 : 0;
    (void)t;
    b_decay(c, r);
    b_descend(r, c->lr, (bounded){sign, fabs(mix.x) > mix.e ? 0 : 2});
    r->s[0] = b_mean(hyper(c, "beta2", 0.99), r->s[0], b_exact(g));
}

typedef void reference_step(const optimizer_case *c, double t, double g, reference_state *r);

static inline reference_step *reference_of(const optimizer_case *c)
{
    static const struct {
        const char *optimizer;
        reference_step *step;
    } rows[] = {{"SGD", reference_sgd},          {"RMSprop", reference_rmsprop},
                {"Adagrad", reference_adagrad},  {"Adam", reference_adam},
                {"AdamW", reference_adamw_case}, {"Lion", reference_lion},
                {"Adam8bit", reference_adam},    {"AdamW8bit", reference_adamw_case}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].optimizer, c->optimizer) == 0)
            return rows[i].step;
    return NULL;
}

#endif
