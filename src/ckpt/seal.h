/* Checksums of a checkpoint's files, XXH3 in fixed-width hex inside their own metadata: one for
 * each piece, an aligned 8 MiB of the file (less the header in the first ones), and one for the
 * header. Together they cover every byte. And one over the checksums of all pieces of all files of
 * the checkpoint, the same in each: what tells files of two checkpoints apart. Next: writer.c,
 * which writes the pieces. */
#ifndef ZI_CKPT_SEAL_H
#define ZI_CKPT_SEAL_H

#include "ckpt/tensorfile.h"

enum { ZI_PIECE_BYTES = 8 << 20, ZI_SEAL_TEXTS = 3 };

/* A run of a file's bytes, never the header's. Pieces inside the header are empty. */
typedef struct zi_file_piece {
    uint64_t at;
    size_t bytes;
} zi_file_piece;

uint64_t zi_n_pieces(const zi_tensorfile *file);
zi_file_piece zi_piece_of(const zi_tensorfile *file, uint64_t i);

/* zi_tensorfile_encode with room for the checksums, as two more texts behind the others: file->text
 * has room for them. They point into *seals, which like *header is the caller's to free. */
zopt_status zi_seal_encode(zi_tensorfile *file, char **header, char **seals);

/* Go on with another piece, from 0 for the first of the first file. */
uint64_t zi_seal_chain(uint64_t chain, uint64_t piece_hash);

/* Fill the checksums of all pieces into the header, and of all files', and then its own. */
void zi_seal_header(const zi_tensorfile *file, char *header, const uint64_t *piece_hash,
                    uint64_t chain);

/* zi_seal_chain over what a file that was read says of its pieces. After zi_seal_check_header. */
uint64_t zi_seal_chain_file(const zi_tensorfile *file, uint64_t chain);

/* What a file says all files' pieces are: nothing (an older writer), these, or others. */
typedef enum zi_seal_kind { ZI_SEAL_NONE, ZI_SEAL_SAME, ZI_SEAL_OTHER } zi_seal_kind;
zi_seal_kind zi_seal_compare(const zi_tensorfile *file, uint64_t chain);

/* Check a header that was read, all data_at bytes of it, against its own checksum, and that it has
 * one for each piece. Errors: ERR_DATA. */
zopt_status zi_seal_check_header(const zi_tensorfile *file, const char *header, const char *path);

/* Check a piece that was read. After zi_seal_check_header. Errors: ERR_DATA with the piece's place
 * and the first tensor in it. */
zopt_status zi_seal_check_piece(const zi_tensorfile *file, uint64_t i, const void *data,
                                const char *path);

uint64_t zi_seal_hash(const void *data, size_t bytes);

#endif
