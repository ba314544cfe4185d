/* See progress.h. */
#include "ckpt/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/locale.h"
#include "base/status.h"

/* ------------------------------------------------------------------ configuration ------------ */

static zopt_status setting_rows(const char *prefix, const zi_setting_row *row, int n,
                                const double *value, zi_texts *rows)
{
    for (int i = 0; i < n; i++) {
        char key[128];
        snprintf(key, sizeof key, "%s.%s", prefix, row[i].name);
        ZI_TRY(zi_texts_add(rows, key, "%.17g", value[i]));
    }
    return ZOPT_OK;
}

static zopt_status step_rows(const zi_zero_config *c, const zi_comm_ops *comm, zi_texts *rows)
{
    const zi_scale_rules *r = &c->scale_rules;
    ZI_TRY(zi_texts_add(rows, "slots", "%d", r->slots));
    if (c->reduce_group > 1) /* those of earlier versions had no groups, and no row */
        ZI_TRY(zi_texts_add(rows, "reduce_group", "%d", c->reduce_group));
    if (comm->bits_vary) /* the others all sum alike, and have no row */
        ZI_TRY(zi_texts_add(rows, "sums", "of %s", comm->name));
    ZI_TRY(zi_texts_add(rows, "clip_norm", "%.17g", r->clip_norm));
    ZI_TRY(zi_texts_add(rows, "check_overflow", "%d", c->check_overflow));
    ZI_TRY(zi_texts_add(rows, "dynamic_loss_scale", "%d", r->dynamic));
    ZI_TRY(zi_texts_add(rows, "loss_scale", "%.17g", c->loss_scale));
    ZI_TRY(zi_texts_add(rows, "min_loss_scale", "%.17g", r->min_scale));
    ZI_TRY(zi_texts_add(rows, "growth_interval", "%d", r->growth_interval));
    ZI_TRY(zi_texts_add(rows, "hysteresis", "%d", r->hysteresis));
    return zi_texts_add(rows, "max_consecutive_skips", "%d", r->max_consecutive_skips);
}

/* Which tensors, of which dtype, are in which group. */
static zopt_status group_rows(const zi_zero *z, uint32_t g, zi_texts *rows)
{
    const zi_optim *optim = z->config.optim;
    char prefix[32], key[64];
    uint64_t hash = 0;
    uint32_t n = 0;
    snprintf(prefix, sizeof prefix, "group.%" PRIu32, g);
    ZI_TRY(setting_rows(prefix, optim->settings, optim->n_settings, z->groups[g].value, rows));
    ZI_TRY(setting_rows(prefix, zi_group_settings, ZI_N_GROUP_SETTINGS, z->groups[g].own, rows));
    for (uint32_t i = 0; i < z->n_tensors; i++) {
        const zi_tensor *tensor = &z->tensors[i];
        if (tensor->group != (int)g)
            continue;
        hash = XXH3_64bits_withSeed(tensor->name, strlen(tensor->name),
                                    hash + (uint64_t)tensor->dtype);
        n++;
    }
    snprintf(key, sizeof key, "%s.tensors", prefix);
    return zi_texts_add(rows, key, "%" PRIu32 " of hash %016" PRIx64, n, hash);
}

zopt_status zi_config_rows(const zi_zero *z, zi_texts *rows)
{
    const zi_zero_config *c = &z->config;
    ZI_TRY(zi_texts_add(rows, "optimizer", "%s", c->optim->name));
    ZI_TRY(zi_texts_add(rows, "schedule", "%s", c->schedule->name));
    ZI_TRY(setting_rows("schedule", c->schedule->settings, c->schedule->n_settings,
                        c->schedule_value, rows));
    ZI_TRY(step_rows(c, z->comm->ops, rows));
    for (uint32_t g = 0; g < z->n_groups; g++)
        ZI_TRY(group_rows(z, g, rows));
    for (uint32_t i = 0; i < z->n_agreed; i++)
        if (z->agreed[i].changes_result)
            ZI_TRY(zi_texts_add(rows, z->agreed[i].key, "%s", z->agreed[i].value));
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ progress ----------------- */

enum { ZI_MAX_NUMBERS = 4 };

/* One text: numbers with spaces between. */
static zopt_status write_numbers(zi_texts *texts, const char *key, const double *value, int n)
{
    char text[ZI_MAX_NUMBERS * 32] = "";
    size_t used = 0;
    locale_t callers = zi_locale_enter();
    for (int i = 0; i < n; i++)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%a", i > 0 ? " " : "", value[i]);
    zi_locale_leave(callers);
    return zi_texts_add(texts, key, "%s", text);
}

static zopt_status read_numbers(const zi_tensorfile *head, const char *path, const char *key,
                                double *value, int n)
{
    const char *text = zi_tensorfile_text(head, key);
    char *end = (char *)text;
    int i = 0;
    locale_t callers = zi_locale_enter();
    for (; text != NULL && i < n; i++) {
        value[i] = strtod(text, &end);
        if (end == text || !isfinite(value[i]))
            break;
        text = *end == ' ' ? end + 1 : end;
    }
    zi_locale_leave(callers);
    if (text == NULL || i < n || *end != '\0')
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: %s '%.100s' is not %d numbers", path, key,
                       text != NULL ? zi_tensorfile_text(head, key) : "(none)", n);
    return ZOPT_OK;
}

