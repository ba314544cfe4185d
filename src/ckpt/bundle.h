/* The files of one checkpoint: the model's parts, then the optimizer's. Described from a handle by
 * contents.c to be written, or read from a directory by bundle.c. Pieces are numbered through all
 * files, and rank (piece mod N) writes or reads a piece. Next: route.h, from pieces to memory. */
#ifndef ZI_CKPT_BUNDLE_H
#define ZI_CKPT_BUNDLE_H

#include "ckpt/disk.h"
#include "ckpt/index.h"
#include "ckpt/seal.h"

typedef enum zi_stem { ZI_STEM_MODEL, ZI_STEM_OPTIMIZER, ZI_N_STEMS } zi_stem;
extern const char *const zi_stem_name[ZI_N_STEMS]; /* "model", "optimizer" */

typedef struct zi_bundle_file {
    char name[ZI_FILE_NAME_BYTES];
    zi_tensorfile head;
    char *header, *seals; /* of a described one: to be written */
    uint64_t first_piece;
} zi_bundle_file;

typedef struct zi_bundle {
    zi_bundle_file *file;
    uint32_t n_files, n_parts[ZI_N_STEMS];
    uint64_t n_pieces;
    char *index[ZI_N_STEMS]; /* JSON; NULL where a stem has one part */
    char *names;             /* of a described one: what tensors are called */
    zi_file_tensor *tensors; /* of a described one: all of them */
    zi_file_text *texts;     /* and the files' metadata */
    int described;
} zi_bundle;

void zi_bundle_free(zi_bundle *bundle);

/* Number the pieces, when all heads are known. */
void zi_bundle_count(zi_bundle *bundle);

typedef struct zi_bundle_piece {
    uint32_t file;
    uint64_t index; /* in the file */
    zi_file_piece run;
} zi_bundle_piece;
zi_bundle_piece zi_bundle_piece_at(const zi_bundle *bundle, uint64_t piece);

/* Rounds in which so many ranks write them, one each. */
size_t zi_bundle_rounds(const zi_bundle *bundle, int world);

/* Bytes of the longest piece; and of the longest that the same tensors can have, however they are
 * split into parts. */
size_t zi_bundle_piece_bytes(const zi_bundle *bundle);
size_t zi_bundle_most_piece_bytes(const zi_bundle *bundle);

/* The first part's metadata of a stem, and the text of a key there; NULL: there is none. */
const zi_tensorfile *zi_bundle_head(const zi_bundle *bundle, zi_stem stem);
const char *zi_bundle_text(const zi_bundle *bundle, const char *key);

/* What is on disk about a bundle beside its data, in one piece of memory, so that one rank can
 * read it for all: headers and indexes, checked by zi_bundle_decode. `folder` is a step's. Errors:
 * ERR_READ, ERR_DATA, ERR_MEMORY. */
zopt_status zi_bundle_load(int folder, const char *path, char **out, size_t *bytes);
/* Everything that can be checked without the data. `path` is for error texts. */
zopt_status zi_bundle_decode(const char *data, size_t bytes, const char *path, zi_bundle *out);
/* ERR_DATA where a decoded one is another step's than its directory's name says. */
zopt_status zi_bundle_check_step(const zi_bundle *bundle, uint64_t step, const char *path);

#endif
