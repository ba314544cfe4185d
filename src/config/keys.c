/* The table of the run file's keys: what may be written, and what stands where nothing is. The
 * parser, the getters, --help-config and the checkpoint's configuration hash read these rows. Keys
 * below optimizer.params and scheduler.params are rows of their own optimizer or schedule. */
#include "config/runfile.h"

/* Bounds that keep products of two sizes far inside 64 bits. */
#define COUNT_MAX 1e6
#define STEPS_MAX 1e12

#define BOOL(key, value) .path = key, .type = ZI_KEY_BOOL, .fallback = value, .hi = 1
#define I64(key, value, low, high) \
    .path = key, .type = ZI_KEY_I64, .fallback = value, .lo = low, .hi = high
#define F64(key, value, low, high) \
    .path = key, .type = ZI_KEY_F64, .fallback = value, .lo = low, .hi = high
#define STR(key, value) .path = key, .type = ZI_KEY_STR, .fallback = value

/* What a key has a hand in. */
#define RESULT .changes_result = 1, .agree = 1 /* the weights */
#define SHARED .agree = 1                      /* not the weights, but all ranks act on it */

const zi_key zi_keys[] = {
    {STR("name", "\"run\""), SHARED, .help = "results go to runs/NAME unless --out says otherwise"},
    {I64("seed", "1", 0, 0x1p53), RESULT, .help = "seed of initialization, data order and sample"},
    {STR("device", "\"auto\""), .help = "where state lives and updates run"},

    {I64("train_steps", "1000", 1, STEPS_MAX), SHARED, .help = "optimizer steps to make"},
    {I64("train_batch_size", "16", 1, COUNT_MAX), RESULT, .help = "sequences a step, all ranks"},
    {I64("train_micro_batch_size_per_gpu", NULL, 1, COUNT_MAX), RESULT,
     .help = "sequences in one slot; default train_batch_size / zopt.slots"},
    {I64("steps_per_print", "10", 1, STEPS_MAX), .help = "steps between plain progress lines"},
    {F64("gradient_clipping", "0.0", 0, 1e30), RESULT, .help = "global L2 norm to clip to; 0: off"},

    {STR("optimizer.type", "\"AdamW\""), RESULT, .help = "optimizer; any case"},
    {STR("scheduler.type", "\"constant\""), RESULT, .help = "learning rate schedule; any case"},

    {BOOL("fp16.enabled", "false"), RESULT, .help = "parameters and gradients in FP16"},
    {F64("fp16.loss_scale", "0", 0, 0x1p40), RESULT, .help = "static loss scale; 0: dynamic"},
    {I64("fp16.initial_scale_power", "16", 0, 40), RESULT,
     .help = "a dynamic scale starts at 2 to this power"},
    {I64("fp16.loss_scale_window", "1000", 1, 1e9), RESULT,
     .help = "good steps in a row after which a dynamic scale doubles"},
    {I64("fp16.hysteresis", "2", 1, 1e6), RESULT,
     .help = "overflows after which a dynamic scale halves"},
    {F64("fp16.min_loss_scale", "1", 0x1p-40, 0x1p40), RESULT,
     .help = "a dynamic scale is never below"},
    {I64("fp16.max_consecutive_skips", "20", 1, 1e6), RESULT,
     .help = "skipped steps at the lowest scale before the run fails"},
    {BOOL("bf16.enabled", "false"), RESULT, .help = "parameters and gradients in BF16"},
    {BOOL("bf16.check_grad_overflow", "false"), RESULT,
     .help = "skip steps whose gradient is not finite in BF16 too"},

    {I64("zero_optimization.stage", "1", 1, 1), RESULT,
     .help = "what is sharded; 1: master weights and optimizer state"},
    {I64("zero_optimization.reduce_bucket_size", "4194304", 1, 0x1p40), SHARED,
     .help = "elements communicated at once"},
    {STR("zero_optimization.offload_optimizer.device", "\"none\""), SHARED, .choices = "none|cpu",
     .help = "cpu: master weights and optimizer state in the host's memory, of device cuda"},
    {BOOL("zero_optimization.overlap_comm", "false"),
     .help = "sum gradients, and make a part of the update, on a thread of the library's own"},
    {I64("zopt.slots", "0", 0, COUNT_MAX), RESULT,
     .help = "gradient contributions a step; 0: train_batch_size / micro batch"},
    {I64("zero_optimization.reduce_group", "1", 1, COUNT_MAX), RESULT,
     .help = "slots that are summed before the sums are; of a node's ranks, for several nodes"},
    {BOOL("zopt.shared_params", "false"), SHARED,
     .help = "one parameter buffer for all ranks of a node; not over transport mpi"},
    {I64("zopt.cuda_graph", "-1", -1, 1),
     .help = "record steps as a CUDA graph and replay them; -1: where they can be"},
    {I64("zopt.trace_steps", "0", 0, STEPS_MAX), SHARED,
     .help = "first steps to trace into trace.json of the run folder, for ui.perfetto.dev"},
    {I64("zopt.check_params_every", "100", 0, 1e9), SHARED,
     .help = "steps between comparisons of all ranks' parameters; 0: none"},
    {STR("comm.transport", "\"auto\""), SHARED, .help = "how bytes get from rank to rank"},
    {I64("comm.ranks_per_node", "0", 0, COUNT_MAX), SHARED,
     .help = "declare nodes of so many ranks, in order of rank; 0: what the machine says"},
    {STR("comm.between_nodes", "\"auto\""), SHARED, .choices = "auto|mpi|nccl",
     .help = "who carries what ipc has between nodes; auto: nccl where each rank has its own GPU"},
    /* Changes the weights over nccl-native alone, whose weights depend on the world anyway. */
    {STR("comm.nccl_windows", "\"off\""), SHARED, .choices = "off|on|copy-engines",
     .help = "symmetric windows of NCCL 2.28, and copy engines for what is not summed; for nccl"},
    {F64("comm.deadline_s", "300", 1e-3, 1e6), SHARED, .help = "limit on every wait for peers"},

    {I64("model.n_layer", "4", 1, 1024), RESULT, .help = "transformer blocks"},
    {I64("model.n_head", "4", 1, 1024), RESULT, .help = "attention heads; divides n_embd"},
    {I64("model.n_embd", "64", 1, 65536), RESULT, .help = "width"},
    {I64("model.n_ctx", "64", 1, 65536), RESULT, .help = "characters of context"},

    {STR("data.path", NULL), .is_path = 1, .help = "the text, UTF-8"},
    {F64("data.val_fraction", "0.1", 0, 1), .lo_open = 1, .hi_open = 1, RESULT,
     .help = "last part of the text, held out for validation"},
    {I64("checkpoint.interval", "0", 0, STEPS_MAX), SHARED,
     .help = "steps between checkpoints, and one at the end; 0: only where a run is told to stop"},
    {I64("checkpoint.keep_last", "2", 1, COUNT_MAX), SHARED,
     .help = "newest checkpoints that stay when older ones are deleted"},
    {I64("checkpoint.keep_every", "0", 0, STEPS_MAX), SHARED,
     .help = "checkpoints of multiples of so many steps stay too; 0: none"},
    {BOOL("checkpoint.async", "false"), SHARED,
     .help = "train on while a checkpoint is written, from a copy of what a rank owns"},
    {I64("eval.interval", "250", 0, STEPS_MAX), SHARED,
     .help = "steps between validations; 0: only at the end"},
    {I64("eval.batches", "20", 1, COUNT_MAX), SHARED, .help = "batches in a validation"},
    {I64("sample.length", "400", 0, COUNT_MAX), SHARED, .help = "characters to write at the end"},
    {F64("sample.temperature", "0.8", 0, 1e3), SHARED, .help = "of the sample; 0: the likeliest"},
    {STR("sample.prompt", "\"\""), SHARED,
     .help = "what the sample continues; empty: the first character of the vocabulary"},
};
const size_t zi_n_keys = sizeof zi_keys / sizeof zi_keys[0];
