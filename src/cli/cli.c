/* Errors of the command: one line each, whatever the text holds, and the exit code of its kind. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
    char line[1280], rank[32];
    size_t named = (size_t)snprintf(rank, sizeof rank, "rank %d", cli_rank());
    /* Where several ranks talk, this one is named, once. */
    int says_rank = strncmp(text, rank, named) == 0 && strchr(" :", text[named]) != NULL;
    const char *between = cli_world() > 1 && !says_rank ? ": " : "";
    int printed =
        snprintf(line, sizeof line, "%s: %s%s%s", command, between[0] ? rank : "", between, text);
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

static void check_stdout(int code, void *command)
{
    int error = fflush(stdout) == 0 ? 0 : errno;
    char text[128] = "cannot write to stdout";
    if (code != EXIT_SUCCESS || (error == 0 && !ferror(stdout)))
        return;
    if (error != 0)
        snprintf(text, sizeof text, "cannot write to stdout: %s", strerror(error));
    _exit(cli_fail(command, ZOPT_ERR_WRITE, text));
}

void cli_check_stdout(const char *command)
{
    /* Also argp's own --help ends with exit(). */
    if (on_exit(check_stdout, (void *)command) != 0)
        _exit(cli_fail(command, ZOPT_ERR_MEMORY, zopt_status_text(ZOPT_ERR_MEMORY)));
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
