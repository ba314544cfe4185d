/* The bandwidths and latencies of zopt plan --time: from the command line, or, for CPU ranks of one
 * machine that zopt bench calibrate has measured, from its file. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "cli/plan_time.h"

enum { KEY_TIME = 0x200, KEY_CALIBRATION, KEY_FIRST_NUMBER };

/* The options that are numbers: where they go, and what they are if not given. Bandwidths are
 * positive; a latency may be 0. */
static const struct {
    const char *name, *unit;
    size_t offset;
    double otherwise;
    int is_latency;
} numbers[] = {
    {"memory", "bytes/s", offsetof(plan_given, memory), 3e12, 0},
    {"host-memory", "bytes/s", offsetof(plan_given, host_memory), 10e9, 0},
    {"nvlink", "bytes/s", offsetof(plan_given, nvlink), 400e9, 0},
    {"net", "bytes/s", offsetof(plan_given, net), 50e9, 0},
    {"pcie", "bytes/s", offsetof(plan_given, pcie), 50e9, 0},
    {"node-latency", "s", offsetof(plan_given, node_latency), 2e-6, 1},
    {"latency", "s", offsetof(plan_given, latency), 5e-6, 1},
};
enum { N_NUMBERS = sizeof numbers / sizeof numbers[0] };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "The time of a step, with --time (bytes/s of one rank, each way; s):", 1},
    {"time", KEY_TIME, NULL, 0, "Predict it for each transport, in place of bytes", 1},
    {"memory", KEY_FIRST_NUMBER, "BYTES/S", 0, "A GPU's memory (default: 3e12)", 1},
    {"host-memory", KEY_FIRST_NUMBER + 1, "BYTES/S", 0,
     "A CPU rank's part of its machine's memory (default: 10e9)", 1},
    {"nvlink", KEY_FIRST_NUMBER + 2, "BYTES/S", 0, "Between GPUs of a node (default: 400e9)", 1},
    {"net", KEY_FIRST_NUMBER + 3, "BYTES/S", 0, "Between nodes (default: 50e9)", 1},
    {"pcie", KEY_FIRST_NUMBER + 4, "BYTES/S", 0, "Between a GPU and its host (default: 50e9)", 1},
    {"node-latency", KEY_FIRST_NUMBER + 5, "S", 0, "Of a message in a node (default: 2e-6)", 1},
    {"latency", KEY_FIRST_NUMBER + 6, "S", 0, "Of a message between nodes (default: 5e-6)", 1},
    {"calibration", KEY_CALIBRATION, "FILE", 0,
     "What zopt bench --calibrate has measured: for CPU ranks of one machine", 1},
    {0}};

static double *number(plan_given *given, int i)
{
    return (double *)(void *)((char *)given + numbers[i].offset);
}

static double value_of(const plan_given *given, int i)
{
    plan_given copy = *given;
    return *number(&copy, i);
}

static error_t parse_number(struct argp_state *state, int i, const char *word, plan_given *given)
{
    char *end;
    double value = strtod(word, &end);
    int fits = end != word && *end == '\0' && isfinite(value) &&
               (numbers[i].is_latency ? value >= 0 && value <= 1e3 : value >= 1 && value <= 1e18);
    *number(given, i) = value;
    if (fits)
        return 0;
    argp_error(state, "--%s '%s' is not a number of %s in %s", numbers[i].name, word,
               numbers[i].unit, numbers[i].is_latency ? "[0, 1000]" : "[1, 1e18]");
    return EINVAL;
}

static error_t parse_option(int key, char *word, struct argp_state *state)
{
    plan_given *given = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *given = (plan_given){0};
        for (int i = 0; i < N_NUMBERS; i++)
            *number(given, i) = numbers[i].otherwise;
        return 0;
    case KEY_TIME:
        given->on = 1;
        return 0;
    case KEY_CALIBRATION:
        given->calibration = word;
        given->first = given->first != NULL ? given->first : "calibration";
        return 0;
    case ARGP_KEY_END:
        if (!given->on && given->first != NULL)
            argp_error(state, "--%s is for --time", given->first);
        return given->on || given->first == NULL ? 0 : EINVAL;
    default:
        break;
    }
    if (key < KEY_FIRST_NUMBER || key >= KEY_FIRST_NUMBER + N_NUMBERS)
        return ARGP_ERR_UNKNOWN;
    if (given->first == NULL)
        given->first = numbers[key - KEY_FIRST_NUMBER].name;
    return parse_number(state, key - KEY_FIRST_NUMBER, word, given);
}

