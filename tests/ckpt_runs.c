/* See ckpt_runs.h. */
#include "ckpt_runs.h"

#include <dirent.h>
#include <string.h>

char root[64];

void set_up(void)
{
    snprintf(root, sizeof root, "ckpt_XXXXXX");
    ck_assert_ptr_ne(mkdtemp(root), NULL);
}

void tear_down(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0);
}

/* ------------------------------------------------------------------ runs --------------------- */

static void keep_warning(void *arg, const char *text)
{
    job *j = arg;
    size_t used = strlen(j->warnings);
    snprintf(j->warnings + used, sizeof j->warnings - used, "%s\n", text);
}

static void run_rank(int rank, zopt_threads *threads, void *arg)
{
    job *j = arg;
    zopt *z;
    int resumed;
    zopt_options options = j->problem->options;
    options.transport = "threads";
    options.threads = threads;
    options.threads_rank = rank;
    options.on_warning = keep_warning;
    options.on_warning_arg = j;
    MUST(h_create(j->problem, &options, &z));
    zopt_status status = j->load != NULL ? zopt_load(z, j->load)
                         : j->resume     ? zopt_resume(z, j->dir, &resumed)
                                         : ZOPT_OK;
    if (rank == 0 && status != ZOPT_OK) {
        j->load_status = status;
        snprintf(j->error, sizeof j->error, "%s", zopt_last_error());
    }
    for (int step = (int)zopt_steps(z) + 1; status == ZOPT_OK && step <= j->last_step; step++) {
        char position[32];
        MUST(h_step(j->problem, z, step));
        snprintf(position, sizeof position, "after step %d", step);
        MUST(zopt_note(z, "position", position));
        if (j->save_every > 0 && step % j->save_every == 0)
            MUST(zopt_save(z, j->dir));
    }
    if (status == ZOPT_OK) {
        MUST(zopt_save_wait(z));
        if (j->result != NULL) {
            MUST(zopt_memory(z, &j->result[rank].memory));
            h_collect(j->problem, z, &j->result[rank]);
        }
    }
    zopt_destroy(z);
}

void run_job(job *j, int n_ranks)
{
    j->load_status = ZOPT_OK;
    j->error[0] = j->warnings[0] = '\0';
    h_on_threads(n_ranks, run_rank, j);
}

/* The same, with rank 0's result. */
h_result result_of(job *j, int n_ranks)
{
    h_result all[8] = {{0}};
    j->result = all;
    run_job(j, n_ranks);
    ck_assert_msg(j->load_status == ZOPT_OK, "%s", j->error);
    for (int r = 1; r < n_ranks; r++)
        h_free(&all[r]);
    j->result = NULL;
    return all[0];
}

char *path_of(const char *name)
{
    static _Thread_local char text[4][256];
    static _Thread_local int next;
    next = (next + 1) % 4;
    snprintf(text[next], sizeof text[0], "%s/%s", root, name);
    return text[next];
}

char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s", path);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*bytes + 1);
    ck_assert_uint_eq(fread(data, 1, *bytes, file), *bytes);
    data[*bytes] = '\0';
    fclose(file);
    return data;
}

int n_entries(const char *path)
{
    DIR *dir = opendir(path);
    int n = -2;
    ck_assert_ptr_ne(dir, NULL);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

void same_files(const char *a, const char *b)
{
    DIR *dir = opendir(a);
    ck_assert_msg(dir != NULL, "%s", a);
    ck_assert_int_eq(n_entries(a), n_entries(b));
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char x[512], y[512];
        size_t nx, ny;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(x, sizeof x, "%s/%s", a, entry->d_name);
        snprintf(y, sizeof y, "%s/%s", b, entry->d_name);
        char *data_x = read_file(x, &nx), *data_y = read_file(y, &ny);
        ck_assert_msg(nx == ny && memcmp(data_x, data_y, nx) == 0, "%s and %s differ", x, y);
        free(data_x);
        free(data_y);
    }
    closedir(dir);
}

static float sometimes_infinite(int step, int slot, int tensor, uint64_t element)
{
    if (step == 2 && slot == 1 && tensor == 3 && element == 7)
        return __builtin_inff();
    return h_wide_grad(step, slot, tensor, element);
}

void make_problem(h_problem *problem)
{
    static const zopt_setting schedule[] = {{"total_num_steps", 20, NULL},
                                            {"warmup_num_steps", 5, NULL}};
    h_uneven(problem, ZOPT_FP16, 1);
    problem->options.schedule = "WarmupCosineLR";
    problem->options.schedule_settings = schedule;
    problem->options.n_schedule_settings = 2;
    problem->options.clip_norm = 1;
    problem->options.dynamic_loss_scale = 1;
    problem->options.loss_scale = 1024;
    problem->options.growth_interval = 2;
    problem->grad = sometimes_infinite;
}
