/* Which group each owned element belongs to: per bucket, this rank's slice as runs of one group.
 * Neighbouring tensors of one group are one run, padding included, so that thousands of small
 * tensors cost the update no more than one large one. Where a rule's unit is the tensor, each has
 * runs of its own. */
#ifndef ZI_ZERO_SPANS_H
#define ZI_ZERO_SPANS_H

#include "device/device.h"
#include "zero/layout.h"

typedef struct zi_spans {
    zi_span *span;   /* by bucket; ends count from the slice's first element */
    uint64_t *first; /* [n_buckets + 1]: where each bucket's begin */
    uint32_t n_buckets;
} zi_spans;

zopt_status zi_spans_build(zi_mem *mem, const zi_layout *layout, const zi_tensor *tensors, int rank,
                           zi_spans *spans);
void zi_spans_free(zi_mem *mem, zi_spans *spans);

#endif
