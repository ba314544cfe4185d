/* zopt doctor: what was built in, and checks of this machine and launch, each with its finding and
 * its fix. It starts no communication: a launch that hangs can be asked too. */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/cli.h"

typedef enum severity { OK, WARN, FAIL } severity;

typedef struct finding {
    severity level;
    char text[256], fix[256];
} finding;

static void find(finding *f, severity level, const char *fix, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void find(finding *f, severity level, const char *fix, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
    f->level = level;
    snprintf(f->fix, sizeof f->fix, "%s", level == OK ? "" : fix);
}

/* A whole number in the environment; `otherwise` where it is missing. */
static long env_number(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? strtol(value, NULL, 10) : otherwise;
}

static int is_launched(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMI_SIZE") != NULL ||
           getenv("PMIX_RANK") != NULL;
}

/* ------------------------------------------------------------------ launch ------------------ */

static void check_launcher(finding *f)
{
    static const char *const sizes[] = {"WORLD_SIZE", "SLURM_NTASKS"};
    if (is_launched()) {
        find(f, OK, "", "rank %d of %d, started by a launcher", cli_rank(), cli_world());
        return;
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (env_number(sizes[i], 1) > 1) {
            find(f, FAIL, "start with mpirun -n N, or unset RANK, WORLD_SIZE and SLURM_*",
                 "%s=%ld, but no mpirun started this process: it would run alone", sizes[i],
                 env_number(sizes[i], 1));
            return;
        }
    find(f, OK, "", "one process, no launcher");
}

/* What transport "auto" takes, as far as the launcher tells where ranks are. */
static void check_transport(finding *f)
{
    static const char fix[] =
        "as many ranks on each node, next to each other: mpirun -n N --map-by slot, or srun "
        "--ntasks-per-node=N --distribution=block";
    long world = cli_world(), rank = cli_rank();
    long here = env_number("OMPI_COMM_WORLD_LOCAL_SIZE", 0);
    long local_rank = env_number("OMPI_COMM_WORLD_LOCAL_RANK", rank);
    if (world == 1)
        find(f, OK, "", "auto takes self: one process");
    else if (here == 0)
        find(f, OK, "",
             "auto takes shm where nodes have equally many ranks, more than one, and "
             "else mpi: the launcher does not tell which");
    else if (here == world)
        find(f, OK, "",
             "auto takes shm: all %ld ranks are on this node; for device cuda ipc, or mpi where "
             "its GPUs cannot reach each other",
             world);
    else if (here == 1)
        find(f, OK, "", "auto takes mpi: this rank shares its node with no other");
    else if (world % here != 0 || rank % here != local_rank)
        find(f, WARN, fix,
             "auto takes mpi, not shm: the nodes do not have equally many ranks, "
             "next to each other");
    else
        find(f, OK, "",
             "auto takes shm, with messages between %ld nodes of %ld ranks; for device cuda ipc; "
             "zero_optimization.reduce_group=%ld sends sums between them",
             world / here, here, here);
}

static void check_cores(finding *f)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    long ranks = env_number("OMPI_COMM_WORLD_LOCAL_SIZE", 1);
    int yields = env_number("OMPI_MCA_mpi_yield_when_idle", 0) == 1;
    severity level = ranks > cores && !yields ? WARN : OK;
    find(f, level, "export OMPI_MCA_mpi_yield_when_idle=1, or source launch/env.sh",
         "%ld rank%s on %ld core%s%s", ranks, ranks == 1 ? "" : "s", cores, cores == 1 ? "" : "s",
         ranks > cores && yields ? "; waiting ranks yield" : "");
}

static void check_root(finding *f)
{
    int allowed = getenv("OMPI_ALLOW_RUN_AS_ROOT") != NULL &&
                  getenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM") != NULL;
    if (geteuid() != 0)
        find(f, OK, "", "not root");
    else if (allowed)
        find(f, OK, "", "root, and mpirun is told to allow it");
    else
        find(f, WARN,
             "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1, or source "
             "launch/env.sh",
             "running as root: mpirun will refuse");
}

static void check_mpirun(finding *f)
{
    char file[4096];
    const char *path = getenv("PATH");
    for (const char *at = path ? path : ""; *at != '\0'; at += strcspn(at, ":"), at += *at == ':') {
        snprintf(file, sizeof file, "%.*s/mpirun", (int)strcspn(at, ":"), at);
        if (access(file, X_OK) == 0) {
            find(f, OK, "", "%.240s", file);
            return;
        }
    }
    find(f, WARN, "apt-get install openmpi-bin, or add its folder to PATH",
         "there is no mpirun on PATH: one rank at a time only");
}

static void check_threads(finding *f)
{
    long threads = env_number("OPENBLAS_NUM_THREADS", 0);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (threads == 1)
        find(f, OK, "", "OPENBLAS_NUM_THREADS=1: one thread for each rank");
    else if (cores == 1 || cli_world() == 1)
        find(f, OK, "", "zopt train uses one thread of OpenBLAS");
    else
        find(f, WARN, "export OPENBLAS_NUM_THREADS=1, or source launch/env.sh",
             "OpenBLAS starts %ld threads in each rank, of which zopt train uses one",
             threads > 0 ? threads : cores);
}

/* ------------------------------------------------------------------ machine ----------------- */

/* "NAME:   12345 kB" in /proc/meminfo, in bytes; -1: not there. */
static double meminfo_bytes(const char *name)
{
    char line[256];
    double found = -1;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file != NULL && found < 0 && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            found = strtod(line + strlen(name), NULL) * 1024;
    if (file != NULL)
        fclose(file);
    return found;
}

static void check_memory(finding *f)
{
    double available = meminfo_bytes("MemAvailable:");
    if (available < 0)
        find(f, WARN, "mount /proc", "cannot read /proc/meminfo");
    else
        find(f, available < 1e9 ? WARN : OK, "free memory; zopt plan says what a run needs",
             "%.1f GB available", available / 1e9);
}

static void check_shm(finding *f)
{
    struct statvfs info;
    const double need = 64e6; /* Open MPI's queues between the ranks of one host, with room */
    if (statvfs("/dev/shm", &info) != 0) {
        find(f, WARN, "mount -t tmpfs tmpfs /dev/shm", "/dev/shm is missing");
        return;
    }
    double bytes = (double)info.f_bavail * (double)info.f_frsize;
    find(f, bytes < need ? WARN : OK,
         "give it more: docker run --shm-size=1g, or mount -o remount,size=1G /dev/shm",
         "/dev/shm has %.2f GB free", bytes / 1e9);
}

#if defined(__x86_64__)
static void check_processor(finding *f)
{
    int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    find(f, avx512 || avx2 ? OK : WARN, "a newer processor, or a virtual machine that shows AVX2",
         "x86-64 with %s",
         avx512 ? "AVX-512"
         : avx2 ? "AVX2"
                : "neither AVX2 nor AVX-512: slow");
}
#else
static void check_processor(finding *f)
{
    find(f, OK, "", "not x86-64: portable kernels");
}
#endif

static const struct {
    const char *name;
    void (*check)(finding *f);
} checks[] = {
    {"launcher", check_launcher},   {"transport", check_transport},
    {"cores", check_cores},         {"root", check_root},
    {"mpirun", check_mpirun},       {"threads", check_threads},
    {"memory", check_memory},       {"shm", check_shm},
    {"processor", check_processor},
};
enum { N_CHECKS = sizeof checks / sizeof checks[0] };

static const char *const level_names[] = {[OK] = "ok", [WARN] = "warn", [FAIL] = "fail"};

/* ------------------------------------------------------------------ output ------------------ */

static void print_row(void *unused, const char *kind, const char *name, int usable,
                      const char *note)
{
    (void)unused;
    printf("  %-10s %-16s %-4s %s\n", kind, name, usable ? "yes" : "no", note ? note : "");
}

static void add_row(void *rows, const char *kind, const char *name, int usable, const char *note)
{
    json_array_append_new(rows, json_pack("{s:s, s:s, s:b, s:s}", "kind", kind, "name", name,
                                          "usable", usable, "note", note ? note : ""));
}

#ifdef ZOPT_HAVE_TRAINER
enum { HAVE_TRAINER = 1 };
#else
enum { HAVE_TRAINER = 0 };
#endif

/* The library's rows and the command's own. */
static void list_inventory(void (*row)(void *arg, const char *kind, const char *name, int usable,
                                       const char *note),
                           void *arg)
{
    zopt_inventory(row, arg);
    row(arg, "command", "train", HAVE_TRAINER,
        HAVE_TRAINER ? "with OpenBLAS" : "built without OpenBLAS (ZOPT_TRAINER)");
}

/* What was built in is the same for all ranks: the first one tells it. */
static void print_text(const finding *findings)
{
    if (cli_rank() == 0) {
        printf("zopt %s has:\n", ZOPT_VERSION);
        list_inventory(print_row, NULL);
        printf("\n");
    }
    printf("This machine and launch");
    if (cli_world() > 1)
        printf(", rank %d", cli_rank());
    printf(":\n");
    for (int i = 0; i < N_CHECKS; i++) {
        printf("  %-10s %-4s %s\n", checks[i].name, level_names[findings[i].level],
               findings[i].text);
        if (findings[i].fix[0] != '\0')
            printf("  %15s fix: %s\n", "", findings[i].fix);
    }
}

/* An object for each rank; the first one's has the inventory. */
static int print_json(const finding *findings)
{
    json_t *rows = json_array(), *list = json_array();
    if (cli_rank() == 0)
        list_inventory(add_row, rows);
    for (int i = 0; i < N_CHECKS; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "check", checks[i].name,
                                              "level", level_names[findings[i].level], "finding",
                                              findings[i].text, "fix", findings[i].fix));
    json_t *root = json_pack("{s:s, s:i, s:o, s:o}", "version", ZOPT_VERSION, "rank", cli_rank(),
                             "inventory", rows, "checks", list);
    int failed = root == NULL || json_dumpf(root, stdout, JSON_INDENT(2)) != 0;
    json_decref(root);
    return failed || putchar('\n') == EOF;
}

