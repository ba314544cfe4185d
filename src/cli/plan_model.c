/* What a step moves, for each transport: bytes and messages of one rank, by phase and link. A
 * message costs bytes/bandwidth + latency (Hockney 1994, "The communication challenge for MPP");
 * rings and pairwise exchanges of N ranks are N-1 of them (Thakur et al. 2005, "Optimization of
 * collective communication operations in MPICH"). Next: plan_time.c prints it. */
#include <math.h>

#include "cli/plan_time.h"

const char *const plan_link_names[PLAN_N_LINKS] = {
    [PLAN_MEMORY] = "memory", [PLAN_NEAR] = "near", [PLAN_FAR] = "far", [PLAN_PCIE] = "pcie"};
const char *const plan_phase_names[PLAN_N_PHASES] = {
    [PLAN_MEET] = "meet", [PLAN_EXCHANGE] = "exchange", [PLAN_SUMS] = "sums",
    [PLAN_NORM] = "norm", [PLAN_UPDATE] = "update",     [PLAN_GATHER] = "gather"};

static const double sum_bytes = 4; /* of an element, in FP32 */

static double own(const plan_size *z)
{
    return z->params / z->ranks;
}

/* Bytes that an owner reads for an element of its sum: what comes in the last micro-step, and the
 * sum of those before. */
static double sources_bytes(const plan_size *z, double n_sources)
{
    return n_sources * z->element_bytes + (z->micro > 1 ? sum_bytes : 0);
}

/* The kernels of owners of n_sources slices, who store to n_dests memories. */
static void add_kernels(const plan_size *z, double n_sources, double n_dests, plan_flow *flow)
{
    double in = sources_bytes(z, n_sources), out = n_dests * z->element_bytes;
    flow[PLAN_SUMS].bytes[PLAN_MEMORY] =
        (z->micro - 1) * own(z) * (n_sources * z->element_bytes + 2 * sum_bytes);
    flow[PLAN_NORM].bytes[PLAN_MEMORY] = own(z) * in;
    flow[PLAN_UPDATE].bytes[PLAN_MEMORY] = own(z) * (in + 2 * z->state_bytes + out);
}

/* The same where owners have summed by groups, of n_bytes for an element in a micro-step. */
static void add_summed_kernels(const plan_size *z, double n_bytes, double n_dests, plan_flow *flow)
{
    flow[PLAN_SUMS].bytes[PLAN_MEMORY] = z->micro * own(z) * (n_bytes + 2 * sum_bytes);
    flow[PLAN_NORM].bytes[PLAN_MEMORY] = own(z) * sum_bytes;
    flow[PLAN_UPDATE].bytes[PLAN_MEMORY] =
        own(z) * (sum_bytes + 2 * z->state_bytes + n_dests * z->element_bytes);
}

/* n messages of so many bytes for each bucket's share of a rank's elements, `times` over. */
static void add_messages(const plan_size *z, double times, double n, double element_bytes,
                         plan_link link, plan_flow *flow)
{
    flow->bytes[link] += times * n * own(z) * element_bytes;
    flow->messages[link] += times * n * z->buckets;
}

/* Around all ranks, at the pace of the slowest link. */
static void add_ring(const plan_size *z, double times, plan_flow *flow)
{
    add_messages(z, times, z->ranks - 1, z->element_bytes, z->nodes > 1 ? PLAN_FAR : PLAN_NEAR,
                 flow);
}

/* Among ranks of a node that have the shares of one rank of each node, and among these. */
static void add_two_rings(const plan_size *z, double times, plan_flow *flow)
{
    add_messages(z, times, z->nodes - 1, z->element_bytes, PLAN_FAR, flow);
    flow->bytes[PLAN_NEAR] += times * (z->node - 1) * z->nodes * own(z) * z->element_bytes;
    flow->messages[PLAN_NEAR] += times * (z->node - 1) * z->buckets;
}

