/* Calibration files: {"zopt_calibration": 1, "rows": [...]}, read strictly, written whole. */
#include "bench/calibration.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"

enum { VERSION = 1, MAX_BYTES = 1 << 20 };

/* The numbers of a row: where they are in bench_rates, and whether 0 is one. */
static const struct {
    const char *key;
    size_t offset;
    int may_be_zero;
} numbers[] = {
    {"meet_s", offsetof(bench_rates, meet_s), 1},
    {"norm_bytes_per_s", offsetof(bench_rates, norm_bytes_per_s), 0},
    {"update_bytes_per_s", offsetof(bench_rates, update_bytes_per_s), 0},
    {"gradients_latency_s", offsetof(bench_rates, gradients.latency_s), 1},
    {"gradients_bytes_per_s", offsetof(bench_rates, gradients.bytes_per_s), 1},
    {"parameters_latency_s", offsetof(bench_rates, parameters.latency_s), 1},
    {"parameters_bytes_per_s", offsetof(bench_rates, parameters.bytes_per_s), 1},
};
enum { N_NUMBERS = sizeof numbers / sizeof numbers[0] };

static double *number(bench_rates *rates, int i)
{
    return (double *)(void *)((char *)rates + numbers[i].offset);
}

static zopt_status fail(zopt_status otherwise, const char *path, const char *what)
{
    zopt_status status = errno == EACCES || errno == EPERM ? ZOPT_ERR_PERMISSION : otherwise;
    return ZI_FAIL(status, "%s: %s: %s", path, what, strerror(errno));
}

/* ------------------------------------------------------------------ reading ------------------ */

static zopt_status read_text(FILE *file, const char *path, char **text, size_t *n)
{
    struct stat about;
    if (fstat(fileno(file), &about) != 0)
        return fail(ZOPT_ERR_READ, path, "cannot read the calibration");
    if (!S_ISREG(about.st_mode) || about.st_size > MAX_BYTES)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: not a calibration: no plain file of at most %d bytes",
                       path, MAX_BYTES);
    *text = malloc(MAX_BYTES);
    if (*text == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory to read %s", path);
    *n = fread(*text, 1, MAX_BYTES, file);
    return ferror(file) ? fail(ZOPT_ERR_READ, path, "cannot read the calibration") : ZOPT_OK;
}

static zopt_status parse(const char *path, const char *text, size_t n, json_t **out)
{
    json_error_t error;
    json_int_t version = 0;
    json_t *rows = NULL, *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        return ZI_FAIL(ZOPT_ERR_DATA, "%s: not a calibration: line %d: %s", path, error.line,
                       error.text);
    int is_one =
        json_unpack(root, "{s:I, s:o}", "zopt_calibration", &version, "rows", &rows) == 0 &&
        version == VERSION && json_is_array(rows);
    if (!is_one) {
        json_decref(root);
        return ZI_FAIL(ZOPT_ERR_DATA,
                       "%s: not a calibration of version %d; zopt bench --calibrate "
                       "makes one",
                       path, VERSION);
    }
    *out = root;
    return ZOPT_OK;
}

/* *out: NULL where there is no file and `may_lack` allows it. */
static zopt_status load(const char *path, int may_lack, json_t **out)
{
    char *text = NULL;
    size_t n = 0;
    *out = NULL;
    FILE *file = fopen(path, "re");
    if (file == NULL && errno == ENOENT && may_lack)
        return ZOPT_OK;
    if (file == NULL)
        return fail(ZOPT_ERR_READ, path, "cannot read the calibration");
    zopt_status status = read_text(file, path, &text, &n);
    fclose(file);
    if (status == ZOPT_OK)
        status = parse(path, text, n, out);
    free(text);
    return status;
}

static int is_row_of(json_t *row, const char *device, const char *transport, int ranks)
{
    const char *its_device = NULL, *its_transport = NULL;
    int its_ranks = 0;
    return json_unpack(row, "{s:s, s:s, s:i}", "device", &its_device, "transport", &its_transport,
                       "ranks", &its_ranks) == 0 &&
           strcmp(its_device, device) == 0 && strcmp(its_transport, transport) == 0 &&
           its_ranks == ranks;
}

static zopt_status read_rates(const char *path, const json_t *row, bench_rates *rates)
{
    for (int i = 0; i < N_NUMBERS; i++) {
        const json_t *value = json_object_get(row, numbers[i].key);
        double x = json_number_value(value);
        int fits = json_is_number(value) && isfinite(x) && x >= 0;
        if (!fits || (x <= 0 && !numbers[i].may_be_zero))
            return ZI_FAIL(ZOPT_ERR_DATA, "%s: a row's %s is no positive number", path,
                           numbers[i].key);
        *number(rates, i) = x;
    }
    return ZOPT_OK;
}

