/* From the bytes of a file to the memory they come from: a piece as runs, each in one rank's memory
 * (or, of replicated states, in every rank's). Every rank computes the same runs from the file's
 * head and the handle's layout. Next: shuffle.c, which moves them. */
#ifndef ZI_CKPT_ROUTE_H
#define ZI_CKPT_ROUTE_H

#include "ckpt/tensorfile.h"
#include "zero/zero.h"

/* What a tensor of a file is made of. */
typedef enum zi_array {
    ZI_ARRAY_MASTER, /* FP32 */
    ZI_ARRAY_PARAM,  /* what the model computes with */
    ZI_ARRAY_STATE,  /* state `state` of the tensor's variant, element by element */
    ZI_ARRAY_ABSMAX, /* its scales, one for a block of 256 */
    ZI_ARRAY_FACTORS /* state `state`, of rows or columns */
} zi_array;

typedef struct zi_origin {
    uint32_t tensor; /* id */
    zi_array array;
    int state;
} zi_origin;

/* As the tag of a zi_file_tensor. */
uint64_t zi_origin_tag(zi_origin origin);
zi_origin zi_origin_of(uint64_t tag);

enum { ZI_EVERY_RANK = -1 };

typedef struct zi_run {
    int owner;     /* or ZI_EVERY_RANK */
    char *memory;  /* of this rank, where it is the owner; maybe the device's or home's */
    int of_params; /* 1: the device's */
    size_t at;     /* in the piece */
    size_t bytes;
} zi_run;

typedef struct zi_route {
    const zi_zero *z;
    const zi_tensorfile *file;
    uint64_t first, at, end; /* bytes of the data */
    uint32_t tensor;         /* of the file, that holds `at` */
} zi_route;

/* Bytes [at, at + bytes) of the file, none of the header's. Its tags are set. */
void zi_route_begin(const zi_zero *z, const zi_tensorfile *file, uint64_t at, size_t bytes,
                    zi_route *route);
/* The next run; 0: there is none. */
int zi_route_next(zi_route *route, zi_run *run);

#endif
