/* Checkpoints of a handle: the object that api_local.c keeps beside the optimizer. It claims a
 * directory, remembers notes and configuration, and has at most one save under way.
 *
 * A save: contents.c (what) -> bundle (headers) -> folder (step-N.tmp) -> pieces, or shuffle
 * (bytes to their writers) -> writer (to disk), and meanwhile the look at all ranks' parameters ->
 * commit.c (checksums, header, name, `latest`, pruning).
 *
 * A load: folder (which) -> bundle (headers) -> match (all differences) -> reading, checksums and
 * shuffle (bytes to their owners) -> parameters to all ranks. */
#ifndef ZI_CKPT_CKPT_H
#define ZI_CKPT_CKPT_H

#include "ckpt/background.h"
#include "ckpt/contents.h"
#include "ckpt/folder.h"
#include "ckpt/pieces.h"
#include "ckpt/progress.h"
#include "ckpt/shuffle.h"
#include "ckpt/writer.h"

typedef struct zi_ckpt_config {
    int async;
    uint64_t part_bytes, keep_last, keep_every;
    int force; /* 1: load what was saved with another configuration */
    void (*on_warning)(void *arg, const char *text);
    void *on_warning_arg;
} zi_ckpt_config;

typedef struct zi_save {
    int under_way;
    uint64_t step;
    zi_texts texts[ZI_N_STEMS];
    zi_bundle bundle;
    const char **name; /* [n_files] */
    uint64_t *hash;    /* [n_pieces] of those this rank writes, others 0 */
    int tmp;           /* the open step-N.tmp */
    char shown[ZI_PATH_BYTES];
    zi_writer *writer;
    zi_shuffle shuffle;
    int compared; /* 1: parameters are known to be the same on all ranks */
    uint64_t params_hash;
    zi_background hashing;
    int ends; /* 1: zi_save_begin_end has been called */
    zi_background ending;
    char not_pruned[512]; /* why; "": nothing went wrong */
} zi_save;

typedef struct zi_ckpt {
    zi_zero *z;
    zi_ckpt_config config;
    zi_texts rows, notes;
    char path[ZI_PATH_BYTES]; /* of the claimed directory; "": none */
    int folder, lock;
    uint64_t validated; /* the last step that was read back whole; UINT64_MAX: none */
    zi_writer *writer;  /* kept from commit on, where saves are asynchronous */
    zi_shuffle shuffle; /* likewise */
    zi_pieces pieces;
    size_t most_piece_bytes; /* of what can be loaded: planned for */
    zi_save save;
} zi_ckpt;

/* After zopt_commit, of a planning handle too, where it counts what saves will take. Collective. */
zopt_status zi_ckpt_create(zi_zero *z, const zi_ckpt_config *config, zi_ckpt **out);
/* Collective where the comm is healthy: ends a save under way, and warns if it failed. */
void zi_ckpt_destroy(zi_ckpt *ckpt);

/* Set a note. Errors: ERR_ARGUMENT, ERR_MEMORY. */
zopt_status zi_ckpt_note(zi_ckpt *ckpt, const char *key, const char *value);

void zi_ckpt_warn(const zi_ckpt *ckpt, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* claim.c. Collective. */
zopt_status zi_ckpt_claim(zi_ckpt *ckpt, const char *path);

/* save.c. Collective. */
zopt_status zi_ckpt_save(zi_ckpt *ckpt, const char *path);
/* Before parameters change: find out whether those of the save under way were the same on all
 * ranks, if that is not known. Errors: zi_params_agree's; then there is no save. */
zopt_status zi_ckpt_settle(zi_ckpt *ckpt);
/* The same for a call that is not collective: what is still to be known of them is noted. */
void zi_ckpt_keep_params(zi_ckpt *ckpt);
/* End the save under way, if there is one; its first error. */
zopt_status zi_ckpt_wait(zi_ckpt *ckpt);
/* The same as far as it goes without a wait: to be called again and again. */
zopt_status zi_ckpt_poll(zi_ckpt *ckpt);

/* commit.c: wait until everything is on disk, and begin to make it a checkpoint; wait for that.
 * Collective. */
zopt_status zi_save_begin_end(zi_ckpt *ckpt, zi_save *save);
zopt_status zi_save_end(zi_ckpt *ckpt, zi_save *save);

/* load.c. Collective. *step is what was loaded. path: a checkpoint, or a directory of them, of
 * which the newest whole one is taken. */
zopt_status zi_ckpt_load(zi_ckpt *ckpt, const char *path, uint64_t *step);
/* Claim the directory and load its newest; *step = UINT64_MAX where there is none yet. */
zopt_status zi_ckpt_resume(zi_ckpt *ckpt, const char *path, uint64_t *step);

#endif