static void one_rank(const plan_size *z, plan_flow *flow)
{
    add_kernels(z, 1, 1, flow);
}

/* ------------------------------------------------------------------ peers' own memory -------- */

static void shared(const plan_size *z, plan_flow *flow)
{
    add_kernels(z, z->contributors, z->ranks, flow);
}

/* Of what kernels read and store the peers' part goes through the link between them. */
static void linked(const plan_size *z, plan_flow *flow)
{
    double peers = (z->node - 1) / z->node, near = fmin(z->contributors, z->node);
    double reads = own(z) * z->element_bytes * near * peers;
    double stores = own(z) * z->element_bytes * z->node * peers;
    flow[PLAN_SUMS].bytes[PLAN_NEAR] = (z->micro - 1) * reads;
    flow[PLAN_NORM].bytes[PLAN_NEAR] = reads;
    flow[PLAN_UPDATE].bytes[PLAN_NEAR] = reads + stores;
    for (int phase = PLAN_SUMS; phase <= PLAN_UPDATE; phase++)
        flow[phase].at_once = 1;
}

static void peers(const plan_size *z, plan_flow *flow)
{
    shared(z, flow);
    linked(z, flow);
}

/* Between nodes slices travel one by one; parameters to one rank of a node, who forwards them. */
static void across(const plan_size *z, plan_flow *flow)
{
    add_kernels(z, z->contributors, z->node, flow);
    add_messages(z, z->micro, z->ranks - z->node, z->element_bytes, PLAN_FAR, &flow[PLAN_EXCHANGE]);
    add_messages(z, 1, z->nodes - 1, z->element_bytes, PLAN_FAR, &flow[PLAN_GATHER]);
}

/* Or sums of G of them, made by the sender's node. */
static void across_by_sums(const plan_size *z, plan_flow *flow)
{
    double n_sums = (z->ranks - z->node) / z->group;
    add_summed_kernels(z, z->node * z->element_bytes + n_sums * sum_bytes, z->node, flow);
    add_messages(z, z->micro, n_sums, sum_bytes, PLAN_FAR, &flow[PLAN_EXCHANGE]);
    flow[PLAN_EXCHANGE].bytes[PLAN_MEMORY] =
        z->micro * n_sums * own(z) * (z->group * z->element_bytes + sum_bytes);
    add_messages(z, 1, z->nodes - 1, z->element_bytes, PLAN_FAR, &flow[PLAN_GATHER]);
}

static double forwarded(const plan_size *z)
{
    return (z->nodes - 1) * (z->node - 1) * own(z) * z->element_bytes;
}

static void shared_across(const plan_size *z, plan_flow *flow)
{
    across(z, flow);
    flow[PLAN_GATHER].bytes[PLAN_MEMORY] = 2 * forwarded(z);
}

static void shared_by_sums(const plan_size *z, plan_flow *flow)
{
    across_by_sums(z, flow);
    flow[PLAN_GATHER].bytes[PLAN_MEMORY] = 2 * forwarded(z);
}

static void peers_across(const plan_size *z, plan_flow *flow)
{
    across(z, flow);
    linked(z, flow);
    flow[PLAN_GATHER].bytes[PLAN_NEAR] = forwarded(z);
}

static void peers_by_sums(const plan_size *z, plan_flow *flow)
{
    double n_sums = (z->ranks - z->node) / z->group;
    double near = own(z) * z->element_bytes * (z->node - 1);
    across_by_sums(z, flow);
    flow[PLAN_EXCHANGE].bytes[PLAN_NEAR] =
        z->micro * n_sums * (z->group - 1) * own(z) * z->element_bytes;
    flow[PLAN_SUMS].bytes[PLAN_NEAR] = z->micro * near;
    flow[PLAN_UPDATE].bytes[PLAN_NEAR] = near;
    flow[PLAN_SUMS].at_once = flow[PLAN_UPDATE].at_once = 1;
    flow[PLAN_GATHER].bytes[PLAN_NEAR] = forwarded(z);
}

