/* zopt plan --time between its files: plan_rates.c reads what links and memories can do,
 * plan_model.c says what a step moves over them, plan_time.c puts both together and prints. */
#ifndef CLI_PLAN_TIME_H
#define CLI_PLAN_TIME_H

#include <argp.h>

#include "cli/plan.h"

/* What bytes of a rank go through, each way by itself. */
typedef enum plan_link {
    PLAN_MEMORY, /* that its kernels read and write */
    PLAN_NEAR,   /* to ranks of its node: NVLink; of CPUs MPI's copies in memory */
    PLAN_FAR,    /* to ranks of other nodes */
    PLAN_PCIE,   /* between a GPU and its host */
    PLAN_N_LINKS
} plan_link;

/* The parts of a step, from the last gradient to the last parameter. */
typedef enum plan_phase {
    PLAN_MEET,     /* small collectives */
    PLAN_EXCHANGE, /* gradients to their owners */
    PLAN_SUMS,     /* added up over micro-steps, or by groups */
    PLAN_NORM,
    PLAN_UPDATE,
    PLAN_GATHER, /* parameters to all ranks */
    PLAN_N_PHASES
} plan_phase;

extern const char *const plan_link_names[PLAN_N_LINKS], *const plan_phase_names[PLAN_N_PHASES];

/* ------------------------------------------------------------------ plan_rates.c ------------- */

/* The options of --time. */
typedef struct plan_given {
    int on;                                        /* 1: --time */
    const char *calibration;                       /* a file, or NULL */
    double memory, host_memory, nvlink, net, pcie; /* bytes/s of a rank */
    double node_latency, latency;                  /* s, of a message */
    const char *first;                             /* the first option but --time, or NULL */
} plan_given;

/* A child of zopt plan's parser; input: a plan_given, which it fills in with the defaults first. */
extern const struct argp plan_given_argp;

/* Of one row, for each phase. */
typedef struct plan_rates {
    double bytes_per_s[PLAN_N_PHASES][PLAN_N_LINKS];
    double latency_s[PLAN_N_PHASES][PLAN_N_LINKS]; /* meet: of a collective */
    int measured;                                  /* 1: by zopt bench calibrate */
} plan_rates;

/* nodes: how many there are. Errors: those of bench_calibration_find. */
zopt_status plan_rates_find(const plan_given *given, const char *device, const char *transport,
                            int ranks, int nodes, plan_rates *rates);

void plan_rates_print(const plan_given *given);
struct json_t *plan_rates_json(const plan_given *given);

/* ------------------------------------------------------------------ plan_model.c ------------- */

/* What formulas are made of. Doubles: they are multiplied. */
typedef struct plan_size {
    double params;        /* P */
    double element_bytes; /* e, of a gradient and a parameter */
    double state_bytes;   /* s, of the master weight and states of an element */
    double ranks;         /* N */
    double node;          /* M, ranks of a node */
    double nodes;         /* K = N/M */
    double buckets;       /* B */
    double micro;         /* U = ceil(S/N), exchanges a step */
    double contributors;  /* C = min(S, N), slices a sum has in one of them */
    double group;         /* G, slots that are summed before they travel */
} plan_size;

/* What a rank moves in one phase; of links at the same time the slowest counts, else their sum. */
typedef struct plan_flow {
    double bytes[PLAN_N_LINKS], messages[PLAN_N_LINKS];
    int at_once;
} plan_flow;

/* A row of the prediction: a transport and how it sums. */
typedef struct plan_way {
    const char *device, *transport;
    const char *sums; /* "exact", or "native": the transport's own, not the same bits for every N */
    const char *way;  /* "flat", or "hierarchical": first in the node, then between nodes */
    enum { PLAN_ANY_RANKS, PLAN_ONE_RANK, PLAN_ONE_NODE, PLAN_MANY_NODES } ranks;
    int pipelined; /* 1: transfers of one bucket beside the kernels of another; 0: in turn */
    void (*describe)(const plan_size *size, plan_flow flow[PLAN_N_PHASES]);
    /* Of describe, in the letters above; own = P/N. [PLAN_N_PHASES], NULL: nothing. */
    const char *const *formula;
} plan_way;

extern const plan_way plan_ways[];
extern const size_t plan_n_ways;

/* One flow at these rates, in seconds. */
double plan_flow_seconds(const plan_flow *flow, const plan_rates *rates, int phase);

/* The step of those phases. norm: 1: with the norm's pass and its collective. */
double plan_step_seconds(const plan_way *way, const plan_size *z,
                         const double seconds[PLAN_N_PHASES], int norm);

/* ------------------------------------------------------------------ plan_time.c -------------- */

typedef struct plan_time {
    const plan_given *given;
    const int *ranks; /* [n_worlds] */
    int n_worlds;
    int json;
} plan_time;

/* Predict for each number of ranks, and print. Returns the exit code, having told why. */
int plan_time_run(const char *command, const plan_time *time, const plan_source *source);

#endif
