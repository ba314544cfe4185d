/* The index of a model or optimizer that is split into parts: which file each tensor is in, as
 * Hugging Face's *.safetensors.index.json has it. Parts are called NAME-00001-of-00003.safetensors.
 */
#ifndef ZI_CKPT_INDEX_H
#define ZI_CKPT_INDEX_H

#include "ckpt/tensorfile.h"

enum { ZI_MAX_PARTS = 99999, ZI_INDEX_MAX_BYTES = 64 << 20, ZI_FILE_NAME_BYTES = 64 };

/* "model.safetensors" where there is one part, else "model-00001-of-00003.safetensors". */
void zi_part_name(const char *stem, uint32_t part, uint32_t n_parts, char name[ZI_FILE_NAME_BYTES]);

/* The index of these parts, the caller's to free. Errors: ERR_DATA where two have a tensor of the
 * same name; ERR_MEMORY. */
zopt_status zi_index_encode(const char *stem, const zi_tensorfile *parts, uint32_t n_parts,
                            char **json);

/* How many parts an index names. Its file names must be those of zi_part_name, each used. Errors:
 * ERR_DATA with path; ERR_MEMORY. */
zopt_status zi_index_decode(const char *json, size_t bytes, const char *stem, const char *path,
                            uint32_t *n_parts);

#endif