/* ------------------------------------------------------------------ messages ----------------- */

static void pairwise(const plan_size *z, plan_flow *flow)
{
    add_kernels(z, z->contributors, 1, flow);
    for (int phase = PLAN_EXCHANGE; phase <= PLAN_GATHER; phase += PLAN_GATHER - PLAN_EXCHANGE) {
        double times = phase == PLAN_EXCHANGE ? z->micro : 1;
        add_messages(z, times, z->node - 1, z->element_bytes, PLAN_NEAR, &flow[phase]);
        add_messages(z, times, z->ranks - z->node, z->element_bytes, PLAN_FAR, &flow[phase]);
    }
}

/* All of a bucket down and up; of the parameters, the own ones down. */
static void staged(const plan_size *z, plan_flow *flow)
{
    pairwise(z, flow);
    flow[PLAN_EXCHANGE].bytes[PLAN_PCIE] = z->micro * 2 * z->params * z->element_bytes;
    flow[PLAN_GATHER].bytes[PLAN_PCIE] = (own(z) + z->params) * z->element_bytes;
}

static void all_to_all(const plan_size *z, plan_flow *flow)
{
    pairwise(z, flow);
    flow[PLAN_EXCHANGE].at_once = 1;
    flow[PLAN_GATHER] = (plan_flow){0};
    add_ring(z, 1, &flow[PLAN_GATHER]);
}

static void ring(const plan_size *z, plan_flow *flow)
{
    add_kernels(z, 1, 1, flow);
    add_ring(z, z->micro, &flow[PLAN_EXCHANGE]);
    add_ring(z, 1, &flow[PLAN_GATHER]);
}

/* In a node each rank collects what owners in its place on other nodes need, and sums. */
static void all_to_all_twice(const plan_size *z, plan_flow *flow)
{
    double n_sums = z->node / z->group;
    plan_flow *exchange = &flow[PLAN_EXCHANGE];
    add_summed_kernels(z, z->ranks / z->group * sum_bytes, 1, flow);
    exchange->bytes[PLAN_NEAR] = z->micro * (z->node - 1) * z->nodes * own(z) * z->element_bytes;
    exchange->messages[PLAN_NEAR] = z->micro * (z->node - 1) * z->buckets;
    exchange->bytes[PLAN_MEMORY] =
        z->micro * z->nodes * own(z) * (z->node * z->element_bytes + n_sums * sum_bytes);
    exchange->bytes[PLAN_FAR] = z->micro * (z->nodes - 1) * n_sums * own(z) * sum_bytes;
    exchange->messages[PLAN_FAR] = z->micro * (z->nodes - 1) * z->buckets;
    add_two_rings(z, 1, &flow[PLAN_GATHER]);
}

static void ring_twice(const plan_size *z, plan_flow *flow)
{
    add_kernels(z, 1, 1, flow);
    add_two_rings(z, z->micro, &flow[PLAN_EXCHANGE]);
    add_two_rings(z, 1, &flow[PLAN_GATHER]);
}

/* ------------------------------------------------------------------ times -------------------- */

double plan_flow_seconds(const plan_flow *flow, const plan_rates *rates, int phase)
{
    double sum = 0, most = 0;
    for (int link = 0; link < PLAN_N_LINKS; link++) {
        double seconds = flow->messages[link] * rates->latency_s[phase][link];
        if (flow->bytes[link] > 0)
            seconds += flow->bytes[link] / rates->bytes_per_s[phase][link];
        sum += seconds;
        most = fmax(most, seconds);
    }
    return flow->at_once ? most : sum;
}

/* Two stages that B equal buckets pass through one after the other. */
static double together(const plan_way *way, const plan_size *z, double a, double b)
{
    return way->pipelined ? fmax(a, b) + fmin(a, b) / z->buckets : a + b;
}

/* Buckets are updated in another order than they are exchanged in: only what is within a bracket
 * overlaps. */
