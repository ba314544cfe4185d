/* What a contestant's result is compared with: sampled elements, computed one by one, or whole
 * tensors that one rank alone has trained. */
#include <stdlib.h>

#include "base/dtype.h"
#include "base/status.h"
#include "bench/contestant.h"

uint64_t bench_compare_sample(const bench_case *c, const float *masters, uint64_t first, uint64_t n,
                              const uint16_t *params)
{
    uint64_t wrong = 0;
    for (int i = 0; i < c->sample.n; i++) {
        uint64_t e = c->sample.element[i];
        uint16_t want;
        if (e < first || e - first >= n)
            continue;
        zi_convert(&want, c->data->dtype, &masters[i], ZOPT_FP32, 1);
        wrong += params[e - first] != want;
    }
    return wrong;
}

static zopt_status train_alone(const bench_case *c, const bench_tensors *tensor, uint64_t steps,
                               int id, zopt *z)
{
    for (uint64_t t = 0; t < steps; t++) {
        for (int slot = 0; slot < c->n_slots; slot++) {
            void *grad;
            ZI_TRY(zopt_grad_acquire(z, id, &grad));
            bench_fill(c->data, slot, tensor->first, tensor->n_elems, grad);
            ZI_TRY(zopt_grad_ready(z, id));
            ZI_TRY(zopt_micro_end(z, 0));
        }
        ZI_TRY(zopt_step(z));
    }
    return ZOPT_OK;
}

zopt_status bench_compare_alone(const bench_case *c, uint64_t first, uint64_t n_elems,
                                uint64_t steps, uint64_t n, const uint16_t *params,
                                uint64_t *n_wrong)
{
    const bench_tensors tensor = {.first = first, .n_elems = n_elems, .n = 1};
    const void *alone;
    zopt *z = NULL;
    int *id = NULL;
    bench_case on_host = *c;
    on_host.device = "cpu";
    *n_wrong = 0;
    zopt_status status = bench_open(&on_host, "self", &tensor, &id, &z);
    if (status == ZOPT_OK)
        status = train_alone(c, &tensor, steps, *id, z);
    if (status == ZOPT_OK)
        status = zopt_param_acquire(z, *id, &alone);
    for (uint64_t i = 0; i < n && status == ZOPT_OK; i++)
        *n_wrong += params[i] != ((const uint16_t *)alone)[i];
    zopt_destroy(z);
    free(id);
    return status;
}
