/* zopt: a ZeRO-style sharded optimizer. N ranks each own 1/N of the FP32 master weights and of the
 * optimizer state; one step reduces the ranks' gradients onto their owners, updates, and hands the
 * new parameters back to every rank. The results are the same bits for every number of ranks.
 *
 * The path of a gradient: zopt_grad_acquire -> write -> zopt_grad_ready -> zopt_micro_end ->
 * zopt_step -> zopt_param_acquire. This header needs no MPI, CUDA or NCCL header.
 *
 * Conventions. Every call that can fail returns a zopt_status; zopt_last_error() then has the
 * text. Calls marked *collective* are made by all ranks in the same order. Sizes count elements
 * unless a name says bytes. No call exits the process or finalizes an MPI it did not start. A
 * handle is used by one thread at a time. A call that waits for peers gives up after
 * options.deadline_ms with ZOPT_ERR_TIMEOUT; the handle can then only be destroyed. Calls of MPI
 * that offer no way to give up on them, its start and its end above all, have the same deadline
 * where options.on_hang is there to be told; without it they may wait for ever. */
#ifndef ZOPT_ZOPT_H
#define ZOPT_ZOPT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ZOPT_API __attribute__((visibility("default")))
#else
#define ZOPT_API
#endif

#define ZOPT_VERSION_MAJOR 0
#define ZOPT_VERSION_MINOR 1
#define ZOPT_VERSION       "0.1.0"

/* ------------------------------------------------------------------ status ------------------ */

/* X(name, exit code of the command, text). The exit codes follow sysexits.h where one fits. */
#define ZOPT_STATUS_LIST(X)                               \
    X(OK, 0, "ok")                                        \
    X(ERR_FAILURE, 1, "failure")                          \
    X(ERR_MEMORY, 1, "out of memory")                     \
    X(ERR_COMM, 1, "communication failed")                \
    X(ERR_ORDER, 1, "call made at the wrong time")        \
    X(ERR_MISMATCH, 2, "verification found a difference") \
    X(ERR_ARGUMENT, 64, "invalid argument")               \
    X(ERR_DATA, 65, "bad data")                           \
    X(ERR_NUMERICS, 70, "numerics")                       \
    X(ERR_WRITE, 73, "cannot write")                      \
    X(ERR_READ, 74, "cannot read")                        \
    X(ERR_TIMEOUT, 75, "a peer did not arrive in time")   \
    X(ERR_PEER, 75, "a peer failed")                      \
    X(ERR_PERMISSION, 77, "permission denied")            \
    X(ERR_CONFIG, 78, "bad configuration")                \
    X(ERR_DISAGREE, 78, "ranks disagree")                 \
    X(ERR_LAUNCH, 78, "bad launch")                       \
    X(ERR_UNSUPPORTED, 78, "not available in this build or on this machine")

typedef enum zopt_status {
#define ZOPT_STATUS_ENUM(name, exit_code, text) ZOPT_##name,
    ZOPT_STATUS_LIST(ZOPT_STATUS_ENUM)
#undef ZOPT_STATUS_ENUM
} zopt_status;

/* Short text of a status, never NULL; the exit code with which the zopt command reports it. */
ZOPT_API const char *zopt_status_text(zopt_status status);
ZOPT_API int zopt_status_exit_code(zopt_status status);

/* What went wrong in this thread's last failed call: one line, valid until its next failure. */
ZOPT_API const char *zopt_last_error(void);

/* ------------------------------------------------------------------ options ----------------- */

typedef struct zopt zopt;
typedef struct zopt_threads zopt_threads;
typedef struct zopt_config zopt_config;

typedef enum zopt_dtype { ZOPT_FP16, ZOPT_BF16, ZOPT_FP32 } zopt_dtype;
ZOPT_API size_t zopt_dtype_bytes(zopt_dtype dtype); /* of one element */

/* A named value: hyper-parameters of optimizers ("lr", "beta1", "weight_decay", ...) and settings
 * of schedules. An option ("nesterov", "amsgrad") is 0 or 1. `text` is for the few that take a
 * word, else NULL. */
typedef struct zopt_setting {
    const char *name;
    double value;
    const char *text;
} zopt_setting;

/* Everything a handle is made with. Strings and arrays are copied by zopt_create. Start from
 * zopt_options_init(), which fills in struct_size and the defaults given here. */
