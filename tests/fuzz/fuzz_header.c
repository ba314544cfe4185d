/* A whole safetensors file from an enemy: it is refused, or its tensors fill its data exactly, and
 * what was read can be written and read again. */
#include <stdlib.h>
#include <string.h>

#include "ckpt/seal.h"
#include "fuzz.h"

/* The reference writer's order may differ from the file's, so only what has a name is compared. */
static void check_again(zi_tensorfile *file)
{
    zi_tensorfile again;
    char *header;
    if (zi_tensorfile_encode(file, &header) != ZOPT_OK)
        return; /* no memory, or names that only fit because they were not escaped */
    FUZZ_CHECK(zi_tensorfile_decode(header + 8, file->data_at - 8, file->bytes, "again", &again) ==
               ZOPT_OK);
    FUZZ_CHECK(again.n_tensors == file->n_tensors && again.n_texts == file->n_texts);
    for (uint32_t i = 0; i < again.n_tensors; i++)
        FUZZ_CHECK(zi_tensorfile_find(file, again.tensor[i].name) != NULL);
    zi_tensorfile_free(&again);
    free(header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    zi_tensorfile file;
    uint8_t first[8] = {0};
    size_t length;
    uint64_t at = 0;
    memcpy(first, data, size < 8 ? size : 8);
    if (zi_tensorfile_length(first, size, "input", &length) != ZOPT_OK)
        return 0;
    const char *header = (const char *)data;
    if (zi_tensorfile_decode(header + 8, length, size, "input", &file) != ZOPT_OK)
        return 0;
    for (uint32_t i = 0; i < file.n_tensors; i++) {
        FUZZ_CHECK(file.tensor[i].begin == at && file.tensor[i].end >= at);
        at = file.tensor[i].end;
    }
    FUZZ_CHECK(file.data_at + at == size);
    (void)zi_seal_check_header(&file, header, "input");
    check_again(&file);
    zi_tensorfile_free(&file);
    return 0;
}
