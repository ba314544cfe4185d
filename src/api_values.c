/* Values that cross the public calls: weights and states read and written, bytes copied, numbers of
 * all ranks gathered. Refused out of range, and with the floating-point environment set where
 * weights are rounded. */
#include <string.h>

#include "api_local.h"
#include "base/status.h"
#include "fp_guard.h"

/* `name`: of a tensor or a state. */
static zopt_status check_range(const char *call, const char *name, uint64_t have, uint64_t offset,
                               uint64_t n)
{
    if (offset > have || n > have - offset)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%s: '%s' has %llu elements, not [%llu, +%llu)", call,
                       name, (unsigned long long)have, (unsigned long long)offset,
                       (unsigned long long)n);
    return ZOPT_OK;
}

static zopt_status check_range_of(const zi_zero *z, const char *call, int id, uint64_t offset,
                                  uint64_t n)
{
    ZI_TRY(zi_check_tensor(z, call, id));
    return check_range(call, z->tensors[id].name, z->tensors[id].n_elems, offset, n);
}

zopt_status zi_local_set_master(zopt *z, int id, uint64_t offset, uint64_t n, const float *values)
{
    const zi_local *l = zi_local_of(z);
    zi_zero *zero = l->zero;
    ZI_TRY(check_range_of(zero, "zopt_set_master", id, offset, n));
    ZI_TRY(zi_owner_rest(zero));
    if (l->ckpt != NULL)
        zi_ckpt_keep_params(l->ckpt);
    zi_local_begin(zero, "set_master");
    zi_fp_guard guard = zi_fp_enter();
    zopt_status status = zi_set_master(zero, id, offset, n, values);
    zi_fp_leave(&guard);
    return zi_local_end(zero, status);
}

zopt_status zi_local_get_master(zopt *z, int id, uint64_t offset, uint64_t n, float *values)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(check_range_of(zero, "zopt_get_master", id, offset, n));
    ZI_TRY(zi_owner_rest(zero));
    zi_local_begin(zero, "get_master");
    return zi_local_end(zero, zi_get_owned(zero, -1, id, offset, n, values));
}

zopt_status zi_local_get_state(zopt *z, const char *name, int id, uint64_t offset, uint64_t n,
                               float *values)
{
    zi_zero *zero = zi_local_of(z)->zero;
    const char *const *names = zero->config.optim->state_name;
    ZI_TRY(zi_check_tensor(zero, "zopt_get_state", id));
    ZI_TRY(zi_owner_rest(zero));
    const zi_tensor *tensor = &zero->tensors[id];
    const char *has[ZI_MAX_STATES];
    size_t n_has = 0;
    for (int i = 0; i < ZI_MAX_STATES && names[i] != NULL; i++) {
        int state = zi_state_find(tensor, i);
        if (state < 0)
            continue;
        if (strcmp(name, names[i]) == 0) {
            ZI_TRY(check_range("zopt_get_state", name, zi_state_elems(tensor, state), offset, n));
            zi_local_begin(zero, "get_state");
            return zi_local_end(zero, zi_get_owned(zero, state, id, offset, n, values));
        }
        has[n_has++] = names[i];
    }
    const char *near = zi_nearest(name, has, n_has, sizeof has[0]);
    return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%s has no state '%s' of '%s'; there is '%s'",
                   zero->config.optim->name, name, tensor->name,
                   near    ? near
                   : n_has ? has[0]
                           : "none");
}

zopt_status zi_local_copy(zopt *z, void *dst, const void *src, size_t bytes)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(zi_check_running(zero, "zopt_copy"));
    zi_caller_join_now(zero);
    zero->config.device->copy(zero->queue, dst, src, bytes);
    return zero->config.device->wait(zero->queue);
}

zopt_status zi_local_gather_f64(zopt *z, int64_t index, double value, double *out, int *n_out)
{
    zi_local *l = zi_local_of(z);
    zi_comm *comm = l->comm;
    ZI_TRY(zi_check_running(l->zero, "zopt_gather_f64"));
    ZI_TRY(zi_owner_rest(l->zero));
    /* An index fits a double's bits; the pairs are only carried, never added. */
    double mine[2] = {0, value};
    memcpy(&mine[0], &index, sizeof index);
    zi_local_begin(l->zero, "gather_f64");
    ZI_TRY(zi_local_end(l->zero, comm->ops->all_gather(comm, mine, sizeof mine, l->gathered)));
    int n = 0;
    int64_t last = -1;
    for (;;) {
        int64_t next = INT64_MAX;
        int found = -1, same = 0;
        for (int r = 0; r < comm->world; r++) {
            int64_t at;
            memcpy(&at, &l->gathered[(size_t)2 * (size_t)r], sizeof at);
            if (at <= last || at > next)
                continue;
            same = at == next && found >= 0;
            next = at;
            found = r;
        }
        if (found < 0)
            break;
        if (same)
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_gather_f64: index %lld was given twice",
                           (long long)next);
        out[n++] = l->gathered[2 * found + 1];
        last = next;
    }
    *n_out = n;
    return ZOPT_OK;
}
