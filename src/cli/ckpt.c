/* zopt ckpt: look at checkpoints, verify, compare, export and prune them, with no job running and
 * by one process. This file has the table of actions and the two that only call the library. */
#include "cli/ckpt.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ckpt_fail(zopt_status status)
{
    return cli_fail("zopt ckpt", status, zopt_last_error());
}

/* ------------------------------------------------------------------ actions ------------------ */

static int export_model(const ckpt_arguments *args)
{
    zopt_checkpoint *c;
    zopt_status status = zopt_checkpoint_open(args->path[0], &c);
    if (status == ZOPT_OK)
        status = zopt_checkpoint_export(c, args->path[1], args->dtype);
    if (status == ZOPT_OK)
        printf("%s: the model of %s\n", args->path[1], zopt_checkpoint_path(c));
    zopt_checkpoint_close(c);
    return status == ZOPT_OK ? 0 : ckpt_fail(status);
}

typedef struct pruned {
    const ckpt_arguments *args;
    json_t *steps;
} pruned;

static void tell_pruned(void *arg, uint64_t step)
{
    const pruned *p = arg;
    if (p->args->json)
        json_array_append_new(p->steps, json_integer((json_int_t)step));
    else
        printf("%s/step-%08" PRIu64 "%s\n", p->args->path[0], step,
               p->args->dry_run ? " would be deleted" : "");
}

static int prune(const ckpt_arguments *args)
{
    pruned p = {.args = args, .steps = json_array()};
    if (args->keep_last == 0) {
        json_decref(p.steps);
        return cli_fail("zopt ckpt", ZOPT_ERR_ARGUMENT, "prune: say how many with --keep-last");
    }
    zopt_status status = zopt_checkpoint_prune(args->path[0], args->keep_last, args->keep_every,
                                               args->dry_run, tell_pruned, &p);
    if (status == ZOPT_OK && args->json) {
        json_t *root = json_pack("{sO}", "deleted", p.steps);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    }
    json_decref(p.steps);
    return status == ZOPT_OK ? 0 : ckpt_fail(status);
}

enum { OPTION_BASE = 0x100, JSON, KEEP_LAST, KEEP_EVERY, DRY_RUN, DTYPE };

#define OPTION(key) (1u << ((key)-OPTION_BASE))

static const struct {
    const char *name, *arguments, *help;
    int n_paths;
    unsigned options; /* that it has a use for */
    int (*run)(const ckpt_arguments *args);
} actions[] = {
    {"inspect", "DIR", "what a checkpoint holds, or which ones a directory has", 1, OPTION(JSON),
     ckpt_inspect},
    {"verify", "DIR", "compare every byte of one, or of all, with its checksum", 1, OPTION(JSON),
     ckpt_verify},
    {"diff", "DIR DIR", "what differs between two; 2 if anything does", 2, OPTION(JSON), ckpt_diff},
    {"export", "DIR FILE", "the model as one safetensors file, in --dtype", 2, OPTION(DTYPE),
     export_model},
    {"prune", "DIR", "delete all but --keep-last and --keep-every", 1,
     OPTION(JSON) | OPTION(KEEP_LAST) | OPTION(KEEP_EVERY) | OPTION(DRY_RUN), prune},
};
enum { N_ACTIONS = sizeof actions / sizeof actions[0] };

/* ------------------------------------------------------------------ arguments ---------------- */

static const struct argp_option options[] = {
    {"json", JSON, NULL, 0, "Print JSON (inspect, verify, diff, prune)", 0},
    {"dtype", DTYPE, "TYPE", 0, "export: fp32 (default), fp16 or bf16", 0},
    {"keep-last", KEEP_LAST, "K", 0, "prune: keep the newest K", 0},
    {"keep-every", KEEP_EVERY, "M", 0, "prune: keep steps that M divides", 0},
    {"dry-run", DRY_RUN, NULL, 0, "prune: delete nothing, say what would be", 0},
    {0}};

typedef struct parsed {
    ckpt_arguments args;
    int action;       /* -1: not there yet */
    unsigned options; /* that were given */
} parsed;

static uint64_t parse_count(struct argp_state *state, const char *name, const char *word)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(word, &end, 10);
    if (word[0] < '0' || word[0] > '9' || *end != '\0' || errno != 0 || value == 0)
        argp_error(state, "--%s: '%s' is not a count from 1 on", name, word);
    return value;
}

