/* The local handle, as the files that implement its calls share it. */
#ifndef ZI_API_LOCAL_H
#define ZI_API_LOCAL_H

#include "api.h"
#include "ckpt/ckpt.h"
#include "zero/zero.h"

typedef struct zi_local {
    zopt handle;
    zi_mem mem;
    zi_comm *comm;
    zi_zero *zero;
    double *gathered; /* [world] (index, value) pairs of zopt_gather_f64 */
    zi_ckpt_config ckpt_config;
    zi_ckpt *ckpt; /* from commit on */
} zi_local;

static inline zi_local *zi_local_of(zopt *z)
{
    return (zi_local *)z;
}

static inline const zi_zero *zi_zero_of(const zopt *z)
{
    return ((const zi_local *)z)->zero;
}

/* api_local.c: its calls; the first of them is api_life.c's. */
extern const zi_api zi_local_api;
void zi_local_destroy(zopt *z);

/* ERR_ORDER unless the handle is committed, real and whole. */
zopt_status zi_check_running(const zi_zero *z, const char *call);

/* And ERR_ARGUMENT unless it has a tensor of that id. */
zopt_status zi_check_tensor(const zi_zero *z, const char *call, int id);

/* What is waited for in between is told as this phase's, outside as "compute". _end returns its
 * status. */
void zi_local_begin(zi_zero *z, const char *phase);
zopt_status zi_local_end(zi_zero *z, zopt_status status);

/* Hear of the steps that have finished; wait: of all that were made. Errors: the device's. */
zopt_status zi_local_hear(zi_zero *z, int wait);

/* api_values.c: rows of the table. */
zopt_status zi_local_set_master(zopt *z, int id, uint64_t offset, uint64_t n, const float *values);
zopt_status zi_local_get_master(zopt *z, int id, uint64_t offset, uint64_t n, float *values);
zopt_status zi_local_get_state(zopt *z, const char *name, int id, uint64_t offset, uint64_t n,
                               float *values);
zopt_status zi_local_copy(zopt *z, void *dst, const void *src, size_t bytes);
zopt_status zi_local_gather_f64(zopt *z, int64_t index, double value, double *out, int *n_out);

/* api_trace.c: a row of the table. */
zopt_status zi_local_trace(zopt *z, const char *path, uint64_t n_steps);

/* api_checkpoint.c: rows of the table. */
zopt_status zi_local_export(zopt *z, const char *path, int params);
zopt_status zi_local_save(zopt *z, const char *dir);
zopt_status zi_local_save_wait(zopt *z);
zopt_status zi_local_load(zopt *z, const char *path);
zopt_status zi_local_resume(zopt *z, const char *dir, int *resumed);
zopt_status zi_local_note(zopt *z, const char *key, const char *value);
zopt_status zi_local_noted(zopt *z, const char *key, const char **value);

#endif
