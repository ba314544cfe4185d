/* A file `latest` from an enemy: it is refused, or is the name of a step, letter for letter. */
#include <string.h>

#include "ckpt/folder.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t step;
    char name[ZI_STEP_NAME_BYTES];
    if (zi_latest_parse((const char *)data, size, "input", &step) != ZOPT_OK)
        return 0;
    zi_step_name(step, name);
    size_t length = strlen(name);
    FUZZ_CHECK(size == length || (size == length + 1 && data[length] == '\n'));
    FUZZ_CHECK(memcmp(data, name, length) == 0);
    return 0;
}
