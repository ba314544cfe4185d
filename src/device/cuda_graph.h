/* Work of the CUDA device recorded as a graph: launched as a whole, for a fraction of what its
 * launches cost one by one. */
#ifndef ZI_DEVICE_CUDA_GRAPH_H
#define ZI_DEVICE_CUDA_GRAPH_H

#include "device/cuda_queue.h"

/* Of zi_device_ops: */
zopt_status zi_cuda_capture_begin(zi_queue *q);
zopt_status zi_cuda_capture_end(zi_queue *q, zi_graph **out);
void zi_cuda_capture_event(zi_queue *q, zi_event *event);
void zi_cuda_graph_launch(zi_queue *q, zi_graph *graph);
void zi_cuda_graph_destroy(zi_graph *graph);

#endif
