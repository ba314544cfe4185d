/* What spans keys: the batch and its slots, fp16 against bf16, the model's width and heads. Runs
 * when every key by itself is known to be right. */
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

static zopt_status put_i64(zopt_config *config, const char *key, int64_t value)
{
    return zi_tree_put(config->resolved, key, json_integer(value));
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
    if (slots == 0)
        slots = micro > 0 ? batch / micro : 1;
    if (micro == 0)
        micro = batch / slots;
    if (micro < 1 || slots < 1 || micro * slots != batch)
        return zi_config_fail(config, batch_key,
                              " = %lld is not zopt.slots (%lld) times "
                              "train_micro_batch_size_per_gpu (%lld)",
                              (long long)batch, (long long)slots, (long long)micro);
    ZI_TRY(put_i64(config, batch_key, batch));
    ZI_TRY(put_i64(config, slots_key, slots));
    return put_i64(config, micro_key, micro);
}

zopt_status zi_config_derive(zopt_config *config)
{
    int64_t width = i64(config, "model.n_embd"), heads = i64(config, "model.n_head");
    if (json_is_true(zi_tree_get(config->resolved, "fp16.enabled")) &&
        json_is_true(zi_tree_get(config->resolved, "bf16.enabled")))
        return zi_config_fail(config, "bf16.enabled",
                              " and fp16.enabled are both true: choose one");
    if (width % heads != 0)
        return zi_config_fail(config, "model.n_embd",
                              " = %lld is not a multiple of model.n_head = %lld", (long long)width,
                              (long long)heads);
    return derive_batch(config);
}
