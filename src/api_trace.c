/* Traces behind the public call: begun and ended between steps. */
#include "api_local.h"
#include "base/status.h"
#include "zero/trace.h"

static zopt_status check(zi_zero *z, const char *path, uint64_t n_steps)
{
    if (z->committed && z->comm->planned) /* which is told how much memory it takes */
        return ZOPT_OK;
    ZI_TRY(zi_check_running(z, "zopt_trace"));
    if (path == NULL && n_steps > 0)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_trace: path is NULL");
    if (z->micro != 0 || z->n_exposed != 0)
        return ZI_FAIL(ZOPT_ERR_ORDER, "zopt_trace in the middle of a step");
    return zi_owner_rest(z);
}

zopt_status zi_local_trace(zopt *z, const char *path, uint64_t n_steps)
{
    zi_local *l = zi_local_of(z);
    const zi_trace_config config = {.path = path,
                                    .n_steps = n_steps,
                                    .on_warning = l->ckpt_config.on_warning,
                                    .on_warning_arg = l->ckpt_config.on_warning_arg};
    ZI_TRY(check(l->zero, path, n_steps));
    return zi_trace_begin(l->zero, &config);
}
