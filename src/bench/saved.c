/* See ckpt.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "bench/ckpt.h"

const char *const bench_ckpt_file[BENCH_CKPT_FILES] = {"model.safetensors",
                                                       "optimizer.safetensors"};

/* ------------------------------------------------------------------ in memory ---------------- */

enum { CHUNK = 1 << 16 };

/* Values [at, at + n) of a tensor: of its master weights, or of the state of this name. */
static zopt_status read_values(zopt *z, const char *state, int id, uint64_t at, uint64_t n,
                               float *values)
{
    return state == NULL ? zopt_get_master(z, id, at, n, values)
                         : zopt_get_state(z, state, id, at, n, values);
}

static zopt_status compare_values(const bench_saved *s, const char *state, uint64_t i, uint64_t n,
                                  float *values, uint64_t *n_wrong)
{
    float *want = values, *got = values + CHUNK;
    for (uint64_t at = 0; at < n; at += CHUNK) {
        uint64_t m = n - at < CHUNK ? n - at : CHUNK;
        ZI_TRY(read_values(s->run, state, s->run_id[i], at, m, want));
        ZI_TRY(read_values(s->twin, state, s->twin_id[i], at, m, got));
        for (uint64_t k = 0; k < m; k++)
            *n_wrong += memcmp((const char *)&want[k], (const char *)&got[k], sizeof *got) != 0;
    }
    return ZOPT_OK;
}

static zopt_status compare_tensor(const bench_saved *s, uint64_t i, float *values,
                                  uint64_t *n_wrong)
{
    const bench_tensors tensors = {.n_elems = s->c->params, .n = s->c->n_tensors};
    const zi_optim *optim = s->c->rule.optim;
    uint64_t first, extent[2], n = bench_tensor_elems(&tensors, i, &first);
    zi_shape shape = bench_tensor_shape(n, extent);
    const zi_variant *variant = optim->variant(s->c->rule.value, &shape);
    ZI_TRY(compare_values(s, NULL, i, n, values, n_wrong));
    for (int k = 0; k < variant->n_states; k++) {
        zi_form form = variant->state[k].form;
        uint64_t n_values = form == ZI_FORM_ROWS ? extent[0] : form == ZI_FORM_COLS ? extent[1] : n;
        ZI_TRY(compare_values(s, optim->state_name[variant->state[k].name], i, n_values, values,
                              n_wrong));
    }
    return ZOPT_OK;
}

static zopt_status compare_handles(const bench_saved *s, uint64_t *n_wrong)
{
    zopt_status status = ZOPT_OK;
    float *values = malloc((size_t)2 * CHUNK * sizeof *values);
    if (values == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to compare values in");
    for (uint64_t i = 0; i < s->c->n_tensors && status == ZOPT_OK; i++)
        status = compare_tensor(s, i, values, n_wrong);
    free(values);
    return status;
}

/* ------------------------------------------------------------------ on disk ------------------ */

/* Open the newest and verify it; wrong is one that is damaged, or not of the last step. */
static zopt_status open_verified(const bench_saved *s, const char *dir, zopt_checkpoint **out,
                                 uint64_t *n_wrong)
{
    ZI_TRY(zopt_checkpoint_open(dir, out));
    *n_wrong += zopt_checkpoint_step(*out) != s->steps;
    zopt_status status = zopt_checkpoint_verify(*out);
    *n_wrong += status == ZOPT_ERR_DATA;
    return status == ZOPT_ERR_DATA ? ZOPT_OK : status;
}

static int same_files(const char *a, const char *b, char *text)
{
    FILE *x = fopen(a, "rb"), *y = fopen(b, "rb");
    size_t n = 1, m = 1;
    int same = x != NULL && y != NULL;
    while (same && n > 0) {
        n = fread(text, 1, CHUNK, x);
        m = fread(text + CHUNK, 1, CHUNK, y);
        same = n == m && memcmp(text, text + CHUNK, n) == 0;
    }
    if (x != NULL)
        fclose(x);
    if (y != NULL)
        fclose(y);
    return same;
}

/* Their bytes depend on the state alone. */
static zopt_status compare_files(const char *run, const char *twin, uint64_t *n_wrong)
{
    char a[2 * ZI_PATH_BYTES], b[2 * ZI_PATH_BYTES];
    char *text = malloc((size_t)2 * CHUNK);
    if (text == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to compare files in");
    for (int i = 0; i < BENCH_CKPT_FILES; i++) {
        snprintf(a, sizeof a, "%s/%s", run, bench_ckpt_file[i]);
        snprintf(b, sizeof b, "%s/%s", twin, bench_ckpt_file[i]);
        *n_wrong += !same_files(a, b, text);
    }
    free(text);
    return ZOPT_OK;
}

static zopt_status check_disk(const bench_saved *s, uint64_t *n_wrong)
{
    zopt_checkpoint *run = NULL, *twin = NULL;
    zopt_status status = open_verified(s, s->run_dir, &run, n_wrong);
    if (status == ZOPT_OK)
        status = open_verified(s, s->twin_dir, &twin, n_wrong);
    if (status == ZOPT_OK)
        status = compare_files(zopt_checkpoint_path(run), zopt_checkpoint_path(twin), n_wrong);
    zopt_checkpoint_close(run);
    zopt_checkpoint_close(twin);
    return status;
}

zopt_status bench_saved_check(const bench_saved *s, uint64_t *n_wrong)
{
    uint64_t differ = 0;
    ZI_TRY(compare_handles(s, &differ));
    if (s->c->crew->rank != 0) /* it has seen the same */
        return ZOPT_OK;
    *n_wrong += differ;
    return check_disk(s, n_wrong);
}
