/* Errors of the command: one line each, whatever the text holds, and the exit code of its kind. */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The number in the first of these variables that is set. */
static int launch_number(const char *const *names, int otherwise)
{
    for (; *names != NULL; names++) {
        const char *value = getenv(*names);
        if (value != NULL)
            return (int)strtol(value, NULL, 10);
    }
    return otherwise;
}

int cli_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", NULL};
    return launch_number(names, 0);
}

int cli_world(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", NULL};
    return launch_number(names, 1);
}

int cli_fail(const char *command, zopt_status status, const char *text)
{
    char line[1280], rank[32] = "";
    if (cli_world() > 1)
        snprintf(rank, sizeof rank, "rank %d: ", cli_rank());
    int printed = snprintf(line, sizeof line, "%s: %s%s", command, rank, text);
    size_t length = printed < (int)sizeof line ? (size_t)printed : sizeof line - 1;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = ' ';
    line[length] = '\n'; /* in the place of the terminator */
    fflush(stdout);
    /* One write, so that the lines of several ranks do not mix. */
    if (write(STDERR_FILENO, line, length + 1) < 0)
        return zopt_status_exit_code(ZOPT_ERR_WRITE);
    return zopt_status_exit_code(status);
}

void cli_parse(const struct argp *argp, int argc, char **argv, unsigned flags, void *input)
{
    argp_err_exit_status = zopt_status_exit_code(ZOPT_ERR_ARGUMENT);
    if (cli_rank() > 0)
        flags |= ARGP_NO_ERRS;
    if (argp_parse(argp, argc, argv, flags, NULL, input) != 0)
        exit(argp_err_exit_status);
}

zopt_status cli_load_config(const char *path, const cli_words *sets, zopt_config **out)
{
    zopt_status status = zopt_config_load(path, out);
    for (int i = 0; i < sets->n && status == ZOPT_OK; i++)
        status = zopt_config_set(*out, sets->word[i]);
    if (status == ZOPT_OK)
        status = zopt_config_resolve(*out);
    if (status != ZOPT_OK) {
        zopt_config_destroy(*out);
        *out = NULL;
    }
    return status;
}
