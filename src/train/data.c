/* Reads the text and draws windows from it. Whatever rank asks, the answer is the same: the file,
 * the vocabulary and the windows depend on nothing but the file and the arguments. model.c is next.
 */
#include "train/data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "train/fail.h"
#include "train/random.h"
#include "train/utf8.h"

/* More than this is a mistake, or never ends. */
#define MAX_BYTES ((size_t)1 << 30)

/* FNV-1a, 64 bits. */
static uint64_t hash_bytes(const unsigned char *bytes, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

/* Number the code points that occur, ascending: ids[c] is c's number where it occurs. */
static zopt_status build_vocab(const char *name, data *d, token *ids, const unsigned char *bytes,
                               size_t n_bytes, size_t *n_tokens)
{
    *n_tokens = 0;
    for (size_t at = 0; at < n_bytes; ++*n_tokens) {
        uint32_t c = 0;
        int length = utf8_read(bytes + at, n_bytes - at, &c);
        if (!length)
            return train_fail(ZOPT_ERR_DATA, "%s: not UTF-8 at byte %zu (0x%02x)", name, at,
                              bytes[at]);
        d->n_vocab += !ids[c];
        ids[c] = 1;
        at += (size_t)length;
    }
    if (d->n_vocab > DATA_MAX_VOCAB)
        return train_fail(ZOPT_ERR_DATA, "%s: %d different characters, at most %d are supported",
                          name, d->n_vocab, DATA_MAX_VOCAB);
    d->vocab = malloc(((size_t)d->n_vocab + 1) * sizeof *d->vocab);
    if (!d->vocab)
        return train_fail(ZOPT_ERR_MEMORY, "%s: no memory for the vocabulary", name);
    int next = 0;
    for (uint32_t c = 0; c < UTF8_CODE_POINTS; c++) {
        if (!ids[c])
            continue;
        d->vocab[next] = c;
        ids[c] = (token)next++;
    }
    return ZOPT_OK;
}

static zopt_status tokenize(const char *name, data *d, token *ids, const unsigned char *bytes,
                            size_t n_bytes)
{
    size_t n = 0;
    TRAIN_TRY(build_vocab(name, d, ids, bytes, n_bytes, &n));
    d->tokens = malloc((n + 1) * sizeof *d->tokens);
    if (!d->tokens)
        return train_fail(ZOPT_ERR_MEMORY, "%s: no memory for %zu tokens", name, n);
    for (size_t at = 0, i = 0; at < n_bytes; i++) {
        uint32_t c = 0;
        at += (size_t)utf8_read(bytes + at, n_bytes - at, &c);
        d->tokens[i] = ids[c];
    }
    d->n_train = n;
    return ZOPT_OK;
}

static zopt_status split(const char *name, data *d, double val_fraction, int context)
{
    size_t n = d->n_train, need = (size_t)context + 1;
    d->n_val = (size_t)((double)n * val_fraction);
    d->n_train = n - d->n_val;
    if (d->n_train < need || d->n_val < need)
        return train_fail(
            ZOPT_ERR_DATA,
            "%s: too short: %zu characters are %zu to train on and %zu held out; each "
            "part needs at least context + 1 = %zu",
            name, n, d->n_train, d->n_val, need);
    return ZOPT_OK;
}

zopt_status data_from_bytes(const char *name, const unsigned char *bytes, size_t n_bytes,
                            double val_fraction, int context, data *out)
{
    *out = (data){.hash = hash_bytes(bytes, n_bytes)};
    token *ids = calloc(UTF8_CODE_POINTS, sizeof *ids);
    if (!ids)
        return train_fail(ZOPT_ERR_MEMORY, "%s: no memory for the vocabulary", name);
    zopt_status status = tokenize(name, out, ids, bytes, n_bytes);
    free(ids);
    if (status == ZOPT_OK)
        status = split(name, out, val_fraction, context);
    if (status != ZOPT_OK)
        data_free(out);
    return status;
}

static zopt_status too_long(const char *path)
{
    return train_fail(ZOPT_ERR_DATA, "%s: longer than %zu bytes: too much for a text", path,
                      MAX_BYTES);
}

static zopt_status check_kind(FILE *file, const char *path)
{
    struct stat info;
    if (fstat(fileno(file), &info) != 0)
        return train_fail_errno(ZOPT_ERR_READ, "read", path);
    if (S_ISREG(info.st_mode) && (uintmax_t)info.st_size > MAX_BYTES)
        return too_long(path);
    if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode))
        return train_fail(ZOPT_ERR_DATA, "%s: a text is a file or a pipe, not a device", path);
    return ZOPT_OK;
}