typedef struct zopt_options {
    size_t struct_size;

    /* Transport: "auto" (default), "self", "threads", "shm", "ipc", "mpi", "nccl" or "nccl-native"
     * (README says what each is for). "auto" is "threads" where `threads` is set, "self" where this
     * process is alone, and else, where a communicator is given, MPI runs already or a launcher
     * started this process with others, "shm" if ranks share a node, or several of equally many
     * ranks each, next to each other, and "mpi" if not; for device "cuda" "ipc" in the place of
     * "shm", if the GPUs of a node reach each other's memory.
     * These start MPI if nobody has, and duplicate the communicator they are given. */
    const char *transport;
    int has_comm;          /* 1: comm_f is the communicator to use; else MPI_COMM_WORLD */
    int comm_f;            /* Fortran handle, see zopt_mpi.h */
    zopt_threads *threads; /* the world of transport "threads" */
    int threads_rank;      /* this thread's rank in it */

    const char *device; /* where state lives and updates run: "auto" (default: "cpu"), "cuda" */
    int stage;          /* ZeRO stage: 1 */

    /* S, the number of gradient contributions a step; part of the result. 0 (default): one for
     * each rank, which ties the result to the number of ranks. */
    int slots;
    size_t bucket_elems; /* elements communicated at once; 0: 4194304. Never part of the result */

    const char *optimizer;        /* row of the optimizer table; default "adamw" */
    const zopt_setting *settings; /* defaults of its hyper-parameters for every group */
    size_t n_settings;
    /* Row of the schedule table; default "constant". A schedule gives a factor on each group's lr,
     * or, as DeepSpeed's WarmupLR, WarmupDecayLR and OneCycle do, the rate itself: then an "lr" in
     * settings must be left out or be the schedule's highest rate. */
    const char *schedule;
    const zopt_setting *schedule_settings;
    size_t n_schedule_settings;

    double clip_norm; /* clip to this global L2 norm of the unscaled, averaged gradient; 0: off */

    /* Loss scale. Dynamic: starts at loss_scale, doubles after growth_interval good steps in a row,
     * halves after `hysteresis` overflows, never below min_loss_scale. Static: loss_scale
     * throughout. check_overflow: -1 (default) where the scale is dynamic or a tensor is FP16, else
     * 0 or 1. A step that measures the norm, to clip, to check, or because the optimizer needs
     * finite gradients (Adafactor does), is skipped where that is not finite. */
    int dynamic_loss_scale;    /* default 0 */
    double loss_scale;         /* a power of two; default 1 */
    double min_loss_scale;     /* default 1 */
    int growth_interval;       /* default 1000 */
    int hysteresis;            /* default 1 */
    int check_overflow;        /* default -1 */
    int max_consecutive_skips; /* at the lowest (or a static) scale: ERR_NUMERICS; default 20 */

    int deadline_ms; /* limit on every wait for peers; default 300000 */
    /* Called once when a deadline expires, with a line that says what was waited for in which step
     * and phase, and which ranks have not arrived. From the waiting thread, or, where that is in a
     * call that does not return, from one of the library's own. Must not call zopt. May end the
     * process; if it returns, the waiting call fails with ZOPT_ERR_TIMEOUT as soon as it can. Must
     * stay callable until the handle is destroyed, or zopt_finalize returns where zopt ends MPI. */
    void (*on_hang)(void *arg, const char *text);
    void *on_hang_arg;

    /* > 0: a planning handle, rank plan_rank of plan_world. It communicates with nobody, and
     * zopt_commit counts every byte a real one would have without allocating the arrays. */
    int plan_world, plan_rank;

    /* Checkpoints; see zopt_save. */
    int async_save;      /* 1: zopt_save returns when this rank has a copy; default 0 */
    uint64_t keep_last;  /* after a save delete all but the newest so many; 0 (default): none */
    uint64_t keep_every; /* but never those of steps that this divides; 0 (default): no such */
    uint64_t part_bytes; /* split files whose tensors take more; 0 (default): never */
    int force_config;    /* 1: load checkpoints of other settings, with a warning; default 0 */
    /* Called on rank 0 with a line about what went on in spite of something: a damaged checkpoint
     * that an older one stands in for, say. NULL: printed on stderr. */
    void (*on_warning)(void *arg, const char *text);
    void *on_warning_arg;

    /* > 0: ranks [k*n, (k+1)*n) are node k, e.g. to try several nodes on one machine; ERR_CONFIG
     * over a transport of shared memory where one would span machines. 0 (default): nodes are what
     * the machine says; a planning handle's ranks are one. Never part of the result. */
    int ranks_per_node;

    /* 1: all ranks of a node read one parameter buffer, of which each counts its share, in place of
     * one each: owners store once. zopt_set_master is then collective. ERR_UNSUPPORTED over
     * transport "mpi". Never part of the result. Default 0. */
    int shared_params;

    /* Every so many steps zopt_step first compares the parameters of all ranks, which costs a hash
     * over them and a wait for those of the step before. 0 (default): never. */
    int check_params_every;

    /* 1: a thread of the library sums buckets as they fill while the caller computes, and makes a
     * part of the update; 0 (default): zopt_grad_ready and zopt_step do. For ranks with a second
     * core each. ERR_UNSUPPORTED on device "cuda", and over transport "mpi", and "shm" over several
     * nodes, unless MPI runs, or is left for zopt_create to start, with MPI_THREAD_MULTIPLE. Never
     * part of the result. */
    int progress_thread;

    /* G: G consecutive slots are summed first, in slot order, then these sums in their order, all
     * in FP32. Part of the result, and never derived from where ranks run. Owners keep sums then:
     * 4/N bytes a parameter, or 8/N where groups span micro-steps. Over several nodes whose number
     * of ranks is a multiple of G, ranks of a node add up first, and sums travel in place of
     * slices. 1 (default): every slot by itself. */
    int reduce_group;

    /* "cpu": master weights and the optimizer's state live in the host's memory, and the CPU
     * updates them, while parameters and gradients are on the device: summed gradients come down
     * and parameters go up bucket by bucket, beside the update of another. zopt_step then returns
     * when that is done. ERR_CONFIG on a device whose memory is the host's. "none" (default), or
     * NULL: they live on the device. Never part of the result. */
    const char *offload_optimizer;

    /* Record steps as a CUDA graph and replay it: 0, 1, or -1 (default) where they do not wait for
     * the host, as zopt_step_path tells; 1: else ERR_UNSUPPORTED. Never part of the result. */
    int cuda_graph;

    /* An ncclComm_t of the same ranks, in the same order, on the same GPUs, or NULL (default) on
     * all: split (NCCL 2.18) in place of a start of NCCL, and neither used nor ended otherwise. */
    void *nccl_comm;

    /* Between the nodes of transport "ipc": "mpi", "nccl", or "auto" (default, or NULL): "nccl"
     * where it is there and each rank has a GPU of its own. Never part of the result. */
    const char *between_nodes;

    /* NCCL 2.28's symmetric windows, for "nccl" and "nccl-native": "off" (default, or NULL), "on",
     * or "copy-engines", which move what is not summed. ERR_UNSUPPORTED where the GPUs have none.
     * Never part of an exact result; NCCL's own sums round otherwise with them. */
    const char *nccl_windows;
} zopt_options;

