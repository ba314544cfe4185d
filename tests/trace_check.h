/* A trace's file against what the steps in it must have: read with jansson, as any tool would. */
#ifndef TESTS_TRACE_CHECK_H
#define TESTS_TRACE_CHECK_H

#include <zopt/zopt.h>

typedef struct trace_want {
    int world, first_step, n_steps;
    int n_micro, n_buckets;
    /* 1: each bucket has its update and its gather; -1: a graph has them all, once a step; 0: there
     * may be fewer, and steps may have been skipped. */
    int has_parameters;
    int has_stream; /* 1: backward passes are the stream's, and end when it comes to their end */
    /* In each micro-step this many buckets are passed over before the last gradient is made ready;
     * is_one_clock: and no others. */
    int n_early, is_one_clock;
} trace_want;

/* Ends the program where the file is not so. */
void trace_check(const char *path, const trace_want *want);

#endif
