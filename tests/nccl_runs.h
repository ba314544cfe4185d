/* What the tests of transport nccl share: test_nccl.c has whole runs, nccl_steps.c what a step does
 * to the host, nccl_ends.c what is refused and how failures end. */
#ifndef TESTS_NCCL_RUNS_H
#define TESTS_NCCL_RUNS_H

#include <check.h>
#include <mpi.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm_suite.h"
#include "cuda_shim/shim.h"
#include "device/device.h"
#include "harness.h"

enum { DEADLINE_MS = 60000, N_GPUS = 8 };

extern int job_rank, job_world;
extern zi_comm_config on_gpus;

const zi_comm_ops *nccl_row(const char *name);
void assert_all_passed(const suite_failure *failure);
void on_nccl(h_problem *problem, const char *transport);
/* Of one rank on the CPU, bit for bit. */
void compare_with_the_cpu(h_problem *problem, const char *name);

void add_steps(TCase *tests);
void add_windows(TCase *tests);
void add_null_windows(TCase *tests);
void add_old_windows(TCase *tests);
void add_between(TCase *tests);
void add_breaking_between(TCase *tests);
void add_refusals(TCase *tests);
void add_breaking_tests(TCase *tests);
void add_old(TCase *tests);

#endif
