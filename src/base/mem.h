/* Memory, counted by category. One zi_mem belongs to a handle; every array and table of the handle
 * goes through it, so that what `zopt plan` says and what a run allocates are the same numbers. A
 * dry zi_mem counts the big arrays without allocating them: that is how a plan is made. */
#ifndef ZI_BASE_MEM_H
#define ZI_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>
#include <zopt/zopt.h>

enum { ZI_MAX_STATES = 4 };

typedef enum zi_category {
    ZI_MEM_PARAMS, /* what the model computes with */
    ZI_MEM_GRADS,  /* gradients of one slot */
    ZI_MEM_MASTER, /* FP32 master weights of the owned slices */
    ZI_MEM_STATE,  /* ... + i: state i of the optimizer, owned slices */
    ZI_MEM_GRAD_ACCUM = ZI_MEM_STATE + ZI_MAX_STATES, /* FP32 sums, where S > N */
    ZI_MEM_STAGING,                                   /* bytes in transit */
    ZI_MEM_CKPT,                                      /* checkpoints on their way to or from disk */
    ZI_MEM_TABLES,                                    /* tensors, groups, buckets */
    ZI_N_CATEGORIES
} zi_category;

typedef struct zi_mem {
    int dry; /* 1: arrays are counted, not allocated */
    struct {
        uint64_t bytes, peak_bytes;
    } row[ZI_N_CATEGORIES],
        on_device[ZI_N_CATEGORIES]; /* all, and what lies in a device's memory */
    uint64_t total_bytes, total_peak_bytes, device_bytes, device_peak_bytes;
} zi_mem;

/* "params", ...; states share one name here, their own is in the optimizer's row. */
const char *zi_category_name(zi_category category);

/* Arrays: zeroed, aligned to 64 bytes; NULL on a dry zi_mem or for 0 bytes. Tables: the same, but
 * allocated on a dry zi_mem too. `out` is the address of a pointer of any object type. Errors:
 * ERR_MEMORY with the category and the size, and a NULL pointer. */
zopt_status zi_mem_array(zi_mem *mem, zi_category category, size_t bytes, void *out);
zopt_status zi_mem_table(zi_mem *mem, size_t bytes, void *out);

/* Bytes that the large array number `index` begins later than its memory, below ZI_STAGGER_BYTES
 * and not counted; 0 for a small one. Kernels walk along several arrays in step: were these a power
 * of two apart, a processor could keep few of their lines at once. */
enum { ZI_STAGGER_BYTES = 32 * 1088 };
size_t zi_stagger(unsigned index, size_t bytes);

/* Free what one of the two returned; `bytes` as given then. NULL is fine. */
void zi_mem_free_array(zi_mem *mem, zi_category category, void *array, size_t bytes);
void zi_mem_free_table(zi_mem *mem, void *table, size_t bytes);

/* Count memory that somebody else allocates for the handle (symmetric buffers). */
void zi_mem_count(zi_mem *mem, zi_category category, size_t bytes);
void zi_mem_uncount(zi_mem *mem, zi_category category, size_t bytes);
/* The same of memory that is not the host's. */
void zi_mem_count_device(zi_mem *mem, zi_category category, size_t bytes);
void zi_mem_uncount_device(zi_mem *mem, zi_category category, size_t bytes);

/* Bytes that this machine could still give out; UINT64_MAX where it does not say. */
uint64_t zi_memory_available(void);

/* 64-byte aligned, zeroed, uncounted; NULL if there is none. Freed with free(). */
void *zi_aligned_zalloc(size_t bytes);

#endif