/* Defaults for a struct of `bytes`, the caller's sizeof: options grow at their end, so programs
 * built with an older header go on working with a newer library. NULL does nothing. */
ZOPT_API void zopt_options_defaults(zopt_options *options, size_t bytes);

static inline void zopt_options_init(zopt_options *options)
{
    zopt_options_defaults(options, sizeof *options);
}

/* A world of n_ranks threads of this process for transport "threads". Each thread creates its own
 * handle, with its own threads_rank. Destroy it after the handles. */
ZOPT_API zopt_status zopt_threads_create(int n_ranks, zopt_threads **out);
ZOPT_API void zopt_threads_destroy(zopt_threads *threads);

/* ------------------------------------------------------------------ life of a handle -------- */

/* Make a handle. *Collective.* On failure *out is NULL. */
ZOPT_API zopt_status zopt_create(const zopt_options *options, zopt **out);

/* Free a handle; NULL is fine. *Collective* where the handle is healthy; never fails. */
ZOPT_API void zopt_destroy(zopt *z);

/* Finish MPI if zopt_create started it; else nothing. For programs that leave MPI to zopt. */
ZOPT_API void zopt_finalize(void);

/* -1, 0 and "none" for NULL. */
ZOPT_API int zopt_rank(const zopt *z);
ZOPT_API int zopt_world(const zopt *z);
/* Name of the transport in use, e.g. "mpi". */
ZOPT_API const char *zopt_transport(const zopt *z);
/* Name of the device in use. "cpu": what the handle lends is the host's memory. */
ZOPT_API const char *zopt_device(const zopt *z);

