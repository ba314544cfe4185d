/* The kernel that only adds, on a queue of the device cuda. */
#include "bench/add_cuda.h"

#include <string.h>

#include "base/status.h"
#include "device/cuda_queue.h"

zopt_status bench_add_cuda(zi_queue *q, const bench_add *add)
{
    bench_add_job job = {.n_elems = add->n_elems,
                         .n_sources = add->n_sources,
                         .n_dests = add->n_dests,
                         .n_words = add->n_words,
                         .n_bytes = add->n_bytes};
    if (add->n_sources > ZI_CUDA_MAX_TABLE || add->n_dests > ZI_CUDA_MAX_TABLE)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED, "%d ranks are more than the %d of a GPU's tables",
                       add->n_sources, ZI_CUDA_MAX_TABLE);
    memcpy(job.word, add->word, sizeof job.word);
    memcpy(job.byte, add->byte, sizeof job.byte);
    memcpy(job.source, add->source, (size_t)add->n_sources * sizeof job.source[0]);
    memcpy(job.dest, add->dest, (size_t)add->n_dests * sizeof job.dest[0]);
    if (add->n_elems > 0 && zi_cuda_enter(q))
        zi_cuda_note(q, bench_add_launch(q->stream, &job), "the launch of the limit");
    return zi_cuda_wait(q);
}
