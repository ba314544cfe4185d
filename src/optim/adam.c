/* The rows of Adam and AdamW, and of both with 8-bit states: one table of settings and scalars but
 * for the weight decay. The rules are in rule_adam.h and rule_adamw.h. Defaults are those of
 * torch.optim; names and settings of the 8-bit ones are bitsandbytes'. Next: quantize.h. */
#include <float.h>
#include <math.h>

#include "optim/rows.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, N_COMMON };
enum { AMSGRAD = N_COMMON, N_SETTINGS };
enum { OPTIM_BITS = N_COMMON, MIN_8BIT_SIZE, N_SETTINGS_8BIT };

#define COMMON_ROWS                                                                              \
    [LR] = ZI_ROW_LR(1e-3),                                                                      \
    [BETA1] =                                                                                    \
        ZI_ROW_BETA("beta1", "betas[0]", 0.9, "decay of the gradient's running mean (exp_avg)"), \
    [BETA2] = ZI_ROW_BETA("beta2", "betas[1]", 0.999,                                            \
                          "decay of the squared gradient's running mean (exp_avg_sq)"),          \
    [EPS] = ZI_ROW_EPS(1e-8, "added to the root of exp_avg_sq, after its bias correction")
#define ADAM_ROWS                                   \
    COMMON_ROWS, [AMSGRAD] = ZI_ROW_FLAG("amsgrad", \
                                         "divide by the largest exp_avg_sq so far: a state more")
/* min_8bit_size: tensors of 4096 elements and more begin at a block. */
#define ADAM_8BIT_ROWS                                                            \
    COMMON_ROWS,                                                                  \
        [OPTIM_BITS] = {.name = "optim_bits",                                     \
                        .fallback = 8,                                            \
                        .lo = 8,                                                  \
                        .hi = 32,                                                 \
                        .only_bounds = 1,                                         \
                        .help = "8; 32: FP32 states, for a group of embeddings"}, \
        [MIN_8BIT_SIZE] = {.name = "min_8bit_size",                               \
                           .fallback = 4096,                                      \
                           .lo = 4096,                                            \
                           .hi = 0x1p56,                                          \
                           .help = "tensors of fewer elements, over all ranks, keep FP32 states"}

static const zi_setting_row adam_settings[N_SETTINGS] = {
    ADAM_ROWS, [WEIGHT_DECAY] = ZI_ROW_DECAY(0.0, ZI_HELP_L2)};
static const zi_setting_row adamw_settings[N_SETTINGS] = {
    ADAM_ROWS, [WEIGHT_DECAY] = ZI_ROW_DECAY(0.01, ZI_HELP_DECOUPLED)};
static const zi_setting_row adam8bit_settings[N_SETTINGS_8BIT] = {
    ADAM_8BIT_ROWS, [WEIGHT_DECAY] = ZI_ROW_DECAY(0.0, ZI_HELP_L2)};
static const zi_setting_row adamw8bit_settings[N_SETTINGS_8BIT] = {
    ADAM_8BIT_ROWS, [WEIGHT_DECAY] = ZI_ROW_DECAY(0.01, ZI_HELP_DECOUPLED)};

enum { EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ };
#define STATE_NAMES                               \
    {                                             \
        "exp_avg", "exp_avg_sq", "max_exp_avg_sq" \
    }
#define MOMENTS                 \
    {EXP_AVG, ZI_FORM_F32},     \
    {                           \
        EXP_AVG_SQ, ZI_FORM_F32 \
    }

/* By the flag amsgrad. */
static const zi_variant adam_variants[2] = {
    {ZI_RULE_ADAM, ZI_UNIT_ELEMENT, 2, {MOMENTS}},
    {ZI_RULE_ADAM_AMSGRAD, ZI_UNIT_ELEMENT, 3, {MOMENTS, {MAX_EXP_AVG_SQ, ZI_FORM_F32}}},
};
static const zi_variant adamw_variants[2] = {
    {ZI_RULE_ADAMW, ZI_UNIT_ELEMENT, 2, {MOMENTS}},
    {ZI_RULE_ADAMW_AMSGRAD, ZI_UNIT_ELEMENT, 3, {MOMENTS, {MAX_EXP_AVG_SQ, ZI_FORM_F32}}},
};

static const zi_variant *adam_variant(const double *value, const zi_shape *shape)
{
    (void)shape;
    return &adam_variants[value[AMSGRAD] != 0];
}

