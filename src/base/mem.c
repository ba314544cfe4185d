/* Counted allocation. Counters are plain integers: a handle is used by one thread at a time. */
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "base/status.h"

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20 };

static const char *const category_names[ZI_N_CATEGORIES] = {
    [ZI_MEM_PARAMS] = "params",         [ZI_MEM_GRADS] = "grads",
    [ZI_MEM_MASTER] = "master",         [ZI_MEM_STATE] = "optimizer state",
    [ZI_MEM_GRAD_ACCUM] = "grad_accum", [ZI_MEM_STAGING] = "staging",
    [ZI_MEM_CKPT] = "checkpoint",       [ZI_MEM_TABLES] = "tables",
};

const char *zi_category_name(zi_category category)
{
    const char *name = category_names[category];
    return name != NULL ? name : category_names[ZI_MEM_STATE];
}

uint64_t zi_memory_available(void)
{
    char line[128];
    unsigned long long kib;
    uint64_t bytes = UINT64_MAX;
    FILE *file = fopen("/proc/meminfo", "re");
    if (file == NULL)
        return bytes;
    while (bytes == UINT64_MAX && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            bytes = (uint64_t)kib << 10;
    fclose(file);
    return bytes;
}

/* Before its first touch; the kernel's choice. A page costs a kernel the same work whatever its
 * size, above all where a message is copied from one process to another: half of such a copy's
 * time. */
#ifdef MADV_HUGEPAGE
static void ask_for_huge_pages(char *memory, size_t bytes)
{
    size_t before = (size_t)(-(uintptr_t)memory % HUGE_PAGE);
    if (bytes > before && bytes - before >= HUGE_PAGE)
        (void)madvise(memory + before, (bytes - before) / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
}
#else
static void ask_for_huge_pages(char *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
}
#endif

void *zi_aligned_zalloc(size_t bytes)
{
    if (bytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *memory = aligned_alloc(ALIGNMENT, rounded ? rounded : ALIGNMENT);
    if (memory == NULL)
        return NULL;
    ask_for_huge_pages(memory, rounded);
    return memset(memory, 0, rounded);
}

void zi_mem_count(zi_mem *mem, zi_category category, size_t bytes)
{
    mem->row[category].bytes += bytes;
    mem->total_bytes += bytes;
    if (mem->row[category].peak_bytes < mem->row[category].bytes)
        mem->row[category].peak_bytes = mem->row[category].bytes;
    if (mem->total_peak_bytes < mem->total_bytes)
        mem->total_peak_bytes = mem->total_bytes;
}

void zi_mem_uncount(zi_mem *mem, zi_category category, size_t bytes)
{
    mem->row[category].bytes -= bytes;
    mem->total_bytes -= bytes;
}

void zi_mem_count_device(zi_mem *mem, zi_category category, size_t bytes)
{
    zi_mem_count(mem, category, bytes);
    mem->on_device[category].bytes += bytes;
    mem->device_bytes += bytes;
    if (mem->on_device[category].peak_bytes < mem->on_device[category].bytes)
        mem->on_device[category].peak_bytes = mem->on_device[category].bytes;
    if (mem->device_peak_bytes < mem->device_bytes)
        mem->device_peak_bytes = mem->device_bytes;
}

void zi_mem_uncount_device(zi_mem *mem, zi_category category, size_t bytes)
{
    zi_mem_uncount(mem, category, bytes);
    mem->on_device[category].bytes -= bytes;
    mem->device_bytes -= bytes;
}

/* *out = pointer, where out is the address of a pointer of unknown type. */
static void put(void *out, void *pointer)
{
    memcpy(out, &pointer, sizeof pointer);
}

size_t zi_stagger(unsigned index, size_t bytes)
{
    enum { LARGE = 1 << 20, LINES = 17, PLACES = ZI_STAGGER_BYTES / (LINES * ALIGNMENT) };
    int none = bytes < LARGE || bytes > SIZE_MAX / 2; /* which no memory is as large as */
    return none ? 0 : (size_t)(index % PLACES) * LINES * ALIGNMENT;
}

static zopt_status allocate(zi_mem *mem, zi_category category, size_t bytes, void *out)
{
    size_t before = zi_stagger(category, bytes);
    char *memory = zi_aligned_zalloc(before + bytes);
    put(out, memory != NULL ? memory + before : NULL);
    if (memory == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "%s: no memory for %zu bytes, %llu bytes already in use",
                       zi_category_name(category), bytes, (unsigned long long)mem->total_bytes);
    zi_mem_count(mem, category, bytes);
    return ZOPT_OK;
}

zopt_status zi_mem_array(zi_mem *mem, zi_category category, size_t bytes, void *out)
{
    if (bytes > 0 && !mem->dry)
        return allocate(mem, category, bytes, out);
    put(out, NULL);
    zi_mem_count(mem, category, bytes);
    return ZOPT_OK;
}

zopt_status zi_mem_table(zi_mem *mem, size_t bytes, void *out)
{
    if (bytes > 0)
        return allocate(mem, ZI_MEM_TABLES, bytes, out);
    put(out, NULL);
    return ZOPT_OK;
}

void zi_mem_free_array(zi_mem *mem, zi_category category, void *array, size_t bytes)
{
    if (array == NULL && !(mem->dry && bytes > 0))
        return;
    if (array != NULL)
        free((char *)array - zi_stagger(category, bytes));
    zi_mem_uncount(mem, category, bytes);
}

void zi_mem_free_table(zi_mem *mem, void *table, size_t bytes)
{
    if (table == NULL)
        return;
    free((char *)table - zi_stagger(ZI_MEM_TABLES, bytes));
    zi_mem_uncount(mem, ZI_MEM_TABLES, bytes);
}
