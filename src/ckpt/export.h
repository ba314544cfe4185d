/* Writing the FP32 master weights as one safetensors file, by all ranks together. */
#ifndef ZI_CKPT_EXPORT_H
#define ZI_CKPT_EXPORT_H

#include "zero/zero.h"

/* See zopt_export. Every rank writes what it owns into `path`.tmp; when all have synced it, rank 0
 * writes the header and renames the file to `path`. Collective. */
zopt_status zi_export_model(zi_zero *z, const char *path);

#endif
