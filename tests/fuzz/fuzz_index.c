/* An index of parts from an enemy: it is refused, or names from two parts on. */
#include "ckpt/index.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t n_parts;
    zopt_status status = zi_index_decode((const char *)data, size, "model", "input", &n_parts);
    FUZZ_CHECK(status == ZOPT_OK ? n_parts >= 2 && n_parts <= ZI_MAX_PARTS : n_parts == 0);
    return 0;
}
