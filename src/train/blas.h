/* The one BLAS routine that the trainer uses, in the precision of `real`. */
#ifndef TRAIN_BLAS_H
#define TRAIN_BLAS_H

#include <cblas.h>

#ifdef TRAIN_FP64
#define gemm cblas_dgemm
#else
#define gemm cblas_sgemm
#endif

#endif