static void group_key(uint32_t g, char key[48])
{
    snprintf(key, 48, "zopt.group.%" PRIu32, g);
}

zopt_status zi_progress_write(const zi_zero *z, zi_texts *texts)
{
    const zi_scale_state *s = &z->scale;
    const zi_optim *optim = z->config.optim;
    const double scale[] = {s->scale, s->n_good, s->hysteresis_left, s->n_skips};
    ZI_TRY(zi_texts_add(texts, "zopt.good_step", "%" PRIu64, z->good_step));
    ZI_TRY(write_numbers(texts, "zopt.scale", scale, 4));
    for (uint32_t g = 0; g < z->n_groups; g++) {
        const zi_group *group = &z->groups[g];
        double value[1 + ZI_MAX_POWERS] = {group->value[optim->lr_setting]};
        char key[48];
        memcpy(value + 1, group->power, (size_t)optim->n_powers * sizeof *value);
        group_key(g, key);
        ZI_TRY(write_numbers(texts, key, value, 1 + optim->n_powers));
    }
    return ZOPT_OK;
}

static zopt_status read_count(const zi_tensorfile *head, const char *path, const char *key,
                              uint64_t *out)
{
    const char *text = zi_tensorfile_text(head, key);
    char *end = NULL, same[32];
    *out = text != NULL ? strtoull(text, &end, 10) : 0;
    snprintf(same, sizeof same, "%" PRIu64, *out);
    if (text == NULL || strcmp(same, text) != 0)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: %s '%.100s' is not a count", path, key,
                       text != NULL ? text : "(none)");
    return ZOPT_OK;
}

static zopt_status read_scale(const zi_tensorfile *head, const char *path, zi_scale_state *scale)
{
    double value[4] = {0};
    ZI_TRY(read_numbers(head, path, "zopt.scale", value, 4));
    for (int i = 1; i < 4; i++)
        if (!(value[i] >= 0 && value[i] <= 1e9 && value[i] == floor(value[i])))
            return ZI_FAIL(ZOPT_ERR_DATA, "%s: zopt.scale has %g for a count", path, value[i]);
    if (!(value[0] >= 0x1p-126 && value[0] <= 0x1p127))
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: a loss scale of %g", path, value[0]);
    *scale = (zi_scale_state){.scale = value[0],
                              .n_good = (int)value[1],
                              .hysteresis_left = (int)value[2],
                              .n_skips = (int)value[3]};
    return ZOPT_OK;
}

zopt_status zi_progress_read(const zi_zero *z, const zi_tensorfile *head, const char *path,
                             zi_progress *out)
{
    memset(out, 0, sizeof *out);
    ZI_TRY(read_count(head, path, "zopt.step", &out->step));
    ZI_TRY(read_count(head, path, "zopt.good_step", &out->good_step));
    ZI_TRY(read_scale(head, path, &out->scale));
    out->group = calloc(z->n_groups, sizeof *out->group);
    if (out->group == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %u groups", z->n_groups);
    zopt_status status = ZOPT_OK;
    for (uint32_t g = 0; g < z->n_groups && status == ZOPT_OK; g++) {
        char key[48];
        group_key(g, key);
        status = read_numbers(head, path, key, out->group[g], 1 + z->config.optim->n_powers);
    }
    if (status != ZOPT_OK) {
        free(out->group);
        out->group = NULL;
    }
    return status;
}

static int is_other(const zi_texts *rows, const zi_tensorfile *head, const char *key)
{
    char text[256];
    snprintf(text, sizeof text, ZI_CONFIG_PREFIX "%s", key);
    const char *ours = zi_texts_get(rows, key), *theirs = zi_tensorfile_text(head, text);
    return ours == NULL || theirs == NULL || strcmp(ours, theirs) != 0;
}

void zi_progress_keep_own(const zi_zero *z, const zi_texts *rows, const zi_tensorfile *head,
                          zi_progress *progress)
{
    const zi_optim *optim = z->config.optim;
    for (uint32_t g = 0; g < z->n_groups; g++) {
        char key[128];
        snprintf(key, sizeof key, "group.%" PRIu32 ".%s", g,
                 optim->settings[optim->lr_setting].name);
        if (is_other(rows, head, key))
            progress->group[g][0] = z->groups[g].value[optim->lr_setting];
    }
    if (is_other(rows, head, "loss_scale") || is_other(rows, head, "dynamic_loss_scale"))
        zi_scale_start(&z->config.scale_rules, z->config.loss_scale, &progress->scale);
}

void zi_progress_apply(zi_zero *z, const zi_progress *progress)
{
    const zi_optim *optim = z->config.optim;
    z->step = progress->step;
    z->good_step = progress->good_step;
    z->scale = progress->scale;
    z->control.loss_scale = (float)progress->scale.scale;
    zi_place_control(z);
    z->comm->step = progress->step + 1;
    z->report = (zopt_step_report){0};
    for (uint32_t g = 0; g < z->n_groups; g++) {
        zi_group *group = &z->groups[g];
        group->value[optim->lr_setting] = progress->group[g][0];
        memcpy(group->power, progress->group[g] + 1, (size_t)optim->n_powers * sizeof(double));
    }
}
