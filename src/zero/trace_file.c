/* The file of a trace: Chrome's Trace Event Format ("Trace Event Format", Google, JSON object
 * format), complete events of ranks as processes and lanes as threads, times in microseconds from
 * where the trace began. All ranks write into the one file in turn, by a lock on it, each over its
 * last line, which it puts behind its own: the file is whole whenever the lock is free. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/dtype.h"
#include "base/locale.h"
#include "base/status.h"
#include "zero/trace.h"

static const char tail[] = "\n]}\n";
enum { ID_BYTES = 48 };

/* ---- writing in turn ---- */

/* What a turn puts off: the locale's numbers, and the signal of files that grow too large. */
typedef struct turn {
    locale_t locale;
    sigset_t signals;
    off_t begin; /* where the tail was */
} turn;

static void hold_signal(sigset_t *before)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &set, before);
}

static void release_signal(const sigset_t *before)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    while (!sigismember(before, SIGXFSZ) &&
           sigtimedwait(&set, NULL, &(struct timespec){0}) == SIGXFSZ)
        ;
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* A rank that stops with the lock, or somebody else who has it, must not stop the others for ever;
 * their peers wait for them meanwhile. */
static zopt_status lock(const zi_comm *comm, int fd)
{
    zi_wait wait;
    zi_wait_begin(&wait, comm);
    wait.until_ms -= (double)comm->deadline_ms / 2;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return ZI_FAIL(ZOPT_ERR_WRITE, "the trace cannot be locked: %s", strerror(errno));
        if (zi_wait_pause(&wait))
            return ZI_FAIL(ZOPT_ERR_WRITE,
                           "the trace cannot be written: another process has had it locked for "
                           "half of comm.deadline_s");
    }
    return ZOPT_OK;
}

/* at_tail: 0: the file is to begin, whatever another run has left, or has under way, in it. */
static zopt_status take_turn(const zi_zero *z, int at_tail, turn *out)
{
    FILE *file = z->trace->file;
    ZI_TRY(lock(z->comm, fileno(file)));
    if ((!at_tail && ftruncate(fileno(file), 0) != 0) ||
        fseeko(file, at_tail ? -(off_t)strlen(tail) : 0, SEEK_END) != 0 ||
        (out->begin = ftello(file)) < 0) {
        int error = errno;
        flock(fileno(file), LOCK_UN);
        return ZI_FAIL(ZOPT_ERR_WRITE, "the trace cannot be written: %s", strerror(error));
    }
    out->locale = zi_locale_enter();
    hold_signal(&out->signals);
    return ZOPT_OK;
}

/* What was written in vain is taken back. */
static zopt_status end_turn(FILE *file, const turn *t)
{
    errno = 0;
    int failed = fputs(tail, file) == EOF || fflush(file) != 0 || ferror(file);
    int error = errno;
    if (failed) {
        clearerr(file);
        if (ftruncate(fileno(file), t->begin) == 0 && t->begin > 0)
            failed = 1 + (pwrite(fileno(file), tail, strlen(tail), t->begin) < 0);
    }
    release_signal(&t->signals);
    zi_locale_leave(t->locale);
    flock(fileno(file), LOCK_UN);
    return failed == 0 ? ZOPT_OK
                       : ZI_FAIL(ZOPT_ERR_WRITE, "the trace cannot be written: %s",
                                 strerror(error != 0 ? error : EIO));
}

/* ---- events ---- */

