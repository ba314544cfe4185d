/* The tests of the calls for checkpoints, by subject: one program. */
#ifndef TESTS_CKPT_CALLS_H
#define TESTS_CKPT_CALLS_H

#include "ckpt_runs.h"

void add_slow_disk(TCase *tests);

#endif
