/* What spans keys, and rules that a range cannot say: the batch and its slots, fp16 against bf16,
 * loss scales, the model's width and heads, the run's name. Runs when every key by itself is known
 * to be in its range. */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "config/config.h"

static int is_written(const zopt_config *config, const char *key)
{
    return zi_tree_get(config->written, key) != NULL;
}

static int64_t i64(const zopt_config *config, const char *key)
{
    return json_integer_value(zi_tree_get(config->resolved, key));
}

static double f64(const zopt_config *config, const char *key)
{
    return json_number_value(zi_tree_get(config->resolved, key));
}

static int is_true(const zopt_config *config, const char *key)
{
    return json_is_true(zi_tree_get(config->resolved, key));
}

static zopt_status put_i64(zopt_config *config, const char *key, int64_t value)
{
    return zi_tree_put(config->resolved, key, json_integer(value));
}

/* In the words that were written: who never set zopt.slots is not told of it. */
static zopt_status wrong_batch(const zopt_config *config, int64_t batch, int64_t slots,
                               int64_t micro)
{
    static const char slots_key[] = "zopt.slots", micro_key[] = "train_micro_batch_size_per_gpu";
    if (slots > 0 && micro > 0)
        return zi_config_fail(config, "train_batch_size",
                              " = %lld is not %s (%lld) times %s (%lld)", (long long)batch,
                              slots_key, (long long)slots, micro_key, (long long)micro);
    return zi_config_fail(config, "train_batch_size", " = %lld is not a multiple of %s = %lld",
                          (long long)batch, slots > 0 ? slots_key : micro_key,
                          (long long)(slots > 0 ? slots : micro));
}

/* Two of the three say the third; train_micro_batch_size_per_gpu alone takes the batch's default,
 * the batch alone is one slot. */
static zopt_status derive_batch(zopt_config *config)
{
    static const char batch_key[] = "train_batch_size", slots_key[] = "zopt.slots",
                      micro_key[] = "train_micro_batch_size_per_gpu";
    int64_t batch = i64(config, batch_key), slots = i64(config, slots_key);
    int64_t micro = is_written(config, micro_key) ? i64(config, micro_key) : 0;
    if (slots > 0 && micro > 0 && !is_written(config, batch_key))
        batch = slots * micro;
    int64_t n = slots, each = micro;
    if (n == 0)
        n = each > 0 ? batch / each : 1;
    if (each == 0)
        each = batch / n;
    if (each < 1 || n < 1 || each * n != batch)
        return wrong_batch(config, batch, slots, micro);
    ZI_TRY(put_i64(config, batch_key, batch));
    ZI_TRY(put_i64(config, slots_key, n));
    return put_i64(config, micro_key, each);
}

/* The range of scales whose product with a gradient, and whose inverse, are FP32 numbers. */
static int is_scale(double value)
{
    int exponent;
    return value >= 0x1p-126 && frexp(value, &exponent) == 0.5;
}

static zopt_status check_scales(const zopt_config *config)
{
    char text[32];
    double scale = f64(config, "fp16.loss_scale"), least = f64(config, "fp16.min_loss_scale");
    int64_t power = i64(config, "fp16.initial_scale_power");
    zi_number_text(scale, text);
    if (scale != 0 && !is_scale(scale))
        return zi_config_fail(config, "fp16.loss_scale",
                              " = %s is neither 0 nor a power of two from 2^-126 to 2^40", text);
    zi_number_text(least, text);
    if (!is_scale(least))
        return zi_config_fail(config, "fp16.min_loss_scale", " = %s is not a power of two", text);
    int dynamic = is_true(config, "fp16.enabled") && scale == 0;
    if (dynamic && least > ldexp(1.0, (int)power))
        return zi_config_fail(
            config, "fp16.min_loss_scale",
            " = %s is above the initial scale, 2 to the fp16.initial_scale_power = %lld", text,
            (long long)power);
    return ZOPT_OK;
}

/* A run that names no folder of its own would write among, or over, other runs. */
static zopt_status check_run_name(const zopt_config *config)
{
    const char *name = json_string_value(zi_tree_get(config->resolved, "name"));
    if (name[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0)
        return zi_config_fail(config, "name", " = \"%s\" is not the name of a folder below runs/",
                              name);
    return ZOPT_OK;
}

zopt_status zi_config_derive(zopt_config *config)
{
    int64_t width = i64(config, "model.n_embd"), heads = i64(config, "model.n_head");
    if (is_true(config, "fp16.enabled") && is_true(config, "bf16.enabled"))
        return zi_config_fail(config, "bf16.enabled",
                              " and fp16.enabled are both true: choose one");
    if (width % heads != 0)
        return zi_config_fail(config, "model.n_embd",
                              " = %lld is not a multiple of model.n_head = %lld", (long long)width,
                              (long long)heads);
    ZI_TRY(check_scales(config));
    ZI_TRY(check_run_name(config));
    return derive_batch(config);
}
