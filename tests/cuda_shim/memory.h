/* Between the shim's memory and its streams. */
#ifndef TESTS_CUDA_SHIM_MEMORY_H
#define TESTS_CUDA_SHIM_MEMORY_H

#include <cuda_runtime_api.h>

#include "shim.h"

/* While a stream runs, device memory is open. */
void shim_enter(void);
void shim_leave(void);
/* In page-locked memory of the host. */
int shim_is_locked(const void *address);

#endif