double plan_step_seconds(const plan_way *way, const plan_size *z,
                         const double seconds[PLAN_N_PHASES], int norm)
{
    double passes = seconds[PLAN_SUMS] + (norm ? seconds[PLAN_NORM] : 0);
    return seconds[PLAN_MEET] * (norm ? 1 : 0.5) +
           together(way, z, seconds[PLAN_EXCHANGE], passes) +
           together(way, z, seconds[PLAN_UPDATE], seconds[PLAN_GATHER]);
}

/* ------------------------------------------------------------------ the table ---------------- */

typedef const char *const formulas[PLAN_N_PHASES];

/* Kernels: of slices as they are, and of sums by groups. in, out: "C e", "M e". */
#define RAW(in, out)                                      \
    [PLAN_SUMS] = "(U-1) own (" in " + 8) / memory",      \
    [PLAN_NORM] = "own (" in " [+ 4 if U > 1]) / memory", \
    [PLAN_UPDATE] = "own (" in " [+ 4 if U > 1] + 2 s + " out ") / memory"
#define SUMMED(in, out)                                                          \
    [PLAN_SUMS] = "U own (" in " + 8) / memory", [PLAN_NORM] = "own 4 / memory", \
    [PLAN_UPDATE] = "own (4 + 2 s + " out ") / memory"
/* The same where peers' memory is behind a link. */
#define LINKED(in, out)                                                                        \
    [PLAN_SUMS] = "(U-1) x the longer of own (" in " + 8) / memory and R / nvlink, R = own e " \
                  "min(C, M) (M-1)/M",                                                         \
    [PLAN_NORM] = "the longer of own (" in " [+ 4 if U > 1]) / memory and R / nvlink",         \
    [PLAN_UPDATE] = "the longer of own (" in " [+ 4 if U > 1] + 2 s + " out                    \
                    ") / memory and (R + own e (M-1)) / nvlink"
#define LINKED_SUMMED(in, out)                                                            \
    [PLAN_SUMS] = "U x the longer of own (" in " + 8) / memory and own e (M-1) / nvlink", \
    [PLAN_NORM] = "own 4 / memory",                                                       \
    [PLAN_UPDATE] = "the longer of own (4 + 2 s + " out ") / memory and own e (M-1) / nvlink"
#define SLICES  "U (N-M) (own e / net + B latency)"
#define FORWARD "(K-1) (own e / net + B latency)"
#define PAIRS(times) \
    times "(M-1) (own e / near + B node-latency) + " times "(N-M) (own e / net + B latency)"
#define RING(times) times "(N-1) (own e / net + B latency), in one node near and node-latency"
#define TWO_RINGS(times)                                                  \
    times "((K-1) (own e / net + B latency) + (M-1) (K own e / near + B " \
          "node-latency))"

static formulas of_one = {RAW("e", "e")};
static formulas of_shared = {RAW("C e", "N e")};
static formulas of_shared_across = {
    [PLAN_EXCHANGE] = SLICES,
    RAW("C e", "M e"),
    [PLAN_GATHER] = FORWARD " + 2 (K-1) (M-1) own e / memory",
};
static formulas of_shared_by_sums = {
    [PLAN_EXCHANGE] = "U (N-M)/G (own (G e + 4) / memory + own 4 / net + B latency)",
    SUMMED("M e + 4 (N-M)/G", "M e"),
    [PLAN_GATHER] = FORWARD " + 2 (K-1) (M-1) own e / memory",
};
static formulas of_pairwise = {
    [PLAN_EXCHANGE] = PAIRS("U "), RAW("C e", "e"), [PLAN_GATHER] = PAIRS("")};