/* Add a group of tensors that share hyper-parameters: the handle's settings, overridden by these.
 * Every optimizer has two settings beside its own: "lr_mult" multiplies the group's rate whatever
 * the schedule; "frozen" = 1 leaves the group's tensors untrained: they have master weights and
 * parameters, but neither gradients nor states, and nothing of them is ever sent. Before
 * zopt_commit. Errors: ERR_CONFIG names the unknown setting or the range. */
ZOPT_API zopt_status zopt_add_group(zopt *z, const zopt_setting *settings, size_t n_settings,
                                    int *group);

/* Set a group's learning rate (what the schedule's factor multiplies), from the next step on. Same
 * value on all ranks, or the next zopt_step is ERR_DISAGREE. Any time. ERR_CONFIG beside a schedule
 * that sets the rate itself (WarmupLR). */
ZOPT_API zopt_status zopt_group_set_lr(zopt *z, int group, double lr);

/* Add a tensor. `name` is unique, <= 255 bytes of UTF-8. ndim 0..8, each extent >= 1. All ranks add
 * the same tensors in the same order, the order of the forward pass. Before zopt_commit. */
ZOPT_API zopt_status zopt_add_tensor(zopt *z, const char *name, zopt_dtype dtype, int ndim,
                                     const uint64_t *shape, int group, int *id);

/* Something else that all ranks must agree on, a line of a run file, say: zopt_commit compares. */
ZOPT_API zopt_status zopt_agree(zopt *z, const char *key, const char *value);

/* The same for what has a hand in the results, as the handle's own settings do: checkpoints keep
 * it, and zopt_load refuses those that were made with another value. */
ZOPT_API zopt_status zopt_agree_result(zopt *z, const char *key, const char *value);

/* Compare options, groups, tensors and agreed texts across ranks, lay out the flat spaces and
 * allocate. *Collective.* Errors: ERR_DISAGREE names the first difference and the rank, before
 * anything large is allocated; ERR_MEMORY on all ranks if one has too little. */
ZOPT_API zopt_status zopt_commit(zopt *z);

/* ------------------------------------------------------------------ parameters -------------- */

/* Set elements [offset, offset+n) of a tensor's FP32 master weights from `values`, equal on all
 * ranks. Each rank keeps what it owns and rounds into its own parameter memory. Not collective,
 * but no rank may be inside a step; *collective* with options.shared_params. */
ZOPT_API zopt_status zopt_set_master(zopt *z, int id, uint64_t offset, uint64_t n,
                                     const float *values);

/* Read elements [offset, offset+n) of a tensor's master weights into `values` on every rank.
 * *Collective*, with equal arguments. */
ZOPT_API zopt_status zopt_get_master(zopt *z, int id, uint64_t offset, uint64_t n, float *values);

/* The same for the optimizer's state `name` ("exp_avg", ...), decoded where it is kept in 8 bits.
 * ERR_ARGUMENT where the tensor does not have it. Elements are the tensor's, but of
 * "exp_avg_sq_row" and "exp_avg_sq_col", which have the tensor's shape without its last, or last
 * but one, extent. */
ZOPT_API zopt_status zopt_get_state(zopt *z, const char *name, int id, uint64_t offset, uint64_t n,
                                    float *values);

/* Wait until the tensor's parameters of the last step have arrived, and hand them out: dense, row
 * major, in its dtype, readable until the next zopt_step. On stage 1 the pointer never changes. */
ZOPT_API zopt_status zopt_param_acquire(zopt *z, int id, const void **param);
ZOPT_API zopt_status zopt_param_release(zopt *z, int id);

/* ------------------------------------------------------------------ one step ---------------- */

/* A step has ceil(S / world) micro-steps. In each, a rank computes the gradient of its slot: the
 * data it computes on should depend on (step, slot) alone. */
ZOPT_API int zopt_micro_steps(const zopt *z);

/* This rank's slot of the current micro-step, 0..S-1; -1: none. */
ZOPT_API zopt_status zopt_slot(const zopt *z, int *slot);

/* Where the loss scale lives (one float; device memory on GPUs): what this step's gradients must be
 * multiplied by. The pointer never changes. */
ZOPT_API zopt_status zopt_loss_scale(const zopt *z, const float **scale);

/* *needed = 0 for a tensor of a frozen group: acquiring its gradient is ERR_ARGUMENT. */
ZOPT_API zopt_status zopt_needs_grad(const zopt *z, int id, int *needed);

