/* What the files of `bench ckpt` share: plain bytes on disk, which a save is compared with, and the
 * comparison of what was saved with what it was saved from. Order of reading: ckpt.c, plain.c,
 * saved.c. */
#ifndef BENCH_CKPT_H
#define BENCH_CKPT_H

#include "bench/contestant.h"
#include "ckpt/disk.h"

/* As many bytes as a checkpoint has, in one file: written by all ranks at once, which is the limit,
 * or by one alone, the baseline, or by dd; and memory that as many bytes are copied in, as a
 * snapshot is: from a rank's own to what ranks share. */
typedef struct bench_plain {
    bench_crew *crew;
    char path[ZI_PATH_BYTES]; /* the folder's */
    int folder;               /* open; -1: not */
    uint64_t bytes;           /* whole blocks of ZI_DISK_ALIGN */
    char *memory, *from;      /* this rank's share of them, whole pieces of 8 MiB, in large pages */
    bench_shared to;          /* every rank's */
    size_t share_bytes;
    uint64_t stamp; /* of the round: what every piece begins with */
    int direct;     /* 1: the last file was written past the page cache */
} bench_plain;

/* Errors: ERR_MEMORY, ERR_READ. Close it after a failure too, if it was zeroed or opened.
 * *Collective.* */
zopt_status bench_plain_open(bench_crew *crew, const char *folder, uint64_t bytes,
                             bench_plain *out);
void bench_plain_close(bench_plain *p);

/* Remove the files of earlier rounds and write the stamp into the memory to write from. */
zopt_status bench_plain_prepare(bench_plain *p, uint64_t stamp);

/* Rank i mod N writes 8 MiB piece i of a file that has its room already, as a save does, and syncs
 * it. *Collective.* */
zopt_status bench_plain_write_all(bench_plain *p);
/* Rank 0 writes them all, one behind the other. */
zopt_status bench_plain_write_one(bench_plain *p);
/* It has dd write as many zeros: dd oflag=direct conv=fsync bs=8M, a process of its own. Nothing
 * where the last file could not be written past the page cache. Errors: ERR_UNSUPPORTED where there
 * is no dd, ERR_WRITE. */
zopt_status bench_plain_dd(bench_plain *p);
/* Each rank its share of the bytes, from memory to memory. */
zopt_status bench_plain_copy(bench_plain *p);

/* How many pieces of what the last round wrote or copied do not have its stamp. The files are
 * rank 0's to look at. */
zopt_status bench_plain_check(const bench_plain *p, uint64_t stamp, uint64_t *n_wrong);

enum { BENCH_CKPT_FILES = 2 };
extern const char *const bench_ckpt_file[BENCH_CKPT_FILES]; /* of a checkpoint */

/* A run, a twin that has loaded the run's last checkpoint and saved it again, and where they save.
 */
typedef struct bench_saved {
    const bench_case *c;
    zopt *run, *twin;
    const int *run_id, *twin_id;
    const char *run_dir, *twin_dir;
    uint64_t steps; /* that the run has taken */
} bench_saved;

/* Adds the elements of masters and states that the twin has other than the run, and the checkpoints
 * that are not of the last step, do not fit their checksums or differ. *Collective.* */
zopt_status bench_saved_check(const bench_saved *s, uint64_t *n_wrong);

#endif
