/* What every transport must do, as one suite for every row of zi_comms. It runs on each rank, in
 * whatever thread or process that is, so it reports by text instead of ending a test. */
#ifndef COMM_SUITE_H
#define COMM_SUITE_H

#include "comm/comm.h"

typedef struct suite_failure {
    char text[256]; /* of the first; "": none */
} suite_failure;

/* Keep the first failure. */
void suite_fail(suite_failure *failure, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define SUITE_EXPECT(failure, condition, ...)   \
    do {                                        \
        if (!(condition)) {                     \
            suite_fail((failure), __VA_ARGS__); \
            return;                             \
        }                                       \
    } while (0)

#define SUITE_OK(failure, call)                                                            \
    do {                                                                                   \
        zopt_status suite_status_ = (call);                                                \
        SUITE_EXPECT((failure), suite_status_ == ZOPT_OK, "%s:%d: %s", __FILE__, __LINE__, \
                     zopt_last_error());                                                   \
    } while (0)

/* Run all of it in the world of the config, which all its ranks do at once. */
void comm_suite_run(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure);

/* One way to end a comm: a rank uses it in the wrong order. Alone, for it breaks the world. */
void comm_suite_order(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure);

/* Rank 0 waits for gradients that rank 1 never exposes. Worlds of two or more, deadline short. */
void comm_suite_hang(const zi_comm_ops *ops, const zi_comm_config *config, suite_failure *failure);

/* Rank 0 waits for a message that rank 1 does not send, or that it sends with another size. Worlds
 * of two or more, which end with it. */
void comm_suite_message_missing(const zi_comm_ops *ops, const zi_comm_config *config,
                                suite_failure *failure);
void comm_suite_message_size(const zi_comm_ops *ops, const zi_comm_config *config,
                             suite_failure *failure);

#endif
