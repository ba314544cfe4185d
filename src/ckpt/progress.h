/* Where a run stands, as texts of a checkpoint: step, loss scale, each group's rate and powers; and
 * what it is configured with. Doubles in hexadecimal, so that what is read is what was written. */
#ifndef ZI_CKPT_PROGRESS_H
#define ZI_CKPT_PROGRESS_H

#include "ckpt/texts.h"
#include "zero/zero.h"

#define ZI_NOTE_PREFIX   "zopt.note."
#define ZI_CONFIG_PREFIX "zopt.config."

/* Everything that has a hand in the results, one row each: the handle's own settings, and texts
 * given as such. Errors: ERR_MEMORY. */
zopt_status zi_config_rows(const zi_zero *z, zi_texts *rows);

/* Add what stands for the moment. */
zopt_status zi_progress_write(const zi_zero *z, zi_texts *texts);

typedef struct zi_progress {
    uint64_t step, good_step;
    zi_scale_state scale;
    double (*group)[1 + ZI_MAX_POWERS]; /* [n_groups] rate and powers; the caller frees it */
} zi_progress;

/* Read it back, all of it checked. Errors: ERR_DATA with path and key, ERR_MEMORY. */
zopt_status zi_progress_read(const zi_zero *z, const zi_tensorfile *head, const char *path,
                             zi_progress *out);
/* What moves with the run but has been set to something else since (options.force_config): the
 * run's own rates and loss scale. rows: of this run; head: what `progress` was read from. */
void zi_progress_keep_own(const zi_zero *z, const zi_texts *rows, const zi_tensorfile *head,
                          zi_progress *progress);
/* Stand there. */
void zi_progress_apply(zi_zero *z, const zi_progress *progress);

#endif
