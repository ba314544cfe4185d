/* The safetensors format: a u64 length N, N bytes of JSON that say where each tensor lies, then the
 * data. A zi_tensorfile is what the JSON says; tensorfile.c lays it out and writes it the way the
 * reference writer does, tensorfile_read.c reads it, at least as strictly as the reference reader.
 * Neither touches tensor data. Source: the format's description at huggingface/safetensors. */
#ifndef ZI_CKPT_TENSORFILE_H
#define ZI_CKPT_TENSORFILE_H

#include <stddef.h>
#include <stdint.h>
#include <zopt/zopt.h>

enum {
    ZI_FILE_MAX_DIMS = 8,
    ZI_FILE_MAX_TENSORS = 1 << 18,
    ZI_FILE_MAX_HEADER = 100000000, /* the reference reader's */
    ZI_FILE_ALIGN = 4096,           /* where data begin, for direct I/O */
};

/* X(name, bytes): the dtypes of the format. */
#define ZI_FILE_DTYPE_LIST(X) \
    X(BOOL, 1)                \
    X(U8, 1)                  \
    X(I8, 1)                  \
    X(F8_E5M2, 1)             \
    X(F8_E4M3, 1)             \
    X(I16, 2)                 \
    X(U16, 2) X(F16, 2) X(BF16, 2) X(I32, 4) X(U32, 4) X(F32, 4) X(F64, 8) X(I64, 8) X(U64, 8)

typedef enum zi_file_dtype {
#define ROW(name, bytes) ZI_FILE_##name,
    ZI_FILE_DTYPE_LIST(ROW)
#undef ROW
        ZI_N_FILE_DTYPES
} zi_file_dtype;

const char *zi_file_dtype_name(zi_file_dtype dtype);
size_t zi_file_dtype_bytes(zi_file_dtype dtype);

typedef struct zi_file_tensor {
    const char *name;
    zi_file_dtype dtype;
    int ndim;
    uint64_t shape[ZI_FILE_MAX_DIMS];
    uint64_t begin, end; /* bytes, from the first byte of the data */
    uint64_t tag;        /* the writer's own: what the data come from */
} zi_file_tensor;

/* One text of __metadata__. */
typedef struct zi_file_text {
    const char *key, *value;
} zi_file_text;

typedef struct zi_tensorfile {
    zi_file_tensor *tensor; /* in the order of their data */
    uint32_t n_tensors;
    zi_file_text *text; /* in the order of the file */
    uint32_t n_texts;
    uint64_t data_at; /* bytes before the data */
    uint64_t bytes;   /* of the whole file */
    char *pool;       /* what a read file's names and texts lie in */
} zi_tensorfile;

/* Free what zi_tensorfile_decode made; tensor and text of other files are their maker's. */
void zi_tensorfile_free(zi_tensorfile *file);

/* Put the tensors in the reference writer's order (size of dtype descending, then name) and give
 * them their places: begin and end. */
void zi_tensorfile_order(zi_tensorfile *file);

/* The header: length and JSON, padded with spaces to a multiple of ZI_FILE_ALIGN. Fills in data_at
 * and bytes. *header is the caller's to free. Errors: ERR_MEMORY, ERR_ARGUMENT past the limits. */
zopt_status zi_tensorfile_encode(zi_tensorfile *file, char **header);

/* The length that a file's first 8 bytes announce, checked against the file's size.
 * Errors: ERR_DATA; `path` is for their texts. */
zopt_status zi_tensorfile_length(const unsigned char first[8], uint64_t file_bytes,
                                 const char *path, size_t *json_bytes);

/* Read the JSON of a header. Memory is bounded by a small multiple of json_bytes, which is bounded
 * too. Errors: ERR_DATA with path, tensor and what is wrong; ERR_MEMORY. */
zopt_status zi_tensorfile_decode(const char *json, size_t json_bytes, uint64_t file_bytes,
                                 const char *path, zi_tensorfile *out);

/* Refuse JSON that a parser would need much memory or a deep stack for, before it is parsed.
 * Errors: ERR_DATA. */
zopt_status zi_json_bound(const char *json, size_t n, size_t max_depth, const char *path);

/* The tensor or text of that name, or NULL. */
const zi_file_tensor *zi_tensorfile_find(const zi_tensorfile *file, const char *name);
const char *zi_tensorfile_text(const zi_tensorfile *file, const char *key);

#endif
