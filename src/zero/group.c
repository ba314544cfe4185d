/* Groups: hyper-parameters read and checked, a group's rate, and the scalars of one step. Groups
 * may differ in every setting, also in those that decide on states: each tensor has its own
 * variant. Next: step.c, which asks for the scalars. */
#include <string.h>

#include "base/status.h"
#include "zero/zero.h"

const zi_setting_row zi_group_settings[ZI_N_GROUP_SETTINGS] = {
    [ZI_GROUP_LR_MULT] = {.name = "lr_mult",
                          .fallback = 1,
                          .hi = 1e6,
                          .help = "multiplies the group's rate, whatever the schedule"},
    [ZI_GROUP_FROZEN] = {.name = "frozen",
                         .hi = 1,
                         .is_flag = 1,
                         .help = "not trained: no gradients, no states, nothing is sent"},
};

static int is_own(const char *name)
{
    for (int i = 0; name != NULL && i < ZI_N_GROUP_SETTINGS; i++)
        if (strcmp(zi_group_settings[i].name, name) == 0)
            return 1;
    return 0;
}

static zopt_status check_together(const zi_optim *optim, const double *value)
{
    const char *why = optim->refuse != NULL ? optim->refuse(value) : NULL;
    return why == NULL ? ZOPT_OK : ZI_FAIL(ZOPT_ERR_CONFIG, "%s: %s", optim->name, why);
}

zopt_status zi_group_defaults(zi_zero_config *config, const zopt_setting *settings, size_t n)
{
    const zi_optim *optim = config->optim;
    zi_settings_default(optim->settings, (size_t)optim->n_settings, config->value);
    ZI_TRY(zi_settings_apply(optim->name, optim->settings, (size_t)optim->n_settings, settings, n,
                             config->value));
    ZI_TRY(zi_schedule_check_lr(config->schedule, config->schedule_value, optim, settings, n));
    return check_together(optim, config->value);
}

zopt_status zi_group_read(zi_zero *z, const zopt_setting *settings, size_t n, zi_group *group)
{
    const zi_zero_config *config = &z->config;
    const zi_optim *optim = config->optim;
    *group = (zi_group){.power = {1.0, 1.0}};
    memcpy(group->value, config->value, sizeof group->value);
    zi_settings_default(zi_group_settings, ZI_N_GROUP_SETTINGS, group->own);
    for (size_t i = 0; i < n; i++) {
        if (is_own(settings[i].name))
            ZI_TRY(zi_settings_apply("group", zi_group_settings, ZI_N_GROUP_SETTINGS, &settings[i],
                                     1, group->own));
        else
            ZI_TRY(zi_settings_apply(optim->name, optim->settings, (size_t)optim->n_settings,
                                     &settings[i], 1, group->value));
    }
    ZI_TRY(zi_schedule_check_lr(config->schedule, config->schedule_value, optim, settings, n));
    return check_together(optim, group->value);
}

zopt_status zi_group_set_lr(zi_zero *z, uint32_t group, double lr)
{
    const zi_zero_config *config = &z->config;
    const zi_optim *optim = config->optim;
    const zopt_setting setting = {.name = optim->settings[optim->lr_setting].name, .value = lr};
    ZI_TRY(zi_schedule_check_lr(config->schedule, config->schedule_value, optim, &setting, 1));
    return zi_settings_apply(optim->name, optim->settings, (size_t)optim->n_settings, &setting, 1,
                             z->groups[group].value);
}

double zi_group_lr(const zi_zero *z, uint32_t group, uint64_t t)
{
    const zi_group *g = &z->groups[group];
    return zi_schedule_lr(z->config.schedule, z->config.schedule_value,
                          g->value[z->config.optim->lr_setting], g->own[ZI_GROUP_LR_MULT], t);
}

static void multiply(const zi_optim *optim, zi_group *group)
{
    for (int p = 0; p < optim->n_powers; p++)
        group->power[p] *= group->value[optim->power_setting[p]];
}

void zi_group_foresee(const zi_zero *z, unsigned n, float (*scalars)[ZI_MAX_SCALARS])
{
    const zi_optim *optim = z->config.optim;
    uint64_t t = z->good_step + n;
    for (uint32_t i = 0; i < z->n_groups; i++) {
        zi_group then = z->groups[i];
        for (unsigned step = 0; step < n; step++)
            multiply(optim, &then);
        const zi_instant now = {.t = t, .lr = zi_group_lr(z, i, t), .power = then.power};
        optim->scalars(then.value, &now, scalars[i]);
    }
}

void zi_group_terms(const zi_zero *z, uint32_t group, uint64_t t, zi_terms *terms)
{
    const zi_group *g = &z->groups[group];
    const zi_instant now = {.t = t, .lr = zi_group_lr(z, group, t), .power = g->power};
    z->config.optim->terms(g->value, &now, terms);
}

void zi_group_advance(zi_zero *z)
{
    for (uint32_t i = 0; i < z->n_groups; i++)
        multiply(z->config.optim, &z->groups[i]);
}
