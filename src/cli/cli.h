/* What the subcommands share: the table's row, and how a failure is told and becomes an exit code.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <argp.h>
#include <zopt/zopt.h>

typedef struct cli_command {
    const char *name, *help;
    /* argv[0] is "zopt NAME". Returns the exit code. NULL: not in this build, `missing` says why.
     */
    int (*run)(int argc, char **argv);
    const char *missing;
} cli_command;

int cli_train(int argc, char **argv);
int cli_plan(int argc, char **argv);
int cli_ckpt(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_bench(int argc, char **argv);

/* This process's rank and the number of ranks as the launcher's environment tells them, which is
 * there before any communication is. Without a launcher 0 and 1. */
int cli_rank(void);
int cli_world(void);

/* Print "COMMAND: [rank R: ]text" on stderr as one line and return the status's exit code. */
int cli_fail(const char *command, zopt_status status, const char *text);

/* At the end of the process, make a success a failure (73) if stdout did not take all of it. */
void cli_check_stdout(const char *command);

/* Parse options. Usage errors end the process with 64, --help with 0; of several ranks, which all
 * have the same arguments, the first one talks. */
void cli_parse(const struct argp *argp, int argc, char **argv, unsigned flags, void *input);

/* A list of words from the command line; room for all of argv is always enough. */
typedef struct cli_words {
    char **word;
    int n;
} cli_words;

/* Load a run file, override its keys, resolve it. Errors are the library's. */
zopt_status cli_load_config(const char *path, const cli_words *sets, zopt_config **out);

#endif
