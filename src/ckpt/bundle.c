/* See bundle.h. A blob is a row of records, each a zi_record and its bytes: per stem the number of
 * parts, then each part's header, then the index if there is one. */
#include "ckpt/bundle.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/status.h"

const char *const zi_stem_name[ZI_N_STEMS] = {"model", "optimizer"};

void zi_bundle_free(zi_bundle *bundle)
{
    for (uint32_t i = 0; bundle->file != NULL && i < bundle->n_files; i++) {
        zi_bundle_file *file = &bundle->file[i];
        if (!bundle->described)
            zi_tensorfile_free(&file->head);
        free(file->header);
        free(file->seals);
    }
    for (int s = 0; s < ZI_N_STEMS; s++)
        free(bundle->index[s]);
    free(bundle->file);
    free(bundle->names);
    free(bundle->tensors);
    free(bundle->texts);
    memset(bundle, 0, sizeof *bundle);
}

void zi_bundle_count(zi_bundle *bundle)
{
    bundle->n_pieces = 0;
    for (uint32_t i = 0; i < bundle->n_files; i++) {
        bundle->file[i].first_piece = bundle->n_pieces;
        bundle->n_pieces += zi_n_pieces(&bundle->file[i].head);
    }
}

zi_bundle_piece zi_bundle_piece_at(const zi_bundle *bundle, uint64_t piece)
{
    uint32_t lo = 0, hi = bundle->n_files;
    while (hi - lo > 1) {
        uint32_t middle = lo + (hi - lo) / 2;
        if (bundle->file[middle].first_piece <= piece)
            lo = middle;
        else
            hi = middle;
    }
    uint64_t index = piece - bundle->file[lo].first_piece;
    return (zi_bundle_piece){lo, index, zi_piece_of(&bundle->file[lo].head, index)};
}

size_t zi_bundle_rounds(const zi_bundle *bundle, int world)
{
    return (size_t)((bundle->n_pieces + (uint64_t)world - 1) / (uint64_t)world);
}

size_t zi_bundle_piece_bytes(const zi_bundle *bundle)
{
    uint64_t most = 1;
    for (uint32_t i = 0; i < bundle->n_files; i++) {
        const zi_tensorfile *head = &bundle->file[i].head;
        if (head->bytes - head->data_at > most)
            most = head->bytes - head->data_at;
    }
    return most < ZI_PIECE_BYTES ? (size_t)most : (size_t)ZI_PIECE_BYTES;
}

size_t zi_bundle_most_piece_bytes(const zi_bundle *bundle)
{
    uint64_t stem[ZI_N_STEMS] = {0}, most = 1;
    for (uint32_t i = 0; i < bundle->n_files; i++) {
        const zi_tensorfile *head = &bundle->file[i].head;
        stem[i < bundle->n_parts[ZI_STEM_MODEL] ? ZI_STEM_MODEL : ZI_STEM_OPTIMIZER] +=
            head->bytes - head->data_at;
    }
    for (int s = 0; s < ZI_N_STEMS; s++)
        most = stem[s] > most ? stem[s] : most;
    return most < ZI_PIECE_BYTES ? (size_t)most : (size_t)ZI_PIECE_BYTES;
}

const zi_tensorfile *zi_bundle_head(const zi_bundle *bundle, zi_stem stem)
{
    return &bundle->file[stem == ZI_STEM_MODEL ? 0 : bundle->n_parts[ZI_STEM_MODEL]].head;
}

const char *zi_bundle_text(const zi_bundle *bundle, const char *key)
{
    return zi_tensorfile_text(zi_bundle_head(bundle, ZI_STEM_OPTIMIZER), key);
}

/* ------------------------------------------------------------------ reading what is on disk -- */

typedef struct record {
    uint64_t n_parts;    /* of the stem that begins here */
    uint64_t file_bytes; /* of the file whose header or index this is */
    uint64_t bytes;      /* that follow */
} record;

typedef struct blob {
    char *data;
    size_t bytes, room;
} blob;

/* Room for a record of these bytes behind the others; NULL: no memory. */
static char *add_record(blob *b, record head)
{
    size_t need = b->bytes + sizeof head + (size_t)head.bytes;
    if (need > b->room || b->data == NULL) {
        size_t room = need + b->room;
        char *more = realloc(b->data, room); /* NOLINT: a record is never empty */
        if (more == NULL)
            return NULL;
        b->data = more;
        b->room = room;
    }
    memcpy(b->data + b->bytes, &head, sizeof head);
    char *at = b->data + b->bytes + sizeof head;
    b->bytes = need;
    return at;
}

