/* The zopt command: a table of subcommands, one in each file of this room. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#ifdef ZOPT_HAVE_TRAINER
#define IF_TRAINER(function) function
#else
#define IF_TRAINER(function) NULL
#endif

static const cli_command commands[] = {
    {"train", "train the reference GPT on a text, as a run file says", IF_TRAINER(cli_train),
     "this build has no trainer: install libopenblas-pthread-dev and configure again"},
    {"bench", "measure a step beside its limit and the textbook's way", cli_bench, NULL},
    {"plan", "say how many bytes each rank needs and sends", cli_plan, NULL},
    {"ckpt", "inspect, verify, compare, export and prune checkpoints", cli_ckpt, NULL},
    {"doctor", "say what was built in and what is wrong with this launch", cli_doctor, NULL},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

/* Visible, because argp looks it up from the C library. */
__attribute__((visibility("default"))) const char *argp_program_version = "zopt " ZOPT_VERSION;

typedef struct arguments {
    int first; /* index in argv of the subcommand */
} arguments;

static error_t parse_option(int key, char *word, struct argp_state *state)
{
    arguments *args = state->input;
    (void)word;
    switch (key) {
    case ARGP_KEY_ARG:
        args->first = state->next - 1;
        state->next = state->argc; /* the rest is the subcommand's */
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_usage(state);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The list of subcommands, behind the options in --help. */
static char *list_commands(int key, const char *text, void *input)
{
    char *list = NULL;
    size_t size;
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC)
        return (char *)text;
    FILE *file = open_memstream(&list, &size);
    if (file == NULL)
        return NULL;
    fputs("Commands (each has its own --help):\n", file);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(file, "  %-8s %s\n", commands[i].name, commands[i].help);
    fputs("\nExit codes: 0 ok, 1 failure, 2 verification mismatch, 64 usage, 65 bad data,\n"
          "70 numerics, 73 cannot write, 74 read error, 75 hang or resumable,\n"
          "77 permission, 78 bad configuration.\n",
          file);
    fclose(file);
    return list;
}

static size_t common_prefix(const char *a, const char *b)
{
    size_t n = 0;
    while (a[n] != '\0' && a[n] == b[n])
        n++;
    return n;
}

static int unknown_command(const char *word)
{
    char text[256];
    const char *near = NULL;
    size_t best = 0;
    for (int i = 0; i < N_COMMANDS; i++) {
        size_t common = common_prefix(word, commands[i].name);
        near = common > best ? commands[i].name : near;
        best = common > best ? common : best;
    }
    snprintf(text, sizeof text, "unknown command '%.64s'%s%s%s; see zopt --help", word,
             near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return cli_fail("zopt", ZOPT_ERR_ARGUMENT, text);
}

int main(int argc, char **argv)
{
    static const struct argp_option no_options[] = {{0}};
    static const struct argp argp = {no_options,
                                     parse_option,
                                     "COMMAND [ARGUMENT...]",
                                     "zopt: a sharded optimizer that gives the same bits on any "
                                     "number of ranks.\v",
                                     NULL,
                                     list_commands,
                                     NULL};
    arguments args = {0};
    static char name[64] = "zopt"; /* read at exit */
    cli_check_stdout(name);
    cli_parse(&argp, argc, argv, ARGP_IN_ORDER, &args);
    for (int i = 0; i < N_COMMANDS; i++) {
        const cli_command *command = &commands[i];
        if (strcmp(argv[args.first], command->name) != 0)
            continue;
        snprintf(name, sizeof name, "zopt %s", command->name);
        if (command->run == NULL)
            return cli_fail(name, ZOPT_ERR_UNSUPPORTED, command->missing);
        argv[args.first] = name;
        return command->run(argc - args.first, argv + args.first);
    }
    return unknown_command(argv[args.first]);
}
