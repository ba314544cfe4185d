/* What `zopt plan --time` is told about a machine: a small JSON file with a row for each transport
 * and number of ranks that was measured. bench.h shows the reader to the command. Next:
 * calibrate.c, which measures. */
#ifndef BENCH_CALIBRATION_H
#define BENCH_CALIBRATION_H

#include "bench/bench.h"

/* What a file is made of; strings are its caller's. */
typedef struct bench_calibration_row {
    const char *device, *transport, *kernels;
    int ranks;
    bench_rates rates;
} bench_calibration_row;

/* Where the file is, if nobody says where: zopt/calibration.json in XDG_CACHE_HOME, or in
 * HOME/.cache; a folder of that name is made there. Errors: ERR_WRITE; ERR_PERMISSION. */
zopt_status bench_calibration_default(char *path, size_t bytes);

/* Put the row into the file at path, in the place of one for the same device, transport and ranks;
 * a file that is not there is made, and it appears whole or not at all. Errors: ERR_DATA where
 * there is another kind of file, which is left as it is; ERR_WRITE, ERR_PERMISSION, ERR_READ. */
zopt_status bench_calibration_put(const char *path, const bench_calibration_row *row);

#endif
