/* Checkpoints behind the public calls: refused at the wrong time, and with the floating-point
 * environment set where weights are rounded. */
#include "api_local.h"
#include "base/status.h"
#include "ckpt/export.h"
#include "fp_guard.h"

/* Between steps, where no rank is ahead with its next one. */
static zopt_status check_between(zi_zero *z, const char *call)
{
    ZI_TRY(zi_check_running(z, call));
    if (z->micro != 0 || z->n_exposed != 0)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s in the middle of a step", call);
    ZI_TRY(zi_local_hear(z, 1));
    ZI_TRY(zi_factors_fetch(z));
    return zi_owner_rest(z);
}

zopt_status zi_local_export(zopt *z, const char *path, int params)
{
    zi_local *l = zi_local_of(z);
    ZI_TRY(zi_check_running(l->zero, params ? "zopt_export_params" : "zopt_export"));
    ZI_TRY(zi_owner_rest(l->zero));
    zi_local_begin(l->zero, "export");
    return zi_local_end(l->zero,
                        zi_export_model(l->ckpt, path, params ? ZI_ARRAY_PARAM : ZI_ARRAY_MASTER));
}

zopt_status zi_local_save(zopt *z, const char *dir)
{
    zi_local *l = zi_local_of(z);
    ZI_TRY(check_between(l->zero, "zopt_save"));
    zi_local_begin(l->zero, "save");
    return zi_local_end(l->zero, zi_ckpt_save(l->ckpt, dir));
}

zopt_status zi_local_save_wait(zopt *z)
{
    zi_local *l = zi_local_of(z);
    ZI_TRY(zi_check_running(l->zero, "zopt_save_wait"));
    ZI_TRY(zi_owner_rest(l->zero));
    zi_local_begin(l->zero, "save");
    return zi_local_end(l->zero, zi_ckpt_wait(l->ckpt));
}

zopt_status zi_local_load(zopt *z, const char *path)
{
    zi_local *l = zi_local_of(z);
    uint64_t step;
    ZI_TRY(check_between(l->zero, "zopt_load"));
    zi_local_begin(l->zero, "load");
    zi_fp_guard guard = zi_fp_enter();
    zopt_status status = zi_ckpt_load(l->ckpt, path, &step);
    zi_fp_leave(&guard);
    return zi_local_end(l->zero, status);
}

zopt_status zi_local_resume(zopt *z, const char *dir, int *resumed)
{
    zi_local *l = zi_local_of(z);
    uint64_t step;
    *resumed = 0;
    ZI_TRY(check_between(l->zero, "zopt_resume"));
    zi_local_begin(l->zero, "load");
    zi_fp_guard guard = zi_fp_enter();
    zopt_status status = zi_ckpt_resume(l->ckpt, dir, &step);
    zi_fp_leave(&guard);
    *resumed = status == ZOPT_OK && step != UINT64_MAX;
    return zi_local_end(l->zero, status);
}

zopt_status zi_local_note(zopt *z, const char *key, const char *value)
{
    zi_local *l = zi_local_of(z);
    ZI_TRY(zi_check_running(l->zero, "zopt_note"));
    return zi_ckpt_note(l->ckpt, key, value);
}

zopt_status zi_local_noted(zopt *z, const char *key, const char **value)
{
    const zi_local *l = zi_local_of(z);
    ZI_TRY(zi_check_running(l->zero, "zopt_noted"));
    *value = zi_texts_get(&l->ckpt->notes, key);
    return ZOPT_OK;
}
