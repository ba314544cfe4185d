/* zopt train RUNFILE: the reference trainer under a run file. */
#include "train/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

enum {
    OPTION_SET = 0x100,
    OPTION_OUT,
    OPTION_RESUME,
    OPTION_FORCE_CONFIG,
    OPTION_PROGRESS,
    OPTION_HELP_CONFIG
};

typedef struct arguments {
    const char *run_file, *out_dir, *resume;
    int force_config;
    int progress; /* -1: as the terminal says */
    cli_words sets;
} arguments;

static const struct argp_option options[] = {
    {"set", OPTION_SET, "KEY=VALUE", 0, "Override a key, e.g. optimizer.params.lr=1e-3", 0},
    {"out", OPTION_OUT, "DIR", 0, "Where the results go (default: runs/NAME)", 0},
    {"resume", OPTION_RESUME, "auto|never|PATH", 0,
     "Where to go on from: auto (default), the newest checkpoint in DIR/checkpoints, or from the "
     "beginning where there is none; never; or a checkpoint or a directory of them",
     0},
    {"force-config", OPTION_FORCE_CONFIG, NULL, 0,
     "Go on from a checkpoint although the run file differs from the one it was made with", 0},
    {"progress", OPTION_PROGRESS, "auto|line|plain", 0,
     "line: one line, updated every step; plain: a line every steps_per_print steps; auto "
     "(default): line on a terminal, plain elsewhere and under mpirun",
     0},
    {"help-config", OPTION_HELP_CONFIG, NULL, 0, "Print the reference of all keys of a run file",
     0},
    {0}};

static error_t read_progress(const char *word, struct argp_state *state)
{
    static const char *const words[] = {"auto", "plain", "line"};
    arguments *args = state->input;
    for (int i = 0; i < 3; i++)
        if (strcmp(word, words[i]) == 0) {
            args->progress = i - 1;
            return 0;
        }
    argp_error(state, "--progress is auto, line or plain, not '%s'", word);
    return EINVAL;
}

/* Open MPI gives rank 0 a terminal of its own, also where mpirun writes into a file. */
static int is_terminal(void)
{
    return isatty(STDOUT_FILENO) && getenv("OMPI_COMM_WORLD_SIZE") == NULL &&
           getenv("PMI_SIZE") == NULL;
}

static error_t parse_option(int key, char *word, struct argp_state *state)
{
    arguments *args = state->input;
    switch (key) {
    case OPTION_SET:
        args->sets.word[args->sets.n++] = word;
        return 0;
    case OPTION_OUT:
        if (word[0] == '\0') {
            argp_error(state, "--out '' is not the name of a directory");
            return EINVAL;
        }
        args->out_dir = word;
        return 0;
    case OPTION_RESUME:
        args->resume = word;
        return 0;
    case OPTION_FORCE_CONFIG:
        args->force_config = 1;
        return 0;
    case OPTION_PROGRESS:
        return read_progress(word, state);
    case OPTION_HELP_CONFIG:
        zopt_config_help(stdout);
        exit(EXIT_SUCCESS);
    case ARGP_KEY_ARG:
        if (args->run_file != NULL) {
            argp_error(state, "one run file at a time: '%s' and '%s'", args->run_file, word);
            return EINVAL;
        }
        args->run_file = word;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "no run file given");
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The transports that a run file may name. A world of threads is not among them: the command is one
 * rank a process. */
typedef struct transports {
    const char *wanted;
    int found;
    char names[128];
} transports;

static void look_for_transport(void *arg, const char *kind, const char *name, int usable,
                               const char *note)
{
    transports *t = arg;
    (void)usable; /* what is not, is refused with its reason */
    (void)note;
    if (strcmp(kind, "transport") != 0 || strcmp(name, "threads") == 0)
        return;
    size_t used = strlen(t->names);
    snprintf(t->names + used, sizeof t->names - used, ", %s", name);
    t->found |= strcmp(name, t->wanted) == 0;
}

/* Returns 0 or, having told why, an exit code. */
static int check_transport(const char *command, const zopt_config *config)
{
    char text[256];
    transports t = {.names = "auto"};
    zopt_status status = zopt_config_str(config, "comm.transport", &t.wanted);
    if (status != ZOPT_OK)
        return cli_fail(command, status, zopt_last_error());
    zopt_inventory(look_for_transport, &t);
    if (t.found || strcmp(t.wanted, "auto") == 0)
        return 0;
    snprintf(text, sizeof text, "comm.transport = \"%.64s\" is not one of: %s", t.wanted, t.names);
    return cli_fail(command, ZOPT_ERR_CONFIG, text);
}

/* The peers of a rank that hangs cannot be told; ending this process ends the job. */
static void on_hang(void *command, const char *text)
{
    _exit(cli_fail(command, ZOPT_ERR_TIMEOUT, text));
}

int cli_train(int argc, char **argv)
{
    static const struct argp argp = {options,
                                     parse_option,
                                     "RUNFILE",
                                     "Train the reference GPT as RUNFILE (JSON) says, alone or "
                                     "under mpirun. SIGUSR1 and SIGTERM: save a checkpoint and "
                                     "end with 0.",
                                     NULL,
                                     NULL,
                                     NULL};
    zopt_config *config;
    train_listen();
    arguments args = {.sets.word = calloc((size_t)argc, sizeof *args.sets.word)};
    if (args.sets.word == NULL)
        return cli_fail(argv[0], ZOPT_ERR_MEMORY, zopt_status_text(ZOPT_ERR_MEMORY));
    cli_parse(&argp, argc, argv, 0, &args);
    zopt_status status = cli_load_config(args.run_file, &args.sets, &config);
    free(args.sets.word);
    if (status != ZOPT_OK)
        return cli_fail(argv[0], status, zopt_last_error());
    int code = check_transport(argv[0], config);
    if (code != 0) {
        zopt_config_destroy(config);
        return code;
    }
    const train_request request = {.config = config,
                                   .out_dir = args.out_dir,
                                   .resume = args.resume,
                                   .force_config = args.force_config,
                                   .progress = args.progress < 0 ? is_terminal() : args.progress,
                                   .on_hang = on_hang,
                                   .on_hang_arg = argv[0]};
    status = train_run(&request);
    zopt_config_destroy(config);
    /* A rank that fails leaves MPI unfinished: the launcher then ends the ranks that wait for it.
     */
    if (status != ZOPT_OK)
        return cli_fail(argv[0], status, train_last_error());
    zopt_finalize();
    return EXIT_SUCCESS;
}
