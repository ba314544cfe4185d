/* zopt ckpt diff: metadata and tensors by name; for tensors of one kind how many values differ, and
 * by how much. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ckpt.h"

enum { PIECE_BYTES = 1 << 20 };

typedef struct comparison {
    zopt_checkpoint *side[2];
    int json;
    json_t *rows;
    size_t n_differences;
    char *piece[2];
    zopt_status status; /* the first read that failed */
} comparison;

/* One line of the result; a and b are what each side has. */
static void tell(comparison *d, const char *kind, const char *name, const char *a, const char *b)
{
    d->n_differences++;
    if (d->json)
        json_array_append_new(
            d->rows, json_pack("{ss ss ss ss}", "kind", kind, "name", name, "a", a, "b", b));
    else
        printf("%s %s: %s | %s\n", kind, name, a, b);
}

/* ------------------------------------------------------------------ metadata ----------------- */

static const char *text_of(const zopt_checkpoint *c, const char *key)
{
    const char *name, *value;
    for (size_t i = 0; zopt_checkpoint_text_at(c, i, &name, &value) == ZOPT_OK && name != NULL; i++)
        if (strcmp(name, key) == 0)
            return value;
    return NULL;
}

static void compare_texts(comparison *d)
{
    const char *key, *value;
    for (int s = 0; s < 2; s++)
        for (size_t i = 0;
             zopt_checkpoint_text_at(d->side[s], i, &key, &value) == ZOPT_OK && key != NULL; i++) {
            const char *other = text_of(d->side[1 - s], key);
            if (strstr(key, "_xxh3") != NULL || (s == 1 && other != NULL))
                continue;
            if (other == NULL || strcmp(other, value) != 0)
                tell(d, "metadata", key, s == 0 ? value : "(none)",
                     s == 0 && other != NULL ? other
                     : s == 0                ? "(none)"
                                             : value);
        }
}

/* ------------------------------------------------------------------ tensors ------------------ */

/* Index of a tensor of that name, or SIZE_MAX. Files are sorted alike, so it is mostly at `hint`.
 */
static size_t find(const zopt_checkpoint *c, const char *name, size_t hint,
                   zopt_checkpoint_tensor *t)
{
    if (zopt_checkpoint_tensor_at(c, hint, t) == ZOPT_OK && t->name != NULL &&
        strcmp(t->name, name) == 0)
        return hint;
    for (size_t i = 0; zopt_checkpoint_tensor_at(c, i, t) == ZOPT_OK && t->name != NULL; i++)
        if (strcmp(t->name, name) == 0)
            return i;
    return SIZE_MAX;
}

typedef struct difference {
    uint64_t n_values;
    double most; /* largest difference of F32 values, INFINITY where one is no number */
} difference;

static void compare_piece(const comparison *d, size_t bytes, int is_float, difference *out)
{
    size_t step = is_float ? sizeof(float) : 1;
    for (size_t i = 0; i < bytes; i += step) {
        if (memcmp(d->piece[0] + i, d->piece[1] + i, step) == 0)
            continue;
        out->n_values++;
        if (!is_float)
            continue;
        float a, b;
        memcpy(&a, d->piece[0] + i, sizeof a);
        memcpy(&b, d->piece[1] + i, sizeof b);
        double by = fabs((double)a - (double)b);
        out->most = isnan(by) ? INFINITY : fmax(out->most, by);
    }
}

static void compare_data(comparison *d, const zopt_checkpoint_tensor *t, size_t i, size_t j)
{
    int is_float = strcmp(t->dtype, "F32") == 0;
    difference out = {0};
    for (uint64_t at = 0; at < t->bytes && d->status == ZOPT_OK; at += PIECE_BYTES) {
        size_t bytes = t->bytes - at < PIECE_BYTES ? (size_t)(t->bytes - at) : PIECE_BYTES;
        d->status = zopt_checkpoint_read(d->side[0], i, at, bytes, d->piece[0]);
        if (d->status == ZOPT_OK)
            d->status = zopt_checkpoint_read(d->side[1], j, at, bytes, d->piece[1]);
        if (d->status == ZOPT_OK)
            compare_piece(d, bytes, is_float, &out);
    }
    if (out.n_values == 0)
        return;
    char count[64], by[64] = "";
    snprintf(count, sizeof count, "%" PRIu64 " of %" PRIu64 " values differ", out.n_values,
             t->bytes / (is_float ? sizeof(float) : 1));
    if (is_float)
        snprintf(by, sizeof by, "by at most %.9g", out.most);
    tell(d, "tensor", t->name, count, by);
}

static int same_kind(const zopt_checkpoint_tensor *a, const zopt_checkpoint_tensor *b)
{
    return strcmp(a->dtype, b->dtype) == 0 && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0;
}

static void compare_tensors(comparison *d)
{
    zopt_checkpoint_tensor t, other;
    for (int s = 0; s < 2; s++)
        for (size_t i = 0;
             d->status == ZOPT_OK && zopt_checkpoint_tensor_at(d->side[s], i, &t) == ZOPT_OK &&
             t.name != NULL;
             i++) {
            size_t j = find(d->side[1 - s], t.name, i, &other);
            if (j == SIZE_MAX)
                tell(d, "tensor", t.name, s == 0 ? "there" : "(none)", s == 0 ? "(none)" : "there");
            else if (s == 0 && !same_kind(&t, &other))
                tell(d, "tensor", t.name, t.dtype, "another dtype or shape");
            else if (s == 0)
                compare_data(d, &t, i, j);
        }
}

/* ------------------------------------------------------------------ all of it ---------------- */

static zopt_status open_both(const ckpt_arguments *args, comparison *d)
{
    for (int s = 0; s < 2; s++) {
        zopt_status status = zopt_checkpoint_open(args->path[s], &d->side[s]);
        d->piece[s] = malloc(PIECE_BYTES);
        if (status != ZOPT_OK || d->piece[s] == NULL)
            return status != ZOPT_OK ? status : ZOPT_ERR_MEMORY;
    }
    return ZOPT_OK;
}

static int print_result(comparison *d)
{
    if (d->json) {
        json_t *root = json_pack("{ss ss sb sO}", "a", zopt_checkpoint_path(d->side[0]), "b",
                                 zopt_checkpoint_path(d->side[1]), "equal", d->n_differences == 0,
                                 "differences", d->rows);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    } else if (d->n_differences == 0) {
        printf("equal\n");
    }
    return zopt_status_exit_code(d->n_differences == 0 ? ZOPT_OK : ZOPT_ERR_MISMATCH);
}

int ckpt_diff(const ckpt_arguments *args)
{
    comparison d = {.json = args->json, .rows = json_array()};
    d.status = open_both(args, &d);
    if (d.status == ZOPT_OK) {
        compare_texts(&d);
        compare_tensors(&d);
    }
    int code = d.status == ZOPT_OK ? print_result(&d) : ckpt_fail(d.status);
    for (int s = 0; s < 2; s++) {
        zopt_checkpoint_close(d.side[s]);
        free(d.piece[s]);
    }
    json_decref(d.rows);
    return code;
}