/* Read to the end: of a pipe, the length is not known before. */
static zopt_status read_all(FILE *file, const char *path, unsigned char **bytes, size_t *n)
{
    size_t room = 0;
    do {
        if (*n == room) {
            if (*n > MAX_BYTES)
                return too_long(path);
            room = room ? 2 * room : (size_t)1 << 20;
            room = room < MAX_BYTES ? room : MAX_BYTES + 1;
            unsigned char *more = realloc(*bytes, room);
            if (!more)
                return train_fail(ZOPT_ERR_MEMORY, "%s: no memory for more than %zu bytes", path,
                                  *n);
            *bytes = more;
        }
        *n += fread(*bytes + *n, 1, room - *n, file);
    } while (!feof(file) && !ferror(file));
    if (ferror(file))
        return train_fail_errno(ZOPT_ERR_READ, "read", path);
    return *n > MAX_BYTES ? too_long(path) : ZOPT_OK;
}

zopt_status data_load(const char *path, double val_fraction, int context, data *out)
{
    *out = (data){0};
    FILE *file = fopen(path, "rb");
    if (!file && errno == ENOENT)
        return train_fail(ZOPT_ERR_READ,
                          "cannot open the text %s: %s; it is the run file's data.path, and "
                          "launch/setup.sh makes the examples' data/kjv.txt",
                          path, strerror(ENOENT));
    if (!file)
        return train_fail_errno(ZOPT_ERR_READ, "open the text", path);
    unsigned char *bytes = NULL;
    size_t n = 0;
    zopt_status status = check_kind(file, path);
    if (status == ZOPT_OK)
        status = read_all(file, path, &bytes, &n);
    fclose(file);
    if (status == ZOPT_OK)
        status = data_from_bytes(path, bytes, n, val_fraction, context, out);
    free(bytes);
    return status;
}

void data_free(data *d)
{
    free(d->tokens);
    free(d->vocab);
    *d = (data){0};
}

size_t data_window(const data *d, int context, uint64_t seed, uint64_t step, int slot, int sample)
{
    uint64_t bits = random_bits(seed, RANDOM_WINDOW, step, (uint64_t)slot, (uint64_t)sample);
    return (size_t)(bits % (d->n_train - (size_t)context));
}

static void fill_window(const token *from, int context, token *inputs, token *targets)
{
    memcpy(inputs, from, (size_t)context * sizeof *from);
    memcpy(targets, from + 1, (size_t)context * sizeof *from);
}

void data_fill_slot(const data *d, const data_slot *which, token *inputs, token *targets)
{
    for (int i = 0; i < which->samples; i++) {
        size_t at = data_window(d, which->context, which->seed, which->step, which->slot, i);
        size_t row = (size_t)i * (size_t)which->context;
        fill_window(d->tokens + at, which->context, inputs + row, targets + row);
    }
}

size_t data_val_windows(const data *d, int context)
{
    return (d->n_val - 1) / (size_t)context;
}

void data_fill_val(const data *d, int context, size_t first, int samples, token *inputs,
                   token *targets)
{
    const token *from = d->tokens + d->n_train + first * (size_t)context;
    for (int i = 0; i < samples; i++) {
        size_t row = (size_t)i * (size_t)context;
        fill_window(from + row, context, inputs + row, targets + row);
    }
}

static int find_code_point(const data *d, uint32_t c)
{
    int lo = 0, hi = d->n_vocab;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (d->vocab[mid] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < d->n_vocab && d->vocab[lo] == c ? lo : -1;
}

zopt_status data_encode(const data *d, const char *text, token *tokens, size_t max, size_t *n)
{
    size_t n_bytes = strlen(text);
    *n = 0;
    for (size_t at = 0; at < n_bytes && *n < max;) {
        uint32_t c = 0;
        int length = utf8_read((const unsigned char *)text + at, n_bytes - at, &c);
        if (!length)
            return train_fail(ZOPT_ERR_CONFIG, "not UTF-8 at byte %zu", at);
        int id = find_code_point(d, c);
        if (id < 0)
            return train_fail(ZOPT_ERR_CONFIG, "the text has no character U+%04X", (unsigned)c);
        tokens[(*n)++] = (token)id;
        at += (size_t)length;
    }
    return ZOPT_OK;
}

void data_decode(const data *d, token t, char out[5])
{
    out[utf8_write(d->vocab[t], out)] = '\0';
}
