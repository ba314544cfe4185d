/* The agreement at commit: everything that ranks must have alike is a list of lines, made on the
 * fly. Ranks compare one hash; where it differs they search for the first line that does and name
 * it. Nothing large has been allocated by then. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/status.h"
#include "zero/zero.h"

enum { TEXT_BYTES = 2048 };

/* One line: a hash of all of it, and as much of its text as fits, to name it by. */
typedef struct line {
    uint64_t hash;
    char text[TEXT_BYTES];
} line;

static void option_line(const zi_zero *z, char *text)
{
    const zi_zero_config *c = &z->config;
    const zi_scale_rules *r = &c->scale_rules;
    snprintf(text, TEXT_BYTES,
             "options: %s, schedule %s, %d slots in groups of %d, buckets of %" PRIu64
             ", clip %.17g, %s loss scale "
             "%.17g (min %.17g, growth %d, hysteresis %d, skips %d), check_overflow %d, "
             "parameters checked every %d steps, transport %s%s, device %s, state on %s",
             c->optim->name, c->schedule->name, r->slots, c->reduce_group, c->bucket_elems,
             r->clip_norm, r->dynamic ? "dynamic" : "static", c->loss_scale, r->min_scale,
             r->growth_interval, r->hysteresis, r->max_consecutive_skips, c->check_overflow,
             c->check_params_every, z->comm->ops->name,
             z->comm->shared_params ? " with shared params" : "", c->device->name, c->home->name);
}

/* " name value" for each, behind what the text holds. */
static void append_values(const zi_setting_row *rows, int n, const double *value, char *text)
{
    size_t used = strlen(text);
    for (int i = 0; i < n && used < TEXT_BYTES; i++)
        used +=
            (size_t)snprintf(text + used, TEXT_BYTES - used, " %s %.17g", rows[i].name, value[i]);
}

static void tensor_line(const zi_tensor *tensor, uint32_t id, char *text)
{
    size_t used = (size_t)snprintf(text, TEXT_BYTES, "tensor %" PRIu32 ": '%s' %s group %d [", id,
                                   tensor->name, zi_dtype_name(tensor->dtype), tensor->group);
    for (int d = 0; d < tensor->ndim && used < TEXT_BYTES; d++)
        used += (size_t)snprintf(text + used, TEXT_BYTES - used, "%s%" PRIu64, d ? ", " : "",
                                 tensor->shape[d]);
    if (used < TEXT_BYTES)
        snprintf(text + used, TEXT_BYTES - used, "]");
}

static uint64_t n_lines(const zi_zero *z)
{
    return 2 + (uint64_t)z->n_agreed + z->n_groups + z->n_tensors;
}

/* Text of line i, but for the agreed texts; past the end, that there is none. */
static void make_text(const zi_zero *z, uint64_t i, char *text)
{
    const zi_optim *optim = z->config.optim;
    const zi_schedule *schedule = z->config.schedule;
    if (i == 0) {
        option_line(z, text);
    } else if (i == 1) {
        snprintf(text, TEXT_BYTES, "schedule:");
        append_values(schedule->settings, schedule->n_settings, z->config.schedule_value, text);
    } else if (i - 2 < z->n_groups) {
        const zi_group *group = &z->groups[i - 2];
        snprintf(text, TEXT_BYTES, "group %" PRIu64 ":", i - 2);
        append_values(optim->settings, optim->n_settings, group->value, text);
        append_values(zi_group_settings, ZI_N_GROUP_SETTINGS, group->own, text);
    } else if (i - 2 - z->n_groups < z->n_tensors) {
        uint32_t id = (uint32_t)(i - 2 - z->n_groups);
        tensor_line(&z->tensors[id], id, text);
    } else {
        snprintf(text, TEXT_BYTES, "nothing (its list ends here)");
    }
}

/* Agreed texts come first and may be longer than a line: they are hashed in full. */
static void make_line(const zi_zero *z, uint64_t i, line *out)
{
    memset(out, 0, sizeof *out);
    if (i < z->n_agreed) {
        const zi_agreed *agreed = &z->agreed[i];
        snprintf(out->text, sizeof out->text, "%s: %s", agreed->key, agreed->value);
        out->hash = XXH3_64bits(agreed->key, strlen(agreed->key));
        out->hash = XXH3_64bits_withSeed(agreed->value, strlen(agreed->value), out->hash);
        return;
    }
    make_text(z, i - z->n_agreed, out->text);
    out->hash = XXH3_64bits(out->text, strlen(out->text));
}

/* Hash of the first n lines. */
static uint64_t hash_lines(const zi_zero *z, uint64_t n)
{
    line next;
    uint64_t hash = 0;
    for (uint64_t i = 0; i < n; i++) {
        make_line(z, i, &next);
        hash = XXH3_64bits_withSeed(&next.hash, sizeof next.hash, hash + 1);
    }
    return hash;
}

zopt_status zi_all_same(zi_comm *comm, uint64_t hash, int *same)
{
    int64_t least = (int64_t)(hash >> 1), most = least;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &least, 1));
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MAX, &most, 1));
    *same = least == most;
    return ZOPT_OK;
}

/* Of the options, which are many, the first that differs; else the line. */
static void tell_line(const char *text, const char *other, char *out, size_t bytes)
{
    const size_t head = strlen("options: ");
    size_t from = head;
    if (strncmp(text, "options: ", head) != 0) {
        snprintf(out, bytes, "%s", text);
        return;
    }
    for (size_t same = head; text[same] != '\0' && text[same] == other[same]; same++)
        if (strncmp(text + same, ", ", 2) == 0)
            from = same + 2;
    snprintf(out, bytes, "options: %.*s", (int)strcspn(text + from, ","), text + from);
}

/* Name the line and the lowest rank that has another one than rank 0. */
static zopt_status name_difference(zi_comm *comm, const line *mine)
{
    line first = *mine, other = *mine;
    char is[400], is_other[400];
    ZI_TRY(comm->ops->broadcast(comm, 0, &first, sizeof first));
    int64_t who = first.hash != mine->hash ? comm->rank : INT64_MAX;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &who, 1));
    if (who == INT64_MAX)
        return ZI_FAIL(ZOPT_ERR_DISAGREE, "ranks disagree, but no line tells them apart");
    ZI_TRY(comm->ops->broadcast(comm, (int)who, &other, sizeof other));
    const char *beyond = strcmp(first.text, other.text) == 0 ? " (the difference comes later)" : "";
    tell_line(first.text, other.text, is, sizeof is);
    tell_line(other.text, first.text, is_other, sizeof is_other);
    return ZI_FAIL(ZOPT_ERR_DISAGREE, "ranks disagree: rank 0 has %s; rank %" PRId64 " has %s%s",
                   is, who, is_other, beyond);
}

zopt_status zi_zero_agree(zi_zero *z)
{
    line first;
    int same;
    int64_t n = (int64_t)n_lines(z);
    ZI_TRY(z->comm->ops->all_reduce(z->comm, ZI_MAX, &n, 1));
    ZI_TRY(zi_all_same(z->comm, hash_lines(z, (uint64_t)n), &same));
    if (same)
        return ZOPT_OK;
    /* All agree on the first lo lines, not on the first hi. */
    uint64_t lo = 0, hi = (uint64_t)n;
    while (hi - lo > 1) {
        uint64_t middle = lo + (hi - lo) / 2;
        ZI_TRY(zi_all_same(z->comm, hash_lines(z, middle), &same));
        if (same)
            lo = middle;
        else
            hi = middle;
    }
    make_line(z, lo, &first);
    return name_difference(z->comm, &first);
}
