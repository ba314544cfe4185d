/* See seal.h. The header's checksum covers all of the header but its own place. */
#include "ckpt/seal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/status.h"

enum { DIGITS = 16 };

static const char header_key[] = "zopt.header_xxh3", piece_key[] = "zopt.piece_xxh3",
                  set_key[] = "zopt.set_xxh3";

uint64_t zi_n_pieces(const zi_tensorfile *file)
{
    return (file->bytes + ZI_PIECE_BYTES - 1) / ZI_PIECE_BYTES;
}

zi_file_piece zi_piece_of(const zi_tensorfile *file, uint64_t i)
{
    uint64_t at = i * ZI_PIECE_BYTES, end = at + ZI_PIECE_BYTES;
    end = end < file->bytes ? end : file->bytes;
    at = at > file->data_at ? at : file->data_at;
    return (zi_file_piece){.at = at, .bytes = at < end ? (size_t)(end - at) : 0};
}

uint64_t zi_seal_hash(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

static void put_hash(char *text, uint64_t hash)
{
    for (int i = DIGITS - 1; i >= 0; i--, hash >>= 4)
        text[i] = "0123456789abcdef"[hash & 15];
}

/* *hash of 16 lower-case digits. */
static int get_hash(const char *text, uint64_t *hash)
{
    *hash = 0;
    for (int i = 0; i < DIGITS; i++) {
        const char *digit = text[i] != '\0' ? strchr("0123456789abcdef", text[i]) : NULL;
        if (digit == NULL)
            return 0;
        *hash = *hash << 4 | (uint64_t)(digit - "0123456789abcdef");
    }
    return 1;
}

/* The number of pieces follows from the header's length, and that from the number of pieces: it
 * grows until both fit. */
zopt_status zi_seal_encode(zi_tensorfile *file, char **header, char **seals)
{
    uint32_t n_texts = file->n_texts;
    uint64_t n = 0, want = 1;
    *header = *seals = NULL;
    file->n_texts += ZI_SEAL_TEXTS;
    while (n < want) {
        n = want;
        free(*header);
        free(*seals);
        *header = NULL;
        size_t bytes = (n + 2) * DIGITS + ZI_SEAL_TEXTS;
        *seals = malloc(bytes);
        if (*seals == NULL)
            return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %llu checksums", (unsigned long long)n);
        memset(*seals, '0', bytes);
        char *pieces = *seals + DIGITS + 1, *set = pieces + n * DIGITS + 1;
        (*seals)[DIGITS] = pieces[n * DIGITS] = set[DIGITS] = '\0';
        file->text[n_texts] = (zi_file_text){header_key, *seals};
        file->text[n_texts + 1] = (zi_file_text){piece_key, pieces};
        file->text[n_texts + 2] = (zi_file_text){set_key, set};
        ZI_TRY(zi_tensorfile_encode(file, header));
        want = zi_n_pieces(file);
    }
    return ZOPT_OK;
}

/* Where the value of a key lies in the header's text. Metadata come first there, and a text inside
 * a JSON string cannot hold the bare quotes. NULL: it is not there. */
static const char *find_value(const char *header, size_t bytes, const char *key)
{
    char want[64];
    size_t length = (size_t)snprintf(want, sizeof want, "\"%s\":\"", key);
    const char *found = memmem(header, bytes, want, length);
    return found != NULL ? found + length : NULL;
}

/* Of what lies before its own place, and with that as seed of what lies behind. */
static uint64_t hash_header(const zi_tensorfile *file, const char *header, const char *own)
{
    size_t before = (size_t)(own - header);
    uint64_t seed = XXH3_64bits(header, before);
    return XXH3_64bits_withSeed(own + DIGITS, file->data_at - before - DIGITS, seed);
}

void zi_seal_header(const zi_tensorfile *file, char *header, const uint64_t *piece_hash,
                    uint64_t chain)
{
    char *pieces = header + (find_value(header, file->data_at, piece_key) - header);
    char *set = header + (find_value(header, file->data_at, set_key) - header);
    char *own = header + (find_value(header, file->data_at, header_key) - header);
    for (uint64_t i = 0; i < zi_n_pieces(file); i++)
        put_hash(pieces + i * DIGITS, piece_hash[i]);
    put_hash(set, chain);
    put_hash(own, hash_header(file, header, own));
}

zopt_status zi_seal_check_header(const zi_tensorfile *file, const char *header, const char *path)
{
    const char *own = find_value(header, file->data_at, header_key);
    const char *text = zi_tensorfile_text(file, header_key);
    const char *pieces = zi_tensorfile_text(file, piece_key);
    uint64_t want;
    if (own == NULL || text == NULL || strlen(text) != DIGITS || !get_hash(own, &want))
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: no checksum of the header: not written by zopt", path);
    if (hash_header(file, header, own) != want)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: its header does not match its checksum", path);
    if (pieces == NULL || strlen(pieces) != zi_n_pieces(file) * DIGITS)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: not one checksum for each of its %llu pieces", path,
                       (unsigned long long)zi_n_pieces(file));
    return ZOPT_OK;
}

uint64_t zi_seal_chain(uint64_t chain, uint64_t piece_hash)
{
    return XXH3_64bits_withSeed(&piece_hash, sizeof piece_hash, chain);
}

uint64_t zi_seal_chain_file(const zi_tensorfile *file, uint64_t chain)
{
    const char *pieces = zi_tensorfile_text(file, piece_key);
    uint64_t hash;
    for (uint64_t i = 0; i < zi_n_pieces(file); i++) {
        (void)get_hash(pieces + i * DIGITS, &hash);
        chain = zi_seal_chain(chain, hash);
    }
    return chain;
}

zi_seal_kind zi_seal_compare(const zi_tensorfile *file, uint64_t chain)
{
    const char *text = zi_tensorfile_text(file, set_key);
    uint64_t said;
    if (text == NULL)
        return ZI_SEAL_NONE;
    return strlen(text) == DIGITS && get_hash(text, &said) && said == chain ? ZI_SEAL_SAME
                                                                            : ZI_SEAL_OTHER;
}

static const char *tensor_at(const zi_tensorfile *file, uint64_t at)
{
    for (uint32_t i = 0; i < file->n_tensors; i++)
        if (file->tensor[i].end > at)
            return file->tensor[i].name;
    return "?";
}

zopt_status zi_seal_check_piece(const zi_tensorfile *file, uint64_t i, const void *data,
                                const char *path)
{
    zi_file_piece piece = zi_piece_of(file, i);
    const char *pieces = zi_tensorfile_text(file, piece_key);
    uint64_t want;
    if (piece.bytes == 0 ||
        (get_hash(pieces + i * DIGITS, &want) && zi_seal_hash(data, piece.bytes) == want))
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_DATA,
                   "%s: bytes [%llu, +%zu), from tensor '%.200s' on, do not match their checksum",
                   path, (unsigned long long)piece.at, piece.bytes,
                   tensor_at(file, piece.at - file->data_at));
}