static zopt_status read_header(zi_disk_file *file, uint64_t n_parts, blob *b)
{
    unsigned char first[8] = {0};
    uint64_t bytes;
    size_t json_bytes;
    ZI_TRY(zi_disk_size(file, &bytes));
    if (bytes >= sizeof first)
        ZI_TRY(zi_disk_read(file, first, sizeof first, 0));
    ZI_TRY(zi_tensorfile_length(first, bytes, file->path, &json_bytes));
    char *at = add_record(b, (record){n_parts, bytes, 8 + json_bytes});
    if (at == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for its header", file->path);
    return zi_disk_read(file, at, 8 + json_bytes, 0);
}

static zopt_status read_part(int folder, const char *path, const char *name, uint64_t n_parts,
                             blob *b)
{
    char shown[ZI_PATH_BYTES];
    zi_disk_file file;
    snprintf(shown, sizeof shown, "%s/%s", path, name);
    ZI_TRY(zi_disk_open(folder, name, shown, ZI_DISK_READ, &file));
    zopt_status status = read_header(&file, n_parts, b);
    (void)zi_disk_close(&file);
    return status;
}

/* How many parts there are; *text is the index, NULL for one part without. */
static zopt_status count_parts(int folder, const char *path, const char *stem, uint32_t *n_parts,
                               char **text, size_t *bytes)
{
    char name[ZI_FILE_NAME_BYTES], shown[ZI_PATH_BYTES];
    struct stat info;
    *text = NULL;
    *n_parts = 1;
    zi_part_name(stem, 0, 1, name);
    if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) == 0)
        return ZOPT_OK;
    snprintf(name, sizeof name, "%s.safetensors.index.json", stem);
    snprintf(shown, sizeof shown, "%s/%s", path, name);
    ZI_TRY(zi_disk_read_small(folder, name, shown, ZI_INDEX_MAX_BYTES, text, bytes));
    return zi_index_decode(*text, *bytes, stem, shown, n_parts);
}

static zopt_status read_stem(int folder, const char *path, const char *stem, blob *b)
{
    char name[ZI_FILE_NAME_BYTES], *index;
    uint32_t n_parts;
    size_t bytes = 0;
    zopt_status status = count_parts(folder, path, stem, &n_parts, &index, &bytes);
    for (uint32_t p = 0; p < n_parts && status == ZOPT_OK; p++) {
        zi_part_name(stem, p, n_parts, name);
        status = read_part(folder, path, name, n_parts, b);
    }
    if (status == ZOPT_OK && index != NULL) {
        char *at = add_record(b, (record){n_parts, bytes, bytes});
        if (at != NULL)
            memcpy(at, index, bytes);
        else
            status = ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for its index", path);
    }
    free(index);
    return status;
}

zopt_status zi_bundle_load(int folder, const char *path, char **out, size_t *bytes)
{
    blob b = {0};
    zopt_status status = ZOPT_OK;
    for (int s = 0; s < ZI_N_STEMS && status == ZOPT_OK; s++)
        status = read_stem(folder, path, zi_stem_name[s], &b);
    if (status != ZOPT_OK) {
        free(b.data);
        b = (blob){0};
    }
    *out = b.data;
    *bytes = b.bytes;
    return status;
}

/* ------------------------------------------------------------------ decoding ----------------- */

/* The next record; its bytes lie at *data. A blob is this program's own. */
static record take_record(const char **at, const char **data)
{
    record head;
    memcpy(&head, *at, sizeof head);
    *data = *at + sizeof head;
    *at = *data + head.bytes;
    return head;
}

static zopt_status decode_part(const char *data, const record *head, const char *path,
                               zi_bundle_file *file)
{
    char shown[ZI_PATH_BYTES];
    snprintf(shown, sizeof shown, "%s/%s", path, file->name);
    ZI_TRY(zi_tensorfile_decode(data + 8, (size_t)head->bytes - 8, head->file_bytes, shown,
                                &file->head));
    return zi_seal_check_header(&file->head, data, shown);
}

