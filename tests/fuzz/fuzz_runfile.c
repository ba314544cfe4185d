/* A run file from an enemy: it is refused, or gives options that a handle can be made with. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fuzz.h"

static char path[64];

static void remove_file(void)
{
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    zopt_config *config;
    zopt_options options;
    if (path[0] == '\0') {
        snprintf(path, sizeof path, "/tmp/zopt-fuzz-%d.json", (int)getpid());
        atexit(remove_file);
    }
    FILE *file = fopen(path, "we");
    FUZZ_CHECK(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0);
    if (zopt_config_load(path, &config) != ZOPT_OK)
        return 0;
    if (zopt_config_resolve(config) == ZOPT_OK)
        FUZZ_CHECK(zopt_config_options(config, &options) == ZOPT_OK);
    zopt_config_destroy(config);
    return 0;
}