static zopt_dtype parse_dtype(struct argp_state *state, const char *word)
{
    static const char *const names[] = {
        [ZOPT_FP16] = "fp16", [ZOPT_BF16] = "bf16", [ZOPT_FP32] = "fp32"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], word) == 0)
            return (zopt_dtype)i;
    argp_error(state, "--dtype: '%s' is not fp16, bf16 or fp32", word);
    return ZOPT_FP32;
}

static void parse_word(struct argp_state *state, parsed *p, const char *word)
{
    if (p->action >= 0) {
        if (p->args.n_paths == actions[p->action].n_paths)
            argp_error(state, "%s takes %s", actions[p->action].name, actions[p->action].arguments);
        else
            p->args.path[p->args.n_paths++] = word;
        return;
    }
    for (int i = 0; i < N_ACTIONS; i++)
        if (strcmp(actions[i].name, word) == 0)
            p->action = i;
    if (p->action < 0)
        argp_error(state, "'%s' is none of inspect, verify, diff, export and prune", word);
}

/* All words have been read: is everything there, and nothing that would be passed over? */
static void check_words(struct argp_state *state, const parsed *p)
{
    if (p->action < 0) {
        argp_usage(state);
        return;
    }
    if (p->args.n_paths < actions[p->action].n_paths)
        argp_error(state, "%s wants %s", actions[p->action].name, actions[p->action].arguments);
    for (const struct argp_option *o = options; o->name != NULL; o++)
        if ((p->options & OPTION(o->key) & ~actions[p->action].options) != 0)
            argp_error(state, "%s has no --%s", actions[p->action].name, o->name);
}

static error_t parse_option(int key, char *word, struct argp_state *state)
{
    parsed *p = state->input;
    if (key > OPTION_BASE && key <= DTYPE)
        p->options |= OPTION(key);
    switch (key) {
    case JSON:
        p->args.json = 1;
        return 0;
    case DTYPE:
        p->args.dtype = parse_dtype(state, word);
        return 0;
    case KEEP_LAST:
        p->args.keep_last = parse_count(state, "keep-last", word);
        return 0;
    case KEEP_EVERY:
        p->args.keep_every = parse_count(state, "keep-every", word);
        return 0;
    case DRY_RUN:
        p->args.dry_run = 1;
        return 0;
    case ARGP_KEY_ARG:
        parse_word(state, p, word);
        return 0;
    case ARGP_KEY_END:
        check_words(state, p);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The list of actions, behind the options in --help. */
static char *list_actions(int key, const char *text, void *input)
{
    char *list = NULL;
    size_t size;
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC)
        return (char *)text;
    FILE *file = open_memstream(&list, &size);
    if (file == NULL)
        return NULL;
    fputs("Actions:\n", file);
    for (int i = 0; i < N_ACTIONS; i++)
        fprintf(file, "  %-8s %-9s %s\n", actions[i].name, actions[i].arguments, actions[i].help);
    fputs("\nDIR is a checkpoint (runs/a/checkpoints/step-00000100) or a directory of them, which "
          "stands for its newest.\n",
          file);
    fclose(file);
    return list;
}

/* JSON is UTF-8, and without its path a result says nothing. */
static int tellable(const ckpt_arguments *args)
{
    for (int i = 0; args->json && i < args->n_paths; i++) {
        json_t *path = json_string(args->path[i]);
        if (path == NULL)
            return 0;
        json_decref(path);
    }
    return 1;
}

int cli_ckpt(int argc, char **argv)
{
    static const struct argp argp = {options,
                                     parse_option,
                                     "ACTION DIR [DIR|FILE]",
                                     "Look at checkpoints, verify, compare, export and prune "
                                     "them.\v",
                                     NULL,
                                     list_actions,
                                     NULL};
    parsed p = {.args = {.dtype = ZOPT_FP32}, .action = -1};
    cli_parse(&argp, argc, argv, 0, &p);
    if (!tellable(&p.args))
        return cli_fail("zopt ckpt", ZOPT_ERR_ARGUMENT,
                        "--json: a path that is not UTF-8 has no place in JSON");
    return actions[p.action].run(&p.args);
}
