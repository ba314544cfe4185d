/* zopt plan: the bytes that each rank needs, by planning handles that count
 * what a run would allocate, and the bytes that it sends. Of a number of
 * parameters, or of a run file's model. */
#include "cli/plan.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/plan_time.h"
#include "train/train.h"

#define MAX_PARAMS 1e13
#define MAX_BUCKET 0x1p40
#define MAX_SLOTS  1e6

/* Each rank's handle has a table of its buckets: a bound on its memory, and one
 * on the time. */
#define MAX_BUCKETS              1e7
#define MAX_BUCKETS_OF_ALL_RANKS 2e9
#define DEFAULT_BUCKET           4194304.0 /* as in zopt_options */

static const int default_ranks[] = {1, 2, 4, 8, 16, 64};

enum {
    OPTION_BASE = 0x100,
    PARAMS,
    RANKS,
    SLOTS,
    GROUP,
    NODE,
    DTYPE,
    OPTIMIZER,
    BUCKET,
    TRANSPORT,
    DEVICE,
    OFFLOAD,
    SET,
    JSON
};

typedef struct arguments {
    const char *run_file;
    const char *transport, *optimizer, *device, *offload; /* NULL: not given */
    double params, slots, bucket;                         /* 0: not given */
    double group, node;                                   /* 0: not given */
    int dtype;                                            /* -1: not given */
    int ranks[PLAN_MAX_WORLDS], n_ranks;
    int json;
    plan_given time;
    cli_words sets;
} arguments;

static const struct argp_option options[] = {
    {"params", PARAMS, "P", 0, "Plan one vector of P elements (70e9)", 0},
    {"ranks", RANKS, "N,...", 0, "Numbers of ranks (default: 1,2,4,8,16,64)", 0},
    {"slots", SLOTS, "S", 0, "Gradient contributions a step (default: one for each rank)", 0},
    {"reduce-group", GROUP, "G", 0, "Slots that are summed before the sums are (default: 1)", 0},
    {"ranks-per-node", NODE, "N", 0, "Nodes of N ranks (default: all on one)", 0},
    {"dtype", DTYPE, "TYPE", 0, "fp16 (default), bf16 or fp32", 0},
    {"optimizer", OPTIMIZER, "NAME", 0, "Default: adamw", 0},
    {"bucket", BUCKET, "ELEMENTS", 0, "Elements communicated at once (default: 4194304)", 0},
    {"transport", TRANSPORT, "NAME", 0, "self, threads, shm, ipc or mpi (default: auto)", 0},
    {"device", DEVICE, "NAME", 0, "cpu (default) or cuda; a GPU is not needed", 0},
    {"offload", OFFLOAD, "NAME", 0, "cpu: the optimizer's state in host memory (default: none)", 0},
    {"set", SET, "KEY=VALUE", 0, "Override a key of the run file", 0},
    {"json", JSON, NULL, 0, "Print JSON", 0},
    {0}};

/* ------------------------------------------------------------------ arguments
 * --------------- */

/* A whole number in [1, max], as "4096" or "70e9". */
static int parse_count(struct argp_state *state, const char *name, const char *word, double max,
                       double *value)
{
    char *end;
    *value = strtod(word, &end);
    if (end != word && *end == '\0' && *value >= 1 && *value <= max && *value == floor(*value))
        return 0;
    argp_error(state, "--%s '%s' is not a whole number in [1, %.15g]", name, word, max);
    return EINVAL;
}

