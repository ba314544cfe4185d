/* Options of zopt_create: ranges checked, names looked up, defaults filled in. */
#include "api_options.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

enum { DEFAULT_BUCKET_ELEMS = 4 << 20 };

static zopt_status check_range(const char *name, double value, double lo, double hi)
{
    if (!(value >= lo && value <= hi))
        return ZI_FAIL(ZOPT_ERR_CONFIG, "%s = %g is outside [%g, %g]", name, value, lo, hi);
    return ZOPT_OK;
}

static zopt_status check_scale(const char *name, double value)
{
    int exponent;
    if (!(value > 0) || frexp(value, &exponent) != 0.5 || exponent < -125 || exponent > 127)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "%s = %g is not a power of two from 2^-126 to 2^126", name,
                       value);
    return ZOPT_OK;
}

static zopt_status check_numbers(const zopt_options *o)
{
    if (o->stage != 1)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "stage %d is not available; there is stage 1",
                       o->stage);
    ZI_TRY(check_range("slots", o->slots, 0, ZI_SLOT_SUM - 1));
    ZI_TRY(check_range("clip_norm", o->clip_norm, 0, 1e30));
    ZI_TRY(check_scale("loss_scale", o->loss_scale));
    ZI_TRY(check_scale("min_loss_scale", o->min_loss_scale));
    ZI_TRY(check_range("growth_interval", o->growth_interval, 1, 1e9));
    ZI_TRY(check_range("hysteresis", o->hysteresis, 1, 1e9));
    ZI_TRY(check_range("check_overflow", o->check_overflow, -1, 1));
    ZI_TRY(check_range("max_consecutive_skips", o->max_consecutive_skips, 1, 1e9));
    ZI_TRY(check_range("deadline_ms", o->deadline_ms, 1, 1e9));
    ZI_TRY(check_range("ranks_per_node", o->ranks_per_node, 0, 1 << 24));
    ZI_TRY(check_range("check_params_every", o->check_params_every, 0, 1e9));
    ZI_TRY(check_range("reduce_group", o->reduce_group, 1, ZI_SLOT_SUM - 1));
    ZI_TRY(check_range("cuda_graph", o->cuda_graph, -1, 1));
    ZI_TRY(check_range("plan_world", o->plan_world, 0, 1 << 24));
    if (o->plan_world > 0)
        ZI_TRY(check_range("plan_rank", o->plan_rank, 0, o->plan_world - 1));
    if (o->dynamic_loss_scale && o->check_overflow == 0)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "a dynamic loss scale needs check_overflow, which is 0");
    if (o->dynamic_loss_scale && o->min_loss_scale > o->loss_scale)
        return ZI_FAIL(ZOPT_ERR_CONFIG, "min_loss_scale = %g is above loss_scale = %g",
                       o->min_loss_scale, o->loss_scale);
    return ZOPT_OK;
}

/* Where master weights and states live. */
static zopt_status look_up_home(const zopt_options *o, zi_zero_config *config)
{
    const char *name = o->offload_optimizer ? o->offload_optimizer : "none";
    config->home = config->device;
    if (strcmp(name, "none") == 0)
        return ZOPT_OK;
    if (strcmp(name, "nvme") == 0)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "offload_optimizer 'nvme' is not available; there is 'cpu', the host's "
                       "memory");
    if (strcmp(name, "cpu") != 0)
        return ZI_FAIL(ZOPT_ERR_CONFIG,
                       "unknown offload_optimizer '%s'; there are 'none' and "
                       "'cpu'",
                       name);
    if (config->device->on_host)
        return ZI_FAIL(ZOPT_ERR_CONFIG,
                       "offload_optimizer 'cpu': there is nothing to offload from device '%s', "
                       "whose memory is the host's; leave it out, or set device to 'cuda'",
                       config->device->name);
    return zi_device_find(name, o->plan_world > 0, &config->home);
}

static zopt_status look_up(const zopt_options *o, zi_zero_config *config)
{
    ZI_TRY(zi_optim_find(o->optimizer ? o->optimizer : "adamw", &config->optim));
    ZI_TRY(zi_schedule_find(o->schedule ? o->schedule : "constant", &config->schedule));
    const zi_schedule *schedule = config->schedule;
    zi_settings_default(schedule->settings, (size_t)schedule->n_settings, config->schedule_value);
    ZI_TRY(zi_settings_apply(schedule->name, schedule->settings, (size_t)schedule->n_settings,
                             o->schedule_settings, o->n_schedule_settings, config->schedule_value));
    ZI_TRY(zi_group_defaults(config, o->settings, o->n_settings));
    ZI_TRY(zi_device_find(o->device ? o->device : "auto", o->plan_world > 0, &config->device));
    return look_up_home(o, config);
}

/* *out: which of the words it is; the first for NULL. */
static zopt_status read_word(const char *name, const char *value, const char *const *words, int n,
                             int *out)
{
    char all[64] = "";
    *out = 0;
    for (int i = 0; i < n; i++) {
        if (value == NULL || strcmp(value, words[i]) == 0) {
            *out = i;
            return ZOPT_OK;
        }
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s'%s'", i > 0 ? ", " : "",
                 words[i]);
    }
    return ZI_FAIL(ZOPT_ERR_CONFIG, "unknown %s '%s'; there are %s", name, value, all);
}

zopt_status zi_options_nccl(const zopt_options *o, zi_comm_config *config)
{
    int carrier, kind;
    config->nccl_comm = o->nccl_comm;
    zopt_status between =
        read_word("between_nodes", o->between_nodes, zi_between_words, ZI_N_BETWEEN, &carrier);
    zopt_status status =
        read_word("nccl_windows", o->nccl_windows, zi_windows_words, ZI_N_WINDOWS, &kind);
    config->between_nodes = (zi_between)carrier;
    config->nccl_windows = (zi_windows)kind;
    return between != ZOPT_OK ? between : status;
}

zopt_status zi_options_read(const zopt_options *o, zi_zero_config *config)
{
    zi_comm_config unused;
    ZI_TRY(zi_options_nccl(o, &unused));
    ZI_TRY(check_numbers(o));
    ZI_TRY(look_up(o, config));
    config->bucket_elems = o->bucket_elems > 0 ? o->bucket_elems : DEFAULT_BUCKET_ELEMS;
    config->loss_scale = o->loss_scale;
    config->check_overflow = o->check_overflow;
    config->check_params_every = o->check_params_every;
    config->progress_thread = o->progress_thread != 0;
    config->reduce_group = o->reduce_group;
    config->cuda_graph = o->cuda_graph;
    config->scale_rules = (zi_scale_rules){
        .dynamic = o->dynamic_loss_scale != 0,
        .min_scale = o->min_loss_scale,
        .growth_interval = o->growth_interval,
        .hysteresis = o->hysteresis,
        .max_consecutive_skips = o->max_consecutive_skips,
        .clip_norm = o->clip_norm,
        .slots = o->slots,
    };
    return ZOPT_OK;
}
