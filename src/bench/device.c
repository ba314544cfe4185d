/* Copies to and from the crew's device, and the limit's kernel on it. */
#include "bench/device.h"

#include <stdlib.h>

#include "base/status.h"

enum { CHUNK = 1 << 20 }; /* elements */

zopt_status bench_copy(const bench_crew *crew, void *dst, const void *src, size_t bytes)
{
    crew->device->copy(crew->queue, dst, src, bytes);
    return crew->device->wait(crew->queue);
}

zopt_status bench_fill_device(const bench_case *c, int slot, uint64_t first, uint64_t n, void *dst)
{
    if (c->crew->device->on_host) {
        bench_fill(c->data, slot, first, n, dst);
        return ZOPT_OK;
    }
    uint16_t *chunk = malloc(CHUNK * sizeof *chunk);
    zopt_status status =
        chunk != NULL ? ZOPT_OK : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to copy from");
    for (uint64_t at = 0; at < n && status == ZOPT_OK; at += CHUNK) {
        uint64_t m = n - at < CHUNK ? n - at : CHUNK;
        bench_fill(c->data, slot, first + at, m, chunk);
        status = bench_copy(c->crew, (uint16_t *)dst + at, chunk, (size_t)m * sizeof *chunk);
    }
    free(chunk);
    return status;
}

zopt_status bench_view(const bench_crew *crew, const void *array, size_t bytes, void **copy,
                       const void **view)
{
    *copy = NULL;
    *view = array;
    if (crew->device->on_host)
        return ZOPT_OK;
    *view = *copy = malloc(bytes > 0 ? bytes : 1);
    if (*copy == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to read %zu bytes of a device", bytes);
    return bench_copy(crew, *copy, array, bytes);
}

zopt_status bench_add_device(const bench_crew *crew, const bench_add *add)
{
#ifdef ZI_HAVE_CUDA
    if (!crew->device->on_host)
        return bench_add_cuda(crew->queue, add);
#endif
    bench_add_kernel()(add);
    return crew->device->wait(crew->queue);
}
