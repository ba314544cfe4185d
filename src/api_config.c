/* Run files joined with the tables of optimizers and schedules: which settings a file may hold
 * follows from the rows that it names, and a resolved config fills in the options of a handle. */
#include <math.h>

#include "base/status.h"
#include "config/runfile.h"
#include "optim/optim.h"
#include "zero/zero.h"

zopt_status zopt_config_resolve(zopt_config *config)
{
    const zi_optim *optim;
    const zi_schedule *schedule;
    const char *name;
    ZI_NEED(config);
    ZI_TRY(zi_config_peek(config, "optimizer.type", &name));
    if (zi_optim_find(name, &optim) != ZOPT_OK)
        return zi_config_fail(config, "optimizer.type", ": %s", zopt_last_error());
    ZI_TRY(zi_config_peek(config, "scheduler.type", &name));
    if (zi_schedule_find(name, &schedule) != ZOPT_OK)
        return zi_config_fail(config, "scheduler.type", ": %s", zopt_last_error());
    /* By the rows' own names, so that ranks that differ in case alone agree. */
    ZI_TRY(zi_config_put_str(config, "optimizer.type", optim->name));
    ZI_TRY(zi_config_put_str(config, "scheduler.type", schedule->name));
    ZI_TRY(zi_config_add_section(config, "optimizer.params", optim->name, optim->settings,
                                 (size_t)optim->n_settings));
    ZI_TRY(zi_config_add_section(config, "scheduler.params", schedule->name, schedule->settings,
                                 (size_t)schedule->n_settings));
    ZI_TRY(zi_config_add_param_groups(config, optim->name, optim->settings,
                                      (size_t)optim->n_settings, zi_group_settings,
                                      ZI_N_GROUP_SETTINGS));
    return zi_config_check(config);
}

zopt_status zopt_config_dtype(const zopt_config *config, zopt_dtype *dtype)
{
    int fp16, bf16;
    ZI_NEED(config);
    ZI_NEED(dtype);
    ZI_TRY(zopt_config_bool(config, "fp16.enabled", &fp16));
    ZI_TRY(zopt_config_bool(config, "bf16.enabled", &bf16));
    *dtype = fp16 ? ZOPT_FP16 : bf16 ? ZOPT_BF16 : ZOPT_FP32;
    return ZOPT_OK;
}

static zopt_status int_option(const zopt_config *config, const char *key, int *option)
{
    int64_t value;
    ZI_TRY(zopt_config_i64(config, key, &value));
    *option = (int)value; /* the key's range fits an int */
    return ZOPT_OK;
}

static zopt_status scale_options(const zopt_config *config, zopt_options *options)
{
    int fp16, check_bf16, power;
    ZI_TRY(zopt_config_bool(config, "fp16.enabled", &fp16));
    ZI_TRY(zopt_config_bool(config, "bf16.check_grad_overflow", &check_bf16));
    ZI_TRY(int_option(config, "fp16.loss_scale_window", &options->growth_interval));
    ZI_TRY(int_option(config, "fp16.hysteresis", &options->hysteresis));
    ZI_TRY(int_option(config, "fp16.max_consecutive_skips", &options->max_consecutive_skips));
    ZI_TRY(int_option(config, "fp16.initial_scale_power", &power));
    ZI_TRY(zopt_config_f64(config, "fp16.min_loss_scale", &options->min_loss_scale));
    ZI_TRY(zopt_config_f64(config, "fp16.loss_scale", &options->loss_scale));
    options->dynamic_loss_scale = fp16 && options->loss_scale == 0;
    if (options->dynamic_loss_scale)
        options->loss_scale = ldexp(1.0, power);
    options->check_overflow = -1;
    if (!fp16) {
        options->loss_scale = 1.0;
        options->check_overflow = check_bf16 ? 1 : -1;
    }
    return ZOPT_OK;
}