/* An index must be the one that follows from the parts. */
static zopt_status check_index(const char *stem, zi_bundle *out, int s, const char *data,
                               const record *head, const char *path)
{
    uint32_t first = s == ZI_STEM_MODEL ? 0 : out->n_parts[ZI_STEM_MODEL];
    zi_tensorfile *parts = calloc(out->n_parts[s] + (size_t)1, sizeof *parts);
    if (parts == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for %u parts", path, out->n_parts[s]);
    for (uint32_t p = 0; p < out->n_parts[s]; p++)
        parts[p] = out->file[first + p].head;
    zopt_status status = zi_index_encode(stem, parts, out->n_parts[s], &out->index[s]);
    free(parts);
    ZI_TRY(status);
    if (strlen(out->index[s]) != head->bytes || memcmp(out->index[s], data, head->bytes) != 0)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s/%s.safetensors.index.json is not the index of its parts",
                       path, stem);
    return ZOPT_OK;
}

static zopt_status decode_stem(const char **at, int s, const char *path, zi_bundle *out)
{
    const char *data, *stem = zi_stem_name[s];
    const char *peek = *at;
    uint32_t n_parts = (uint32_t)take_record(&peek, &data).n_parts;
    zi_bundle_file *more = realloc(out->file, (out->n_files + n_parts) * sizeof *more);
    if (more == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for %u parts", path, n_parts);
    out->file = more;
    out->n_parts[s] = n_parts;
    for (uint32_t p = 0; p < n_parts; p++) {
        record head = take_record(at, &data);
        zi_bundle_file *file = &out->file[out->n_files++];
        memset(file, 0, sizeof *file);
        zi_part_name(stem, p, n_parts, file->name);
        ZI_TRY(decode_part(data, &head, path, file));
    }
    if (n_parts == 1)
        return ZOPT_OK;
    record head = take_record(at, &data);
    return check_index(stem, out, s, data, &head, path);
}

/* Files of two checkpoints must not be taken for one. */
static zopt_status check_pair(const zi_bundle *bundle, const char *path)
{
    static const char *const keys[] = {"zopt.format", "zopt.step", "zopt.config_xxh3"};
    for (uint32_t f = 0; f < bundle->n_files; f++)
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
            const char *a = zi_tensorfile_text(&bundle->file[0].head, keys[k]);
            const char *b = zi_tensorfile_text(&bundle->file[f].head, keys[k]);
            if (a == NULL || b == NULL || strcmp(a, b) != 0)
                return ZI_FAIL(ZOPT_ERR_DATA, "%s: %s has %s '%s', and %s '%s'", path,
                               bundle->file[0].name, keys[k], a ? a : "(none)",
                               bundle->file[f].name, b ? b : "(none)");
        }
    return ZOPT_OK;
}

/* Nor files of two runs with the same settings, at the same step. */
static zopt_status check_set(const zi_bundle *bundle, const char *path)
{
    uint64_t chain = 0;
    uint32_t n_none = 0;
    for (uint32_t f = 0; f < bundle->n_files; f++)
        chain = zi_seal_chain_file(&bundle->file[f].head, chain);
    for (uint32_t f = 0; f < bundle->n_files; f++) {
        zi_seal_kind kind = zi_seal_compare(&bundle->file[f].head, chain);
        n_none += kind == ZI_SEAL_NONE;
        if (kind == ZI_SEAL_OTHER || (n_none > 0 && n_none <= f))
            return ZI_FAIL(ZOPT_ERR_DATA,
                           "%s: its files are not of one checkpoint: %s was written beside others",
                           path, bundle->file[f].name);
    }
    return ZOPT_OK;
}

zopt_status zi_bundle_decode(const char *data, size_t bytes, const char *path, zi_bundle *out)
{
    const char *at = data;
    zopt_status status = ZOPT_OK;
    (void)bytes;
    memset(out, 0, sizeof *out);
    for (int s = 0; s < ZI_N_STEMS && status == ZOPT_OK; s++)
        status = decode_stem(&at, s, path, out);
    if (status == ZOPT_OK)
        status = check_pair(out, path);
    if (status == ZOPT_OK)
        status = check_set(out, path);
    zi_bundle_count(out);
    if (status != ZOPT_OK)
        zi_bundle_free(out);
    return status;
}

zopt_status zi_bundle_check_step(const zi_bundle *bundle, uint64_t step, const char *path)
{
    char want[24];
    const char *held = zi_bundle_text(bundle, "zopt.step"); /* check_pair saw it */
    snprintf(want, sizeof want, "%" PRIu64, step);
    return strcmp(held, want) == 0 ? ZOPT_OK
                                   : ZI_FAIL(ZOPT_ERR_DATA, "%s: holds step %s", path, held);
}
