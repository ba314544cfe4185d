/* The agreement at commit: everything that ranks must have alike is a list of lines, made on the
 * fly. Ranks compare one hash; where it differs they search for the first line that does and name
 * it. Nothing large has been allocated by then. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/status.h"
#include "zero/zero.h"

enum { LINE_BYTES = 800 };

static void option_line(const zi_zero *z, char line[LINE_BYTES])
{
    const zi_zero_config *c = &z->config;
    const zi_scale_rules *r = &c->scale_rules;
    snprintf(line, LINE_BYTES,
             "options: %s, schedule %s, %d slots, buckets of %" PRIu64
             ", clip %.17g, %s loss scale "
             "%.17g (min %.17g, growth %d, hysteresis %d, skips %d), check_overflow %d, transport "
             "%s, device %s",
             c->optim->name, c->schedule->name, r->slots, c->bucket_elems, r->clip_norm,
             r->dynamic ? "dynamic" : "static", c->loss_scale, r->min_scale, r->growth_interval,
             r->hysteresis, r->max_consecutive_skips, c->check_overflow, z->comm->ops->name,
             c->device->name);
}

/* " name value" for each, behind what the line holds. */
static void append_values(const zi_setting_row *rows, int n, const double *value,
                          char line[LINE_BYTES])
{
    size_t used = strlen(line);
    for (int i = 0; i < n && used < LINE_BYTES; i++)
        used +=
            (size_t)snprintf(line + used, LINE_BYTES - used, " %s %.17g", rows[i].name, value[i]);
}

static void tensor_line(const zi_tensor *tensor, uint32_t id, char line[LINE_BYTES])
{
    size_t used = (size_t)snprintf(line, LINE_BYTES, "tensor %" PRIu32 ": '%s' %s group %d [", id,
                                   tensor->name, zi_dtype_name(tensor->dtype), tensor->group);
    for (int d = 0; d < tensor->ndim && used < LINE_BYTES; d++)
        used += (size_t)snprintf(line + used, LINE_BYTES - used, "%s%" PRIu64, d ? ", " : "",
                                 tensor->shape[d]);
    if (used < LINE_BYTES)
        snprintf(line + used, LINE_BYTES - used, "]");
}

static uint64_t n_lines(const zi_zero *z)
{
    return 2 + (uint64_t)z->n_agreed + z->n_groups + z->n_tensors;
}

/* Line i; past the end, that there is none. */
static void make_line(const zi_zero *z, uint64_t i, char line[LINE_BYTES])
{
    const zi_optim *optim = z->config.optim;
    const zi_schedule *schedule = z->config.schedule;
    memset(line, 0, LINE_BYTES);
    if (i == 0) {
        option_line(z, line);
        return;
    }
    if (i == 1) {
        snprintf(line, LINE_BYTES, "schedule:");
        append_values(schedule->settings, schedule->n_settings, z->config.schedule_value, line);
        return;
    }
    i -= 2;
    if (i < z->n_agreed) {
        snprintf(line, LINE_BYTES, "%s: %s", z->agreed[i].key, z->agreed[i].value);
        return;
    }
    i -= z->n_agreed;
    if (i < z->n_groups) {
        const zi_group *group = &z->groups[i];
        snprintf(line, LINE_BYTES, "group %" PRIu64 ":", i);
        append_values(optim->settings, optim->n_settings, group->value, line);
        append_values(zi_group_settings, ZI_N_GROUP_SETTINGS, group->own, line);
        return;
    }
    i -= z->n_groups;
    if (i < z->n_tensors)
        tensor_line(&z->tensors[i], (uint32_t)i, line);
    else
        snprintf(line, LINE_BYTES, "nothing (its list ends here)");
}

/* Hash of the first n lines. */
static uint64_t hash_lines(const zi_zero *z, uint64_t n)
{
    char line[LINE_BYTES];
    uint64_t hash = 0;
    for (uint64_t i = 0; i < n; i++) {
        make_line(z, i, line);
        hash = XXH3_64bits_withSeed(line, strlen(line), hash + 1);
    }
    return hash;
}

/* *same = 1 where all ranks passed the same value. */
static zopt_status all_same(zi_comm *comm, uint64_t value, int *same)
{
    int64_t least = (int64_t)(value >> 1), most = least;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &least, 1));
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MAX, &most, 1));
    *same = least == most;
    return ZOPT_OK;
}

/* Name the line and the lowest rank that has another one than rank 0. */
static zopt_status name_difference(zi_comm *comm, const char mine[LINE_BYTES])
{
    char first[LINE_BYTES], other[LINE_BYTES];
    memcpy(first, mine, LINE_BYTES);
    ZI_TRY(comm->ops->broadcast(comm, 0, first, LINE_BYTES));
    int64_t who = strcmp(first, mine) != 0 ? comm->rank : INT64_MAX;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &who, 1));
    if (who == INT64_MAX)
        return ZI_FAIL(ZOPT_ERR_DISAGREE, "ranks disagree on more than can be named");
    memcpy(other, mine, LINE_BYTES);
    ZI_TRY(comm->ops->broadcast(comm, (int)who, other, LINE_BYTES));
    first[LINE_BYTES - 1] = other[LINE_BYTES - 1] = '\0';
    return ZI_FAIL(ZOPT_ERR_DISAGREE, "ranks disagree: rank 0 has %s; rank %" PRId64 " has %s",
                   first, who, other);
}

zopt_status zi_zero_agree(zi_zero *z)
{
    char line[LINE_BYTES];
    int same;
    int64_t n = (int64_t)n_lines(z);
    ZI_TRY(z->comm->ops->all_reduce(z->comm, ZI_MAX, &n, 1));
    ZI_TRY(all_same(z->comm, hash_lines(z, (uint64_t)n), &same));
    if (same)
        return ZOPT_OK;
    /* All agree on the first lo lines, not on the first hi. */
    uint64_t lo = 0, hi = (uint64_t)n;
    while (hi - lo > 1) {
        uint64_t middle = lo + (hi - lo) / 2;
        ZI_TRY(all_same(z->comm, hash_lines(z, middle), &same));
        if (same)
            lo = middle;
        else
            hi = middle;
    }
    make_line(z, lo, line);
    return name_difference(z->comm, line);
}
