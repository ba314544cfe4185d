/* The handle: it begins with a table of operations, so that a remote optimizer can stand where a
 * local one does. api.c checks arguments and calls through the table; api_local.c is the local one.
 */
#ifndef ZI_API_H
#define ZI_API_H

#include <zopt/zopt.h>

typedef struct zi_api {
    void (*destroy)(zopt *z);
    int (*rank)(const zopt *z);
    int (*world)(const zopt *z);
    const char *(*transport)(const zopt *z);
    const char *(*device)(const zopt *z);
    zopt_status (*add_group)(zopt *z, const zopt_setting *settings, size_t n, int *group);
    zopt_status (*group_set_lr)(zopt *z, int group, double lr);
    zopt_status (*add_tensor)(zopt *z, const char *name, zopt_dtype dtype, int ndim,
                              const uint64_t *shape, int group, int *id);
    zopt_status (*agree)(zopt *z, const char *key, const char *value, int changes_result);
    zopt_status (*commit)(zopt *z);
    zopt_status (*set_master)(zopt *z, int id, uint64_t offset, uint64_t n, const float *values);
    zopt_status (*get_master)(zopt *z, int id, uint64_t offset, uint64_t n, float *values);
    zopt_status (*get_state)(zopt *z, const char *name, int id, uint64_t offset, uint64_t n,
                             float *values);
    zopt_status (*param_acquire)(zopt *z, int id, const void **param);
    zopt_status (*param_release)(zopt *z, int id);
    int (*micro_steps)(const zopt *z);
    zopt_status (*slot)(const zopt *z, int *slot);
    zopt_status (*loss_scale)(const zopt *z, const float **scale);
    zopt_status (*needs_grad)(const zopt *z, int id, int *needed);
    zopt_status (*set_stream)(zopt *z, void *stream);
    zopt_status (*grad_acquire)(zopt *z, int id, void **grad);
    zopt_status (*grad_ready)(zopt *z, int id);
    zopt_status (*micro_end)(zopt *z, double loss);
    zopt_status (*step)(zopt *z);
    const char *(*step_path)(zopt *z);
    zopt_status (*report)(zopt *z, int wait, zopt_step_report *report);
    zopt_status (*trace)(zopt *z, const char *path, uint64_t n_steps);
    zopt_status (*copy)(zopt *z, void *dst, const void *src, size_t bytes);
    zopt_status (*gather_f64)(zopt *z, int64_t index, double value, double *out, int *n_out);
    zopt_status (*memory)(const zopt *z, int of_device, zopt_memory_usage *usage);
    zopt_status (*export_model)(zopt *z, const char *path, int params);
    zopt_status (*save)(zopt *z, const char *dir);
    zopt_status (*save_wait)(zopt *z);
    zopt_status (*load)(zopt *z, const char *path);
    zopt_status (*resume)(zopt *z, const char *dir, int *resumed);
    uint64_t (*steps)(const zopt *z);
    zopt_status (*note)(zopt *z, const char *key, const char *value);
    zopt_status (*noted)(zopt *z, const char *key, const char **value);
} zi_api;

struct zopt {
    const zi_api *api;
};

/* api_life.c: a handle on this process's own rank. */
zopt_status zi_local_create(const zopt_options *options, zopt **out);

#endif
