/* One row for each key that the trainer reads; ranges are the library's rows' business. */
#include "train/settings.h"

#include <stddef.h>

#include "train/fail.h"

typedef struct setting_row {
    const char *key;
    size_t offset; /* in settings */
} setting_row;

static const setting_row i64_rows[] = {
    {"seed", offsetof(settings, seed)},
    {"train_steps", offsetof(settings, steps)},
    {"train_batch_size", offsetof(settings, batch)},
    {"train_micro_batch_size_per_gpu", offsetof(settings, micro_batch)},
    {"steps_per_print", offsetof(settings, print_interval)},
    {"model.n_layer", offsetof(settings, n_layer)},
    {"model.n_head", offsetof(settings, n_head)},
    {"model.n_embd", offsetof(settings, n_embd)},
    {"model.n_ctx", offsetof(settings, n_ctx)},
    {"eval.interval", offsetof(settings, eval_interval)},
    {"eval.batches", offsetof(settings, eval_batches)},
    {"sample.length", offsetof(settings, sample_length)},
    {"checkpoint.interval", offsetof(settings, checkpoint_interval)},
    {"zopt.trace_steps", offsetof(settings, trace_steps)},
};
static const setting_row f64_rows[] = {
    {"data.val_fraction", offsetof(settings, val_fraction)},
    {"sample.temperature", offsetof(settings, temperature)},
};
static const setting_row str_rows[] = {
    {"name", offsetof(settings, name)},
    {"data.path", offsetof(settings, data_path)},
    {"sample.prompt", offsetof(settings, prompt)},
};

#define N_ROWS(rows) (sizeof(rows) / sizeof(rows)[0])

static void *field(settings *s, const setting_row *row)
{
    return (char *)s + row->offset;
}

zopt_status settings_read(const zopt_config *config, settings *out)
{
    for (size_t i = 0; i < N_ROWS(i64_rows); i++)
        TRAIN_ZOPT(zopt_config_i64(config, i64_rows[i].key, field(out, &i64_rows[i])));
    for (size_t i = 0; i < N_ROWS(f64_rows); i++)
        TRAIN_ZOPT(zopt_config_f64(config, f64_rows[i].key, field(out, &f64_rows[i])));
    for (size_t i = 0; i < N_ROWS(str_rows); i++)
        TRAIN_ZOPT(zopt_config_str(config, str_rows[i].key, field(out, &str_rows[i])));
    TRAIN_ZOPT(zopt_config_dtype(config, &out->dtype));
    if (!out->data_path || !out->data_path[0])
        return train_fail(ZOPT_ERR_CONFIG, "data.path is not set: name a UTF-8 text to train on");
    return ZOPT_OK;
}
