/* Memory that the ranks of one node share. No name in any file system: nothing is left behind by a
 * rank that is killed. */
#ifndef ZI_COMM_SHM_H
#define ZI_COMM_SHM_H

#include "comm/common.h"

/* Collective over comm, whose ranks share a node: each gives `bytes` zeroed bytes of its own, page
 * aligned, and peer[r] is where rank r's lie here. shared: each gives its share of one run of
 * bytes, which is all of peer[]. On failure all of peer[] is NULL. Errors, agreed: ERR_MEMORY;
 * ERR_UNSUPPORTED where the system does not let ranks open each other's memory. */
zopt_status zi_shared_map(zi_comm *comm, size_t bytes, int shared, void **peer);

/* This rank's view alone: pages live as long as a rank has them mapped. NULL entries are fine. */
void zi_shared_unmap(const zi_comm *comm, size_t bytes, void **peer);

#endif
