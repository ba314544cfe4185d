/* The local optimizer behind the public calls: calls refused at the wrong time, and the
 * floating-point environment set. api_life.c makes and ends it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_local.h"
#include "api_options.h"
#include "base/status.h"
#include "fp_guard.h"
#include "zero/ahead.h"

/* ---- calls refused at the wrong time ---- */

static zopt_status check_running(const zi_zero *z, const char *call)
{
    if (!z->committed)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s before zopt_commit", call);
    if (z->comm->planned)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s on a planning handle", call);
    zi_owner_lock(z); /* its thread may just have failed, and then says why */
    int broken = z->comm->broken;
    zi_owner_unlock(z);
    ZI_TRY(zi_owner_failure(z));
    if (broken || z->failed)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s after a failed collective: only zopt_destroy is left",
                       call);
    return ZOPT_OK;
}

/* Asked in every call: the usual answer is had without one. */
zopt_status zi_check_running(const zi_zero *z, const char *call)
{
    if (z->committed && !z->failed && z->thread == NULL && !z->comm->planned && !z->comm->broken)
        return ZOPT_OK;
    return check_running(z, call);
}

zopt_status zi_check_tensor(const zi_zero *z, const char *call, int id)
{
    ZI_TRY(zi_check_running(z, call));
    if (id < 0 || (uint32_t)id >= z->n_tensors)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%s: there is no tensor %d", call, id);
    return ZOPT_OK;
}

static zopt_status check_grad(const zi_zero *z, const char *call, int id, zi_grad_state want)
{
    static const char *const texts[] = {[ZI_GRAD_ABSENT] = "not acquired",
                                        [ZI_GRAD_ACQUIRED] = "acquired",
                                        [ZI_GRAD_READY] = "ready"};
    ZI_TRY(zi_check_tensor(z, call, id));
    if (z->tensors[id].variant == NULL)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "%s: '%s' is frozen", call, z->tensors[id].name);
    if (z->micro == z->n_micro)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s after the last micro-step: zopt_step is due", call);
    if (zi_zero_slot(z) < 0)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s on a rank without a slot in this micro-step", call);
    if (z->grad_state[id] != want)
        return ZI_FAIL(ZOPT_ERR_ORDER, "%s: the gradient of '%s' is %s in this micro-step", call,
                       z->tensors[id].name, texts[z->grad_state[id]]);
    return ZOPT_OK;
}

/* ---- phases beside a step's ---- */

void zi_local_begin(zi_zero *z, const char *phase)
{
    z->between = z->comm->phase = phase;
}

zopt_status zi_local_end(zi_zero *z, zopt_status status)
{
    zi_local_begin(z, "compute");
    return status;
}

/* ---- the table ---- */

static int local_rank(const zopt *z)
{
    return zi_zero_of(z)->comm->rank;
}

static int local_world(const zopt *z)
{
    return zi_zero_of(z)->comm->world;
}

static const char *local_transport(const zopt *z)
{
    return zi_zero_of(z)->comm->ops->name;
}

static const char *local_device(const zopt *z)
{
    return zi_zero_of(z)->config.device->name;
}

static zopt_status local_add_group(zopt *z, const zopt_setting *settings, size_t n, int *group)
{
    return zi_zero_add_group(zi_local_of(z)->zero, settings, n, group);
}

static zopt_status local_group_set_lr(zopt *z, int group, double lr)
{
    zi_zero *zero = zi_local_of(z)->zero;
    if (group < 0 || (uint32_t)group >= zero->n_groups)
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_group_set_lr: there is no group %d", group);
    return zi_group_set_lr(zero, (uint32_t)group, lr);
}

static zopt_status local_add_tensor(zopt *z, const char *name, zopt_dtype dtype, int ndim,
                                    const uint64_t *shape, int group, int *id)
{
    return zi_zero_add_tensor(zi_local_of(z)->zero, name, dtype, ndim, shape, group, id);
}

static zopt_status local_agree(zopt *z, const char *key, const char *value, int changes_result)
{
    return zi_zero_add_agreed(zi_local_of(z)->zero, key, value, changes_result);
}