/* The CUDA stream (cudaStream_t; NULL: the legacy default one) on which the caller writes gradients
 * and reads parameters from here on. The calls that lend memory and take it back then order it and
 * the library's work by events, in place of waits on the host: what they hand out may be used by
 * work that is enqueued on the stream behind them, and what is given back by work enqueued before.
 * ZOPT_NO_STREAM: they wait again, as from the start. A change of streams in the middle of a step
 * is fine: work on the one before is waited for. It must live until another is set, or as long as
 * the handle. After zopt_commit. ERR_UNSUPPORTED on a device without streams.
 *
 * Over "threads" and "ipc" the host still waits for its peers' hosts, and for messages over "mpi",
 * and "ipc" between nodes. A wait of the caller's own for the stream has no deadline: where a peer
 * may be lost, wait by zopt_report first. */
#define ZOPT_NO_STREAM ((void *)-1)
ZOPT_API zopt_status zopt_set_stream(zopt *z, void *stream);

/* Wait until every owner has consumed the tensor's last gradient and hand out memory to overwrite:
 * dense, row major, in the tensor's dtype. The slot's gradient is the mean over the slot's own
 * samples times the loss scale; the library averages over slots. */
ZOPT_API zopt_status zopt_grad_acquire(zopt *z, int id, void **grad);

/* The gradient is written (on a GPU: not only enqueued, unless on the stream that was set); the
 * library owns the memory until the next acquire. */
ZOPT_API zopt_status zopt_grad_ready(zopt *z, int id);

/* End this rank's micro-step, also where it has no slot. `loss`: the slot's mean loss, for the
 * report. Tensors not made ready contribute zeros. *Collective.* */
ZOPT_API zopt_status zopt_micro_end(zopt *z, double loss);

/* Reduce, clip, update and start handing back the parameters, after the last micro-step.
 * *Collective.* Errors: ERR_NUMERICS after max_consecutive_skips at the lowest loss scale,
 * and, with check_params_every, where a rank's parameters are damaged: the text names it, nothing
 * is updated, and only zopt_destroy is left.
 *
 * On a GPU, over a transport that sums there ("self", "nccl"), it enqueues and returns: the GPU
 * decides, and ranks do not meet on the host. It lets no more than two steps be under way, and
 * waits for the older one. ERR_NUMERICS and ERR_DISAGREE of a step then come out of zopt_step two
 * steps later, on all ranks, or of a zopt_report that waits before; what else goes wrong out of the
 * call that first hears of it. Steps behind one with ERR_DISAGREE update nothing either. */
ZOPT_API zopt_status zopt_step(zopt *z);

/* How zopt_step goes about it here, and what stands in the way of more: one line for people, for
 * logs and `zopt plan`, valid until the handle's next call of it. "" for NULL. */
ZOPT_API const char *zopt_step_path(zopt *z);

enum { ZOPT_PHASE_REDUCE, ZOPT_PHASE_NORM, ZOPT_PHASE_UPDATE, ZOPT_PHASE_GATHER, ZOPT_N_PHASES };
ZOPT_API extern const char *const zopt_phase_names[ZOPT_N_PHASES];

typedef struct zopt_step_report {
    uint64_t step;       /* this step's number, from 1; skipped steps count */
    uint64_t good_step;  /* t: steps that were applied */
    double loss;         /* FP64 mean over the slots, in slot order */
    double grad_norm;    /* of the unscaled average; NaN where the step has not measured it */
    double clip_coef;    /* what clipping multiplied by; 1 where it did not */
    double lr;           /* group 0's, with the schedule's factor; 0 without groups */
    double loss_scale;   /* that this step's gradients were multiplied with */
    int skipped;         /* 1: a gradient was not finite and nothing was updated */
    int bad_tensor;      /* id of the first tensor with a non-finite gradient, else -1 */
    int bad_slot;        /* the first slot that held it; -1: the sum overflowed */
    int bad_rank;        /* the rank that computed that slot, else -1 */
    uint64_t bytes_sent; /* by this rank to other ranks' memory */
    double phase_ms[ZOPT_N_PHASES]; /* of the calling thread; gather: waits for parameters so far */
} zopt_step_report;

/* The report of the newest finished step; wait != 0 waits for the last zopt_step. ERR_ORDER before
 * the first has finished. Errors of a step that zopt_step has not told yet: *report is filled in
 * where that is ERR_NUMERICS. */
