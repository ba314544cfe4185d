/* What zopt plan prints: the 16-bit Adam table, bytes per rank by category, and the same as JSON
 * with the keys of a run's memory.json. */
#include "cli/plan.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char *const dtype_names[] = {
    [ZOPT_FP16] = "fp16", [ZOPT_BF16] = "bf16", [ZOPT_FP32] = "fp32"};

/* Small models are told in bytes, to be compared with what a run counts. */
static int in_bytes(uint64_t largest)
{
    return largest < 1000000000;
}

/* A number of bytes in a column, in powers of 1000. */
static void print_bytes(int width, uint64_t bytes, int plain)
{
    if (plain || bytes == 0)
        printf("%*" PRIu64, width, bytes);
    else if (bytes < 50000000)
        printf("%*.3f MB", width - 3, (double)bytes / 1e6);
    else
        printf("%*.3f GB", width - 3, (double)bytes / 1e9);
}

void plan_print_replicated(const plan *p)
{
    const uint64_t n = p->n_params;
    const struct {
        const char *what;
        uint64_t bytes;
        const char *note;
    } rows[] = {
        {"parameters", 2 * n, ""},
        {"gradients", 2 * n, ""},
        {"exp_avg, FP32", 4 * n, ""},
        {"exp_avg_sq, FP32", 4 * n, ""},
        {"master weights, FP32", 4 * n, "  often left out of such tables"},
        {"sum", 16 * n, "  16 bytes a parameter"},
    };
    const int plain = in_bytes(16 * n);
    printf("%" PRIu64 " parameters in %s, Adam, all of it on every rank%s:\n", n,
           dtype_names[p->dtype], plain ? ", in bytes" : "");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        printf("  %-22s", rows[i].what);
        print_bytes(14, rows[i].bytes, plain);
        printf("%s\n", rows[i].note);
    }
    printf("\n");
}

/* Bytes per parameter = everywhere + shared / N, of 16-bit parameters and Adam's two states with
 * one slot a rank, without tables and staging. Stage 2 sums in FP32 at the owner, its gradients
 * live in recycled buckets. 8-bit states: 1 byte and 4/256 for the block's scale each. */
static const struct {
    const char *what;
    double everywhere, shared;
    int runs; /* 1: in this version */
} stages[] = {
    {"stage 0 (replicated), FP32 states", 16, 0, 0}, {"stage 1, FP32 states", 4, 12, 1},
    {"stage 1, 8-bit states", 4, 6.03125, 1},        {"stage 2, FP32 states", 2, 16, 0},
    {"stage 2, 8-bit states", 2, 10.03125, 0},       {"stage 3, FP32 states", 0, 16, 0},
    {"stage 3, 8-bit states", 0, 10.03125, 0},
};

void plan_print_stages(const plan *p)
{
    printf(
        "\nBytes per parameter by stage and precision of the states, from the formulas; * runs in "
        "this version, the others are for comparison:\n%36s",
        "ranks");
    for (int w = 0; w < p->n_worlds; w++)
        printf("%10d", p->world[w].ranks);
    printf("\n");
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        printf("%c %-34s", stages[i].runs ? '*' : ' ', stages[i].what);
        for (int w = 0; w < p->n_worlds; w++)
            printf("%10.4f", stages[i].everywhere + stages[i].shared / p->world[w].ranks);
        printf("\n");
    }
}

static int fullest(const plan_world *world)
{
    int most = 0;
    for (int r = 1; r < world->ranks; r++)
        if (world->per_rank[r].total_peak_bytes > world->per_rank[most].total_peak_bytes)
            most = r;
    return most;
}

static uint64_t category_bytes(const zopt_memory_usage *usage, const char *name)
{
    for (int i = 0; i < usage->n; i++)
        if (strcmp(usage->category[i].name, name) == 0)
            return usage->category[i].peak_bytes;
    return 0;
}

enum { WIDTH = 16 };

static int has_device(const plan *p)
{
    return strcmp(p->device, "cpu") != 0;
}

static uint64_t largest_total(const plan *p)
{
    uint64_t largest = 0;
    for (int w = 0; w < p->n_worlds; w++) {
        uint64_t total = p->world[w].per_rank[fullest(&p->world[w])].total_peak_bytes;
        largest = total > largest ? total : largest;
    }
    return largest;
}

