/* Loaded into a run of zopt (LD_PRELOAD) to make one of its ranks fail for real: ZOPT_RANK_FAULT is
 * "RANK FUNCTION N KIND", and the N-th call of that function by that rank is where it happens. It
 * stands before the functions below alone; tests/test_faults.sh says what must come of it. */
#include <cblas.h>
#include <dlfcn.h>
#include <math.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What glibc finds when the chunk is given back: a size that cannot be. */
static void damage_heap(void)
{
    volatile size_t *volatile chunk = malloc(4096); /* volatile: compilers see through this */
    *(chunk - 1) = 17;
    free((void *)chunk);
}

static void exit_unfinished(void)
{
    _exit(0);
}

static void loop(void)
{
    for (volatile int for_ever = 1; for_ever;)
        ;
}

static int poisoned; /* from now on products are not finite */

static void poison(void)
{
    poisoned = 1;
}

static void kill_launcher(void)
{
    kill(getppid(), SIGKILL);
}

static void terminate_twice(void)
{
    struct sigaction now;
    kill(getpid(), SIGTERM);
    do /* two that wait to be heard would be one */
        sigaction(SIGTERM, NULL, &now);
    while (now.sa_handler != SIG_DFL);
    kill(getpid(), SIGTERM);
}

static const struct {
    const char *name;
    int signal;
    void (*action)(void);
} kinds[] = {
    {"kill", SIGKILL, NULL},
    {"segv", SIGSEGV, NULL},
    {"stop", SIGSTOP, NULL},
    {"usr1", SIGUSR1, NULL},
    {"heap", 0, damage_heap},
    {"exit", 0, exit_unfinished},
    {"loop", 0, loop},
    {"nan", 0, poison},
    {"launcher", 0, kill_launcher},
    {"twice", 0, terminate_twice},
};

static void fail_as(const char *kind)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].name, kind) != 0)
            continue;
        if (kinds[i].action == NULL)
            kill(getpid(), kinds[i].signal);
        else
            kinds[i].action();
        return;
    }
    fprintf(stderr, "fault: there is no kind %s\n", kind);
    abort();
}

/* A call of `function` by this rank. */
static void called(const char *function)
{
    static int n;
    char where[32], kind[16];
    int rank, at;
    const char *fault = getenv("ZOPT_RANK_FAULT"), *mine = getenv("OMPI_COMM_WORLD_RANK");
    if (fault == NULL || mine == NULL ||
        sscanf(fault, "%d %31s %d %15s", &rank, where, &at, kind) != 4)
        return;
    if (strcmp(function, where) == 0 && strtol(mine, NULL, 10) == rank && ++n == at)
        fail_as(kind);
}

/* The next definition of a function: the library's own. */
static void find_next(const char *name, void *function)
{
    void *next = dlsym(RTLD_NEXT, name);
    memcpy(function, &next, sizeof next);
}

__attribute__((visibility("default"))) void
cblas_sgemm(OPENBLAS_CONST enum CBLAS_ORDER order, OPENBLAS_CONST enum CBLAS_TRANSPOSE trans_a,
            OPENBLAS_CONST enum CBLAS_TRANSPOSE trans_b, OPENBLAS_CONST blasint m,
            OPENBLAS_CONST blasint n, OPENBLAS_CONST blasint k, OPENBLAS_CONST float alpha,
            OPENBLAS_CONST float *a, OPENBLAS_CONST blasint lda, OPENBLAS_CONST float *b,
            OPENBLAS_CONST blasint ldb, OPENBLAS_CONST float beta, float *c,
            OPENBLAS_CONST blasint ldc)
{
    static __typeof__(&cblas_sgemm) next;
    if (next == NULL)
        find_next("cblas_sgemm", &next);
    called("cblas_sgemm");
    next(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    if (poisoned)
        c[0] = NAN;
}

__attribute__((visibility("default"))) int fsync(int fd)
{
    static __typeof__(&fsync) next;
    if (next == NULL)
        find_next("fsync", &next);
    called("fsync");
    return next(fd);
}

/* Called while a message or a collective is under way, and only then. */
__attribute__((visibility("default"))) int MPI_Test(MPI_Request *request, int *flag,
                                                    MPI_Status *status)
{
    static __typeof__(&MPI_Test) next;
    if (next == NULL)
        find_next("MPI_Test", &next);
    called("MPI_Test");
    return next(request, flag, status);
}

__attribute__((visibility("default"))) int MPI_Finalize(void)
{
    static __typeof__(&MPI_Finalize) next;
    find_next("MPI_Finalize", &next);
    called("MPI_Finalize");
    return next();
}