ZOPT_API zopt_status zopt_report(zopt *z, int wait, zopt_step_report *report);

/* ------------------------------------------------------------------ utilities --------------- */

/* Trace the next n_steps steps into a file of all ranks for chrome://tracing and ui.perfetto.dev:
 * for each bucket when it was exchanged, summed (phase 1), updated and gathered, beside the
 * backward pass (first zopt_grad_acquire to last zopt_grad_ready) and the calls that waited. A step
 * is written a few steps later, what is left by zopt_destroy or n_steps = 0, which ends the trace;
 * a rank that cannot write ends its part with a warning. Counted by a planning handle; never part
 * of the result. *Collective*, between steps, on a file system that all share. Errors: ERR_WRITE,
 * ERR_PERMISSION, ERR_DISAGREE; ERR_ARGUMENT: no plain file. */
ZOPT_API zopt_status zopt_trace(zopt *z, const char *path, uint64_t n_steps);

/* Hand one number per rank to all: `out` (room for zopt_world doubles) receives the values of all
 * ranks that gave index >= 0, by ascending index, *n_out of them. Summing them in that order gives
 * the same bits however many ranks shared the work. *Collective.* ERR_ARGUMENT: an index twice. */
ZOPT_API zopt_status zopt_gather_f64(zopt *z, int64_t index, double value, double *out, int *n_out);

/* Copy between host memory and memory that the handle has lent (gradients, parameters, the loss
 * scale: device memory on GPUs), and wait for it. */
ZOPT_API zopt_status zopt_copy(zopt *z, void *dst, const void *src, size_t bytes);

/* Convert n elements between dtypes, to nearest even, NaNs to 16 bits as the canonical one; equal
 * dtypes are copied. Errors: ERR_ARGUMENT where the ranges overlap. */
ZOPT_API zopt_status zopt_convert(void *dst, zopt_dtype dst_dtype, const void *src,
                                  zopt_dtype src_dtype, size_t n);

#define ZOPT_MAX_CATEGORIES 16

typedef struct zopt_memory_usage {
    int n; /* categories: "params", "grads", "master", the optimizer's states, "grad_accum", ... */
    struct {
        const char *name;
        uint64_t bytes, peak_bytes;
    } category[ZOPT_MAX_CATEGORIES];
    uint64_t total_bytes, total_peak_bytes;
} zopt_memory_usage;

/* What this handle has allocated on this rank: every array and table; on a planning handle, what a
 * real one would. Not counted: what MPI and the C library allocate by themselves, what threads of a
 * zopt_threads share, and the header that zopt_export writes, while it does. _device_: how much of
 * each lies in the memory of a device that is not the host. */
ZOPT_API zopt_status zopt_memory(const zopt *z, zopt_memory_usage *usage);
ZOPT_API zopt_status zopt_device_memory(const zopt *z, zopt_memory_usage *usage);

/* Write the FP32 master weights to `path` as a safetensors file, by tensor name, every rank its own
 * part. The file appears whole or not at all, and its bytes do not depend on the number of ranks.
 * *Collective*, over a file system that all ranks share. Errors, the same on all ranks: ERR_WRITE,
 * ERR_PERMISSION; ERR_ARGUMENT for what is no plain file or a checkpoint's own. */
ZOPT_API zopt_status zopt_export(zopt *z, const char *path);

/* The same of what the model computes with, in the tensors' own dtypes. */
ZOPT_API zopt_status zopt_export_params(zopt *z, const char *path);

/* ------------------------------------------------------------------ checkpoints ------------- */

/* Write a checkpoint of everything that the next steps depend on, dir/step-00000123/: the FP32
 * master weights in model.safetensors by tensor name, the optimizer's states in
 * optimizer.safetensors ("exp_avg.NAME", ...), where the run stands in the latter's metadata, and
 * checksums of every byte. Any number of ranks, transport and bucket size can load it, and its
 * bytes depend on none of them. It appears whole or not at all: a kill or a full disk at any point
 * leaves the checkpoints before it as they are. Then `latest` is moved, and what keep_last and
 * keep_every leave out is deleted, but never the one that this handle has loaded.
 *
 * The first save creates `dir`, locks it for the life of the handle and removes unfinished
 * checkpoints of dead jobs. *Collective*, between steps, over a file system that all ranks share;
 * memory beside the handle's own is a few times 8 MiB; a disk may take longer than the deadline,
 * which is for peers. With options.async_save it returns when each rank has a copy of what it will
 * write (12/N bytes a parameter more for AdamW, from zopt_commit on), and a thread that
 * communicates with nobody writes it; a failure is then returned by the next zopt_step (which has
 * been made all the same), zopt_save (which has not) or zopt_save_wait.
 *
 * Errors, the same on all ranks, after which training can go on and the handle can save again:
 * ERR_WRITE (disk full; no such parent; another job saves here, which is named), ERR_PERMISSION,
 * ERR_MEMORY, ERR_DISAGREE where notes differ. And ERR_NUMERICS where a rank's parameters are
 * damaged: there is no such checkpoint, and only zopt_destroy is left. An asynchronous save may
 * leave that to the next zopt_step, which then updates nothing. */