zopt_status bench_calibration_find(const char *path, const char *device, const char *transport,
                                   int ranks, bench_rates *rates, int *found)
{
    json_t *root, *row;
    size_t i;
    zopt_status status = load(path, 0, &root);
    *rates = (bench_rates){0};
    *found = 0;
    if (status != ZOPT_OK)
        return status;
    json_array_foreach(json_object_get(root, "rows"), i,
                       row) if (status == ZOPT_OK && !*found &&
                                is_row_of(row, device, transport, ranks))
    {
        status = read_rates(path, row, rates);
        *found = 1;
    }
    int sends = *found && ranks > 1 && strcmp(transport, "mpi") == 0;
    if (status == ZOPT_OK && sends &&
        (rates->gradients.bytes_per_s <= 0 || rates->parameters.bytes_per_s <= 0))
        status =
            ZI_FAIL(ZOPT_ERR_DATA, "%s: transport mpi over %d ranks sends nothing", path, ranks);
    json_decref(root);
    return status;
}

/* ------------------------------------------------------------------ writing ------------------ */

zopt_status bench_calibration_default(char *path, size_t bytes)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int has_cache = cache != NULL && cache[0] == '/';
    if (!has_cache && (home == NULL || home[0] != '/'))
        return ZI_FAIL(ZOPT_ERR_WRITE, "neither XDG_CACHE_HOME nor HOME says where the user's "
                                       "caches are: give --calibration FILE");
    int n = snprintf(path, bytes, "%s%s", has_cache ? cache : home, has_cache ? "" : "/.cache");
    if (n < 0 || (size_t)n + sizeof "/zopt/calibration.json" > bytes)
        return ZI_FAIL(ZOPT_ERR_WRITE, "the path of the user's caches is too long");
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail(ZOPT_ERR_WRITE, path, "cannot make the folder of caches");
    snprintf(path + n, bytes - (size_t)n, "/zopt");
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail(ZOPT_ERR_WRITE, path, "cannot make a folder for caches");
    snprintf(path + n, bytes - (size_t)n, "/zopt/calibration.json");
    return ZOPT_OK;
}

static json_t *row_json(const bench_calibration_row *row)
{
    json_t *json = json_pack("{s:s, s:s, s:i, s:s}", "device", row->device, "transport",
                             row->transport, "ranks", row->ranks, "kernels", row->kernels);
    bench_rates rates = row->rates;
    for (int i = 0; i < N_NUMBERS; i++)
        json_object_set_new(json, numbers[i].key, json_real(*number(&rates, i)));
    return json;
}

static zopt_status put(json_t *root, const bench_calibration_row *row)
{
    json_t *rows = json_object_get(root, "rows");
    for (size_t i = json_array_size(rows); i-- > 0;)
        if (is_row_of(json_array_get(rows, i), row->device, row->transport, row->ranks))
            json_array_remove(rows, i);
    return json_array_append_new(rows, row_json(row)) == 0
               ? ZOPT_OK
               : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a calibration");
}

/* Beside it, and then in its place. */
static zopt_status save(const char *path, const json_t *root)
{
    char beside[4096];
    int n = snprintf(beside, sizeof beside, "%s.%d.tmp", path, (int)getpid());
    if (n < 0 || (size_t)n >= sizeof beside)
        return ZI_FAIL(ZOPT_ERR_WRITE, "the calibration's path is too long");
    FILE *file = fopen(beside, "wxe");
    if (file == NULL)
        return fail(ZOPT_ERR_WRITE, path, "cannot write the calibration");
    int wrote = json_dumpf(root, file, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0 &&
                putc('\n', file) != EOF;
    int closed = fclose(file) == 0;
    if (wrote && closed && rename(beside, path) == 0)
        return ZOPT_OK;
    zopt_status status = fail(ZOPT_ERR_WRITE, path, "cannot write the calibration");
    unlink(beside);
    return status;
}

zopt_status bench_calibration_put(const char *path, const bench_calibration_row *row)
{
    json_t *root;
    ZI_TRY(load(path, 1, &root));
    if (root == NULL)
        root = json_pack("{s:i, s:[]}", "zopt_calibration", VERSION, "rows");
    zopt_status status =
        root != NULL ? put(root, row) : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a calibration");
    if (status == ZOPT_OK)
        status = save(path, root);
    json_decref(root);
    return status;
}
