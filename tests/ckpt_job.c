/* A small training job for the scripts that interrupt and disturb checkpoints: resumes from DIR,
 * steps up to LAST, saves every EVERY steps, alone or under mpirun. Its results depend on the step
 * alone. Prints what went wrong and exits with its code, as the command does.
 *
 * usage: ckpt_job DIR LAST EVERY [async] [hold] [keep=K] [parts=BYTES] [lr=X] [transport=NAME] ...
 *   hold: when done, keep the directory until stdin ends; extra: one tensor more; stubborn: go on
 *   after a save that failed; dump=FILE: when done, write masters and states there as text */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

typedef struct arguments {
    const char *dir;
    int last, every, hold, stubborn;
    const char *dump;
} arguments;

static void read_word(const char *word, h_problem *problem, arguments *args)
{
    if (strcmp(word, "async") == 0)
        problem->options.async_save = 1;
    else if (strcmp(word, "hold") == 0)
        args->hold = 1;
    else if (strcmp(word, "stubborn") == 0)
        args->stubborn = 1;
    else if (strncmp(word, "dump=", 5) == 0)
        args->dump = word + 5;
    else if (strncmp(word, "keep=", 5) == 0)
        problem->options.keep_last = strtoull(word + 5, NULL, 10);
    else if (strncmp(word, "parts=", 6) == 0)
        problem->options.part_bytes = strtoull(word + 6, NULL, 10);
    else if (strncmp(word, "lr=", 3) == 0)
        problem->lr = strtod(word + 3, NULL);
    else if (strncmp(word, "transport=", 10) == 0)
        problem->options.transport = word + 10;
    else if (strcmp(word, "extra") == 0)
        problem->tensor[problem->n_tensors++] = (h_tensor){"extra", ZOPT_FP16, 1, {5}, 0};
    else
        exit(64);
}

/* One line a tensor and array: its name in a checkpoint, its values in hex. */
static void dump(const h_problem *problem, zopt *z, const char *path)
{
    h_result result = {0};
    if (zopt_memory(z, &result.memory) != ZOPT_OK)
        abort();
    h_collect(problem, z, &result);
    FILE *file = fopen(path, "w");
    if (file == NULL)
        abort();
    for (int s = -1; s < result.n_states; s++) {
        const float *value = s < 0 ? result.master : result.state[s];
        for (int i = 0; i < problem->n_tensors; i++) {
            fprintf(file, "%s%s%s", s < 0 ? "" : result.state_name[s], s < 0 ? "" : ".",
                    problem->tensor[i].name);
            for (uint64_t e = 0; e < h_elems(&problem->tensor[i]); e++)
                fprintf(file, " %a", *value++);
            fputc('\n', file);
        }
    }
    if (fclose(file) != 0)
        abort();
    h_free(&result);
}

/* The end of a save; step: that was saved last. */
static zopt_status judge(const arguments *args, zopt_status status, int step)
{
    if (status != ZOPT_ERR_WRITE || !args->stubborn)
        return status;
    printf("went on without step %d: %s\n", step, zopt_last_error());
    return ZOPT_OK;
}

static zopt_status run(zopt *z, const h_problem *problem, const arguments *args)
{
    int resumed;
    zopt_status status = zopt_resume(z, args->dir, &resumed);
    if (status == ZOPT_OK && zopt_rank(z) == 0)
        printf("%s at step %d\n", resumed ? "resumed" : "began", (int)zopt_steps(z));
    fflush(stdout);
    for (int step = (int)zopt_steps(z) + 1; status == ZOPT_OK && step <= args->last; step++) {
        status = h_step(problem, z, step);
        if (status == ZOPT_OK && step % args->every == 0)
            status = judge(args, zopt_save(z, args->dir), step);
        if (status == ZOPT_OK && args->stubborn) /* an asynchronous one tells now how it went */
            status = judge(args, zopt_save_wait(z), step);
    }
    if (status == ZOPT_OK)
        status = zopt_save_wait(z);
    if (status == ZOPT_OK && args->dump != NULL)
        dump(problem, z, args->dump);
    if (status == ZOPT_OK && args->hold && zopt_rank(z) == 0) {
        printf("holding\n");
        fflush(stdout);
        while (getchar() != EOF)
            ;
    }
    return status;
}

int main(int argc, char **argv)
{
    h_problem problem;
    zopt *z = NULL;
    if (argc < 4)
        return 64;
    setlocale(LC_ALL, ""); /* as a program with a user interface does */
    arguments args = {argv[1], atoi(argv[2]), atoi(argv[3]), 0, 0, NULL};
    h_uneven(&problem, ZOPT_FP16, 1);
    problem.options.deadline_ms = 60000;
    for (int i = 4; i < argc; i++)
        read_word(argv[i], &problem, &args);
    zopt_status status = h_create(&problem, &problem.options, &z);
    if (status == ZOPT_OK)
        status = run(z, &problem, &args);
    if (status != ZOPT_OK)
        fprintf(stderr, "ckpt_job: %s\n", zopt_last_error());
    zopt_destroy(z);
    zopt_finalize();
    return zopt_status_exit_code(status);
}
