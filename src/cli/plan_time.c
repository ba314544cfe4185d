/* zopt plan --time: for each number of ranks and each transport, what a step moves, at the rates
 * given or measured; as a table with its formulas, or as JSON. */
#include "cli/plan_time.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

enum { DEFAULT_NODE = 8, DEFAULT_BUCKET = 4194304, MAX_ROWS = 16 * PLAN_MAX_WORLDS };

/* One line of the prediction. */
typedef struct prediction {
    const plan_way *way;
    plan_size size;
    plan_flow flow[PLAN_N_PHASES];
    plan_rates rates;
    double seconds[PLAN_N_PHASES], step_s, without_norm_s;
} prediction;

typedef struct predictions {
    prediction row[MAX_ROWS];
    int n;
} predictions;

/* ------------------------------------------------------------------ sizes -------------------- */

/* Bytes of the master weight and the states of one element, as a planning handle counts them. */
static zopt_status count_state_bytes(const plan_source *source, double *state_bytes)
{
    static const char *const others[] = {"params",  "grads",      "grad_accum",
                                         "staging", "checkpoint", "tables"};
    zopt_memory_usage usage;
    double bytes = 0, master = 0;
    zopt *z;
    zopt_status status = source->open(source, 1, 0, &z);
    if (status != ZOPT_OK)
        return status;
    status = zopt_memory(z, &usage);
    zopt_destroy(z);
    for (int i = 0; i < usage.n && status == ZOPT_OK; i++) {
        int is_state = 1;
        for (size_t k = 0; k < sizeof others / sizeof others[0]; k++)
            is_state &= strcmp(usage.category[i].name, others[k]) != 0;
        bytes += is_state ? (double)usage.category[i].bytes : 0;
        if (strcmp(usage.category[i].name, "master") == 0)
            master = (double)usage.category[i].bytes;
    }
    *state_bytes = master > 0 ? bytes / master * 4 : 0;
    return status;
}

static plan_size size_of(const plan *p, double state_bytes, int ranks)
{
    const zopt_options *o = &p->options;
    int node = o->ranks_per_node > 0 ? o->ranks_per_node : DEFAULT_NODE;
    int slots = o->slots > 0 ? o->slots : ranks;
    node = node < ranks ? node : ranks;
    double bucket = o->bucket_elems > 0 ? (double)o->bucket_elems : DEFAULT_BUCKET;
    return (plan_size){
        .params = (double)p->n_params,
        .element_bytes = (double)zopt_dtype_bytes(p->dtype),
        .state_bytes = state_bytes,
        .ranks = ranks,
        .node = node,
        .nodes = ranks / node,
        .buckets = ceil((double)p->n_params / bucket),
        .micro = (slots + ranks - 1) / ranks,
        .contributors = slots < ranks ? slots : ranks,
        .group = o->reduce_group > 1 ? o->reduce_group : node,
    };
}

static int check_size(const char *command, const plan_size *z)
{
    char text[160];
    int ranks = (int)z->ranks, node = (int)z->node, group = (int)z->group;
    snprintf(text, sizeof text, "%d ranks are no whole nodes of %d: see --ranks-per-node", ranks,
             node);
    if (ranks % node != 0)
        return cli_fail(command, ZOPT_ERR_ARGUMENT, text);
    snprintf(text, sizeof text, "groups of %d slots do not divide the %d ranks of a node", group,
             node);
    return node % group == 0 || z->nodes == 1 ? 0 : cli_fail(command, ZOPT_ERR_ARGUMENT, text);
}

/* ------------------------------------------------------------------ prediction --------------- */

static int is_wanted(const zopt_options *o, const plan_way *way)
{
    return (strcmp(o->device, "auto") == 0 || strcmp(o->device, way->device) == 0) &&
           (strcmp(o->transport, "auto") == 0 || strcmp(o->transport, way->transport) == 0);
}

static int fits(const plan_way *way, const plan_size *z)
{
    return way->ranks == PLAN_ANY_RANKS  ? z->ranks > 1
           : way->ranks == PLAN_ONE_RANK ? z->ranks < 2
           : way->ranks == PLAN_ONE_NODE ? z->ranks > 1 && z->nodes < 2
                                         : z->nodes > 1;
}

