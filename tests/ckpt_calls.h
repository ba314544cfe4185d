/* The tests of the calls for checkpoints, by subject: one program. */
#ifndef TESTS_CKPT_CALLS_H
#define TESTS_CKPT_CALLS_H

#include "ckpt_runs.h"

/* An uneven problem, and a checkpoint of its first step below path. */
void make_first(h_problem *problem, char path[256]);

/* The status of a call, and what its text must have. */
void expect(zopt_status got, zopt_status want, const char *text);

void add_without_handle(TCase *tests);
void add_slow_disk(TCase *tests);

#endif
