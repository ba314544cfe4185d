/* What is written once for the host and for devices: such a header compiles as C11 and as CUDA C++.
 */
#ifndef ZI_BASE_SHARED_H
#define ZI_BASE_SHARED_H

#ifdef __CUDACC__
#define ZI_SHARED static __host__ __device__ __forceinline__
#else
#define ZI_SHARED static inline __attribute__((always_inline))
#endif

#endif
