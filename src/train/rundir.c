/* Files of a run, and the lock that keeps others out. Lines of metrics are made in metrics.c. */
#include "train/rundir.h"

#include <cblas.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "train/fail.h"

#ifdef __clang__
#define COMPILER __VERSION__
#else
#define COMPILER "GCC " __VERSION__
#endif

struct rundir {
    char path[PATH_MAX - 64]; /* with room for the names of files */
    FILE *metrics;            /* rank 0's */
    int lock;                 /* rank 0's, held for the life of the run; else -1 */
    zopt_status failed;
    char failure[512];
};

const char *rundir_path(const rundir *dir)
{
    return dir->path;
}

/* ------------------------------------------------------------------ files ------------------- */

static void file_path(const rundir *dir, const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%s", dir->path, name);
}

/* mkdir -p. */
static zopt_status make_directories(const char *path)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        struct stat info;
        int error = mkdir(part, 0777) == 0 ? 0 : errno;
        if (error == 0 || (stat(part, &info) == 0 && S_ISDIR(info.st_mode)))
            continue;
        if (error == EEXIST)
            return train_fail(ZOPT_ERR_WRITE, "%s is not a directory", part);
        errno = error;
        return train_fail_errno(ZOPT_ERR_WRITE, "make the directory", part);
    }
    return ZOPT_OK;
}

static zopt_status open_file(const rundir *dir, const char *name, FILE **file)
{
    char path[PATH_MAX];
    file_path(dir, name, path);
    *file = fopen(path, "w");
    return *file ? ZOPT_OK : train_fail_errno(ZOPT_ERR_WRITE, "write", path);
}

/* A full disk may show as late as here. */
static zopt_status close_file(const rundir *dir, const char *name, FILE *file)
{
    char path[PATH_MAX];
    file_path(dir, name, path);
    int failed = fflush(file) != 0 || ferror(file);
    int error = errno;
    failed |= fclose(file) != 0;
    errno = error ? error : errno;
    return failed ? train_fail_errno(ZOPT_ERR_WRITE, "write", path) : ZOPT_OK;
}

/* Takes over `json`. */
static zopt_status write_json(const rundir *dir, const char *name, json_t *json)
{
    FILE *file = NULL;
    zopt_status status =
        json ? open_file(dir, name, &file) : train_fail(ZOPT_ERR_MEMORY, "no memory for %s", name);
    if (status == ZOPT_OK) {
        errno = 0;
        json_dumpf(json, file, JSON_INDENT(2));
        fputc('\n', file);
        status = close_file(dir, name, file);
    }
    json_decref(json);
    return status;
}

/* ------------------------------------------------------------------ opening ----------------- */

/* The kernel lets go of the lock when the run ends, however it ends. The file says who holds it. */
static zopt_status take_lock(rundir *dir)
{
    char path[PATH_MAX], holder[320] = "", host[256] = "";
    file_path(dir, "lock", path);
    dir->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (dir->lock < 0)
        return train_fail_errno(ZOPT_ERR_WRITE, "write", path);
    if (flock(dir->lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return train_fail_errno(ZOPT_ERR_WRITE, "lock", path);
        if (pread(dir->lock, holder, sizeof holder - 1, 0) <= 0)
            snprintf(holder, sizeof holder, "just begun");
        return train_fail(ZOPT_ERR_WRITE, "%s is in use by another run (%s)", dir->path, holder);
    }
    gethostname(host, sizeof host - 1);
    if (ftruncate(dir->lock, 0) != 0 ||
        dprintf(dir->lock, "process %d on %s", (int)getpid(), host) < 0)
        return train_fail_errno(ZOPT_ERR_WRITE, "write", path);
    return ZOPT_OK;
}

/* What this run writes only if it comes to that must not be an earlier one's. */
static zopt_status remove_results(const rundir *dir)
{
    static const char *const names[] = {"model.safetensors", "sample.txt", "memory.json",
                                        "trace.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[PATH_MAX];
        file_path(dir, names[i], path);
        if (unlink(path) != 0 && errno != ENOENT)
            return train_fail_errno(ZOPT_ERR_WRITE, "replace", path);
    }
    return ZOPT_OK;
}

static json_t *environment(const trainer *t)
{
    char host[256] = "", date[64] = "";
    time_t now = time(NULL);
    struct tm utc;
    gethostname(host, sizeof host - 1);
    if (gmtime_r(&now, &utc))
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:i}", "zopt", ZOPT_VERSION, "transport",
                     zopt_transport(t->z), "ranks", t->world, "hostname", host, "compiler",
                     COMPILER, "openblas", openblas_get_config(), "date", date, "pid",
                     (int)getpid());
}

static zopt_status write_config(const trainer *t)
{
    FILE *file;
    TRAIN_TRY(open_file(t->out, "config.json", &file));
    errno = 0;
    zopt_status status = zopt_config_dump(t->request->config, file);
    if (status != ZOPT_OK)
        train_fail_zopt(status);
    zopt_status closed = close_file(t->out, "config.json", file);
    return status == ZOPT_OK ? closed : status;
}

static zopt_status choose_path(trainer *t)
{
    const char *wanted = t->request->out_dir;
    int n = wanted ? snprintf(t->out->path, sizeof t->out->path, "%s", wanted)
                   : snprintf(t->out->path, sizeof t->out->path, "runs/%s", t->s.name);
    if (n <= 0 || (size_t)n >= sizeof t->out->path)
        return train_fail(ZOPT_ERR_WRITE, "the run directory's path has %d bytes, %zu are allowed",
                          n, sizeof t->out->path - 1);
    return ZOPT_OK;
}

