/* Where memory lives and kernels run. A device is a row of zi_devices: allocation, moving bytes,
 * and the kernels of the step. A kernel works on a job: a table of sources, a slice of state,
 * a table of destinations; it is the same for one rank, for peers in shared memory and for received
 * slices. Every device gives the same bits.
 *
 * Kernels and copies are enqueued on q (NULL on the CPU, which runs them before it returns) and run
 * in that order. None of them fails by itself: the first failure on a queue sticks to it and comes
 * out of wait(), which comes before the host reads what was enqueued.
 *
 * What a kernel reads and writes lies in the device's memory: arrays, spans, control, statistics
 * and sums. The job and its tables of sources and destinations are the host's, read before the call
 * returns. */
#ifndef ZI_DEVICE_DEVICE_H
#define ZI_DEVICE_DEVICE_H

#include "base/exact.h"
#include "base/mem.h"
#include "device/control.h"
#include "optim/optim.h"

enum { ZI_BLOCK = 256, ZI_LANES = 32 };

typedef struct zi_queue zi_queue;

/* A point in a queue's work, for other queues and the host to wait for. */
typedef struct zi_event zi_event;

/* How a process tells others of its machine of an array or an event; only a device can read it. */
typedef struct zi_handle {
    unsigned char bytes[96];
} zi_handle;

/* Who has work on a queue that ends only if peers come: the device's own waits have no deadline. */
typedef struct zi_guard {
    /* Poll until is_done(what). Errors: its own; the queue has failed for good then. */
    zopt_status (*wait)(struct zi_guard *guard, int (*is_done)(const void *what), const void *what);
    /* 1: behind an error the work ends all the same. 0: it may not, and is not waited for again:
     * then memory that it may use is leaked. */
    int calls_off;
} zi_guard;

/* Work that was recorded, to be run as a whole. */
typedef struct zi_graph zi_graph;

/* Memory that kernels read gradients from: the address of the job's first element. */
typedef struct zi_source {
    const void *data;
    zopt_dtype dtype;
} zi_source;

/* Memory that kernels store parameters to. All destinations of a job have one dtype. */
typedef struct zi_dest {
    void *data;
    zopt_dtype dtype;
} zi_dest;

/* Consecutive elements that share a group, and where the unit is the tensor, a tensor: up to but
 * not including `end`, counted from the job's first element, a multiple of 16; of ZI_LANES where
 * the unit is the tensor. */
typedef struct zi_span {
    uint64_t end;
    uint32_t group;
    uint32_t tensor; /* the first one's index */
} zi_span;

/* A job's part of a state of elements; rows and columns are in its tensors' statistics. */
typedef struct zi_state_slice {
    void *data;    /* float or uint8_t [n_elems], by the state's form */
    float *absmax; /* 8-bit forms: [n_elems / ZI_BLOCK] */
} zi_state_slice;

/* A run of whole blocks through a kernel. */
typedef struct zi_job {
    size_t n_elems; /* a multiple of ZI_BLOCK */
    uint64_t start; /* of the first element in its space */
    const zi_source *source;
    int n_sources; /* in slot order; 0: the gradient is zero */
    const zi_dest *dest;
    int n_dests;
    float *master;
    zi_state_slice state[ZI_MAX_STATES]; /* by the variant's states */
    const zi_span *span;                 /* the last one ends at n_elems */
    size_t n_spans;
    const zi_control *control;
    zi_tensor_statistics *tensor; /* by the spans' tensors; NULL: no tensor has statistics */
} zi_job;

