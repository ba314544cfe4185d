/* zopt plan between its files: plan.c counts, plan_print.c prints. */
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include <zopt/zopt.h>

enum { PLAN_MAX_WORLDS = 32, PLAN_MAX_RANKS = 4096 };

/* One number of ranks. */
typedef struct plan_world {
    int ranks;
    int slots;
    char transport[16];
    char step_path[256];          /* how steps are made; "": as the CPU makes them */
    int node;                     /* ranks of a node */
    int is_flat;                  /* 1: every rank talks to every other, whatever their nodes */
    int adds_up;                  /* 1: and ranks of a node can sum what they send to others */
    uint64_t sent_bytes;          /* by rank 0 in one step; no rank sends more */
    uint64_t between_bytes;       /* of those, to other nodes */
    zopt_memory_usage *per_rank;  /* [ranks] */
    zopt_memory_usage *of_device; /* [ranks]: of those, what lies in the device's memory */
} plan_world;

typedef struct plan {
    zopt_options options;
    zopt_dtype dtype;
    uint64_t n_params;
    char device[16]; /* "cpu": its memory is the host's */
    int n_worlds;
    plan_world world[PLAN_MAX_WORLDS];
} plan;

/* Where the handles that are counted come from. */
typedef struct plan_source {
    /* A committed planning handle for one rank. */
    zopt_status (*open)(const struct plan_source *source, int world, int rank, zopt **z);
    const char *(*last_error)(void); /* of open */
    plan *plan;
    struct train_model *model; /* of a run file, else NULL */
} plan_source;

/* Fill in sent_bytes and between_bytes. */
void plan_count_sent(const plan *p, plan_world *world);

/* The table that users of 16-bit Adam know: everything on every rank. */
void plan_print_replicated(const plan *p);
/* Bytes per parameter for each stage and state precision, by formula. */
void plan_print_stages(const plan *p);
/* Bytes on the fullest rank of each world, by category. */
void plan_print_sharded(const plan *p);
/* Returns 0, or -1 where memory or stdout failed. */
int plan_print_json(const plan *p);

#endif
