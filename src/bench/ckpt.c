/* bench ckpt: a run's whole state to disk and back. A run trains; each round it takes a step and
 * saves, and a twin, which never trains, loads that and saves it again asynchronously. In turn with
 * them: as many bytes written by all ranks (the limit) and by one (the baseline), by dd,
 * and copied in memory, which is what an asynchronous save has to hold the step up for. Next:
 * plain.c. */
#include "bench/ckpt.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"
#include "bench/print.h"
#include "ckpt/folder.h"

/* The first save, which tells how many bytes there are, and one round of all. */
enum { FIRST = 1, WARMUP = 1 };

enum { SAVE, LIMIT, BASELINE, DD, LOAD, HOLD, COPY, N_TURNS };

/* A handle in training, as bench step has it, and where it saves. */
typedef struct trainer {
    bench_case c;
    void *step; /* the contestant */
    zopt *z;
    const int *id;
    char dir[ZI_PATH_BYTES];
} trainer;

typedef struct saves {
    const bench_case *c;
    const char *fault;
    char root[ZI_PATH_BYTES]; /* of all that is written; "": not there */
    trainer run, twin;
    bench_plain plain;
    uint64_t bytes; /* of a checkpoint's files */
    double *ms[N_TURNS];
} saves;

/* ------------------------------------------------------------------ trainers ----------------- */