ZOPT_API zopt_status zopt_save(zopt *z, const char *dir);

/* End the save under way, if there is one, and tell how it went. *Collective.* */
ZOPT_API zopt_status zopt_save_wait(zopt *z);

/* Load a checkpoint, or of a directory of them the newest one that is whole; each that is not is
 * skipped with a warning. After zopt_commit, between steps. *Collective.* Every difference is found
 * before anything is changed: ERR_DATA where tensors are missing, too many or of another shape, and
 * ERR_CONFIG where settings that change results differ; each is told by a warning. ERR_READ where
 * there is none or it cannot be read, ERR_DATA where it is damaged. An error while the weights
 * themselves are being read leaves the handle useless but for zopt_destroy, unless an older
 * checkpoint was there to stand in. */
ZOPT_API zopt_status zopt_load(zopt *z, const char *path);

/* What a run begins with: lock `dir` as zopt_save does and load the newest whole checkpoint, if
 * there is one at all. *resumed = 1 where one was loaded. Never begins anew where all are damaged.
 * *Collective.* Errors: those of zopt_save and zopt_load. */
ZOPT_API zopt_status zopt_resume(zopt *z, const char *dir, int *resumed);

/* Steps taken so far, those before a checkpoint that was loaded among them. */
ZOPT_API uint64_t zopt_steps(const zopt *z);

/* A text to keep with checkpoints from now on, e.g. a data position or a generator's state; the
 * same on all ranks. zopt_noted: the one that was set, or loaded, last; *value = NULL where there
 * is none. It lives until the next zopt_note, zopt_load or zopt_resume. After zopt_commit. Errors:
 * ERR_ARGUMENT: not UTF-8, or a key longer than 200 bytes. */
ZOPT_API zopt_status zopt_note(zopt *z, const char *key, const char *value);
ZOPT_API zopt_status zopt_noted(zopt *z, const char *key, const char **value);

/* ---- looking at checkpoints, without a handle and by one process ---- */

typedef struct zopt_checkpoint zopt_checkpoint;

/* Open a checkpoint, or the newest of a directory of them (no other stands in for it). All that can
 * be checked without its data is. Errors: ERR_READ, ERR_DATA, ERR_PERMISSION. */
ZOPT_API zopt_status zopt_checkpoint_open(const char *path, zopt_checkpoint **out);
ZOPT_API void zopt_checkpoint_close(zopt_checkpoint *checkpoint);

/* "DIR/step-00000123" */
ZOPT_API const char *zopt_checkpoint_path(const zopt_checkpoint *checkpoint);
ZOPT_API uint64_t zopt_checkpoint_step(const zopt_checkpoint *checkpoint);

typedef struct zopt_checkpoint_tensor {
    const char *file, *name; /* name = NULL past the last */
    const char *dtype;       /* as the file has it: "F32", "U8", ... */
    int ndim;
    const uint64_t *shape;
    uint64_t bytes;
} zopt_checkpoint_tensor;

/* Tensor i of all files, and text i of the optimizer's metadata (*key = NULL past the last); both
 * live as long as the checkpoint is open. */
ZOPT_API zopt_status zopt_checkpoint_tensor_at(const zopt_checkpoint *checkpoint, size_t i,
                                               zopt_checkpoint_tensor *tensor);
ZOPT_API zopt_status zopt_checkpoint_text_at(const zopt_checkpoint *checkpoint, size_t i,
                                             const char **key, const char **value);

/* Bytes [offset, offset + bytes) of tensor i, as they lie in the file, unverified. */
ZOPT_API zopt_status zopt_checkpoint_read(zopt_checkpoint *checkpoint, size_t i, uint64_t offset,
                                          size_t bytes, void *data);

