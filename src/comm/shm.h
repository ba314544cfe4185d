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

/* Several nodes, to be built on this; until then "auto" takes transport mpi there, and shm refuses.
 * Ranks of a node are a channel of its own, the same number on each node and next to each other, or
 * the transport refuses; small collectives and messages go over MPI as they do in transport mpi.
 *
 * Gradients: the engine of mpi_transfer.c exchanges with ranks of other nodes alone and skips the
 * others: rank p's slice for this rank takes the place of this one's for p, so bits and bytes
 * between nodes are those of transport mpi. Sources are peers' memory within the node, this rank's
 * own for the rest. A part may be overwritten once all of the node have counted ZI_CONSUMED and
 * this rank's own job is done.
 *
 * Parameters: owners store into every memory of their node. A gather among the ranks of equal place
 * on their nodes (zi_ranks: base, stride) brings each slice to a node once; who receives it copies
 * it to the node's other memories, to none where params are shared, and counts a ZI_FORWARDED of
 * its own. It may copy once all of the node have counted ZI_OPENED; publish_wait is for
 * ZI_PUBLISHED and ZI_FORWARDED of the node.
 *
 * Every wait on a counter drives the engine: a peer may need what is queued here. */

#endif
