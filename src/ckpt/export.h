/* The model alone as one safetensors file for other programs. Next: contents.h. */
#ifndef ZI_CKPT_EXPORT_H
#define ZI_CKPT_EXPORT_H

#include "ckpt/ckpt.h"

/* model: ZI_ARRAY_MASTER or ZI_ARRAY_PARAM. Every rank writes its pieces into a temporary file;
 * when all have synced them, rank 0 writes the header and renames the file to `path`. Collective.
 */
zopt_status zi_export_model(zi_ckpt *ckpt, const char *path, zi_array model);

#endif