static zopt_status predict(const plan_given *given, const plan_way *way, const plan_size *z,
                           prediction *out)
{
    *out = (prediction){.way = way, .size = *z};
    zopt_status status = plan_rates_find(given, way->device, way->transport, (int)z->ranks,
                                         (int)z->nodes, &out->rates);
    way->describe(z, out->flow);
    out->flow[PLAN_MEET].messages[PLAN_NEAR] = 2;
    for (int phase = 0; phase < PLAN_N_PHASES; phase++)
        out->seconds[phase] = plan_flow_seconds(&out->flow[phase], &out->rates, phase);
    out->step_s = plan_step_seconds(way, z, out->seconds, 1);
    out->without_norm_s = plan_step_seconds(way, z, out->seconds, 0);
    return status;
}

/* Each way that is wanted, on so many ranks. */
static zopt_status predict_ranks(const plan_given *given, const plan *p, const plan_size *z,
                                 predictions *all)
{
    zopt_status status = ZOPT_OK;
    for (size_t i = 0; i < plan_n_ways && status == ZOPT_OK; i++)
        if (is_wanted(&p->options, &plan_ways[i]) && fits(&plan_ways[i], z))
            status = predict(given, &plan_ways[i], z, &all->row[all->n++]);
    return status;
}

/* One rank comes first, whether it is asked for or not: what the others are better than. */
static int predict_all(const char *command, const plan_time *time, const plan *p,
                       double state_bytes, predictions *all)
{
    for (int w = -1; w < time->n_worlds; w++) {
        plan_size z = size_of(p, state_bytes, w < 0 ? 1 : time->ranks[w]);
        int code = check_size(command, &z);
        if (code != 0)
            return code;
        if (w >= 0 && time->ranks[w] == 1)
            continue;
        zopt_status status = predict_ranks(time->given, p, &z, all);
        if (status != ZOPT_OK)
            return cli_fail(command, status, zopt_last_error());
    }
    return all->n > 0
               ? 0
               : cli_fail(command, ZOPT_ERR_CONFIG,
                          "no such transport on that device and on so many ranks to predict");
}

/* ------------------------------------------------------------------ printing ----------------- */

static void print_table(const predictions *all)
{
    printf("%6s %6s %9s %7s %13s %9s %9s %9s %9s %9s %9s %9s %13s %9s\n", "ranks", "device",
           "transport", "sums", "way", "meet", "exchange", "sums", "norm", "update", "gather",
           "step", "without norm", "rates");
    for (int i = 0; i < all->n; i++) {
        const prediction *r = &all->row[i];
        printf("%6.0f %6s %9s %7s %13s", r->size.ranks, r->way->device, r->way->transport,
               r->way->sums, r->way->way);
        for (int phase = 0; phase < PLAN_N_PHASES; phase++)
            printf(" %9.3f", r->seconds[phase] * 1e3);
        printf(" %9.3f %13.3f %9s\n", r->step_s * 1e3, r->without_norm_s * 1e3,
               r->rates.measured ? "measured" : "given");
    }
}

static int is_told(const predictions *all, const plan_way *way)
{
    for (int i = 0; i < all->n; i++)
        if (all->row[i].way == way)
            return 1;
    return 0;
}

static void print_formulas(const predictions *all)
{
    printf(
        "\nA phase takes bytes/bandwidth + messages x latency, of one rank. P parameters of e "
        "bytes, own = P/N;\ns bytes of master weight and states; N ranks, M of a node, K nodes; "
        "B buckets; S slots, U = ceil(S/N)\nexchanges, C = min(S, N); G slots summed at once.\n");
    for (size_t i = 0; i < plan_n_ways; i++) {
        const plan_way *way = &plan_ways[i];
        if (!is_told(all, way))
            continue;
        printf("%s, %s, %s, %s:\n", way->device, way->transport, way->sums, way->way);
        for (int phase = 0; phase < PLAN_N_PHASES; phase++)
            if (way->formula[phase] != NULL)
                printf("  %-8s = %s\n", plan_phase_names[phase], way->formula[phase]);
        printf("  step     = meet + %s\n", way->pipelined
                                               ? "(exchange | sums + norm) + (update | gather); "
                                                 "a | b = the longer + the shorter/B"
                                               : "exchange + sums + norm + update + gather");
    }
    printf("meet = 2 x latency x log2 N, rounded up, or 2 collectives as measured; one of them and "
           "norm are not there without norm.\n");
}

