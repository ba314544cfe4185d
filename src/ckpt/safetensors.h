/* The safetensors format, writing side: a u64 length, a JSON header of tensors in the reference
 * writer's order, then the data. The header is padded with spaces so that data begin at a multiple
 * of 4096. Source: the format's description at huggingface/safetensors. */
#ifndef ZI_CKPT_SAFETENSORS_H
#define ZI_CKPT_SAFETENSORS_H

#include "zero/layout.h"

enum { ZI_SAFETENSORS_ALIGN = 4096 };

typedef struct zi_safetensors {
    char *header; /* the length and the JSON, padded; header_bytes of it */
    size_t header_bytes;
    uint64_t *data_at; /* [n_tensors] file offset of each tensor's data, by id */
    uint64_t file_bytes;
} zi_safetensors;

/* The file that holds all tensors as FP32. The same on every rank. Uncounted memory, O(tensors),
 * for as long as the file is written. Errors: ERR_MEMORY. */
zopt_status zi_safetensors_describe(const zi_tensor *tensors, uint32_t n_tensors,
                                    zi_safetensors *out);
void zi_safetensors_free(zi_safetensors *file);

#endif
