/* The CPU device: host memory, and the best kernels that this machine can run. The environment
 * variable ZOPT_CPU_KERNELS=portable|avx2|avx512 forces a variant; results are the same bits. */
#include "device/cpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* clang 14 refuses the name "f16c", and CPUID itself is slow in a virtual machine: there FMA stands
 * for it, as no processor has AVX2 and FMA without F16C. */
#ifdef __clang__
#define HAS_F16C 1
#else
#define HAS_F16C __builtin_cpu_supports("f16c")
#endif

static int runs_here(const zi_cpu_kernels *kernels)
{
#ifdef ZI_HAVE_X86
    if (kernels == &zi_cpu_kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (kernels == &zi_cpu_kernels_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HAS_F16C;
#endif
    return kernels == &zi_cpu_kernels_portable;
}

static const zi_cpu_kernels *const built[] = {
#ifdef ZI_HAVE_X86
    &zi_cpu_kernels_avx512,
    &zi_cpu_kernels_avx2,
#endif
    &zi_cpu_kernels_portable,
};
enum { N_BUILT = sizeof built / sizeof built[0] };

const zi_cpu_kernels *const *zi_cpu_variants(void)
{
    static _Thread_local const zi_cpu_kernels *usable[N_BUILT + 1];
    size_t n = 0;
    for (size_t i = 0; i < N_BUILT; i++)
        if (runs_here(built[i]))
            usable[n++] = built[i];
    usable[n] = NULL;
    return usable;
}

/* The variant in use, chosen when it is first asked for: the forced one where it can run, else the
 * best. Written once, under pthread_once. */
static const zi_cpu_kernels *chosen;

static const zi_cpu_kernels *find(const char *name)
{
    for (size_t i = 0; i < N_BUILT; i++)
        if (runs_here(built[i]) && (name == NULL || strcmp(name, built[i]->name) == 0))
            return built[i];
    return NULL;
}

static void choose(void)
{
    const char *forced = getenv("ZOPT_CPU_KERNELS");
    chosen = forced != NULL ? find(forced) : NULL;
    if (chosen == NULL)
        chosen = find(NULL);
}

static const zi_cpu_kernels *kernels(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    return chosen;
}

static const char *missing(void)
{
    const char *forced = getenv("ZOPT_CPU_KERNELS");
    if (forced == NULL || find(forced) == kernels())
        return NULL;
    return find(forced) == NULL ? "ZOPT_CPU_KERNELS names none of portable, avx2 and avx512 that "
                                  "runs on this machine"
                                : "ZOPT_CPU_KERNELS was set after the kernels had been chosen";
}

static zopt_status open_queue(int local_rank, zi_queue **out)
{
    (void)local_rank;
    *out = NULL;
    return ZOPT_OK;
}

static void close_queue(zi_queue *q)
{
    (void)q;
}

static uint64_t available(zi_queue *q)
{
    (void)q;
    return zi_memory_available();
}

static zopt_status alloc(zi_queue *q, zi_mem *mem, zi_category category, size_t bytes, void *out)
{
    (void)q;
    return zi_mem_array(mem, category, bytes, out);
}

static void free_array(zi_queue *q, zi_mem *mem, zi_category category, void *array, size_t bytes)
{
    (void)q;
    zi_mem_free_array(mem, category, array, bytes);
}

static void zero(zi_queue *q, void *dst, size_t bytes)
{
    (void)q;
    memset(dst, 0, bytes);
}

static zopt_status wait(zi_queue *q)
{
    (void)q;
    return ZOPT_OK;
}

static void copy(zi_queue *q, void *dst, const void *src, size_t bytes)
{
    (void)q;
    memcpy(dst, src, bytes);
}

static void accumulate(zi_queue *q, const zi_job *job, float *acc, int64_t *n_bad)
{
    (void)q;
    kernels()->accumulate(job, acc, n_bad);
}

static void norm(zi_queue *q, const zi_job *job, zi_exact *sum, int64_t *n_bad)
{
    (void)q;
    kernels()->norm(job, sum, n_bad);
}

static void statistics(zi_queue *q, zi_statistics_round round, const zi_job *job)
{
    (void)q;
    kernels()->statistics(round, job);
}

static void update(zi_queue *q, const zi_variant *variant, const zi_job *job)
{
    (void)q;
    if (!job->control->skip)
        kernels()->update(variant, job);
}

static const char *variant(void)
{
    return kernels()->name;
}

const zi_device_ops zi_device_cpu = {
    .name = "cpu",
    .help = "host memory, vector kernels",
    .missing = missing,
    .on_host = 1,
    .open = open_queue,
    .close = close_queue,
    .available = available,
    .alloc = alloc,
    .free = free_array,
    .zero = zero,
    .wait = wait,
    .copy = copy,
    .accumulate = accumulate,
    .norm = norm,
    .statistics = statistics,
    .update = update,
    .variant = variant,
};