static zopt_status local_commit(zopt *z)
{
    zi_local *l = zi_local_of(z);
    zi_fp_guard guard = zi_fp_enter(); /* states may begin at rounded values */
    zopt_status status = zi_zero_commit(l->zero);
    zi_fp_leave(&guard);
    ZI_TRY(status);
    status = zi_comm_agree(l->comm, zi_ckpt_create(l->zero, &l->ckpt_config, &l->ckpt));
    l->zero->failed = status != ZOPT_OK;
    return status;
}

static zopt_status local_param_acquire(zopt *z, int id, const void **param)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(zi_check_tensor(zero, "zopt_param_acquire", id));
    return zi_param_acquire(zero, id, param);
}

static zopt_status local_param_release(zopt *z, int id)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(zi_check_tensor(zero, "zopt_param_release", id));
    zero->caller.is_ahead = zero->caller.stream != NULL; /* with reads */
    return ZOPT_OK;
}

static int local_micro_steps(const zopt *z)
{
    return zi_zero_of(z)->n_micro;
}

static zopt_status local_slot(const zopt *z, int *slot)
{
    const zi_zero *zero = zi_zero_of(z);
    ZI_TRY(zi_check_running(zero, "zopt_slot"));
    *slot = zi_zero_slot(zero);
    return ZOPT_OK;
}

static zopt_status local_loss_scale(const zopt *z, const float **scale)
{
    const zi_zero *zero = zi_zero_of(z);
    ZI_TRY(zi_check_running(zero, "zopt_loss_scale"));
    *scale = &zero->placed.control->loss_scale;
    return ZOPT_OK;
}

static zopt_status local_needs_grad(const zopt *z, int id, int *needed)
{
    ZI_TRY(zi_check_tensor(zi_zero_of(z), "zopt_needs_grad", id));
    *needed = zi_zero_of(z)->tensors[id].variant != NULL;
    return ZOPT_OK;
}

static zopt_status local_set_stream(zopt *z, void *stream)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(zi_check_running(zero, "zopt_set_stream"));
    int none = stream == ZOPT_NO_STREAM; /* NOLINT: a number that is no address */
    return zi_caller_set(zero, stream, none);
}

static zopt_status local_grad_acquire(zopt *z, int id, void **grad)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(check_grad(zero, "zopt_grad_acquire", id, ZI_GRAD_ABSENT));
    ZI_TRY(zi_grad_acquire(zero, id));
    *grad = zi_grad_address(zero, id);
    return ZOPT_OK;
}

static zopt_status local_grad_ready(zopt *z, int id)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(check_grad(zero, "zopt_grad_ready", id, ZI_GRAD_ACQUIRED));
    ZI_TRY(zi_grad_ready(zero, id));
    if (!zi_owner_is_due(zero)) /* a change of the environment costs more than a small tensor */
        return ZOPT_OK;
    zi_fp_guard guard = zi_fp_enter();
    zopt_status status = zi_owner_advance(zero);
    zi_fp_leave(&guard);
    return status;
}

static zopt_status local_micro_end(zopt *z, double loss)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(zi_check_running(zero, "zopt_micro_end"));
    if (zero->micro == zero->n_micro)
        return ZI_FAIL(ZOPT_ERR_ORDER,
                       "zopt_micro_end: all %d micro-steps have ended; zopt_step "
                       "is due",
                       zero->n_micro);
    zi_fp_guard guard = zi_fp_enter();
    zopt_status status = zi_micro_end(zero, loss);
    zi_fp_leave(&guard);
    return status;
}

static zopt_status local_step(zopt *z)
{
    zi_local *l = zi_local_of(z);
    zi_zero *zero = l->zero;
    ZI_TRY(zi_check_running(zero, "zopt_step"));
    if (zero->micro < zero->n_micro)
        return ZI_FAIL(ZOPT_ERR_ORDER, "zopt_step after %d of %d micro-steps", zero->micro,
                       zero->n_micro);
    ZI_TRY(zi_ckpt_settle(l->ckpt));
    zi_fp_guard guard = zi_fp_enter();
    zopt_status status = zi_zero_step(zero);
    zi_fp_leave(&guard);
    ZI_TRY(status);
    ZI_TRY(zi_ckpt_poll(l->ckpt)); /* needs the comm for itself */
    zi_owner_lock(zero);
    zi_owner_wake(zero); /* parameters are on their way */
    zi_owner_unlock(zero);
    return ZOPT_OK;
}

