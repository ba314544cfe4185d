/* The public calls on a handle: arguments checked, then through the handle's table. What needs the
 * state of the optimizer is checked behind it. */
#include "api.h"

#include <stddef.h>
#include <string.h>

#include "base/dtype.h"
#include "base/status.h"
#include "fp_guard.h"

#define CHECK(condition, ...)                               \
    do {                                                    \
        if (!(condition))                                   \
            return ZI_FAIL(ZOPT_ERR_ARGUMENT, __VA_ARGS__); \
    } while (0)

#define CHECK_HANDLE(z)  CHECK((z) != NULL, "%s: the handle is NULL", __func__)
#define CHECK_POINTER(p) CHECK((p) != NULL, "%s: %s is NULL", __func__, #p)

/* The struct of version 0.1 ended with plan_rank. */
enum { FIRST_OPTIONS_BYTES = offsetof(zopt_options, plan_rank) + sizeof(int) };

void zopt_options_defaults(zopt_options *options, size_t bytes)
{
    const zopt_options defaults = {
        .struct_size = bytes,
        .transport = "auto",
        .device = "auto",
        .stage = 1,
        .optimizer = "adamw",
        .schedule = "constant",
        .loss_scale = 1,
        .min_loss_scale = 1,
        .growth_interval = 1000,
        .hysteresis = 1,
        .check_overflow = -1,
        .max_consecutive_skips = 20,
        .deadline_ms = 300000,
        .reduce_group = 1,
        .offload_optimizer = "none",
        .cuda_graph = -1,
        .between_nodes = "auto",
        .nccl_windows = "off",
    };
    if (options != NULL)
        memcpy(options, &defaults, bytes < sizeof defaults ? bytes : sizeof defaults);
}

zopt_status zopt_create(const zopt_options *options, zopt **out)
{
    zopt_options all;
    CHECK_POINTER(out);
    *out = NULL;
    CHECK_POINTER(options);
    CHECK(
        options->struct_size >= FIRST_OPTIONS_BYTES && options->struct_size <= sizeof all,
        "zopt_create: options of %zu bytes, this library's have %zu; start from zopt_options_init "
        "of its own header",
        options->struct_size, sizeof all);
    CHECK(options->settings != NULL || options->n_settings == 0, "zopt_create: settings is NULL");
    CHECK(options->schedule_settings != NULL || options->n_schedule_settings == 0,
          "zopt_create: schedule_settings is NULL");
    zopt_options_init(&all);
    memcpy(&all, options, options->struct_size);
    all.struct_size = sizeof all;
    return zi_local_create(&all, out);
}

void zopt_destroy(zopt *z)
{
    if (z != NULL)
        z->api->destroy(z);
}

int zopt_rank(const zopt *z)
{
    return z != NULL ? z->api->rank(z) : -1;
}

int zopt_world(const zopt *z)
{
    return z != NULL ? z->api->world(z) : 0;
}

const char *zopt_transport(const zopt *z)
{
    return z != NULL ? z->api->transport(z) : "none";
}

const char *zopt_device(const zopt *z)
{
    return z != NULL ? z->api->device(z) : "none";
}

zopt_status zopt_add_group(zopt *z, const zopt_setting *settings, size_t n_settings, int *group)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(group);
    CHECK(settings != NULL || n_settings == 0, "zopt_add_group: settings is NULL");
    return z->api->add_group(z, settings, n_settings, group);
}

zopt_status zopt_group_set_lr(zopt *z, int group, double lr)
{
    CHECK_HANDLE(z);
    return z->api->group_set_lr(z, group, lr);
}

zopt_status zopt_add_tensor(zopt *z, const char *name, zopt_dtype dtype, int ndim,
                            const uint64_t *shape, int group, int *id)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(name);
    CHECK_POINTER(id);
    CHECK(shape != NULL || ndim <= 0, "zopt_add_tensor: '%s': shape is NULL", name);
    return z->api->add_tensor(z, name, dtype, ndim, shape, group, id);
}

zopt_status zopt_agree(zopt *z, const char *key, const char *value)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(key);
    CHECK_POINTER(value);
    return z->api->agree(z, key, value, 0);
}

zopt_status zopt_agree_result(zopt *z, const char *key, const char *value)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(key);
    CHECK_POINTER(value);
    return z->api->agree(z, key, value, 1);
}

zopt_status zopt_commit(zopt *z)
{
    CHECK_HANDLE(z);
    return z->api->commit(z);
}

zopt_status zopt_set_master(zopt *z, int id, uint64_t offset, uint64_t n, const float *values)
{
    CHECK_HANDLE(z);
    CHECK(values != NULL || n == 0, "zopt_set_master: values is NULL");
    return z->api->set_master(z, id, offset, n, values);
}

zopt_status zopt_get_master(zopt *z, int id, uint64_t offset, uint64_t n, float *values)
{
    CHECK_HANDLE(z);
    CHECK(values != NULL || n == 0, "zopt_get_master: values is NULL");
    return z->api->get_master(z, id, offset, n, values);
}

