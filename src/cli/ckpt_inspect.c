/* zopt ckpt inspect and verify. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ckpt.h"

static void add_step(void *arg, uint64_t step)
{
    ckpt_steps *steps = arg;
    uint64_t *more = realloc(steps->step, (steps->n + 1) * sizeof *more);
    if (more == NULL)
        return;
    steps->step = more;
    steps->step[steps->n++] = step;
}

zopt_status ckpt_list(const char *dir, ckpt_steps *out)
{
    *out = (ckpt_steps){NULL, 0};
    return zopt_checkpoint_list(dir, add_step, out);
}

static void print_json(json_t *root)
{
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    putchar('\n');
    json_decref(root);
}

/* ------------------------------------------------------------------ inspect ------------------ */

/* Checksums are for machines. */
static int is_seal(const char *key)
{
    return strstr(key, "_xxh3") != NULL;
}

static void print_shape(const zopt_checkpoint_tensor *t)
{
    char text[200] = "";
    size_t used = 0;
    for (int d = 0; d < t->ndim; d++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%" PRIu64, d > 0 ? "x" : "",
                                 t->shape[d]);
    printf("  %-5s %-20s %14" PRIu64 "  %s\n", t->dtype, t->ndim > 0 ? text : "scalar", t->bytes,
           t->name);
}

static void print_text(const zopt_checkpoint *c)
{
    const char *key, *value, *file = "";
    zopt_checkpoint_tensor t;
    uint64_t bytes = 0;
    size_t n = 0;
    printf("%s\n", zopt_checkpoint_path(c));
    for (size_t i = 0; zopt_checkpoint_text_at(c, i, &key, &value) == ZOPT_OK && key != NULL; i++)
        if (!is_seal(key))
            printf("  %s = %s\n", key, value);
    for (; zopt_checkpoint_tensor_at(c, n, &t) == ZOPT_OK && t.name != NULL; n++) {
        if (strcmp(file, t.file) != 0)
            printf("%s\n", t.file);
        file = t.file;
        bytes += t.bytes;
        print_shape(&t);
    }
    printf("%zu tensors, %" PRIu64 " bytes\n", n, bytes);
}

static json_t *describe(const zopt_checkpoint *c)
{
    const char *key, *value;
    zopt_checkpoint_tensor t;
    json_t *texts = json_object(), *tensors = json_array();
    for (size_t i = 0; zopt_checkpoint_text_at(c, i, &key, &value) == ZOPT_OK && key != NULL; i++)
        if (!is_seal(key))
            json_object_set_new(texts, key, json_string(value));
    for (size_t i = 0; zopt_checkpoint_tensor_at(c, i, &t) == ZOPT_OK && t.name != NULL; i++) {
        json_t *shape = json_array();
        for (int d = 0; d < t.ndim; d++)
            json_array_append_new(shape, json_integer((json_int_t)t.shape[d]));
        json_array_append_new(tensors,
                              json_pack("{ss ss ss so sI}", "file", t.file, "name", t.name, "dtype",
                                        t.dtype, "shape", shape, "bytes", (json_int_t)t.bytes));
    }
    return json_pack("{ss sI so so}", "path", zopt_checkpoint_path(c), "step",
                     (json_int_t)zopt_checkpoint_step(c), "metadata", texts, "tensors", tensors);
}

int ckpt_inspect(const ckpt_arguments *args)
{
    zopt_checkpoint *c;
    ckpt_steps steps;
    zopt_status status = zopt_checkpoint_open(args->path[0], &c);
    if (status != ZOPT_OK)
        return ckpt_fail(status);
    if (ckpt_list(args->path[0], &steps) != ZOPT_OK)
        steps.n = 0;
    if (args->json) {
        json_t *root = describe(c), *list = json_array();
        for (size_t i = 0; i < steps.n; i++)
            json_array_append_new(list, json_integer((json_int_t)steps.step[i]));
        json_object_set_new(root, "steps", list);
        print_json(root);
    } else {
        for (size_t i = 0; i < steps.n; i++)
            printf("%s%" PRIu64 "%s", i == 0 ? "steps " : ", ", steps.step[i],
                   i + 1 == steps.n ? "\n" : "");
        print_text(c);
    }
    free(steps.step);
    zopt_checkpoint_close(c);
    return 0;
}

/* ------------------------------------------------------------------ verify ------------------- */

/* An error's text may have been cut within a character, or quote what is none. */
static json_t *json_error_text(const char *text)
{
    json_t *string = json_string(text);
    char *plain = string == NULL ? strdup(text) : NULL;
    for (char *c = plain; c != NULL && *c != '\0'; c++)
        *c = (unsigned char)*c < 0x80 ? *c : '?';
    string = plain != NULL ? json_string(plain) : string;
    free(plain);
    return string;
}

static zopt_status verify_one(const char *path, json_t *list)
{
    zopt_checkpoint *c;
    zopt_status status = zopt_checkpoint_open(path, &c);
    if (status == ZOPT_OK)
        status = zopt_checkpoint_verify(c);
    zopt_checkpoint_close(c);
    const char *why = status == ZOPT_OK ? "" : zopt_last_error();
    if (list != NULL)
        json_array_append_new(list, json_pack("{ss sb so}", "path", path, "ok", status == ZOPT_OK,
                                              "error", json_error_text(why)));
    else
        printf("%s: %s%s\n", path, status == ZOPT_OK ? "ok" : "DAMAGED: ", why);
    return status;
}

/* All of a directory's; the first failure is the exit code's. */
static zopt_status verify_all(const char *dir, const ckpt_steps *steps, json_t *list)
{
    zopt_status first = ZOPT_OK;
    for (size_t i = 0; i < steps->n; i++) {
        char *path = NULL;
        if (asprintf(&path, "%s/step-%08" PRIu64, dir, steps->step[i]) < 0)
            return ZOPT_ERR_MEMORY;
        zopt_status status = verify_one(path, list);
        first = first != ZOPT_OK ? first : status;
        free(path);
    }
    return first;
}

/* ".../step-00000123/" is one checkpoint's. */
static int names_step(const char *path)
{
    size_t end = strlen(path), n_digits = 0;
    while (end > 1 && path[end - 1] == '/')
        end--;
    while (end > 0 && path[end - 1] >= '0' && path[end - 1] <= '9')
        end--, n_digits++;
    return n_digits >= 8 && end >= 5 && strncmp(path + end - 5, "step-", 5) == 0 &&
           (end == 5 || path[end - 6] == '/');
}

/* Whether there is something to verify; a checkpoint that does not open is damaged. */
static zopt_status find_any(const char *path, ckpt_steps *steps)
{
    zopt_checkpoint *c;
    zopt_status status = ckpt_list(path, steps);
    if (status != ZOPT_OK || steps->n > 0 || names_step(path))
        return status;
    status = zopt_checkpoint_open(path, &c); /* which says where there may be some */
    zopt_checkpoint_close(c);
    return status;
}

int ckpt_verify(const ckpt_arguments *args)
{
    ckpt_steps steps;
    zopt_status status = find_any(args->path[0], &steps);
    if (status != ZOPT_OK)
        return ckpt_fail(status);
    json_t *list = args->json ? json_array() : NULL;
    if (steps.n > 0)
        status = verify_all(args->path[0], &steps, list);
    else
        status = verify_one(args->path[0], list);
    free(steps.step);
    if (list != NULL)
        print_json(json_pack("{so}", "checkpoints", list));
    if (status != ZOPT_OK)
        return cli_fail("zopt ckpt", status, "verify: a checkpoint is damaged");
    return 0;
}
