/* Compares a bundle that was read with what the handle would write: by name, whatever the order and
 * the parts. Every difference is told; then the load is refused, before anything has changed. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "ckpt/contents.h"

static int by_name(const void *a, const void *b)
{
    return strcmp((*(zi_file_tensor *const *)a)->name, (*(zi_file_tensor *const *)b)->name);
}

/* All tensors of a stem, by name. NULL: no memory. */
static zi_file_tensor **sorted(const zi_bundle *bundle, zi_stem stem, size_t *n)
{
    uint32_t first = stem == ZI_STEM_MODEL ? 0 : bundle->n_parts[ZI_STEM_MODEL];
    *n = 0;
    for (uint32_t p = 0; p < bundle->n_parts[stem]; p++)
        *n += bundle->file[first + p].head.n_tensors;
    zi_file_tensor **list = calloc(*n + 1, sizeof(zi_file_tensor *));
    size_t at = 0;
    for (uint32_t p = 0; list != NULL && p < bundle->n_parts[stem]; p++) {
        const zi_tensorfile *head = &bundle->file[first + p].head;
        for (uint32_t i = 0; i < head->n_tensors; i++)
            list[at++] = &head->tensor[i];
    }
    if (list != NULL && *n > 0)
        qsort(list, *n, sizeof *list, by_name);
    return list;
}

static void shape_text(const zi_file_tensor *tensor, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "%s [", zi_file_dtype_name(tensor->dtype));
    for (int d = 0; d < tensor->ndim && used < bytes; d++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%" PRIu64, d > 0 ? ", " : "",
                                 tensor->shape[d]);
    if (used < bytes)
        snprintf(text + used, bytes - used, "]");
}

static int same_kind(const zi_file_tensor *a, const zi_file_tensor *b)
{
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof a->shape[0]) == 0;
}

typedef struct differences {
    const char *stem, *path;
    const zi_teller *teller;
    char first[640];
    size_t n;
} differences;

/* want or have may be NULL. */
static void tell(differences *d, const zi_file_tensor *want, const zi_file_tensor *have)
{
    char text[sizeof d->first] = "", a[200] = "", b[200] = "";
    if (want != NULL)
        shape_text(want, a, sizeof a);
    if (have != NULL)
        shape_text(have, b, sizeof b);
    if (have == NULL && want != NULL)
        snprintf(text, sizeof text, "%s: tensor '%.200s' %s is missing", d->stem, want->name, a);
    else if (want == NULL && have != NULL)
        snprintf(text, sizeof text, "%s: tensor '%.200s' %s is not one of this run's", d->stem,
                 have->name, b);
    else if (want != NULL)
        snprintf(text, sizeof text, "%s: tensor '%.100s' is %s, and %s in this run", d->stem,
                 want->name, b, a);
    if (d->n++ == 0)
        memcpy(d->first, text, sizeof text);
    d->teller->tell(d->teller->arg, text);
}

static void compare(differences *d, zi_file_tensor **want, size_t n_want, zi_file_tensor **have,
                    size_t n_have)
{
    size_t w = 0, h = 0;
    while (w < n_want || h < n_have) {
        int order = w == n_want ? 1 : h == n_have ? -1 : strcmp(want[w]->name, have[h]->name);
        if (order == 0 && same_kind(want[w], have[h]))
            have[h]->tag = want[w]->tag;
        else
            tell(d, order <= 0 ? want[w] : NULL, order >= 0 ? have[h] : NULL);
        w += order <= 0;
        h += order >= 0;
    }
}

static zopt_status match_stem(const zi_bundle *own, const zi_bundle *bundle, zi_stem stem,
                              differences *d)
{
    size_t n_want = 0, n_have = 0;
    zi_file_tensor **want = sorted(own, stem, &n_want);
    zi_file_tensor **have = sorted(bundle, stem, &n_have);
    d->stem = zi_stem_name[stem];
    if (want != NULL && have != NULL)
        compare(d, want, n_want, have, n_have);
    zopt_status status = want != NULL && have != NULL
                             ? ZOPT_OK
                             : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to compare tensors");
    free(want);
    free(have);
    return status;
}

zopt_status zi_contents_match(const zi_zero *z, zi_bundle *bundle, const char *path,
                              const zi_teller *teller)
{
    const zi_texts none = {0};
    const zi_contents contents = {
        .model = ZI_ARRAY_MASTER, .optimizer = 1, .texts = {&none, &none}};
    zi_bundle own;
    differences d = {.path = path, .teller = teller};
    ZI_TRY(zi_contents_describe(z, &contents, &own));
    zopt_status status = match_stem(&own, bundle, ZI_STEM_MODEL, &d);
    if (status == ZOPT_OK)
        status = match_stem(&own, bundle, ZI_STEM_OPTIMIZER, &d);
    zi_bundle_free(&own);
    ZI_TRY(status);
    if (d.n == 0)
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_DATA, "%s: %zu tensors are not this run's: %s%s", path, d.n, d.first,
                   d.n > 1 ? ", ..." : "");
}