/* Compare every byte with its checksum. Errors: ERR_DATA with the first that differs, ERR_READ. */
ZOPT_API zopt_status zopt_checkpoint_verify(zopt_checkpoint *checkpoint);

/* Write the model as one safetensors file of this dtype, rounded to nearest even. The file appears
 * whole or not at all. What is read is verified first. Errors: those of verify, zopt_export's. */
ZOPT_API zopt_status zopt_checkpoint_export(zopt_checkpoint *checkpoint, const char *path,
                                            zopt_dtype dtype);

/* Call `each` with the steps of a directory, newest first. Errors: ERR_READ. */
ZOPT_API zopt_status zopt_checkpoint_list(const char *dir, void (*each)(void *arg, uint64_t step),
                                          void *arg);

/* Delete what these rules, as in zopt_options, do not keep; keep_last >= 1. The newest that can be
 * verified is never deleted, and nothing is where none can. `each` is called with what goes, before
 * it goes; with dry_run it stays. Errors: ERR_READ where there is none (and nothing is made),
 * ERR_WRITE, also where a job saves there. */
ZOPT_API zopt_status zopt_checkpoint_prune(const char *dir, uint64_t keep_last, uint64_t keep_every,
                                           int dry_run, void (*each)(void *arg, uint64_t step),
                                           void *arg);

/* ------------------------------------------------------------------ run files --------------- */

/* A run file is JSON with DeepSpeed's key names where DeepSpeed has the key. Keys are addressed by
 * path: "zero_optimization.reduce_bucket_size". Errors are ERR_CONFIG with file, key, value and the
 * range or the nearest known key; ERR_READ where the file cannot be read. */
ZOPT_API zopt_status zopt_config_load(const char *path, zopt_config **out);
ZOPT_API void zopt_config_destroy(zopt_config *config);

/* Override one key: "optimizer.params.lr=1e-3". The value is JSON; a bare word is a string. */
ZOPT_API zopt_status zopt_config_set(zopt_config *config, const char *assignment);

/* Check what spans keys (batch sizes against slots, fp16 against bf16) and fill in what follows
 * from others. After the last zopt_config_set; getters before it return what was written. */
ZOPT_API zopt_status zopt_config_resolve(zopt_config *config);

/* Read a key, or its default. The type must be the key's. Strings live as long as the config. */
ZOPT_API zopt_status zopt_config_i64(const zopt_config *config, const char *key, int64_t *value);
ZOPT_API zopt_status zopt_config_f64(const zopt_config *config, const char *key, double *value);
ZOPT_API zopt_status zopt_config_bool(const zopt_config *config, const char *key, int *value);
ZOPT_API zopt_status zopt_config_str(const zopt_config *config, const char *key,
                                     const char **value);

/* The dtype of parameters and gradients: fp16.enabled, bf16.enabled or neither. */
ZOPT_API zopt_status zopt_config_dtype(const zopt_config *config, zopt_dtype *dtype);

/* Set all options, defaults included, from a resolved config, which must outlive zopt_create. */
ZOPT_API zopt_status zopt_config_options(const zopt_config *config, zopt_options *options);

/* Element i of "param_groups": the pattern its tensors' names match, as fnmatch(3) has it without
 * flags, and the settings for zopt_add_group, those that are written. A tensor belongs to the first
 * element that matches. *match = NULL past the last. All live as long as the config. */
ZOPT_API zopt_status zopt_config_param_group(const zopt_config *config, size_t i,
                                             const char **match, const zopt_setting **settings,
                                             size_t *n_settings);

/* zopt_agree on every key of a resolved config that ranks must share. */
ZOPT_API zopt_status zopt_config_agree(const zopt_config *config, zopt *z);

/* Write all keys with their values (JSON), or the reference of all keys with help (text). */
ZOPT_API zopt_status zopt_config_dump(const zopt_config *config, FILE *file);
ZOPT_API void zopt_config_help(FILE *file);

/* ------------------------------------------------------------------ what this build has ----- */

/* One line per feature, transport, device, optimizer and schedule: kind ("transport"), name, 1 if
 * usable here, and a note, e.g. why not. Calls `row` for each; for `zopt doctor`. */
ZOPT_API void zopt_inventory(void (*row)(void *arg, const char *kind, const char *name, int usable,
                                         const char *note),
                             void *arg);

#ifdef __cplusplus
}
#endif

#endif
