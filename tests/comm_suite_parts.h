/* What the files of the suite share. */
#ifndef TESTS_COMM_SUITE_PARTS_H
#define TESTS_COMM_SUITE_PARTS_H

#include "comm_suite.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* What api_life.c does: the rank's queue on the device of the config. */
zopt_status suite_open(const zi_comm_ops *ops, const zi_comm_config *config, zi_mem *mem,
                       zi_comm **out);
void suite_close(zi_comm *comm);

/* Enqueued, as kernels read and write; nothing waits. */
void suite_put(zi_comm *comm, void *dst, const void *src, size_t bytes);
zopt_status suite_get(zi_comm *comm, void *dst, const void *src, size_t bytes);
/* As a caller does it, who knows nothing of the comm's queue: on a queue of its own. */
zopt_status suite_copy_aside(zi_comm *comm, void *dst, const void *src, size_t bytes);

/* n bytes from place `first` on of what `who` writes. */
void suite_pattern(unsigned char *out, size_t n, size_t first, uint64_t who);

/* comm_suite_small.c */
void suite_run_small(zi_comm *comm, suite_failure *failure);
/* comm_suite_transfers.c. has_messages: bytes move by such, in pieces. */
void suite_run_transfers(const zi_comm_ops *ops, const zi_comm_config *config, int world,
                         int has_messages, suite_failure *failure);

#endif