static error_t parse_option(int key, char *word, struct argp_state *state)
{
    int *json = state->input;
    if (key == 'j') {
        *json = 1;
        return 0;
    }
    if (key == ARGP_KEY_ARG) {
        argp_error(state, "takes no argument: '%s'", word);
        return EINVAL;
    }
    return ARGP_ERR_UNKNOWN;
}

int cli_doctor(int argc, char **argv)
{
    static const struct argp_option options[] = {{"json", 'j', NULL, 0, "Print JSON", 0}, {0}};
    static const struct argp argp = {options,
                                     parse_option,
                                     NULL,
                                     "Print what was built in, and what is wrong with this machine "
                                     "or launch. Exit code 1 where a check failed.",
                                     NULL,
                                     NULL,
                                     NULL};
    finding findings[N_CHECKS] = {0};
    int json = 0, code = EXIT_SUCCESS;
    static char buffer[1 << 16]; /* written at once, so that the ranks' lines do not mix */
    cli_parse(&argp, argc, argv, 0, &json);
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    for (int i = 0; i < N_CHECKS; i++) {
        checks[i].check(&findings[i]);
        if (findings[i].level == FAIL)
            code = EXIT_FAILURE;
    }
    if (!json)
        print_text(findings);
    else if (print_json(findings) != 0)
        return cli_fail(argv[0], ZOPT_ERR_WRITE, "cannot write the findings");
    return code;
}