zopt_status zi_local_hear(zi_zero *z, int wait)
{
    zi_fp_guard guard = zi_fp_enter(); /* powers are multiplied */
    zopt_status status = zi_ahead_hear(z, wait);
    zi_fp_leave(&guard);
    return status;
}

static zopt_status local_report(zopt *z, int wait, zopt_step_report *report)
{
    zi_zero *zero = zi_local_of(z)->zero;
    ZI_TRY(zi_local_hear(zero, wait));
    if (zero->report.step == 0) /* those of a run that was resumed are gone */
        return ZI_FAIL(ZOPT_ERR_ORDER, "zopt_report before the first zopt_step%s",
                       zero->ahead != NULL ? " has finished" : "");
    *report = zero->report;
    if (report->step == zero->step)
        report->phase_ms[ZOPT_PHASE_GATHER] += zero->phase_ms[ZOPT_PHASE_GATHER];
    return zi_ahead_failure(zero, wait);
}

static const char *local_step_path(zopt *z)
{
    return zi_step_path(zi_local_of(z)->zero);
}

/* Name of a category's row; NULL where this handle has no such category. */
static const char *category_name(const zi_zero *zero, int category)
{
    if (category >= ZI_MEM_STATE && category < ZI_MEM_GRAD_ACCUM) {
        int name = category - ZI_MEM_STATE;
        return zi_state_used(zero, name) ? zero->config.optim->state_name[name] : NULL;
    }
    return zi_category_name((zi_category)category);
}

static zopt_status local_memory(const zopt *z, int of_device, zopt_memory_usage *usage)
{
    const zi_mem *mem = zi_zero_of(z)->mem;
    *usage = (zopt_memory_usage){
        .total_bytes = of_device ? mem->device_bytes : mem->total_bytes,
        .total_peak_bytes = of_device ? mem->device_peak_bytes : mem->total_peak_bytes,
    };
    for (int c = 0; c < ZI_N_CATEGORIES; c++) {
        const char *name = category_name(zi_zero_of(z), c);
        if (name == NULL)
            continue;
        usage->category[usage->n].name = name;
        usage->category[usage->n].bytes = of_device ? mem->on_device[c].bytes : mem->row[c].bytes;
        usage->category[usage->n].peak_bytes =
            of_device ? mem->on_device[c].peak_bytes : mem->row[c].peak_bytes;
        usage->n++;
    }
    return ZOPT_OK;
}

static uint64_t local_steps(const zopt *z)
{
    return zi_zero_of(z)->step;
}

const zi_api zi_local_api = {
    .destroy = zi_local_destroy,
    .rank = local_rank,
    .world = local_world,
    .transport = local_transport,
    .device = local_device,
    .add_group = local_add_group,
    .group_set_lr = local_group_set_lr,
    .add_tensor = local_add_tensor,
    .agree = local_agree,
    .commit = local_commit,
    .set_master = zi_local_set_master,
    .get_master = zi_local_get_master,
    .get_state = zi_local_get_state,
    .param_acquire = local_param_acquire,
    .param_release = local_param_release,
    .micro_steps = local_micro_steps,
    .slot = local_slot,
    .loss_scale = local_loss_scale,
    .needs_grad = local_needs_grad,
    .set_stream = local_set_stream,
    .grad_acquire = local_grad_acquire,
    .grad_ready = local_grad_ready,
    .micro_end = local_micro_end,
    .step = local_step,
    .step_path = local_step_path,
    .report = local_report,
    .trace = zi_local_trace,
    .copy = zi_local_copy,
    .gather_f64 = zi_local_gather_f64,
    .memory = local_memory,
    .export_model = zi_local_export,
    .save = zi_local_save,
    .save_wait = zi_local_save_wait,
    .load = zi_local_load,
    .resume = zi_local_resume,
    .steps = local_steps,
    .note = zi_local_note,
    .noted = zi_local_noted,
};
