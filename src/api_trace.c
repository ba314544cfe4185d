/* Traces behind the public call: begun and ended between steps. */
#include "api_local.h"
#include "base/status.h"
#include "zero/trace.h"

/* What one rank alone may have wrong, which the others then hear of. */
static zopt_status check(const zi_zero *z, const zi_trace_config *config)
{
    if (config->path == NULL && config->n_steps > 0)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_trace: path is NULL");
    if (z->micro != 0 || z->n_exposed != 0)
        return ZI_FAIL(ZOPT_ERR_ORDER, "zopt_trace in the middle of a step");
    return ZOPT_OK;
}

static zopt_status begin(zi_zero *z, const zi_trace_config *config)
{
    ZI_TRY(zi_comm_agree(z->comm, check(z, config)));
    return zi_trace_begin(z, config);
}

zopt_status zi_local_trace(zopt *z, const char *path, uint64_t n_steps)
{
    zi_local *l = zi_local_of(z);
    const zi_trace_config config = {.path = path,
                                    .n_steps = n_steps,
                                    .on_warning = l->ckpt_config.on_warning,
                                    .on_warning_arg = l->ckpt_config.on_warning_arg};
    if (l->zero->committed && l->zero->comm->planned) /* which is told how much memory it takes */
        return zi_trace_begin(l->zero, &config);
    ZI_TRY(zi_check_running(l->zero, "zopt_trace"));
    ZI_TRY(zi_owner_rest(l->zero));
    zi_local_begin(l->zero, "trace");
    return zi_local_end(l->zero, begin(l->zero, &config));
}
