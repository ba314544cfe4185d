/* What a handle's checkpoint consists of: which tensors its files have and what they are made of,
 * by names that any tool understands: "wte" in the model, "exp_avg.wte" in the optimizer. The same
 * on every rank and for every number of ranks. Next: bundle.h. */
#ifndef ZI_CKPT_CONTENTS_H
#define ZI_CKPT_CONTENTS_H

#include "ckpt/bundle.h"
#include "ckpt/route.h"
#include "ckpt/texts.h"

typedef struct zi_contents {
    zi_array model;      /* ZI_ARRAY_MASTER or ZI_ARRAY_PARAM */
    int optimizer;       /* 1: its states too */
    int sealed;          /* 1: with checksums */
    uint64_t part_bytes; /* of data in a file at most, where tensors allow; 0: one file each */
    const zi_texts *texts[ZI_N_STEMS];
} zi_contents;

/* Free it with zi_bundle_free. Errors: ERR_MEMORY, ERR_ARGUMENT past the format's limits. */
zopt_status zi_contents_describe(const zi_zero *z, const zi_contents *contents, zi_bundle *out);

/* Compare a bundle that was read with what the handle has, by name, and tag its tensors. `tell` is
 * called with each that is missing, too much or different. Errors: ERR_DATA with their number and
 * the first of them. */
typedef struct zi_teller {
    void (*tell)(void *arg, const char *text);
    void *arg;
} zi_teller;
zopt_status zi_contents_match(const zi_zero *z, zi_bundle *bundle, const char *path,
                              const zi_teller *teller);

#endif
