/* A small training job for the scripts that interrupt and disturb checkpoints: resumes from DIR,
 * steps up to LAST, saves every EVERY steps, alone or under mpirun. Its results depend on the step
 * alone. Prints what went wrong and exits with its code, as the command does.
 *
 * usage: ckpt_job DIR LAST EVERY [async] [hold] [keep=K] [parts=BYTES] [lr=X] [transport=NAME] ...
 *   hold: when done, keep the directory until stdin ends; extra: one tensor more */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

typedef struct arguments {
    const char *dir;
    int last, every, hold;
} arguments;

static void read_word(const char *word, h_problem *problem, arguments *args)
{
    if (strcmp(word, "async") == 0)
        problem->options.async_save = 1;
    else if (strcmp(word, "hold") == 0)
        args->hold = 1;
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
            status = zopt_save(z, args->dir);
    }
    if (status == ZOPT_OK)
        status = zopt_save_wait(z);
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
    arguments args = {argv[1], atoi(argv[2]), atoi(argv[3]), 0};
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