/* Its name, and its lanes'. */
static void describe_rank(const zi_zero *z)
{
    const zi_trace *t = z->trace;
    int rank = z->comm->rank;
    fprintf(t->file,
            "%s{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"args\":{\"name\":\"rank "
            "%d%s\"}}",
            rank > 0 ? ",\n" : "", rank, rank,
            t->is_set ? ", on another machine: clocks were set alike at a barrier" : "");
    fprintf(t->file,
            ",\n{\"name\":\"process_sort_index\",\"ph\":\"M\",\"pid\":%d,\"args\":{"
            "\"sort_index\":%d}}",
            rank, rank);
    for (int lane = 0; lane < ZI_N_LANES; lane++)
        fprintf(t->file,
                ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{"
                "\"name\":\"%s\"}},\n{\"name\":\"thread_sort_index\",\"ph\":\"M\",\"pid\":%d,"
                "\"tid\":%d,\"args\":{\"sort_index\":%d}}",
                rank, lane, zi_lane_names[lane], rank, lane, lane);
}

/* What the file begins with. */
static void format_id(const zi_trace *t, char text[ID_BYTES])
{
    snprintf(text, ID_BYTES, "{\"otherData\":{\"trace\":\"%016llx\"", (unsigned long long)t->id);
}

static void begin_file(const zi_zero *z)
{
    char id[ID_BYTES];
    format_id(z->trace, id);
    fprintf(z->trace->file,
            "%s,\"zopt\":\"%s\",\"ranks\":%d,\"transport\":\"%s\",\"device\":\"%s\","
            "\"buckets\":%u},\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n",
            id, ZOPT_VERSION, z->comm->world, z->comm->ops->name, z->config.device->name,
            z->layout.n_exchanged);
}

static void print_bucket(const zi_zero *z, const zi_drawn *d)
{
    unsigned long long elems = d->is_whole ? d->bucket->n_elems : d->bucket->slice_elems;
    fprintf(z->trace->file, ",\"bucket\":%u,\"elements\":%llu,\"bytes\":%llu", d->bucket->position,
            elems, elems * zopt_dtype_bytes(d->bucket->dtype));
    if (d->begin_ms > d->since_ms)
        fprintf(z->trace->file, ",\"queued_us\":%.3f", 1e3 * (d->begin_ms - d->since_ms));
}

static void print_overlap(FILE *file, const zi_overlap *o)
{
    fprintf(file,
            ",\"buckets\":%llu,\"exchanged_in_backward\":%llu,\"summed_in_backward\":%llu,"
            "\"exposed_behind_backward\":%llu,\"waited_for_before_forward\":%llu",
            (unsigned long long)o->n_buckets, (unsigned long long)o->n_exchanged,
            (unsigned long long)o->n_passed, (unsigned long long)(o->n_buckets - o->n_passed),
            (unsigned long long)o->n_awaited);
}

static void print_span(const zi_zero *z, uint64_t step, const zi_drawn *d,
                       const zi_overlap *overlap)
{
    const zi_trace *t = z->trace;
    fprintf(t->file,
            ",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,"
            "\"args\":{\"step\":%llu",
            d->name, z->comm->rank, d->lane, 1e3 * (d->begin_ms - t->zero_ms),
            1e3 * (d->end_ms - d->begin_ms), (unsigned long long)step);
    if (d->micro >= 0)
        fprintf(t->file, ",\"micro\":%d", d->micro);
    if (d->bucket != NULL)
        print_bucket(z, d);
    if (overlap != NULL)
        print_overlap(t->file, overlap);
    fprintf(t->file, "}}");
}

zopt_status zi_trace_write(zi_zero *z, uint64_t step, size_t n_drawn, const zi_overlap *overlap)
{
    const zi_trace *t = z->trace;
    turn mine = {0};
    ZI_TRY(take_turn(z, 1, &mine));
    for (size_t i = 0; i < n_drawn; i++)
        print_span(z, step, &t->drawn[i],
                   strcmp(t->drawn[i].name, "zopt_step") == 0 ? overlap : NULL);
    zopt_status status = end_turn(t->file, &mine);
    return status == ZOPT_OK ? ZOPT_OK
                             : ZI_FAIL(status, "%s; it ends before step %llu", zopt_last_error(),
                                       (unsigned long long)step);
}

/* ---- opening ---- */

static zopt_status open_file(const char *path, int flags, FILE **out)
{
    struct stat info;
    int fd = open(path, flags | O_RDWR | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd < 0) {
        zopt_status status = errno == EACCES || errno == EPERM || errno == EROFS
                                 ? ZOPT_ERR_PERMISSION
                                 : ZOPT_ERR_WRITE;
        return ZI_FAIL(status, "cannot write the trace %s: %s", path, strerror(errno));
    }
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "the trace %s is no plain file", path);
    }
    *out = fdopen(fd, "r+");
    if (*out != NULL)
        return ZOPT_OK;
    close(fd);
    return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for the trace %s", path);
}

/* A file that is there by chance, of this rank's machine or of somebody else, is left alone. */
static zopt_status check_same(const zi_trace *t, const char *path)
{
    char want[ID_BYTES], is[ID_BYTES] = "";
    format_id(t, want);
    if (pread(fileno(t->file), is, strlen(want), 0) >= 0 && strcmp(is, want) == 0)
        return ZOPT_OK;
    return ZI_FAIL(ZOPT_ERR_WRITE,
                   "cannot write the trace %s: it is not the file that rank 0 has made: not on a "
                   "file system that all ranks share",
                   path);
}

/* Make it, or enter oneself. */
static zopt_status join(zi_zero *z, const char *path)
{
    int is_first = z->comm->rank == 0;
    FILE *file = NULL;
    turn mine = {0};
    ZI_TRY(open_file(path, is_first ? O_CREAT : 0, &file));
    z->trace->file = file;
    if (!is_first)
        ZI_TRY(check_same(z->trace, path));
    ZI_TRY(take_turn(z, !is_first, &mine));
    if (is_first)
        begin_file(z);
    describe_rank(z);
    return end_turn(file, &mine);
}

/* CLOCK_MONOTONIC is that of a boot. A machine that does not tell has none of its own. */
static uint64_t hash_boot(void)
{
    char text[64] = "";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    size_t n = file != NULL ? fread(text, 1, sizeof text, file) : 0;
    if (file != NULL)
        fclose(file);
    return XXH3_64bits(text, n);
}

/* Rank 0's clock, or, on another machine, this one's at the same barrier. */
static zopt_status set_zero(zi_zero *z)
{
    const zi_comm_ops *comm = z->comm->ops;
    struct {
        uint64_t boot;
        double ms;
    } mine = {.boot = hash_boot()}, first;
    int64_t nothing = 0;
    ZI_TRY(comm->all_reduce(z->comm, ZI_SUM, &nothing, 1));
    mine.ms = zi_now_ms();
    first = mine;
    ZI_TRY(comm->broadcast(z->comm, 0, &first, sizeof first));
    z->trace->is_set = first.boot != mine.boot;
    z->trace->zero_ms = z->trace->is_set ? mine.ms : first.ms;
    z->trace->id = XXH3_64bits(&first, sizeof first);
    return ZOPT_OK;
}

zopt_status zi_trace_open(zi_zero *z, const char *path)
{
    ZI_TRY(set_zero(z));
    ZI_TRY(zi_comm_agree(z->comm, z->comm->rank == 0 ? join(z, path) : ZOPT_OK));
    return zi_comm_agree(z->comm, z->comm->rank > 0 ? join(z, path) : ZOPT_OK);
}
