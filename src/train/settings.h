/* What the trainer reads from the run file, under the names it uses. */
#ifndef TRAIN_SETTINGS_H
#define TRAIN_SETTINGS_H

#include <stdint.h>

#include <zopt/zopt.h>

typedef struct settings {
    const char *name, *data_path, *prompt;
    int64_t seed, steps, batch, micro_batch, print_interval;
    int64_t n_layer, n_head, n_embd, n_ctx;
    int64_t eval_interval, eval_batches, sample_length;
    int64_t checkpoint_interval, trace_steps;
    double val_fraction, temperature;
    zopt_dtype dtype; /* of parameters and gradients */
} settings;

/* Strings live as long as the config. Errors: ERR_CONFIG. */
zopt_status settings_read(const zopt_config *config, settings *out);

#endif