static void print_header(const plan *p, int plain)
{
    const zopt_memory_usage *names = &p->world[0].per_rank[0];
    printf("zopt, stage %d, %s, %" PRIu64 " parameters in %s: the fullest rank%s\n",
           p->options.stage, p->options.optimizer, p->n_params, dtype_names[p->dtype],
           plain ? ", in bytes" : "");
    printf("%6s %6s", "ranks", "slots");
    if (has_device(p))
        printf(" %6s", "memory");
    for (int i = 0; i < names->n; i++)
        printf("%*s", WIDTH, names->category[i].name);
    printf("%*s%*s%*s", WIDTH, "total", WIDTH, "bytes/param", WIDTH, "sent a step");
    if (p->options.ranks_per_node > 0)
        printf("%*s%*s", WIDTH, "between nodes", WIDTH, "transport");
    printf("\n");
}

static void print_bytes_of(const plan *p, const zopt_memory_usage *usage, int plain)
{
    const zopt_memory_usage *names = &p->world[0].per_rank[0];
    for (int i = 0; i < names->n; i++)
        print_bytes(WIDTH, category_bytes(usage, names->category[i].name), plain);
    print_bytes(WIDTH, usage->total_peak_bytes, plain);
    printf("%*.4f", WIDTH, (double)usage->total_peak_bytes / (double)p->n_params);
}

/* What of all is no part. */
static zopt_memory_usage rest_of(const zopt_memory_usage *all, const zopt_memory_usage *part)
{
    zopt_memory_usage rest = *all;
    for (int i = 0; i < all->n; i++)
        rest.category[i].peak_bytes -= part->category[i].peak_bytes;
    rest.total_peak_bytes -= part->total_peak_bytes;
    return rest;
}

/* A line for the device's memory and one for the host's, where these are two. */
static void print_world(const plan *p, const plan_world *world, int plain)
{
    int r = fullest(world);
    const zopt_memory_usage *all = &world->per_rank[r], *of_device = &world->of_device[r];
    printf("%6d %6d", world->ranks, world->slots);
    if (has_device(p))
        printf(" %6s", p->device);
    print_bytes_of(p, has_device(p) ? of_device : all, plain);
    print_bytes(WIDTH, world->sent_bytes, plain);
    if (p->options.ranks_per_node > 0) {
        print_bytes(WIDTH, world->between_bytes, plain);
        printf("%*s", WIDTH, world->transport);
    }
    printf("\n");
    if (!has_device(p))
        return;
    const zopt_memory_usage of_host = rest_of(all, of_device);
    printf("%6s %6s %6s", "", "", "host");
    print_bytes_of(p, &of_host, plain);
    printf("\n");
}

void plan_print_sharded(const plan *p)
{
    const int plain = in_bytes(largest_total(p));
    print_header(p, plain);
    for (int w = 0; w < p->n_worlds; w++)
        print_world(p, &p->world[w], plain);
    for (int w = 0; w < p->n_worlds; w++)
        if (p->world[w].step_path[0] != '\0')
            printf("%d rank%s: %s\n", p->world[w].ranks, p->world[w].ranks > 1 ? "s" : "",
                   p->world[w].step_path);
}

static void put_bytes(json_t *row, const zopt_memory_usage *usage)
{
    for (int i = 0; i < usage->n; i++)
        json_object_set_new(row, usage->category[i].name,
                            json_integer((json_int_t)usage->category[i].peak_bytes));
    json_object_set_new(row, "total", json_integer((json_int_t)usage->total_peak_bytes));
}

/* All of a rank's bytes, and where a device has memory of its own, what of them lies there. */
static json_t *rank_json(const plan *p, const plan_world *world, int rank)
{
    json_t *row = json_pack("{s:i}", "rank", rank);
    put_bytes(row, &world->per_rank[rank]);
    if (!has_device(p))
        return row;
    json_t *on_device = json_object();
    put_bytes(on_device, &world->of_device[rank]);
    json_object_set_new(row, "on_device", on_device);
    return row;
}

int plan_print_json(const plan *p)
{
    json_t *plans = json_array();
    for (int w = 0; w < p->n_worlds; w++) {
        const plan_world *world = &p->world[w];
        json_t *per_rank = json_array();
        for (int r = 0; r < world->ranks; r++)
            json_array_append_new(per_rank, rank_json(p, world, r));
        json_array_append_new(
            plans,
            json_pack("{s:i, s:i, s:I, s:I, s:I, s:s, s:s, s:o}", "ranks", world->ranks, "slots",
                      world->slots, "parameters", (json_int_t)p->n_params, "bytes_sent_per_step",
                      (json_int_t)world->sent_bytes, "bytes_between_nodes_per_step",
                      (json_int_t)world->between_bytes, "transport", world->transport, "step_path",
                      world->step_path, "per_rank", per_rank));
    }
    json_t *root = json_pack("{s:o}", "plans", plans);
    int failed = root == NULL || json_dumpf(root, stdout, JSON_INDENT(2)) != 0;
    json_decref(root);
    return failed || putchar('\n') == EOF ? -1 : 0;
}