static int parse_ranks(struct argp_state *state, char *word, arguments *args)
{
    char *rest = NULL;
    args->n_ranks = 0;
    if (word[0] == '\0' || word[0] == ',' || word[strlen(word) - 1] == ',' || strstr(word, ",,")) {
        argp_error(state, "--ranks '%s' is not a list of numbers", word);
        return EINVAL;
    }
    for (char *item = strtok_r(word, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        double value;
        if (args->n_ranks == PLAN_MAX_WORLDS) {
            argp_error(state, "--ranks takes at most %d numbers", PLAN_MAX_WORLDS);
            return EINVAL;
        }
        if (parse_count(state, "ranks", item, PLAN_MAX_RANKS, &value) != 0)
            return EINVAL;
        args->ranks[args->n_ranks++] = (int)value;
    }
    return 0;
}

static int parse_dtype(struct argp_state *state, const char *word, int *dtype)
{
    static const char *const names[] = {
        [ZOPT_FP16] = "fp16", [ZOPT_BF16] = "bf16", [ZOPT_FP32] = "fp32"};
    for (int i = 0; i < 3; i++)
        if (strcmp(word, names[i]) == 0) {
            *dtype = i;
            return 0;
        }
    argp_error(state, "--dtype '%s' is not one of fp16, bf16, fp32", word);
    return EINVAL;
}

static int check_size(struct argp_state *state, const arguments *args)
{
    double buckets = args->params / (args->bucket > 0 ? args->bucket : DEFAULT_BUCKET);
    double ranks = 0;
    for (int i = 0; i < args->n_ranks; i++)
        ranks += args->ranks[i];
    if (buckets <= MAX_BUCKETS && buckets * ranks <= MAX_BUCKETS_OF_ALL_RANKS)
        return 0;
    argp_error(state,
               "--params %.15g is too many buckets to count: raise --bucket or "
               "lower --ranks",
               args->params);
    return EINVAL;
}

/* A run file brings its own values: --set changes them. */
static int check_arguments(struct argp_state *state, const arguments *args)
{
    int given = args->slots > 0 || args->bucket > 0 || args->dtype >= 0 || args->group > 0 ||
                args->node > 0 || args->optimizer != NULL || args->transport != NULL ||
                args->device != NULL || args->offload != NULL;
    if ((args->run_file != NULL) == (args->params > 0)) {
        argp_error(state, "give a run file or --params");
        return EINVAL;
    }
    if (args->run_file != NULL && given) {
        argp_error(state, "--slots, --reduce-group, --ranks-per-node, --dtype, --optimizer, "
                          "--bucket, --transport, --device and --offload are for --params; use "
                          "--set");
        return EINVAL;
    }
    if (args->run_file == NULL && args->sets.n > 0) {
        argp_error(state, "--set is for run files");
        return EINVAL;
    }
    return check_size(state, args);
}

static error_t parse_option(int key, char *word, struct argp_state *state)
{
    arguments *args = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->time;
        return 0;
    case PARAMS:
        return parse_count(state, "params", word, MAX_PARAMS, &args->params);
    case RANKS:
        return parse_ranks(state, word, args);
    case SLOTS:
        return parse_count(state, "slots", word, MAX_SLOTS, &args->slots);
    case GROUP:
        return parse_count(state, "reduce-group", word, MAX_SLOTS, &args->group);
    case NODE:
        return parse_count(state, "ranks-per-node", word, PLAN_MAX_RANKS, &args->node);
    case BUCKET:
        return parse_count(state, "bucket", word, MAX_BUCKET, &args->bucket);
    case DTYPE:
        return parse_dtype(state, word, &args->dtype);
    case OPTIMIZER:
        args->optimizer = word;
        return 0;
    case TRANSPORT:
        args->transport = word;
        return 0;
    case DEVICE:
        args->device = word;
        return 0;
    case OFFLOAD:
        args->offload = word;
        return 0;
    case SET:
        args->sets.word[args->sets.n++] = word;
        return 0;
    case JSON:
        args->json = 1;
        return 0;
    case ARGP_KEY_ARG:
        if (args->run_file != NULL) {
            argp_error(state, "one run file at a time: '%s' and '%s'", args->run_file, word);
            return EINVAL;
        }
        args->run_file = word;
        return 0;
    case ARGP_KEY_END:
        return check_arguments(state, args);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ------------------------------------------------------------------ counting ----------------- */

/* Count one rank of one world. Returns 0 or, having told why, an exit code. */
static int count_rank(const char *command, const plan_source *source, plan_world *world, int rank)
{
    zopt *z;
    plan *p = source->plan;
    zopt_status status = source->open(source, world->ranks, rank, &z);
    if (status != ZOPT_OK)
        return cli_fail(command, status, source->last_error());
    status = zopt_memory(z, &world->per_rank[rank]);
    if (status == ZOPT_OK)
        status = zopt_device_memory(z, &world->of_device[rank]);
    snprintf(world->transport, sizeof world->transport, "%s", zopt_transport(z));
    snprintf(p->device, sizeof p->device, "%s", zopt_device(z));
    if (strcmp(zopt_device(z), "cpu") != 0)
        snprintf(world->step_path, sizeof world->step_path, "%s", zopt_step_path(z));
    zopt_destroy(z);
    return status == ZOPT_OK ? 0 : cli_fail(command, status, zopt_last_error());
}

static int count_worlds(const char *command, const plan_source *source, const int *ranks, plan *p)
{
    for (int w = 0; w < p->n_worlds; w++) {
        plan_world *world = &p->world[w];
        world->ranks = ranks[w];
        world->slots = p->options.slots > 0 ? p->options.slots : ranks[w];
        world->per_rank = calloc((size_t)ranks[w], sizeof *world->per_rank);
        world->of_device = calloc((size_t)ranks[w], sizeof *world->of_device);
        if (world->per_rank == NULL || world->of_device == NULL)
            return cli_fail(command, ZOPT_ERR_MEMORY, zopt_status_text(ZOPT_ERR_MEMORY));
        for (int r = 0; r < world->ranks; r++) {
            int code = count_rank(command, source, world, r);
            if (code != 0)
                return code;
        }
        int node = p->options.ranks_per_node;
        world->node = node > 0 && node < ranks[w] ? node : ranks[w];
        world->is_flat =
            strcmp(world->transport, "shm") != 0 && strncmp(world->transport, "ipc", 3) != 0;
        world->adds_up = !world->is_flat || strcmp(world->transport, "nccl") == 0;
        plan_count_sent(p, world);
    }
    return 0;
}

static int count_and_print(const char *command, const arguments *args, const plan_source *source)
{
    plan *p = source->plan;
    const plan_time time = {&args->time, args->ranks, args->n_ranks, args->json};
    if (args->time.on)
        return plan_time_run(command, &time, source);
    p->n_worlds = args->n_ranks;
    int code = count_worlds(command, source, args->ranks, p);
    if (code == 0 && args->json && plan_print_json(p) != 0)
        code = cli_fail(command, ZOPT_ERR_WRITE, "cannot write the plan");
    if (code == 0 && !args->json) {
        if (args->params > 0 && p->dtype != ZOPT_FP32)
            plan_print_replicated(p);
        plan_print_sharded(p);
        if (args->params > 0 && p->dtype != ZOPT_FP32)
            plan_print_stages(p);
    }
    for (int w = 0; w < p->n_worlds; w++) {
        free(p->world[w].per_rank);
        free(p->world[w].of_device);
    }
    return code;
}

/* ------------------------------------------------------------------ sources ------------------ */

static zopt_status commit_params(const plan *p, zopt *z)
{
    int group, id;
    zopt_status status = zopt_add_group(z, NULL, 0, &group);
    if (status == ZOPT_OK)
        status = zopt_add_tensor(z, "parameters", p->dtype, 1, &p->n_params, group, &id);
    return status == ZOPT_OK ? zopt_commit(z) : status;
}

static zopt_status open_params(const plan_source *source, int world, int rank, zopt **z)
{
    zopt_options rank_options = source->plan->options;
    rank_options.plan_world = world;
    rank_options.plan_rank = rank;
    zopt_status status = zopt_create(&rank_options, z);
    if (status == ZOPT_OK && (status = commit_params(source->plan, *z)) != ZOPT_OK) {
        zopt_destroy(*z);
        *z = NULL;
    }
    return status;
}

static int plan_params(const char *command, const arguments *args)
{
    plan p = {.dtype = args->dtype >= 0 ? (zopt_dtype)args->dtype : ZOPT_FP16,
              .n_params = (uint64_t)args->params};
    const plan_source source = {open_params, zopt_last_error, &p, NULL};
    zopt_options_init(&p.options);
    p.options.slots = (int)args->slots;
    p.options.ranks_per_node = (int)args->node;
    p.options.reduce_group = args->group > 0 ? (int)args->group : 1;
    p.options.bucket_elems = (size_t)args->bucket;
    if (args->transport != NULL)
        p.options.transport = args->transport;
    if (args->device != NULL)
        p.options.device = args->device;
    if (args->offload != NULL)
        p.options.offload_optimizer = args->offload;
    if (args->optimizer != NULL)
        p.options.optimizer = args->optimizer;
    return count_and_print(command, args, &source);
}

#ifdef ZOPT_HAVE_TRAINER
static zopt_status open_model(const plan_source *source, int world, int rank, zopt **z)
{
    return train_model_plan(source->model, world, rank, z);
}

static int plan_model(const char *command, const arguments *args, const zopt_config *config)
{
    plan p = {0};
    train_model *model;
    if (zopt_config_options(config, &p.options) != ZOPT_OK ||
        zopt_config_dtype(config, &p.dtype) != ZOPT_OK)
        return cli_fail(command, ZOPT_ERR_CONFIG, zopt_last_error());
    zopt_status status = train_model_open(config, &model);
    if (status != ZOPT_OK)
        return cli_fail(command, status, train_last_error());
    p.n_params = train_model_elements(model);
    const plan_source source = {open_model, train_last_error, &p, model};
    int code = count_and_print(command, args, &source);
    train_model_close(model);
    return code;
}

static int plan_run_file(const char *command, const arguments *args)
{
    zopt_config *config;
    zopt_status status = cli_load_config(args->run_file, &args->sets, &config);
    if (status != ZOPT_OK)
        return cli_fail(command, status, zopt_last_error());
    int code = plan_model(command, args, config);
    zopt_config_destroy(config);
    return code;
}
#else
static int plan_run_file(const char *command, const arguments *args)
{
    (void)args;
    return cli_fail(command, ZOPT_ERR_UNSUPPORTED,
                    "a run file's model is the trainer's, which is not in this build: "
                    "install "
                    "libopenblas-pthread-dev and configure again, or use --params");
}
#endif

int cli_plan(int argc, char **argv)
{
    static const struct argp_child children[] = {{&plan_given_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {options,
                                     parse_option,
                                     "[RUNFILE]",
                                     "Print the bytes that each rank needs and sends, for the "
                                     "model of RUNFILE or for --params parameters.",
                                     children,
                                     NULL,
                                     NULL};
    arguments args = {.dtype = -1,
                      .n_ranks = sizeof default_ranks / sizeof default_ranks[0],
                      .sets.word = calloc((size_t)argc, sizeof *args.sets.word)};
    memcpy(args.ranks, default_ranks, sizeof default_ranks);
    if (args.sets.word == NULL)
        return cli_fail(argv[0], ZOPT_ERR_MEMORY, zopt_status_text(ZOPT_ERR_MEMORY));
    cli_parse(&argp, argc, argv, 0, &args);
    int code = args.run_file != NULL ? plan_run_file(argv[0], &args) : plan_params(argv[0], &args);
    free(args.sets.word);
    return code;
}
