/* Which group of hyper-parameters each tensor is in: weight decay for matrices, none for vectors,
 * as is usual, and over that the first element of the run file's param_groups that matches. */
#include "train/groups.h"

#include <fnmatch.h>
#include <string.h>

#include "train/fail.h"

enum { MAX_ENTRIES = 64, MAX_SETTINGS = 64, N_KINDS = 2 };

/* Groups made so far: [0] of tensors that no element matches; -1: not needed yet. */
typedef struct table {
    int group[MAX_ENTRIES + 1][N_KINDS];
} table;

/* One element of param_groups; match is NULL past the last. */
typedef struct entry {
    const char *match;
    const zopt_setting *list;
    size_t n;
} entry;

static zopt_status read_entry(const trainer *t, int i, entry *out)
{
    TRAIN_ZOPT(
        zopt_config_param_group(t->request->config, (size_t)i, &out->match, &out->list, &out->n));
    return ZOPT_OK;
}

/* *which: the first element that matches, or -1, which *out is empty for. */
static zopt_status find_entry(const trainer *t, const char *name, int *which, entry *out)
{
    *which = -1;
    for (int i = 0; i < MAX_ENTRIES && *which < 0; i++) {
        TRAIN_TRY(read_entry(t, i, out));
        if (out->match == NULL)
            break;
        if (fnmatch(out->match, name, 0) == 0)
            *which = i;
    }
    return ZOPT_OK;
}

static zopt_status add_group(zopt *z, int which, const entry *e, int is_vector, int *group)
{
    zopt_setting all[MAX_SETTINGS] = {{"weight_decay", 0, NULL}};
    size_t first = is_vector ? 1 : 0;
    for (size_t i = 0; i < e->n && first + i < MAX_SETTINGS; i++)
        all[first + i] = e->list[i];
    zopt_status status = zopt_add_group(z, all, first + e->n, group);
    if (status != ZOPT_OK && which >= 0)
        return train_fail(status, "param_groups[%d]: %s", which, zopt_last_error());
    return status == ZOPT_OK ? ZOPT_OK : train_fail_zopt(status);
}

/* An element that no tensor is in is a mistake of the run file's. */
static zopt_status check_used(const trainer *t, const table *made)
{
    for (int i = 0; i < MAX_ENTRIES; i++) {
        entry e;
        TRAIN_TRY(read_entry(t, i, &e));
        if (e.match == NULL)
            break;
        if (made->group[i + 1][0] < 0 && made->group[i + 1][1] < 0)
            return train_fail(ZOPT_ERR_CONFIG,
                              "param_groups[%d].match = \"%s\" is no tensor's first match; a "
                              "tensor's name is e.g. '%s'",
                              i, e.match, model_params(t->gpt)[0].name);
    }
    return ZOPT_OK;
}

zopt_status groups_add_tensors(const trainer *t, zopt *z, int *ids)
{
    table made;
    memset(&made, -1, sizeof made);
    for (int i = 0; i < model_n_params(t->gpt); i++) {
        const param *p = &model_params(t->gpt)[i];
        int which = -1, is_vector = p->ndim < 2;
        entry e;
        TRAIN_TRY(find_entry(t, p->name, &which, &e));
        int *group = &made.group[which + 1][is_vector];
        if (*group < 0)
            TRAIN_TRY(add_group(z, which, &e, is_vector, group));
        TRAIN_ZOPT(zopt_add_tensor(z, p->name, t->s.dtype, p->ndim, p->shape, *group, &ids[i]));
    }
    return check_used(t, &made);
}