static formulas of_peers = {LINKED("C e", "N e")};
static formulas of_peers_across = {
    [PLAN_EXCHANGE] = SLICES,
    LINKED("C e", "M e"),
    [PLAN_GATHER] = FORWARD " + (K-1) (M-1) own e / nvlink",
};
static formulas of_peers_by_sums = {
    [PLAN_EXCHANGE] = "U (N-M)/G (own (G e + 4) / memory + (G-1) own e / nvlink + own 4 / net + "
                      "B latency)",
    LINKED_SUMMED("M e + 4 (N-M)/G", "M e"),
    [PLAN_GATHER] = FORWARD " + (K-1) (M-1) own e / nvlink",
};
static formulas of_staged = {
    [PLAN_EXCHANGE] = "U 2 P e / pcie + " PAIRS("U "),
    RAW("C e", "e"),
    [PLAN_GATHER] = "(own + P) e / pcie + " PAIRS(""),
};
static formulas of_all_to_all = {
    [PLAN_EXCHANGE] = "U x the longer of (M-1) (own e / near + B node-latency) and (N-M) (own e / "
                      "net + B latency)",
    RAW("C e", "e"),
    [PLAN_GATHER] = RING(""),
};
static formulas of_ring = {[PLAN_EXCHANGE] = RING("U "), RAW("e", "e"), [PLAN_GATHER] = RING("")};
static formulas of_all_to_all_twice = {
    [PLAN_EXCHANGE] = "U ((M-1) (K own e / near + B node-latency) + K own (M e + 4 M/G) / memory "
                      "+ (K-1) (4 M/G own / net + B latency))",
    SUMMED("4 N/G", "e"),
    [PLAN_GATHER] = TWO_RINGS(""),
};
static formulas of_ring_twice = {
    [PLAN_EXCHANGE] = TWO_RINGS("U "), RAW("e", "e"), [PLAN_GATHER] = TWO_RINGS("")};

#define EXACT  "exact"
#define NATIVE "native"
#define FLAT   "flat"
#define TREE   "hierarchical"

/* Devices beside transfers: 1, but where the host itself drives every message. */
const plan_way plan_ways[] = {
    {"cpu", "self", EXACT, FLAT, PLAN_ONE_RANK, 0, one_rank, of_one},
    {"cpu", "threads", EXACT, FLAT, PLAN_ONE_NODE, 0, shared, of_shared},
    {"cpu", "shm", EXACT, FLAT, PLAN_ONE_NODE, 0, shared, of_shared},
    {"cpu", "shm", EXACT, FLAT, PLAN_MANY_NODES, 0, shared_across, of_shared_across},
    {"cpu", "shm", EXACT, TREE, PLAN_MANY_NODES, 0, shared_by_sums, of_shared_by_sums},
    {"cpu", "mpi", EXACT, FLAT, PLAN_ANY_RANKS, 0, pairwise, of_pairwise},
    {"cuda", "self", EXACT, FLAT, PLAN_ONE_RANK, 1, one_rank, of_one},
    {"cuda", "threads", EXACT, FLAT, PLAN_ONE_NODE, 1, peers, of_peers},
    {"cuda", "mpi", EXACT, FLAT, PLAN_ANY_RANKS, 0, staged, of_staged},
    {"cuda", "ipc", EXACT, FLAT, PLAN_ONE_NODE, 1, peers, of_peers},
    {"cuda", "ipc", EXACT, FLAT, PLAN_MANY_NODES, 1, peers_across, of_peers_across},
    {"cuda", "ipc", EXACT, TREE, PLAN_MANY_NODES, 1, peers_by_sums, of_peers_by_sums},
    {"cuda", "nccl", EXACT, FLAT, PLAN_ANY_RANKS, 1, all_to_all, of_all_to_all},
    {"cuda", "nccl", NATIVE, FLAT, PLAN_ANY_RANKS, 1, ring, of_ring},
    {"cuda", "nccl", EXACT, TREE, PLAN_MANY_NODES, 1, all_to_all_twice, of_all_to_all_twice},
    {"cuda", "nccl", NATIVE, TREE, PLAN_MANY_NODES, 1, ring_twice, of_ring_twice},
};
const size_t plan_n_ways = sizeof plan_ways / sizeof plan_ways[0];
