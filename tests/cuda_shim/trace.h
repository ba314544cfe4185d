/* Between the shim's calls and what a test has asked about them. */
#ifndef TESTS_CUDA_SHIM_TRACE_H
#define TESTS_CUDA_SHIM_TRACE_H

#include "shim.h"

void shim_note(shim_call call);

#endif