zopt_status zopt_config_options(const zopt_config *config, zopt_options *options)
{
    int64_t bucket, keep_last, keep_every;
    double deadline_s;
    ZI_NEED(config);
    ZI_NEED(options);
    zopt_options_init(options);
    ZI_TRY(zi_config_section(config, "optimizer.params", &options->settings, &options->n_settings));
    ZI_TRY(zi_config_section(config, "scheduler.params", &options->schedule_settings,
                             &options->n_schedule_settings));
    ZI_TRY(zopt_config_str(config, "optimizer.type", &options->optimizer));
    ZI_TRY(zopt_config_str(config, "scheduler.type", &options->schedule));
    ZI_TRY(zopt_config_str(config, "comm.transport", &options->transport));
    ZI_TRY(zopt_config_str(config, "comm.between_nodes", &options->between_nodes));
    ZI_TRY(zopt_config_str(config, "comm.nccl_windows", &options->nccl_windows));
    ZI_TRY(zopt_config_str(config, "device", &options->device));
    ZI_TRY(zopt_config_str(config, "zero_optimization.offload_optimizer.device",
                           &options->offload_optimizer));
    ZI_TRY(int_option(config, "zero_optimization.stage", &options->stage));
    ZI_TRY(int_option(config, "zopt.slots", &options->slots));
    ZI_TRY(int_option(config, "zero_optimization.reduce_group", &options->reduce_group));
    ZI_TRY(zopt_config_bool(config, "zopt.shared_params", &options->shared_params));
    ZI_TRY(zopt_config_bool(config, "zero_optimization.overlap_comm", &options->progress_thread));
    ZI_TRY(int_option(config, "zopt.cuda_graph", &options->cuda_graph));
    ZI_TRY(int_option(config, "comm.ranks_per_node", &options->ranks_per_node));
    ZI_TRY(int_option(config, "zopt.check_params_every", &options->check_params_every));
    ZI_TRY(zopt_config_i64(config, "zero_optimization.reduce_bucket_size", &bucket));
    ZI_TRY(zopt_config_f64(config, "gradient_clipping", &options->clip_norm));
    ZI_TRY(zopt_config_f64(config, "comm.deadline_s", &deadline_s));
    ZI_TRY(zopt_config_i64(config, "checkpoint.keep_last", &keep_last));
    ZI_TRY(zopt_config_i64(config, "checkpoint.keep_every", &keep_every));
    ZI_TRY(zopt_config_bool(config, "checkpoint.async", &options->async_save));
    options->keep_last = (uint64_t)keep_last;
    options->keep_every = (uint64_t)keep_every;
    options->bucket_elems = (size_t)bucket;
    options->deadline_ms = (int)ceil(deadline_s * 1e3);
    return scale_options(config, options);
}

static zopt_status agree_on(void *z, const zi_key *key, const char *json)
{
    if (key->changes_result)
        return zopt_agree_result(z, key->path, json);
    return key->agree ? zopt_agree(z, key->path, json) : ZOPT_OK;
}

zopt_status zopt_config_agree(const zopt_config *config, zopt *z)
{
    ZI_NEED(config);
    ZI_NEED(z);
    return zi_config_each(config, agree_on, z);
}

void zopt_config_help(FILE *file)
{
    if (file == NULL)
        return;
    zi_config_help_keys(file);
    for (size_t i = 0; i < zi_n_optims; i++)
        zi_config_help_section(file, "optimizer.params", zi_optims[i]->name, zi_optims[i]->help,
                               zi_optims[i]->settings, (size_t)zi_optims[i]->n_settings);
    zi_config_help_section(file, "param_groups[i]", "every optimizer",
                           "for tensors whose name is like `match`, the first that is; any of "
                           "optimizer.params, and",
                           zi_group_settings, ZI_N_GROUP_SETTINGS);
    for (size_t i = 0; i < zi_n_schedules; i++)
        zi_config_help_section(file, "scheduler.params", zi_schedules[i]->name,
                               zi_schedules[i]->help, zi_schedules[i]->settings,
                               (size_t)zi_schedules[i]->n_settings);
}