zopt_status zopt_get_state(zopt *z, const char *name, int id, uint64_t offset, uint64_t n,
                           float *values)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(name);
    CHECK(values != NULL || n == 0, "zopt_get_state: values is NULL");
    return z->api->get_state(z, name, id, offset, n, values);
}

zopt_status zopt_param_acquire(zopt *z, int id, const void **param)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(param);
    return z->api->param_acquire(z, id, param);
}

zopt_status zopt_param_release(zopt *z, int id)
{
    CHECK_HANDLE(z);
    return z->api->param_release(z, id);
}

int zopt_micro_steps(const zopt *z)
{
    return z != NULL ? z->api->micro_steps(z) : 0;
}

zopt_status zopt_slot(const zopt *z, int *slot)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(slot);
    return z->api->slot(z, slot);
}

zopt_status zopt_loss_scale(const zopt *z, const float **scale)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(scale);
    return z->api->loss_scale(z, scale);
}

zopt_status zopt_needs_grad(const zopt *z, int id, int *needed)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(needed);
    return z->api->needs_grad(z, id, needed);
}

zopt_status zopt_set_stream(zopt *z, void *stream)
{
    CHECK_HANDLE(z);
    return z->api->set_stream(z, stream);
}

zopt_status zopt_grad_acquire(zopt *z, int id, void **grad)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(grad);
    return z->api->grad_acquire(z, id, grad);
}

zopt_status zopt_grad_ready(zopt *z, int id)
{
    CHECK_HANDLE(z);
    return z->api->grad_ready(z, id);
}

zopt_status zopt_micro_end(zopt *z, double loss)
{
    CHECK_HANDLE(z);
    return z->api->micro_end(z, loss);
}

zopt_status zopt_step(zopt *z)
{
    CHECK_HANDLE(z);
    return z->api->step(z);
}

const char *zopt_step_path(zopt *z)
{
    return z != NULL ? z->api->step_path(z) : "";
}

zopt_status zopt_report(zopt *z, int wait, zopt_step_report *report)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(report);
    return z->api->report(z, wait, report);
}

zopt_status zopt_trace(zopt *z, const char *path, uint64_t n_steps)
{
    CHECK_HANDLE(z);
    return z->api->trace(z, path, n_steps);
}

zopt_status zopt_copy(zopt *z, void *dst, const void *src, size_t bytes)
{
    CHECK_HANDLE(z);
    CHECK(bytes == 0 || (dst != NULL && src != NULL), "zopt_copy: dst or src is NULL");
    return z->api->copy(z, dst, src, bytes);
}

zopt_status zopt_gather_f64(zopt *z, int64_t index, double value, double *out, int *n_out)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(out);
    CHECK_POINTER(n_out);
    return z->api->gather_f64(z, index, value, out, n_out);
}

zopt_status zopt_memory(const zopt *z, zopt_memory_usage *usage)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(usage);
    return z->api->memory(z, 0, usage);
}

zopt_status zopt_device_memory(const zopt *z, zopt_memory_usage *usage)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(usage);
    return z->api->memory(z, 1, usage);
}

zopt_status zopt_export(zopt *z, const char *path)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(path);
    return z->api->export_model(z, path, 0);
}

zopt_status zopt_export_params(zopt *z, const char *path)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(path);
    return z->api->export_model(z, path, 1);
}

zopt_status zopt_save(zopt *z, const char *dir)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(dir);
    return z->api->save(z, dir);
}

zopt_status zopt_save_wait(zopt *z)
{
    CHECK_HANDLE(z);
    return z->api->save_wait(z);
}

zopt_status zopt_load(zopt *z, const char *path)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(path);
    return z->api->load(z, path);
}

zopt_status zopt_resume(zopt *z, const char *dir, int *resumed)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(dir);
    CHECK_POINTER(resumed);
    return z->api->resume(z, dir, resumed);
}

uint64_t zopt_steps(const zopt *z)
{
    return z != NULL ? z->api->steps(z) : 0;
}

zopt_status zopt_note(zopt *z, const char *key, const char *value)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(key);
    CHECK_POINTER(value);
    return z->api->note(z, key, value);
}

zopt_status zopt_noted(zopt *z, const char *key, const char **value)
{
    CHECK_HANDLE(z);
    CHECK_POINTER(key);
    CHECK_POINTER(value);
    return z->api->noted(z, key, value);
}

zopt_status zopt_convert(void *dst, zopt_dtype dst_dtype, const void *src, zopt_dtype src_dtype,
                         size_t n)
{
    CHECK((dst != NULL && src != NULL) || n == 0, "zopt_convert: an address is NULL");
    CHECK(zopt_dtype_bytes(dst_dtype) > 0 && zopt_dtype_bytes(src_dtype) > 0,
          "zopt_convert: unknown dtype");
    const char *to = dst, *from = src;
    CHECK(n == 0 || to + n * zopt_dtype_bytes(dst_dtype) <= from ||
              from + n * zopt_dtype_bytes(src_dtype) <= to,
          "zopt_convert: the ranges overlap");
    zi_fp_guard guard = zi_fp_enter();
    zi_convert(dst, dst_dtype, src, src_dtype, n);
    zi_fp_leave(&guard);
    return ZOPT_OK;
}