const struct argp plan_given_argp = {options, parse_option, NULL, NULL, NULL, NULL, NULL};

/* ------------------------------------------------------------------ rates -------------------- */

/* A gradient that comes through the host's memory by MPI is read and written twice, by way of
 * staging, a parameter once. */
static void use_given(const plan_given *given, const char *device, const char *transport,
                      plan_rates *rates)
{
    int on_gpu = strcmp(device, "cuda") == 0, by_host = strcmp(transport, "mpi") == 0;
    *rates = (plan_rates){0};
    for (int phase = 0; phase < PLAN_N_PHASES; phase++) {
        double *bytes_per_s = rates->bytes_per_s[phase], *latency_s = rates->latency_s[phase];
        bytes_per_s[PLAN_MEMORY] = on_gpu ? given->memory : given->host_memory;
        bytes_per_s[PLAN_NEAR] =
            !by_host ? given->nvlink : given->host_memory / (phase == PLAN_EXCHANGE ? 4 : 2);
        bytes_per_s[PLAN_FAR] = given->net;
        bytes_per_s[PLAN_PCIE] = given->pcie;
        latency_s[PLAN_NEAR] = given->node_latency;
        latency_s[PLAN_FAR] = given->latency;
    }
}

static void use_measured(const bench_rates *measured, plan_rates *rates)
{
    rates->measured = 1;
    rates->bytes_per_s[PLAN_SUMS][PLAN_MEMORY] = measured->norm_bytes_per_s;
    rates->bytes_per_s[PLAN_NORM][PLAN_MEMORY] = measured->norm_bytes_per_s;
    rates->bytes_per_s[PLAN_UPDATE][PLAN_MEMORY] = measured->update_bytes_per_s;
    rates->bytes_per_s[PLAN_EXCHANGE][PLAN_NEAR] = measured->gradients.bytes_per_s;
    rates->bytes_per_s[PLAN_GATHER][PLAN_NEAR] = measured->parameters.bytes_per_s;
    rates->latency_s[PLAN_EXCHANGE][PLAN_NEAR] = measured->gradients.latency_s;
    rates->latency_s[PLAN_GATHER][PLAN_NEAR] = measured->parameters.latency_s;
    rates->latency_s[PLAN_MEET][PLAN_NEAR] = measured->meet_s;
}

zopt_status plan_rates_find(const plan_given *given, const char *device, const char *transport,
                            int ranks, int nodes, plan_rates *rates)
{
    bench_rates measured;
    int found = 0;
    zopt_status status = ZOPT_OK;
    use_given(given, device, transport, rates);
    rates->latency_s[PLAN_MEET][PLAN_NEAR] =
        ceil(log2(ranks)) * (nodes > 1 ? given->latency : given->node_latency);
    if (given->calibration != NULL && nodes == 1)
        status =
            bench_calibration_find(given->calibration, device, transport, ranks, &measured, &found);
    if (found && status == ZOPT_OK)
        use_measured(&measured, rates);
    return status;
}

void plan_rates_print(const plan_given *given)
{
    printf("given:");
    for (int i = 0; i < N_NUMBERS; i++) {
        double value = value_of(given, i);
        printf("%s %s %.6g %s", i > 0 ? "," : "", numbers[i].name,
               numbers[i].is_latency ? value * 1e6 : value * 1e-9,
               numbers[i].is_latency ? "us" : "GB/s");
    }
    printf("\nnear: nvlink; of transport mpi host-memory/4 for gradients, /2 for parameters\n");
    if (given->calibration != NULL)
        printf("measured: CPU ranks of one machine that %s has\n", given->calibration);
}

struct json_t *plan_rates_json(const plan_given *given)
{
    json_t *json = json_object();
    for (int i = 0; i < N_NUMBERS; i++)
        json_object_set_new(json, numbers[i].name, json_real(value_of(given, i)));
    json_object_set_new(json, "calibration",
                        given->calibration != NULL ? json_string(given->calibration) : json_null());
    return json;
}