static zopt_status open_all(trainer *t)
{
    TRAIN_TRY(make_directories(t->out->path));
    return take_lock(t->out);
}

static zopt_status open_mine(trainer *t)
{
    t->out = calloc(1, sizeof *t->out);
    if (!t->out)
        return train_fail(ZOPT_ERR_MEMORY, "no memory for the run directory");
    t->out->lock = -1;
    TRAIN_TRY(choose_path(t));
    return t->rank == 0 ? open_all(t) : ZOPT_OK;
}

zopt_status rundir_open(trainer *t)
{
    return trainer_agree(t, open_mine(t));
}

static zopt_status begin_all(trainer *t)
{
    char path[PATH_MAX];
    file_path(t->out, "metrics.jsonl", path);
    TRAIN_TRY(remove_results(t->out));
    TRAIN_TRY(write_config(t));
    TRAIN_TRY(write_json(t->out, "env.json", environment(t)));
    t->out->metrics = metrics_open(path, t->done);
    return t->out->metrics ? ZOPT_OK : train_fail_errno(ZOPT_ERR_WRITE, "write", path);
}

zopt_status rundir_begin(trainer *t)
{
    return trainer_agree(t, t->rank == 0 ? begin_all(t) : ZOPT_OK);
}

zopt_status rundir_trace(trainer *t)
{
    char path[PATH_MAX];
    file_path(t->out, "trace.json", path);
    if (t->s.trace_steps > 0)
        TRAIN_ZOPT(zopt_trace(t->z, path, (uint64_t)t->s.trace_steps));
    return ZOPT_OK;
}

void rundir_close(rundir *dir)
{
    if (!dir)
        return;
    if (dir->metrics)
        fclose(dir->metrics);
    if (dir->lock >= 0)
        close(dir->lock);
    free(dir);
}

void rundir_checkpoints(const rundir *dir, char *path)
{
    file_path(dir, "checkpoints", path);
}

/* ------------------------------------------------------------------ while training ---------- */

void rundir_metrics(trainer *t, const metrics *row)
{
    rundir *dir = t->out;
    if (t->rank != 0 || dir->failed != ZOPT_OK)
        return;
    if (metrics_write(dir->metrics, row) == 0)
        return;
    char path[PATH_MAX];
    file_path(dir, "metrics.jsonl", path);
    dir->failed = train_fail_errno(ZOPT_ERR_WRITE, "write", path);
    snprintf(dir->failure, sizeof dir->failure, "%s", train_last_error());
}

zopt_status rundir_check(trainer *t, int *stop)
{
    zopt_status mine = t->out->failed;
    if (mine != ZOPT_OK)
        train_fail(mine, "%s", t->out->failure);
    return trainer_meet(t, mine, stop);
}

/* ------------------------------------------------------------------ memory ------------------ */

/* One row per rank: rank 0 fills in a category at a time, as the ranks' numbers arrive. */
static zopt_status gather_bytes(trainer *t, json_t *per_rank, const char *name, uint64_t bytes)
{
    int n;
    TRAIN_ZOPT(zopt_gather_f64(t->z, t->rank, (double)bytes, t->gathered, &n));
    for (int rank = 0; rank < n; rank++)
        json_object_set_new(json_array_get(per_rank, (size_t)rank), name,
                            json_integer((json_int_t)t->gathered[rank]));
    return ZOPT_OK;
}

static zopt_status gather_memory(trainer *t, json_t *per_rank)
{
    zopt_memory_usage usage;
    TRAIN_ZOPT(zopt_memory(t->z, &usage));
    for (int i = 0; i < usage.n; i++)
        TRAIN_TRY(gather_bytes(t, per_rank, usage.category[i].name, usage.category[i].peak_bytes));
    return gather_bytes(t, per_rank, "total", usage.total_peak_bytes);
}

zopt_status rundir_memory(trainer *t)
{
    json_t *per_rank = json_array();
    for (int rank = 0; rank < t->world; rank++)
        json_array_append_new(per_rank, json_pack("{s:i}", "rank", rank));
    zopt_status status = gather_memory(t, per_rank);
    if (status != ZOPT_OK) {
        json_decref(per_rank);
        return status;
    }
    json_t *root = json_pack("{s:i, s:o}", "ranks", t->world, "per_rank", per_rank);
    if (t->rank == 0)
        status = write_json(t->out, "memory.json", root);
    else
        json_decref(root);
    return trainer_agree(t, status);
}

/* ------------------------------------------------------------------ at the end -------------- */

static zopt_status write_text(const rundir *dir, const char *name, const char *text)
{
    FILE *file;
    TRAIN_TRY(open_file(dir, name, &file));
    errno = 0;
    fputs(text, file);
    fputc('\n', file);
    return close_file(dir, name, file);
}

zopt_status rundir_sample(trainer *t, const char *text)
{
    return trainer_agree(t, t->rank == 0 ? write_text(t->out, "sample.txt", text) : ZOPT_OK);
}

zopt_status rundir_export(trainer *t)
{
    char path[PATH_MAX];
    file_path(t->out, "model.safetensors", path);
    TRAIN_ZOPT(zopt_export(t->z, path));
    return ZOPT_OK;
}
