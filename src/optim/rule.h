/* What a rule header is written in: C11 on the host, CUDA C++ on the device. */
#ifndef ZI_OPTIM_RULE_H
#define ZI_OPTIM_RULE_H

#include <math.h>

enum { ZI_MAX_SCALARS = 12 };

#ifdef __CUDACC__
#define ZI_RULE static __host__ __device__ __forceinline__
#else
#define ZI_RULE static inline __attribute__((always_inline))
#endif

#endif