static void print_all(const plan_time *time, const plan *p, double state_bytes,
                      const predictions *all)
{
    const plan_size *z = &all->row[0].size;
    printf("%" PRIu64 " parameters of %.0f bytes, %s: %.6g bytes of master weight and states each; "
           "%.0f buckets; nodes of %d ranks\n",
           p->n_params, z->element_bytes, p->options.optimizer, state_bytes, z->buckets,
           p->options.ranks_per_node > 0 ? p->options.ranks_per_node : DEFAULT_NODE);
    plan_rates_print(time->given);
    printf("ms of a step, from the last gradient to the last parameter, nothing hidden behind a "
           "backward pass:\n\n");
    print_table(all);
    print_formulas(all);
}

static json_t *phase_json(const prediction *r, int phase)
{
    json_t *bytes = json_object(), *messages = json_object();
    for (int link = 0; link < PLAN_N_LINKS; link++) {
        const char *name = plan_link_names[link];
        if (r->flow[phase].bytes[link] > 0)
            json_object_set_new(bytes, name, json_real(r->flow[phase].bytes[link]));
        if (r->flow[phase].messages[link] > 0)
            json_object_set_new(messages, name, json_real(r->flow[phase].messages[link]));
    }
    const char *formula = r->way->formula[phase];
    return json_pack("{s:f, s:o, s:o, s:s?}", "seconds", r->seconds[phase], "bytes", bytes,
                     "messages", messages, "formula", formula);
}

static json_t *row_json(const prediction *r)
{
    const plan_way *way = r->way;
    json_t *phases = json_object();
    for (int phase = 0; phase < PLAN_N_PHASES; phase++)
        json_object_set_new(phases, plan_phase_names[phase], phase_json(r, phase));
    return json_pack("{s:i, s:i, s:s, s:s, s:s, s:s, s:s, s:f, s:f, s:o}", "ranks",
                     (int)r->size.ranks, "ranks_per_node", (int)r->size.node, "device", way->device,
                     "transport", way->transport, "sums", way->sums, "way", way->way, "rates",
                     r->rates.measured ? "measured" : "given", "step_s", r->step_s,
                     "step_without_norm_s", r->without_norm_s, "phases", phases);
}

static int print_json(const plan_time *time, const plan *p, double state_bytes,
                      const predictions *all)
{
    json_t *times = json_array();
    for (int i = 0; i < all->n; i++)
        json_array_append_new(times, row_json(&all->row[i]));
    json_t *root =
        json_pack("{s:I, s:f, s:o, s:o}", "parameters", (json_int_t)p->n_params, "state_bytes",
                  state_bytes, "given", plan_rates_json(time->given), "times", times);
    int failed = root == NULL || json_dumpf(root, stdout, JSON_INDENT(2)) != 0;
    json_decref(root);
    return failed || putchar('\n') == EOF ? -1 : 0;
}

int plan_time_run(const char *command, const plan_time *time, const plan_source *source)
{
    static predictions all;
    double state_bytes = 0;
    plan *p = source->plan;
    const zopt_options wanted = p->options;
    /* What it counts is the same on one rank of any transport and device. */
    p->options.transport = "self";
    p->options.device = "cpu";
    zopt_status status = count_state_bytes(source, &state_bytes);
    p->options = wanted;
    if (status != ZOPT_OK)
        return cli_fail(command, status, source->last_error());
    int code = predict_all(command, time, p, state_bytes, &all);
    if (code != 0)
        return code;
    if (!time->json)
        print_all(time, p, state_bytes, &all);
    else if (print_json(time, p, state_bytes, &all) != 0)
        return cli_fail(command, ZOPT_ERR_WRITE, "cannot write the plan");
    return 0;
}