static const zi_variant *adamw_variant(const double *value, const zi_shape *shape)
{
    (void)shape;
    return &adamw_variants[value[AMSGRAD] != 0];
}

#define MOMENTS_8BIT                    \
    {EXP_AVG, ZI_FORM_Q8_SIGNED},       \
    {                                   \
        EXP_AVG_SQ, ZI_FORM_Q8_UNSIGNED \
    }

/* By whether the tensor is eligible. */
static const zi_variant adam8bit_variants[2] = {
    {ZI_RULE_ADAM, ZI_UNIT_ELEMENT, 2, {MOMENTS}},
    {ZI_RULE_ADAM, ZI_UNIT_BLOCK, 2, {MOMENTS_8BIT}},
};
static const zi_variant adamw8bit_variants[2] = {
    {ZI_RULE_ADAMW, ZI_UNIT_ELEMENT, 2, {MOMENTS}},
    {ZI_RULE_ADAMW, ZI_UNIT_BLOCK, 2, {MOMENTS_8BIT}},
};

static int is_eligible(const double *value, const zi_shape *shape)
{
    return value[OPTIM_BITS] == 8 && (double)shape->n_elems >= value[MIN_8BIT_SIZE];
}

static const zi_variant *adam8bit_variant(const double *value, const zi_shape *shape)
{
    return &adam8bit_variants[is_eligible(value, shape)];
}

static const zi_variant *adamw8bit_variant(const double *value, const zi_shape *shape)
{
    return &adamw8bit_variants[is_eligible(value, shape)];
}

static void adam_scalars(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS])
{
    double root_bc2 = sqrt(1.0 - now->power[1]);
    scalar[ZI_ADAM_DECAY] = (float)value[WEIGHT_DECAY];
    scalar[ZI_ADAM_BETA1] = (float)value[BETA1];
    scalar[ZI_ADAM_ONE_MINUS_BETA1] = (float)(1.0 - value[BETA1]);
    scalar[ZI_ADAM_BETA2] = (float)value[BETA2];
    scalar[ZI_ADAM_ONE_MINUS_BETA2] = (float)(1.0 - value[BETA2]);
    scalar[ZI_ADAM_MINUS_STEP] = (float)(-now->lr * root_bc2 / (1.0 - now->power[0]));
    scalar[ZI_ADAM_EPS] = (float)fmax(value[EPS] * root_bc2, FLT_MIN); /* padding divides by it */
}

static void adamw_scalars(const double *value, const zi_instant *now, float scalar[ZI_MAX_SCALARS])
{
    adam_scalars(value, now, scalar);
    scalar[ZI_ADAM_DECAY] = (float)(1.0 - now->lr * value[WEIGHT_DECAY]);
}

const zi_optim zi_optim_adam = {
    .name = "Adam",
    .help = "Adam with an L2 penalty; weight_decay here is not AdamW's",
    .settings = adam_settings,
    .n_settings = N_SETTINGS,
    .lr_setting = LR,
    .state_name = STATE_NAMES,
    .variant = adam_variant,
    .n_powers = 2,
    .power_setting = {BETA1, BETA2},
    .scalars = adam_scalars,
};

const zi_optim zi_optim_adamw = {
    .name = "AdamW",
    .help = "Adam with decoupled weight decay",
    .settings = adamw_settings,
    .n_settings = N_SETTINGS,
    .lr_setting = LR,
    .state_name = STATE_NAMES,
    .variant = adamw_variant,
    .n_powers = 2,
    .power_setting = {BETA1, BETA2},
    .scalars = adamw_scalars,
};

const zi_optim zi_optim_adam8bit = {
    .name = "Adam8bit",
    .help = "Adam with 8-bit states (block-wise dynamic quantization)",
    .settings = adam8bit_settings,
    .n_settings = N_SETTINGS_8BIT,
    .lr_setting = LR,
    .state_name = {"exp_avg", "exp_avg_sq"},
    .variant = adam8bit_variant,
    .n_powers = 2,
    .power_setting = {BETA1, BETA2},
    .scalars = adam_scalars,
};

const zi_optim zi_optim_adamw8bit = {
    .name = "AdamW8bit",
    .help = "AdamW with 8-bit states (block-wise dynamic quantization)",
    .settings = adamw8bit_settings,
    .n_settings = N_SETTINGS_8BIT,
    .lr_setting = LR,
    .state_name = {"exp_avg", "exp_avg_sq"},
    .variant = adamw8bit_variant,
    .n_powers = 2,
    .power_setting = {BETA1, BETA2},
    .scalars = adamw_scalars,
};