typedef struct zi_device_ops {
    const char *name;
    const char *help;
    /* NULL where the device can be used here, else why not: until the thread's next call. */
    const char *(*missing)(void);
    int on_host;   /* 1: its memory is the host's, and calls return when all is done */
    int max_table; /* sources that a job may have, and destinations; 0: any number */

    /* A queue for the rank of that number on its node; NULL where on_host. From here on a thread's
     * calls with it may leave another device current in the thread. Errors: ERR_UNSUPPORTED. */
    zopt_status (*open)(int local_rank, zi_queue **out);
    void (*close)(zi_queue *q); /* NULL is fine */
    /* One more queue on q's device, whose work runs beside q's. NULL where on_host, as are all
     * calls on events. */
    zopt_status (*open_beside)(const zi_queue *q, zi_queue **out);

    /* Ask this one, which is lent, before every wait for q and its events, those of copies to
     * memory that is not page-locked too; NULL: nobody. Queues that are opened beside q from here
     * on ask it too. NULL where on_host. */
    void (*guard)(zi_queue *q, zi_guard *guard);

    /* An event that nobody waits for until it is recorded. */
    zopt_status (*event_create)(zi_queue *q, zi_event **out);
    void (*event_destroy)(zi_event *event); /* NULL is fine */
    /* Behind all that was enqueued on q so far. A later record moves the event. */
    void (*event_record)(zi_queue *q, zi_event *event);
    /* What is enqueued on q from here on runs behind the event; q may be another device's. */
    void (*event_await)(zi_queue *q, const zi_event *event);
    /* *done = 1: its work is. Never waits. Errors: the work's. */
    zopt_status (*event_query)(const zi_event *event, int *done);
    /* Wait until it is done. Errors: the work's. */
    zopt_status (*event_wait)(const zi_event *event);
    /* An event that also has a time, which costs more; and how long one was recorded before
     * another, both done. Errors: ERR_FAILURE, also where one is not done or was never recorded. */
    zopt_status (*event_timed)(zi_queue *q, zi_event **out);
    zopt_status (*event_ms)(const zi_event *from, const zi_event *to, double *ms);

    /* Bytes that the device could still give out; UINT64_MAX where it does not say. */
    uint64_t (*available)(zi_queue *q);
    /* Zeroed arrays in the device's memory, counted in mem (on a dry one only counted, and q is not
     * looked at). Errors: ERR_MEMORY. */
    zopt_status (*alloc)(zi_queue *q, zi_mem *mem, zi_category category, size_t bytes, void *out);
    /* Waits for what was enqueued. q: NULL where it is closed already. */
    void (*free)(zi_queue *q, zi_mem *mem, zi_category category, void *array, size_t bytes);

    /* Zeroed page-locked memory of the host, which the device reads and writes beside its kernels,
     * counted as alloc counts. copy() does not wait for it: its contents must last. NULL where
     * on_host. Errors: ERR_MEMORY. */
    zopt_status (*alloc_host)(zi_queue *q, zi_mem *mem, zi_category category, size_t bytes,
                              void *out);
    /* Waits as free does. */
    void (*free_host)(zi_queue *q, zi_mem *mem, zi_category category, void *array, size_t bytes);

    /* Arrays and events of one process in others of its machine. share: a handle of a whole array
     * of alloc's, of a multiple of share_unit bytes. reach: where the array of another process is
     * for q; leave waits for what was enqueued. An array must not be freed, nor an event destroyed,
     * while another process has it. share_unit is 0, and the calls are NULL, where memory cannot be
     * shared so. Errors: ERR_UNSUPPORTED with the reason. */
    size_t share_unit;
    zopt_status (*share)(zi_queue *q, void *array, zi_handle *handle);
    zopt_status (*reach)(zi_queue *q, const zi_handle *handle, void **array);
    void (*leave)(zi_queue *q, void *array);
    /* An event for other processes too, and another process's. */
    zopt_status (*event_share)(zi_queue *q, zi_event **out, zi_handle *handle);
    zopt_status (*event_reach)(zi_queue *q, const zi_handle *handle, zi_event **out);

    void (*zero)(zi_queue *q, void *dst, size_t bytes);
    /* Wait for all that was enqueued. Errors: the queue's first, with the device's own text. */
    zopt_status (*wait)(zi_queue *q);
    /* Between any two of host and device memory. Host memory that is read may be reused at once,
     * but for alloc_host's. */
    void (*copy)(zi_queue *q, void *dst, const void *src, size_t bytes);

    /* acc[i] = ((acc[i] + source 0) + source 1) + ...; adds to *n_bad the number of blocks in which
     * a sum is not finite then. */
    void (*accumulate)(zi_queue *q, const zi_job *job, float *acc, int64_t *n_bad);

    /* Add the exact sum of squares of the summed gradient to *sum, and to *n_bad the number of
     * blocks whose sum of squares is not finite (which are left out of *sum). */
    void (*norm)(zi_queue *q, const zi_job *job, zi_exact *sum, int64_t *n_bad);

    /* ZI_UNIT_TENSOR: add what the round sums to the tensors' sums. */
    void (*statistics)(zi_queue *q, zi_statistics_round round, const zi_job *job);

    /* g = coef * sum of sources; the variant's rule on master and states; round; store to every
     * destination, if there are any. */
    void (*update)(zi_queue *q, const zi_variant *variant, const zi_job *job);

    /* ---- steps that do not wait for the host. NULL where on_host ---- */

    /* Look for the first gradient that is not finite. */
    void (*locate)(zi_queue *q, const zi_job *job, const zi_search *search);
    /* Decide a step: control, standing and the slot of the step; see control.h. */
    void (*decide)(zi_queue *q, const zi_decide_job *job);
    /* ZI_UNIT_TENSOR: what follows from a round's sums (optim/settle.h). */
    void (*settle)(zi_queue *q, const zi_settle_job *job);
    /* What is enqueued from here on is recorded and does not run, nor on queues that await an event
     * recorded behind it, up to where this queue awaits them in turn. Kernels and copies alone, of
     * which each has run before, and a transport's. Errors: what CUDA says; nothing is recorded
     * then. */
    zopt_status (*capture_begin)(zi_queue *q);
    /* *out: all of it; NULL on an error, behind which the queue goes on as before the capture. */
    zopt_status (*capture_end)(zi_queue *q, zi_graph **out);
    /* On a queue that is part of a capture, by an event of one that is: each launch of the graph
     * records this event, for hosts and queues that are not. */
    void (*capture_event)(zi_queue *q, zi_event *event);
    void (*graph_launch)(zi_queue *q, zi_graph *graph);
    /* NULL is fine. One that runs goes when it is done. */
    void (*graph_destroy)(zi_graph *graph);
    /* Somebody else's stream (cudaStream_t) on q's device, as a queue for events and copies; it is
     * closed without being destroyed. */
    zopt_status (*adopt)(const zi_queue *q, void *stream, zi_queue **out);

    /* What is in use, for reports and `zopt doctor`: "avx512", ... */
    const char *(*variant)(void);
} zi_device_ops;

extern const zi_device_ops *const zi_devices[];
extern const size_t zi_n_devices;

/* The row of that name, or the first one for "auto". planned: only to count what it would allocate,
 * which needs it in this build, but not on this machine. Errors: ERR_CONFIG with what there is,
 * ERR_UNSUPPORTED with the reason. */
zopt_status zi_device_find(const char *name, int planned, const zi_device_ops **out);

/* The row of that name, usable or not, the same on every rank; NULL: none. */
const zi_device_ops *zi_device_row(const char *name);

#endif