static zopt_status open_trainer(const saves *s, const char *name, int async, trainer *t)
{
    t->c = *s->c;
    t->c.async_save = async;
    snprintf(t->dir, sizeof t->dir, "%.*s/%s", (int)(sizeof t->dir - 16), s->root, name);
    t->step = zi_aligned_zalloc(bench_step.bytes);
    if (t->step == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a benchmark");
    ZI_TRY(bench_step.create(t->step, &t->c));
    t->z = bench_step_handle(t->step, &t->id);
    return ZOPT_OK;
}

static void close_trainer(trainer *t)
{
    if (t->step != NULL)
        bench_step.destroy(t->step);
    free(t->step);
}

/* Remove its checkpoints, so that no round pays for another's. */
static zopt_status clear(const saves *s, const trainer *t)
{
    uint64_t *steps = NULL;
    size_t n = 0;
    int folder;
    if (s->c->crew->rank != 0 || access(t->dir, F_OK) != 0)
        return ZOPT_OK;
    ZI_TRY(zi_folder_open(t->dir, ZI_FOLDER_READ, &folder));
    zopt_status status = zi_folder_scan(folder, t->dir, &steps, &n);
    for (size_t i = 0; i < n && status == ZOPT_OK; i++)
        status = zi_folder_delete(folder, t->dir, steps[i]);
    free(steps);
    close(folder);
    return status;
}

/* ------------------------------------------------------------------ turns -------------------- */

static zopt_status prepare_save(saves *s)
{
    ZI_TRY(clear(s, &s->run));
    ZI_TRY(bench_step.prepare(s->run.step));
    return bench_step.round(s->run.step);
}

static zopt_status save(void *self)
{
    saves *s = self;
    return zopt_save(s->run.z, s->run.dir);
}

static zopt_status write_all(void *self)
{
    return bench_plain_write_all(&((saves *)self)->plain);
}

static zopt_status write_one(void *self)
{
    return bench_plain_write_one(&((saves *)self)->plain);
}

static zopt_status write_dd(void *self)
{
    return bench_plain_dd(&((saves *)self)->plain);
}

static zopt_status load(void *self)
{
    saves *s = self;
    return zopt_load(s->twin.z, s->run.dir);
}

static zopt_status prepare_hold(saves *s)
{
    return clear(s, &s->twin);
}

static zopt_status hold(void *self)
{
    saves *s = self;
    return zopt_save(s->twin.z, s->twin.dir);
}

static zopt_status settle_hold(saves *s)
{
    return zopt_save_wait(s->twin.z);
}

static zopt_status copy(void *self)
{
    return bench_plain_copy(&((saves *)self)->plain);
}

static const struct {
    const char *name;                                      /* in ZOPT_BENCH_FAULT */
    zopt_status (*prepare)(saves *s), (*settle)(saves *s); /* not measured; NULL: nothing */
    zopt_status (*round)(void *self);
} turns[N_TURNS] = {
    [SAVE] = {.name = "subject", .prepare = prepare_save, .round = save},
    [LIMIT] = {.name = "limit", .round = write_all},
    [BASELINE] = {.name = "baseline", .round = write_one},
    [DD] = {.name = "dd", .round = write_dd},
    [LOAD] = {.name = "load", .round = load},
    [HOLD] = {.name = "hold", .prepare = prepare_hold, .round = hold, .settle = settle_hold},
    [COPY] = {.name = "copy", .round = copy},
};

/* Save once; then it is known how many bytes there are. */
static zopt_status first_save(saves *s)
{
    bench_crew *crew = s->c->crew;
    char path[2 * ZI_PATH_BYTES], name[ZI_STEP_NAME_BYTES];
    ZI_TRY(prepare_save(s));
    ZI_TRY(save(s));
    zi_step_name(zopt_steps(s->run.z), name);
    int64_t bytes = 0;
    for (int i = 0; i < BENCH_CKPT_FILES && crew->rank == 0; i++) {
        struct stat info;
        snprintf(path, sizeof path, "%s/%s/%s", s->run.dir, name, bench_ckpt_file[i]);
        bytes += stat(path, &info) == 0 ? (int64_t)info.st_size : 0;
    }
    ZI_TRY(crew->comm->ops->all_reduce(crew->comm, ZI_MAX, &bytes, 1));
    s->bytes = (uint64_t)bytes;
    return bench_plain_open(crew, s->root, s->bytes, &s->plain);
}

static zopt_status take_turn(saves *s, int turn, int round)
{
    bench_crew *crew = s->c->crew;
    double ms;
    if (strcmp(s->fault, turns[turn].name) == 0 && round == s->c->request->rounds - 1)
        return ZOPT_OK;
    if (turns[turn].prepare != NULL)
        ZI_TRY(zi_comm_agree(crew->comm, turns[turn].prepare(s)));
    ZI_TRY(bench_crew_time(crew, turns[turn].round, s, &ms));
    if (turns[turn].settle != NULL)
        ZI_TRY(turns[turn].settle(s));
    if (round >= 0)
        s->ms[turn][round] = ms;
    return ZOPT_OK;
}

static zopt_status take_turns(saves *s)
{
    int rounds = s->c->request->rounds;
    ZI_TRY(first_save(s));
    for (int round = -WARMUP; round < rounds; round++) {
        uint64_t stamp = (uint64_t)round + WARMUP;
        ZI_TRY(zi_comm_agree(s->c->crew->comm, bench_plain_prepare(&s->plain, stamp)));
        for (int turn = 0; turn < N_TURNS; turn++)
            ZI_TRY(take_turn(s, turn, round));
    }
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ one case ----------------- */

/* A folder of its own in the one that was asked for, by the name that rank 0 gives it. */
static zopt_status make_root(saves *s)
{
    zi_comm *comm = s->c->crew->comm;
    zopt_status status = ZOPT_OK;
    const char *below = s->c->request->dir;
    snprintf(s->root, sizeof s->root, "%.*s/zopt-bench-XXXXXX", (int)(sizeof s->root - 64), below);
    if (comm->rank == 0 && mkdtemp(s->root) == NULL) {
        s->root[0] = '\0';
        status = zi_fail_errno(ZOPT_ERR_WRITE, below, "cannot make a folder in it");
    }
    ZI_TRY(zi_comm_agree(comm, status));
    return comm->ops->broadcast(comm, 0, s->root, sizeof s->root);
}

static int remove_one(const char *path, const struct stat *info, int flag, struct FTW *where)
{
    (void)info, (void)flag, (void)where;
    return remove(path);
}

static zopt_status open_all(saves *s)
{
    ZI_TRY(make_root(s));
    zopt_status status = ZOPT_OK;
    for (int turn = 0; turn < N_TURNS; turn++) {
        s->ms[turn] = calloc((size_t)s->c->request->rounds, sizeof *s->ms[turn]);
        if (s->ms[turn] == NULL)
            status = ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a benchmark");
    }
    ZI_TRY(zi_comm_agree(s->c->crew->comm, status));
    ZI_TRY(zi_comm_agree(s->c->crew->comm, open_trainer(s, "run", 0, &s->run)));
    return zi_comm_agree(s->c->crew->comm, open_trainer(s, "twin", 1, &s->twin));
}

static void close_all(saves *s)
{
    enum { OPEN_FILES = 8 };
    close_trainer(&s->twin);
    close_trainer(&s->run);
    bench_plain_close(&s->plain);
    for (int turn = 0; turn < N_TURNS; turn++)
        free(s->ms[turn]);
    if (s->c->crew->rank == 0 && s->root[0] != '\0')
        nftw(s->root, remove_one, OPEN_FILES, FTW_DEPTH | FTW_PHYS);
}

static zopt_status check(saves *s, uint64_t *n_wrong)
{
    zi_comm *comm = s->c->crew->comm;
    uint64_t rounds = (uint64_t)s->c->request->rounds + WARMUP;
    ZI_TRY(zi_comm_agree(comm, bench_step.check(s->run.step, rounds + FIRST, n_wrong)));
    const bench_saved saved = {.c = s->c,
                               .run = s->run.z,
                               .twin = s->twin.z,
                               .run_id = s->run.id,
                               .twin_id = s->twin.id,
                               .run_dir = s->run.dir,
                               .twin_dir = s->twin.dir,
                               .steps = rounds + FIRST};
    ZI_TRY(zi_comm_agree(comm, bench_saved_check(&saved, n_wrong)));
    ZI_TRY(zi_comm_agree(comm, bench_plain_check(&s->plain, rounds - 1, n_wrong)));
    int64_t sum = (int64_t)*n_wrong;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_SUM, &sum, 1));
    *n_wrong = (uint64_t)sum;
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ print -------------------- */

static void print_heads(void)
{
    static const char format[] =
        "#%9s %10s %5s %9s %14s %9s %7s %9s %7s %9s %10s %9s %6s %9s %9s %9s %7s %6s\n";
    printf(format, "size", "params", "ranks", "transport", "optimizer", "save", "rate", "limit",
           "x limit", "baseline", "x baseline", "dd", "x dd", "load", "held up", "copy", "x copy",
           "#wrong");
    printf(format, "(MB)", "", "", "", "", "(ms)", "(GB/s)", "(ms)", "", "(ms)", "faster", "(ms)",
           "faster", "(ms)", "(ms)", "(ms)", "", "");
}

/* dd and how many times faster a save is; both "none" where dd was not run. */
typedef struct dd_texts {
    char ms[32], faster[32];
} dd_texts;

static dd_texts dd_texts_of(const saves *s, const double *ms, const char *none)
{
    dd_texts t;
    if (s->plain.direct) {
        snprintf(t.ms, sizeof t.ms, "%.3f", ms[DD]);
        snprintf(t.faster, sizeof t.faster, "%.2f", ms[DD] / ms[SAVE]);
    } else {
        snprintf(t.ms, sizeof t.ms, "%s", none);
        snprintf(t.faster, sizeof t.faster, "%s", none);
    }
    return t;
}

static void print_json(const saves *s, const double *ms, uint64_t n_wrong, int index)
{
    double bytes = (double)s->bytes;
    dd_texts dd = dd_texts_of(s, ms, "null");
    bench_print_keys(s->c, zopt_transport(s->run.z), index);
    printf("\"time_ms\": %.6f, \"limit_ms\": %.6f, \"baseline_ms\": %.6f, \"x_limit\": %.4f, "
           "\"x_baseline\": %.4f, \"dd_ms\": %s, \"x_dd\": %s, \"backward_ms\": null, "
           "\"bytes_per_param\": %.4f, \"bytes\": %llu, \"gb_per_s\": %.4f, ",
           ms[SAVE], ms[LIMIT], ms[BASELINE], ms[SAVE] / ms[LIMIT], ms[BASELINE] / ms[SAVE], dd.ms,
           dd.faster, bytes / (double)s->c->params, (unsigned long long)s->bytes,
           bytes / ms[SAVE] * 1e-6);
    printf("\"direct\": %s, \"load_ms\": %.6f, \"hold_ms\": %.6f, \"snapshot_copy_ms\": %.6f, "
           "\"x_copy\": %.4f, \"wrong\": %llu}",
           s->plain.direct ? "true" : "false", ms[LOAD], ms[HOLD], ms[COPY], ms[HOLD] / ms[COPY],
           (unsigned long long)n_wrong);
}

static void print_row(const saves *s, const double *ms, uint64_t n_wrong, int index)
{
    const bench_case *c = s->c;
    double bytes = (double)s->bytes;
    dd_texts dd = dd_texts_of(s, ms, "-");
    if (index == 0)
        bench_print_begin(c);
    if (c->request->json) {
        print_json(s, ms, n_wrong, index);
    } else {
        if (index == 0)
            print_heads();
        printf("%10.2f %10llu %5d %9s %14s %9.3f %7.2f %9.3f %7.3f ", bytes * 1e-6,
               (unsigned long long)c->params, c->crew->world, zopt_transport(s->run.z),
               c->rule.optim->name, ms[SAVE], bytes / ms[SAVE] * 1e-6, ms[LIMIT],
               ms[SAVE] / ms[LIMIT]);
        printf("%9.3f %10.2f %9s %6s %9.3f %9.3f %9.3f %7.2f %6llu%s\n", ms[BASELINE],
               ms[BASELINE] / ms[SAVE], dd.ms, dd.faster, ms[LOAD], ms[HOLD], ms[COPY],
               ms[HOLD] / ms[COPY], (unsigned long long)n_wrong,
               s->plain.direct ? "" : " (through the page cache, which dd oflag=direct cannot)");
    }
    fflush(stdout);
}

zopt_status bench_ckpt(const bench_case *c, const char *fault, int index, uint64_t *n_wrong)
{
    saves s = {.c = c, .fault = fault, .plain = {.folder = -1}};
    *n_wrong = 0;
    zopt_status status = open_all(&s);
    if (status == ZOPT_OK)
        status = take_turns(&s);
    if (status == ZOPT_OK)
        status = check(&s, n_wrong);
    if (status == ZOPT_OK && c->crew->rank == 0) {
        double ms[N_TURNS];
        for (int turn = 0; turn < N_TURNS; turn++)
            ms[turn] = bench_median(s.ms[turn], c->request->rounds);
        print_row(&s, ms, *n_wrong, index);
    }
    close_all(&s);
    return status;
}
